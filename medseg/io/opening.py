"""Open an image that stays in its file, whatever its format."""

from __future__ import annotations

import os

from ..errors import Refused
from .itk import open_itk
from .lazy import LazyImage
from .nifti import open_nifti
from .omezarr import open_zarr
from .pages import open_tiff
from .paths import ITK_SUFFIXES, NIFTI_SUFFIXES, TIFF_SUFFIXES, ZARR_SUFFIXES, existing_file, suffix_of

__all__ = ["open_lazy"]

_OPENERS = {
    **dict.fromkeys(TIFF_SUFFIXES, open_tiff),
    **dict.fromkeys(ZARR_SUFFIXES, open_zarr),
    **dict.fromkeys(NIFTI_SUFFIXES, open_nifti),
    **dict.fromkeys(ITK_SUFFIXES, open_itk),
}


def open_lazy(path: str | os.PathLike[str]) -> LazyImage:
    """Open an image without reading its pixels.

    Parameters
    ----------
    path : path
        TIFF of any kind, compressed or not, in strips or tiles, with or without a pyramid (its largest level
        is the image); Zarr arrays and OME-Zarr images, version 2 and 3, which need ``medseg[zarr]``; NIfTI,
        NRRD and MetaImage. Of ``.nii`` the file is read in parts. The others of these cannot be: their
        pixels are read with the first part, and kept as they are stored, see `LazyImage.held_bytes`.

    Returns
    -------
    LazyImage
        ``(C, *spatial)``; axes, channels, pixel type and geometry are those of `medseg.read`.

    Raises
    ------
    Refused
        As `medseg.read`; ``not-lazy`` for other formats.

    Examples
    --------
    >>> import tempfile, numpy, medseg
    >>> path = medseg.write(numpy.zeros((20, 30), "uint16"), tempfile.mkdtemp() + "/a.tif")
    >>> image = medseg.io.open_lazy(path)
    >>> image.shape, str(image.dtype), image.nbytes
    ((1, 20, 30), 'int32', 2400)
    """
    file = existing_file(path)
    opener = _OPENERS.get(suffix_of(file))
    if opener is None:
        raise Refused(
            "not-lazy",
            f"'{file}' has a format that is read as a whole",
            expected=f"one of {' '.join(_OPENERS)}",
            do="convert it to tiled TIFF or to Zarr",
        )
    image = opener(file)
    if 0 in image.shape:
        image.close()
        raise Refused(
            "empty-image", f"'{file}' has no pixels", got=f"shape {image.shape}", do="export it again"
        )
    return image

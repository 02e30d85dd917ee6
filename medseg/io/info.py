"""What an image file is, in the few lines that everybody needs first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .pixels import spacing_from
from .readers import load

__all__ = ["ImageInfo", "image_info"]

_MANY = 1000


@dataclass(frozen=True)
class ImageInfo:
    """Grid, spacing, orientation and values of one image file.

    Parameters
    ----------
    path : Path
    format : str
        Such as ``"PNG 8-bit RGBA"``.
    shape : tuple of int
        Spatial shape, in the order of the array axes.
    channels : int
    dtype : str
        The file's own pixel type.
    spacing : tuple of float
        Along the array axes, in ``unit``.
    unit : str
        ``"um"``, ``"mm"`` or ``"pixel"``.
    orientation : str or None
        Where the array axes point to, such as ``"RAS"``; None for raster images.
    min, max, mean : float or None
        Of the finite pixels; None where there are none.
    n_distinct : int or None
        Number of different values of an integer image; None for floats and above 1000.
    finite : bool
        False where a pixel is NaN or infinite; `medseg.read` refuses such an image.
    """

    path: Path
    format: str
    shape: tuple[int, ...]
    channels: int
    dtype: str
    spacing: tuple[float, ...]
    unit: str
    orientation: str | None
    min: float | None
    max: float | None
    mean: float | None
    n_distinct: int | None
    finite: bool


def image_info(path: str | os.PathLike[str]) -> ImageInfo:
    """Describe an image file; its pixels are read.

    Raises
    ------
    Refused
        As `medseg.read`, but for ``non-finite``, which is reported instead.

    Examples
    --------
    >>> import tempfile, pathlib, numpy, medseg
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = medseg.write(numpy.eye(4, 6, dtype="uint8"), pathlib.Path(folder, "diagonal.png"))
    ...     info = medseg.io.image_info(path)
    >>> info.shape, info.dtype, info.n_distinct, info.orientation
    ((4, 6), 'uint8', 2, None)
    """
    pixels = load(path)
    array, ndim = pixels.array, pixels.array.ndim - 1
    whole = array.dtype.kind in "iub"
    good = np.isfinite(array)
    values = array if good.all() else array[good]
    distinct = np.unique(values).size if whole else None
    return ImageInfo(
        path=Path(path),
        format=pixels.format,
        shape=array.shape[1:],
        channels=array.shape[0],
        dtype=pixels.dtype,
        spacing=spacing_from(pixels.affine, ndim),
        unit=pixels.unit,
        orientation=_orientation(pixels.affine, ndim)
        if pixels.format in ("NIfTI", "NRRD", "MetaImage")
        else None,
        min=float(values.min()) if values.size else None,
        max=float(values.max()) if values.size else None,
        mean=float(values.mean(dtype=np.float64)) if values.size else None,
        n_distinct=distinct if distinct is not None and distinct <= _MANY else None,
        finite=bool(good.all()),
    )


def _orientation(affine: np.ndarray, ndim: int) -> str:
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(affine)[:ndim])

"""NIfTI through MONAI's reader and nibabel: array axes as stored, affine RAS+ in millimetres."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from .pixels import Pixels, decoding

__all__ = ["load", "save"]

logger = logging.getLogger(__name__)

_FORM_CODE = 1  # NIFTI_XFORM_SCANNER_ANAT: coordinates of the scanner


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read a NIfTI file; a fourth axis is channels."""
    import nibabel
    from monai.data import NibabelReader

    with decoding(path, "NIfTI"):
        stated = nibabel.load(path).affine
        reader = NibabelReader()
        image = reader.read(path)
        # MONAI puts the qform in the place of an sform whose voxel size differs from the header's; that
        # choice is the user's
        if not np.allclose(stated, image.affine, rtol=1e-4, atol=1e-4):
            raise Refused(
                "bad-affine",
                f"'{path}' states two different geometries",
                got=f"sform with voxels of {_sizes(stated)}, header with {_sizes(image.affine)}",
                do="correct the header's pixdim, sform and qform",
            )
        array, _ = reader.get_data(image)
    affine = np.asarray(stated, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise Refused(
            "bad-affine", f"'{path}' has an affine that cannot be inverted", do="correct the header's sform"
        )
    header = image.header
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        logger.info("%s: the file states no orientation; its axes are taken for RAS", path)
    space, _ = header.get_xyzt_units()
    if space == "meter":
        affine[:3] *= 1000.0
    return Pixels(
        array=_channel_first(array, path),
        affine=affine,
        unit="um" if space == "micron" else "mm",
        dtype=str(header.get_data_dtype().newbyteorder("=")) if array.dtype.names is None else "uint8",
        format="NIfTI",
    )


def _sizes(affine: npt.NDArray[Any]) -> str:
    return " x ".join(f"{s:.4g}" for s in np.linalg.norm(affine[:3, :3], axis=0))


def _channel_first(array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Turn (x, y, z, channels), (x, y, z, 1, channels) and the RGB pixel type into (channels, x, y, z)."""
    if array.dtype.names is not None:  # RGB24 and RGBA32: three or four bytes a voxel, the fourth being alpha
        return np.stack([array[name] for name in array.dtype.names[:3]])
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if array.ndim == 4:
        return np.moveaxis(array, -1, 0)
    if array.ndim in (2, 3):
        return array[None]
    raise Refused(
        "too-many-dimensions",
        f"'{path}' has {array.ndim} axes",
        got=f"shape {array.shape}",
        expected="(x, y), (x, y, z) or (x, y, z, channels)",
        do="save each part as its own file",
    )


def save(path: Path, pixels: Pixels) -> None:
    """Write NIfTI-1 with sform and, unless the axes are sheared, the same qform."""
    import nibabel

    array = pixels.array
    data = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    image = nibabel.Nifti1Image(data, pixels.affine, dtype=data.dtype)
    image.header.set_xyzt_units("micron" if pixels.unit == "um" else "mm")
    image.set_sform(pixels.affine, code=_FORM_CODE)
    axes = pixels.affine[:3, :3] / np.linalg.norm(pixels.affine[:3, :3], axis=0)
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-5):
        image.set_qform(pixels.affine, code=_FORM_CODE)
    nibabel.save(image, path)

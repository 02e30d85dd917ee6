"""NRRD and MetaImage through SimpleITK: array axes (x, y, z), affine turned from ITK's LPS to RAS+."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import Refused
from .pixels import Pixels, decoding

__all__ = ["load", "save"]

# ITK counts x to the left and y to the back, NIfTI and MONAI to the right and to the front
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read NRRD, MHA or MHD of two or three dimensions, with one or more components."""
    import SimpleITK

    with decoding(path, path.suffix[1:].upper()):
        image = SimpleITK.ReadImage(str(path))
        n = image.GetDimension()
        if n not in (2, 3):
            raise Refused(
                "too-many-dimensions",
                f"'{path}' has {n} axes",
                got=f"size {image.GetSize()}",
                expected="2 or 3",
                do="save each part as its own file",
            )
        array = SimpleITK.GetArrayFromImage(image)
    several = image.GetNumberOfComponentsPerPixel() > 1
    # SimpleITK hands over (z, y, x[, component]); the transpose has the order of ITK's own index
    array = array.T if several else array.T[None]
    affine = np.eye(4)
    affine[:n, :n] = np.reshape(image.GetDirection(), (n, n)) * np.asarray(image.GetSpacing())
    affine[:n, 3] = image.GetOrigin()
    return Pixels(
        array=array,
        affine=_LPS_TO_RAS @ affine,
        unit="mm",
        dtype=str(array.dtype.newbyteorder("=")),
        format={"nrrd": "NRRD"}.get(path.suffix[1:].lower(), "MetaImage"),
    )


def save(path: Path, pixels: Pixels) -> None:
    """Write NRRD or MHA, compressed. The affine must not be sheared: ITK holds a rotation and a spacing."""
    import SimpleITK

    several = pixels.array.shape[0] > 1
    array = np.ascontiguousarray(pixels.array.T if several else pixels.array[0].T)
    n = pixels.array.ndim - 1
    image = SimpleITK.GetImageFromArray(array, isVector=several)
    affine = _LPS_TO_RAS @ pixels.affine
    spacing = np.linalg.norm(affine[:n, :n], axis=0)
    direction = affine[:n, :n] / spacing
    if not np.allclose(direction.T @ direction, np.eye(n), atol=1e-5):
        raise Refused(
            "affine-not-held",
            f"'{path}' cannot hold an affine with shear",
            got=affine[:n, :n].tolist(),
            do="use .nii.gz",
        )
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:n, 3].tolist())
    image.SetDirection(direction.ravel().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=True)

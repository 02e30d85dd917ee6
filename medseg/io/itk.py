"""NRRD and MetaImage through SimpleITK: array axes (x, y, z), affine turned from ITK's LPS to RAS+."""

from __future__ import annotations

import logging
import math
import zlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from .itk_headers import Stated, stated
from .lazy import LazyImage
from .pixels import Pixels, check_affine, decoding
from .stored import Held, refuse_larger_than_memory

__all__ = ["load", "open_itk", "save"]

logger = logging.getLogger(__name__)

_PIECE = 2**20  # bytes that are decompressed at once
# ITK counts x to the left and y to the back, NIfTI and MONAI to the right and to the front
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read NRRD, MHA or MHD as a whole."""
    with open_itk(path) as image:
        return image.whole()


def open_itk(path: Path) -> LazyImage:
    """Open NRRD, MHA or MHD of two or three dimensions, with one or more components, or a fourth axis.

    The header is checked and no pixel is read. The first part reads all, into an array of the stored type.

    Raises
    ------
    Refused
        ``unreadable``, ``too-many-dimensions``, ``pixel-type``, ``no-spacing``, ``bad-affine``, ``bad-unit``.
    """
    import SimpleITK

    with decoding(path, path.suffix[1:].upper()):
        said = stated(path)
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    n, sizes = int(reader.GetDimension()), tuple(int(k) for k in reader.GetSize())
    components = int(reader.GetNumberOfComponents())
    dtype = _dtype(SimpleITK, reader.GetPixelID(), path)
    several = sizes[3] if n == 4 else 1
    direction = np.reshape(reader.GetDirection(), (n, n))
    mixed = n == 4 and (direction[:3, 3].any() or direction[3, :3].any())
    if n not in (2, 3, 4) or (several > 1 and components > 1) or mixed:
        raise Refused(
            "too-many-dimensions",
            f"'{path}' has {n} axes" + (" and components" if components > 1 else ""),
            got=f"size {sizes}",
            expected="2 or 3, and channels",
            do="save each part as its own file",
        )
    axes = min(n, 3)
    affine = np.eye(4)
    affine[:axes, :axes] = direction[:axes, :axes] * np.asarray(reader.GetSpacing()[:axes])
    affine[:axes, 3] = reader.GetOrigin()[:axes]
    affine[:3] *= said.scale
    affine = _LPS_TO_RAS @ affine
    check_affine(affine, axes, f"'{path}'")
    # SimpleITK hands over (z, y, x[, component]); in this order its own index is last to first
    shape = sizes[::-1] + ((components,) if components > 1 else ())
    held = Held(shape, dtype, partial(_read, path, said, shape, dtype))
    said.refuse_truncated(held.held_bytes, path)
    if said.guess:
        logger.warning(
            "%s: the file %s: left and right are a guess, its axes are taken for left, back, up, as by ITK",
            path,
            said.guess,
        )
    files = ExitStack()
    files.callback(held.release)
    channels = n if components > 1 else 0 if n == 4 else None
    return LazyImage(
        path=path,
        stored=held,
        places=(channels, *(n - 1 - i for i in range(axes))),
        picks=tuple(range(max(components, several))),
        affine=affine,
        unit=said.unit,
        format=said.format,
        geometry=said.told + (": left and right are a guess" if said.guess else ""),
        _files=files,
    )


def _read(
    path: Path, said: Stated, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], Any]:
    """Read all pixels: a view of the image that SimpleITK holds, and that image."""
    import SimpleITK

    refuse_larger_than_memory(math.prod(shape) * dtype.itemsize, path)
    if said.packed == "zlib" and said.data is not None:
        return _inflate(*said.data, shape, np.dtype(said.order + dtype.str[1:])), None
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayViewFromImage(image), image


def _inflate(file: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Decompress the pixels of a MetaImage piece by piece; ITK has the whole file in memory beside them."""
    out = np.empty(shape, dtype)
    flat = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    stream = zlib.decompressobj(47)  # zlib or gzip, as its first bytes say
    done = 0
    with file.open("rb") as source:
        source.seek(offset)
        while not stream.eof:  # the checksum is at the end
            block = stream.unconsumed_tail or source.read(_PIECE)
            part = stream.decompress(block, _PIECE)
            if done + len(part) > len(flat):
                raise ValueError(f"it holds more than {len(flat)} bytes of pixels")
            if not (block or part):
                break
            flat[done : done + len(part)] = part
            done += len(part)
    if done < len(flat):
        raise EOFError(f"it holds {done} bytes of pixels of {len(flat)}")
    return out if dtype.isnative else out.byteswap(inplace=True).view(dtype.newbyteorder("="))


def _dtype(library: Any, code: int, path: Path) -> np.dtype[Any]:
    """Return the pixel type of SimpleITK's number for it, scalar or vector."""
    names = [f"{kind}{bits}" for kind in ("UInt", "Int") for bits in (8, 16, 32, 64)] + ["Float32", "Float64"]
    for name in names:
        if code in (getattr(library, f"sitk{name}"), getattr(library, f"sitkVector{name}")):
            return np.dtype(name.lower())
    raise Refused(
        "pixel-type",
        f"'{path}' has pixels of a type that is not supported",
        got=library.GetPixelIDValueAsString(code),
        expected="integers or floats of up to 64 bits",
        do="convert the image first",
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

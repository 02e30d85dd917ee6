"""What every reader hands over: array, affine and unit, with the checks that all formats share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused

__all__ = [
    "IN_MM",
    "MOST_APART",
    "Pixels",
    "check_affine",
    "decoding",
    "farthest",
    "finite",
    "not_finite",
    "portable",
    "raster_affine",
    "spacing_from",
]

#: Millimetres in one of the units that an image's affine may have; a pixel has no length.
IN_MM = {"mm": 1.0, "um": 1e-3}

#: Micrometres in one unit of length, by the spellings found in files.
MICROMETRES = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu, which looks the same
    "\\u00b5m": 1.0,  # as ImageJ writes it
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "å": 1e-4,
    "pm": 1e-6,
    "inch": 25400.0,
    "in": 25400.0,
}


@dataclass(frozen=True)
class Pixels:
    """An image as its file holds it.

    ``array`` is (channels, \\*spatial), ``affine`` 4x4 from array indices to ``unit`` ("um", "mm" or
    "pixel"), ``dtype`` the name of the file's own pixel type, ``format`` a word or two for people.
    """

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    unit: str
    dtype: str
    format: str


def raster_affine(spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the affine of a raster image: (row, column) or (plane, row, column) to (x, y, z).

    Parameters
    ----------
    spacing : sequence of 2 or 3 floats
        Pixel size along the array axes, (row, column) or (plane, row, column).

    Returns
    -------
    ndarray
        4x4, float64: x = column * spacing[-1], y = row * spacing[-2], z = plane * spacing[-3].

    Examples
    --------
    >>> from medseg.io import raster_affine
    >>> raster_affine((0.5, 0.25)) @ [10, 4, 0, 1]   # row 10, column 4
    array([1., 5., 0., 1.])
    """
    n = len(spacing)
    affine = np.eye(4)
    # diag(spacing) has axis i in row i; world x belongs to the last axis, so the rows are in reverse
    affine[:n, :n] = np.flipud(np.diag(np.asarray(spacing, float)))
    return affine


def spacing_from(affine: npt.ArrayLike, ndim: int) -> tuple[float, ...]:
    """Return the distance between neighbours along each of the first ``ndim`` array axes."""
    return tuple(float(s) for s in np.linalg.norm(np.asarray(affine, float)[:3, :ndim], axis=0))


@contextmanager
def decoding(path: str | PathLike[str], what: str) -> Iterator[None]:
    """Retell whatever a file library raises as one refusal that keeps the library's own words.

    The libraries raise struct.error, KeyError, zlib.error, RuntimeError and their own types for damaged
    files, so every exception is caught; a refusal and a lack of memory are not about the file and pass
    through.
    """
    try:
        yield
    except (Refused, MemoryError):
        raise
    except Exception as error:
        # without the address in memory that ITK puts behind the name of a class
        words = re.sub(r"\(0x[0-9a-f]+\)", "", str(error))
        lines = [line.strip().rstrip(".") for line in words.splitlines() if line.strip()]
        if type(error).__name__ == "UnidentifiedImageError":  # Pillow only repeats the path
            lines = ["it begins like no image format"]
        raise Refused(
            "unreadable",
            f"cannot read '{path}' as {what}",
            got=f"{type(error).__name__}: {lines[-1][:200] if lines else 'no message'}",
            do="check that the file is complete and is what its suffix says",
        ) from error


def portable(pixels: Pixels, path: str | PathLike[str]) -> Pixels:
    """Turn the pixel type into one that torch computes with, never changing a value.

    Big-endian becomes native, bool uint8, uint16 int32, uint32 int64, float16 float32; uint64 becomes int64
    where every value fits.
    """
    array = pixels.array
    wider = {"b1": "u1", "u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4"}
    code = f"{array.dtype.kind}{array.dtype.itemsize}"
    if code not in {*wider, "u1", "i1", "i2", "i4", "i8", "f4", "f8"}:
        raise Refused(
            "pixel-type",
            f"'{path}' has pixels of a type that is not supported",
            got=array.dtype,
            expected="integers of up to 64 bits or floats of up to 64",
            do="convert the image first",
        )
    if code == "u8" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise Refused(
            "pixel-type",
            f"'{path}' has values above 2**63 - 1",
            got=int(array.max()),
            do="rescale the image first",
        )
    target = np.dtype(wider.get(code, code))
    return replace(pixels, array=np.require(array, target, ["C", "W"]))


def finite(pixels: Pixels, path: str | PathLike[str]) -> Pixels:
    """Refuse NaN and infinity, with their number and the first place; otherwise hand the image back."""
    array = pixels.array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        channel, *where = (int(i) for i in np.argwhere(bad)[0])
        raise not_finite(path, int(bad.sum()), array.size, array[(channel, *where)], tuple(where), channel)
    return pixels


def not_finite(
    path: str | PathLike[str], count: int, size: int, value: Any, where: tuple[int, ...], channel: int
) -> Refused:
    """Build the refusal of NaN and infinity: how many, and the first; the caller raises it."""
    do = "replace them by a value that you choose"
    if len(where) == 3:  # scanners and resampling leave them where nothing was measured
        do += "; if they are padding around the field of view, by that of air: -1024 in a CT, 0 in an MR"
    return Refused(
        "non-finite",
        f"'{path}' has pixels that are NaN or infinite",
        got=f"{count} of {size}, first {value} at {where} channel {channel}",
        do=do,
    )


def check_affine(affine: npt.NDArray[np.float64], ndim: int, name: str) -> None:
    """Refuse an affine that does not place every voxel of a grid somewhere else.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
    ndim : int
        How many of its columns belong to the array.
    name : str
        What has this affine, for the refusal.

    Raises
    ------
    Refused
        ``bad-affine``: NaN, infinity, a last row that is not (0, 0, 0, 1), or axes that (nearly) lie in one
        plane or line.

    Examples
    --------
    >>> check_affine(np.diag([2.0, 0.0, 1.0, 1.0]), 3, "'scan.nii'")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    medseg.errors.Refused: 'scan.nii' has an affine that cannot be inverted: ...
    """
    why = ""
    if not np.isfinite(affine).all():
        why = "holds NaN or infinity"
    elif not np.array_equal(affine[3], [0, 0, 0, 1]):
        why = "has a last row other than 0 0 0 1"
    else:
        axes = affine[:3, :ndim]
        lengths = np.linalg.norm(axes, axis=0)
        # the product of the singular values of the directions is their volume; 1 where they are orthogonal
        spread = np.prod(np.linalg.svd(axes / lengths, compute_uv=False)) if lengths.all() else 0.0
        if spread < 1e-3:
            why = "cannot be inverted"
    if why:
        raise Refused(
            "bad-affine",
            f"{name} has an affine that {why}",
            got=np.round(affine, 6).tolist(),
            do="correct it in the program that wrote it",
        )


MOST_APART = 0.1  # of a pixel: by so much may corners of one grid lie apart in two files, which round affines


def farthest(a: npt.ArrayLike, b: npt.ArrayLike, shape: Sequence[int]) -> float:
    """Return how far apart two affines put a voxel of a grid at most, in their unit.

    It is at a corner of the grid, because the distance is a convex function of the index.

    Examples
    --------
    >>> round(farthest(np.eye(4), np.diag([1.0, 1.01, 1.0, 1.0]), (50, 101, 20)), 6)
    1.0
    """
    n = len(shape)
    corners = np.array(np.meshgrid(*[(0, max(k - 1, 0)) for k in shape], indexing="ij")).reshape(n, -1)
    points = np.zeros((4, corners.shape[1]))
    points[:n], points[3] = corners, 1
    apart = (np.asarray(a, float) - np.asarray(b, float)) @ points
    return float(np.linalg.norm(apart[:3], axis=0).max())

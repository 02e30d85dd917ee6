"""What an image file is, in the few lines that everybody needs first."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .opening import open_lazy
from .paths import ITK_SUFFIXES, NIFTI_SUFFIXES, existing_file, suffix_of
from .pixels import spacing_from
from .readers import load

__all__ = ["ImageInfo", "image_info"]

_MANY = 1000
_AT_ONCE = 2**20  # values that are looked at at once: beside the image little is in memory


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
        Where the array axes point to, such as ``"RAS"``, the nearest if they are oblique; None for raster
        images.
    oblique_degrees : float or None
        Largest angle between an array axis and the axis of the patient that it is nearest to; None for raster
        images.
    geometry : str
        What in the file the affine comes from, and how far apart two statements of it are; empty for raster
        images.
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
    oblique_degrees: float | None
    geometry: str
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
    file = existing_file(path)
    with ExitStack() as files:
        if suffix_of(file) in NIFTI_SUFFIXES + ITK_SUFFIXES:
            image = files.enter_context(open_lazy(file))
            shape, kind, placed = image.shape, str(image.stored_dtype), image.geometry
            affine, unit, form = image.affine, image.unit, image.format
            values = _Values(image[(slice(None), *window)] for window in image.windows())
        else:
            pixels = load(file)
            shape, kind, placed = pixels.array.shape, pixels.dtype, ""
            affine, unit, form = pixels.affine, pixels.unit, pixels.format
            values = _Values(iter([pixels.array]))
    ndim = len(shape) - 1
    return ImageInfo(
        path=Path(path),
        format=form,
        shape=shape[1:],
        channels=shape[0],
        dtype=kind,
        spacing=spacing_from(affine, ndim),
        unit=unit,
        orientation=_orientation(affine, ndim) if placed else None,
        oblique_degrees=_oblique(affine, ndim) if placed else None,
        geometry=placed,
        min=values.low if values.count else None,
        max=values.high if values.count else None,
        mean=values.total / values.count if values.count else None,
        n_distinct=values.n_distinct,
        finite=values.finite,
    )


class _Values:
    """Range, mean and number of different values, of parts of an image one after the other."""

    def __init__(self, parts: Iterator[npt.NDArray[Any]]) -> None:
        self.low, self.high, self.total, self.count, self.finite = math.inf, -math.inf, 0.0, 0, True
        self._seen: npt.NDArray[Any] | None = None
        self._whole = True
        for part in parts:
            flat = part.reshape(-1)
            for start in range(0, flat.size, _AT_ONCE):
                self._add(flat[start : start + _AT_ONCE])

    @property
    def n_distinct(self) -> int | None:
        """None for floats, and for many."""
        if self._seen is None or not self._whole or len(self._seen) > _MANY:
            return None
        return len(self._seen)

    def _add(self, values: npt.NDArray[Any]) -> None:
        if values.dtype.kind == "f":
            self._whole = False
            good = np.isfinite(values)
            if not good.all():
                self.finite = False
                values = values[good]
        elif self._seen is None or len(self._seen) <= _MANY:
            fresh = np.unique(values)
            self._seen = fresh if self._seen is None else np.union1d(self._seen, fresh)
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
            self.total += float(values.sum(dtype=np.float64))
            self.count += values.size


def _orientation(affine: npt.NDArray[np.float64], ndim: int) -> str:
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(affine)[:ndim])


def _oblique(affine: npt.NDArray[np.float64], ndim: int) -> float:
    axes = affine[:3, :ndim] / np.linalg.norm(affine[:3, :ndim], axis=0)
    nearest = np.sort(np.abs(axes), axis=0)
    # by the tangent: the cosine of a small angle is 1 with rounding
    return float(np.degrees(np.arctan2(np.linalg.norm(nearest[:2], axis=0), nearest[2]).max()))

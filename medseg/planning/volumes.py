"""Volumes in physical space: the grid, the brightness and the network that fit what the files hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frames import nonzero_box
from ..io import turn_to

__all__ = ["CANONICAL", "VolumePrint", "Volumes", "levels_of", "patch_within"]

CANONICAL = "RAS"
_SAMPLED = 10_000  # labelled voxels of a case whose brightness is looked at
_AIR = -500  # a CT holds air, in Hounsfield units; magnitudes of MR are not negative
_UNEVEN = 3.0  # slices so much thicker than pixels are brought to the spacing of the finer cases
_FINE = 10  # percentile of the spacings for them
_MIN_PIXELS = 4  # that are left along an axis at the deepest level
_MOST_LEVELS = 5


@dataclass(frozen=True)
class VolumePrint:
    """What volumes with a place in a patient hold; axes are those of `CANONICAL`.

    Attributes
    ----------
    spacing : tuple of float
        To resample to, in mm; the median, of thick slices a low percentile.
    spacing_reason : str
    shape : tuple of int
        Median shape at that spacing.
    used : float
        Median share of a volume that is left if margins of zeros are cut away.
    is_ct : bool
    why : str
        How that was told.
    window : tuple of (float, float)
        Percentiles 0.5 and 99.5 of the labelled voxels, of each channel.
    mean, deviation : tuple of float
        Of the labelled voxels, of each channel.
    """

    spacing: tuple[float, ...]
    spacing_reason: str
    shape: tuple[int, ...]
    used: float
    is_ct: bool
    why: str
    window: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Volumes:
    """Collects what is needed of one volume after the other."""

    def __init__(self, channels: Sequence[str] = ()) -> None:
        self.channels = tuple(channels)
        self.spacings: list[NDArray[np.float64]] = []
        self.extents: list[NDArray[np.float64]] = []
        self.used: list[float] = []
        self.lowest: list[float] = []
        self.bright: list[NDArray[np.float64]] = []

    def add(self, image: Any, label: NDArray[Any] | None) -> None:
        """Look at one volume ``(C, *spatial)`` with its affine, and at its label map ``(*spatial)``."""
        order, _ = turn_to(image.affine, CANONICAL)
        affine = np.asarray(image.affine, np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)[list(order)]
        self.spacings.append(spacing)
        self.extents.append(np.array(image.shape[1:])[list(order)] * spacing)
        pixels = image.as_tensor()
        box = nonzero_box(pixels)
        self.used.append(math.prod(b - a for a, b in box) / math.prod(pixels.shape[1:]))
        self.lowest.append(float(pixels.min()))
        if label is not None:
            at = np.flatnonzero(label)
            at = at[np.linspace(0, len(at) - 1, min(len(at), _SAMPLED)).astype(np.int64)]
            flat = pixels.reshape(pixels.shape[0], -1)
            self.bright.append(np.asarray(flat[:, at], np.float64))

    def result(self) -> VolumePrint:
        """Sum up."""
        spacing, reason = _target(np.array(self.spacings))
        bright = np.concatenate([b for b in self.bright if b.shape[0] == self.bright[0].shape[0]], axis=1)
        if bright.shape[1] == 0:
            bright = np.zeros((bright.shape[0], 1))
        low, high = np.percentile(bright, (0.5, 99.5), axis=1)
        high = np.where(high > low, high, low + 1)
        deviation = bright.std(axis=1)
        is_ct, why = self._modality()
        return VolumePrint(
            spacing=spacing,
            spacing_reason=reason,
            shape=tuple(int(n) for n in np.median(np.round(np.array(self.extents) / spacing), axis=0)),
            used=float(np.median(self.used)),
            is_ct=is_ct,
            why=why,
            window=tuple(zip(np.round(low, 4).tolist(), np.round(high, 4).tolist())),
            mean=tuple(np.round(bright.mean(axis=1), 4).tolist()),
            deviation=tuple(np.round(np.where(deviation > 0, deviation, 1.0), 4).tolist()),
        )

    def _modality(self) -> tuple[bool, str]:
        if self.channels:
            named = ", ".join(self.channels)
            return all(c.strip().upper() == "CT" for c in self.channels), f"the data set names {named}"
        share = float(np.mean([low < _AIR for low in self.lowest]))
        return share > 0.5, f"{share:.0%} of the volumes hold values under {_AIR}, such as air in a CT"


def _target(spacings: NDArray[np.float64]) -> tuple[tuple[float, ...], str]:
    """Return the spacing to resample to, and why."""
    median = np.median(spacings, axis=0)
    target, reason = median.copy(), f"median of {len(spacings)} volumes"
    thick = int(median.argmax())
    if median[thick] > _UNEVEN * median.min():
        fine = float(np.percentile(spacings[:, thick], _FINE))
        others = np.delete(median, thick).max()
        target[thick] = max(fine, float(others))
        reason += f"; along the thick axis percentile {_FINE}"
    return tuple(np.round(target, 4).tolist()), reason


def levels_of(
    patch: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Return the strides between a network's levels and the kernels of each level.

    Thick slices are not pooled, and not convolved with their neighbours, until pixels are as far apart as
    they; an axis is halved while at least 4 pixels are left.

    Parameters
    ----------
    patch : sequence of int
    spacing : sequence of float
        Relative is enough.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18 (2021), supplementary note 2: network topology.

    Examples
    --------
    >>> levels_of((16, 64, 64), (5.0, 1.0, 1.0))
    (((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)))
    """
    far, size = [float(s) for s in spacing], list(patch)
    kernel = [1] * len(size)
    strides: list[tuple[int, ...]] = []
    kernels: list[tuple[int, ...]] = []
    while True:
        # once pixels have come near to the slices, they stay so
        kernel = [3 if k == 3 or d < 2 * min(far) else 1 for k, d in zip(kernel, far)]
        kernels.append(tuple(kernel))
        large = [n >= 2 * _MIN_PIXELS for n in size]
        if not any(large) or len(kernels) == _MOST_LEVELS:
            return tuple(strides), tuple(kernels)
        nearest = min(d for d, enough in zip(far, large) if enough)
        step = [2 if enough and d < 2 * nearest else 1 for d, enough in zip(far, large)]
        strides.append(tuple(step))
        size = [n // s for n, s in zip(size, step)]
        far = [d * s for d, s in zip(far, step)]


def patch_within(shape: Sequence[int], spacing: Sequence[float], most: int) -> tuple[int, ...]:
    """Return the size of a patch of at most so many voxels: the image's, or a cube in millimetres.

    Examples
    --------
    >>> patch_within((35, 50, 36), (1, 1, 1), 64**3)
    (35, 50, 36)
    >>> patch_within((512, 512, 40), (0.8, 0.8, 5.0), 64**3)
    (118, 118, 19)
    """
    low, high = 0.0, max(n * d for n, d in zip(shape, spacing))
    for _ in range(60):  # the longest side in mm, by halving
        side = (low + high) / 2
        size = [min(n, max(1, int(side / d))) for n, d in zip(shape, spacing)]
        low, high = (side, high) if math.prod(size) <= most else (low, side)
    return tuple(min(n, max(1, int(low / d + 1e-9))) for n, d in zip(shape, spacing))

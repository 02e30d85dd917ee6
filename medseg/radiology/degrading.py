"""Volumes made worse on purpose, as scanners, patients and headers make them, to try what notices it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import refuse_unknown

__all__ = ["DEGRADATIONS", "degrade"]

Volume = NDArray[np.float64]
Change = Callable[[Volume, NDArray[np.bool_], float, np.random.Generator], Volume]


def degrade(
    image: MetaTensor, label: NDArray[np.integer], kind: str, *, severity: float, rng: np.random.Generator
) -> tuple[MetaTensor, NDArray[np.integer]]:
    """Return a volume that was made worse, and its label map on the grid that it has then.

    Parameters
    ----------
    image : MetaTensor of shape (1, X, Y, Z)
    label : ndarray of shape (X, Y, Z)
    kind : str
        One of `DEGRADATIONS`.
    severity : float
        0 changes next to nothing, 1 is what would be sent back in a department.
    rng : numpy.random.Generator

    Returns
    -------
    image : MetaTensor
        Of ``cropped`` smaller, of ``spacing`` with another affine.
    label : ndarray

    Raises
    ------
    Refused
        ``unknown-degradation``.

    Examples
    --------
    >>> image, label = MetaTensor(torch.rand(1, 24, 28, 20)), np.zeros((24, 28, 20), int)
    >>> label[6:18, 8:20, 4:16] = 1
    >>> worse, there = degrade(image, label, "cropped", severity=1.0, rng=np.random.default_rng(0))
    >>> worse.shape[1:] == there.shape, bool(0 < there.sum() < label.sum())
    (True, True)
    """
    if kind not in DEGRADATIONS:
        raise refuse_unknown("degradation", kind, DEGRADATIONS)
    affine = np.asarray(image.affine, np.float64).copy()
    meta = {key: value for key, value in image.meta.items() if key != "affine"}
    if kind == "spacing":
        axis = int(rng.integers(3))
        affine[:3, axis] *= (1 + severity) ** rng.choice([-1, 1])
        return MetaTensor(image.as_tensor(), affine=affine, meta=meta), label
    if kind == "flipped":
        axis = 1 + int(rng.integers(2))  # a body is like its mirror image from left to right
        turned = torch.flip(image.as_tensor(), (axis + 1,))
        return MetaTensor(turned, affine=affine, meta=meta), np.flip(label, axis).copy()
    if kind == "cropped":
        cut = _cut(label, severity, rng)
        affine[:3, 3] += affine[:3, :3] @ [s.start for s in cut]
        part = image.as_tensor()[(slice(None), *cut)].clone()
        return MetaTensor(part, affine=affine, meta=meta), label[cut].copy()
    pixels = np.asarray(image.as_tensor()[0], np.float64)
    worse = _CHANGES[kind](pixels, label > 0, severity, rng)
    tensor = torch.from_numpy(worse[None].astype(np.float32))
    return MetaTensor(tensor, affine=affine, meta=meta), label


def _cut(label: NDArray[np.integer], severity: float, rng: np.random.Generator) -> tuple[slice, ...]:
    """Return a field of view from which up to 60 % of the labelled extent along one axis is gone."""
    axis, high = int(rng.integers(3)), bool(rng.integers(2))
    there = np.flatnonzero((label > 0).any(axis=tuple(a for a in range(3) if a != axis)))
    first, last = (int(there[0]), int(there[-1]) + 1) if there.size else (0, label.shape[axis])
    gone = 0.6 * severity * (last - first)
    span = slice(0, max(8, round(last - gone))) if high else slice(round(first + gone), label.shape[axis])
    return tuple(span if a == axis else slice(0, label.shape[a]) for a in range(3))


def _noise(v: Volume, _: NDArray[np.bool_], severity: float, rng: np.random.Generator) -> Volume:
    """Thermal noise, up to twice as large as the deviation of the volume."""
    found: Volume = v + rng.normal(size=v.shape) * 2 * severity * v.std()
    return found


def _motion(v: Volume, _: NDArray[np.bool_], severity: float, rng: np.random.Generator) -> Volume:
    """Lines of k-space that were taken while the head lay elsewhere, by up to 10 voxels.

    The middle lines stay: they say where the organ is.
    """
    axis = int(rng.integers(3))
    n = v.shape[axis]
    lines = np.fft.fftn(v)
    frequency = np.abs(np.fft.fftfreq(n))
    outer = np.flatnonzero(frequency > max(0.02, 0.1 * (1 - severity)))
    for taken in np.array_split(rng.permutation(outer), 4):
        moved = ndimage.fourier_shift(np.fft.fftn(v), rng.uniform(-10, 10, 3) * severity)
        index = tuple(taken if a == axis else slice(None) for a in range(3))
        lines[index] = moved[index]
    found: Volume = np.abs(np.fft.ifftn(lines))
    return found


def _blur(v: Volume, _: NDArray[np.bool_], severity: float, rng: np.random.Generator) -> Volume:
    """Thick slices along one axis, up to 8 voxels, brought back to the grid."""
    sigma = np.full(3, 0.4 * severity)
    sigma[int(rng.integers(3))] = 3.5 * severity
    found: Volume = ndimage.gaussian_filter(v, sigma)
    return found


def _bias(v: Volume, _: NDArray[np.bool_], severity: float, rng: np.random.Generator) -> Volume:
    """A coil that lies on one side: brightness changes by up to a factor of 20 across the volume."""
    direction = rng.normal(size=3)
    direction /= np.abs(direction).sum()
    ramps = np.meshgrid(*[np.linspace(-1, 1, n) for n in v.shape], indexing="ij")
    ramp = sum(d * r for d, r in zip(direction, ramps))
    found: Volume = (v - min(0.0, v.min())) * np.exp(1.5 * severity * ramp / max(np.abs(ramp).max(), 1e-9))
    return found


def _contrast(v: Volume, _: NDArray[np.bool_], severity: float, rng: np.random.Generator) -> Volume:
    """Another sequence: bright and dark trade places, the more the more severe."""
    low, high = np.percentile(v, [1, 99])
    share = np.clip((v - low) / max(high - low, 1e-9), 0, 1)
    curve = 0.5 + 0.5 * np.cos(np.pi * share * rng.uniform(1.0, 2.0))
    found: Volume = low + (high - low) * ((1 - severity) * share + severity * curve)
    return found


def _void(v: Volume, there: NDArray[np.bool_], severity: float, rng: np.random.Generator) -> Volume:
    """Metal: the signal is gone in a ball around a place in or beside the organ."""
    places = np.argwhere(ndimage.binary_dilation(there, iterations=3)) if there.any() else np.argwhere(v > -1)
    centre = places[rng.integers(len(places))]
    far = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.indices(v.shape), centre)))
    radius = 3 + 9 * severity
    return np.where(far < radius, v.min(), v) + np.where(np.abs(far - radius) < 1.5, 0.5 * np.ptp(v), 0)


_CHANGES: dict[str, Change] = {
    "noise": _noise,
    "motion": _motion,
    "blur": _blur,
    "bias": _bias,
    "contrast": _contrast,
    "void": _void,
}
DEGRADATIONS: tuple[str, ...] = (*_CHANGES, "spacing", "flipped", "cropped")

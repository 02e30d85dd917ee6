"""What can be measured of a segmented volume without its reference: grid, brightness, volumes, shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..io import turn_to

__all__ = ["GROUPS", "group_of", "measure_signs"]

# group of signs -> the smallest deviation that counts, so that a data set without any has no sharp edge
GROUPS: dict[str, float] = {
    "spacing": 0.05,
    "extent": 0.05,
    "brightness": 0.02,
    "contrast": 0.02,
    "grain": 0.05,
    "volume": 0.05,
    "shape": 0.02,
    "place": 0.5,
    "border": 0.0,
    "fragments": 0.0,
}
_RING = 2  # voxels around a class that its contrast is against
_SAMPLED = 1 << 21


def group_of(sign: str) -> str:
    """Return the group of a sign: the part of its name before the first point.

    Examples
    --------
    >>> group_of("volume.liver")
    'volume'
    """
    return sign.partition(".")[0]


def measure_signs(
    image: NDArray[np.floating],
    labels: NDArray[np.integer],
    affine: NDArray[np.floating],
    classes: Mapping[int, str],
) -> dict[str, float]:
    """Measure a volume and its label map.

    Parameters
    ----------
    image : ndarray of shape (C, \\*spatial)
        Normalised as the network sees it.
    labels : ndarray of shape (\\*spatial)
    affine : ndarray of shape (4, 4)
        To RAS+ millimetres.
    classes : mapping of int to str
        Values in the label map, and their names.

    Returns
    -------
    dict
        ``spacing.R`` and ``extent.R`` (logarithms of mm, along the axes R, A, S); ``brightness.5`` ...
        (percentiles) and ``brightness.NAME`` (mean of a class); ``contrast.NAME`` (against its surroundings);
        ``grain`` (logarithm of the noise between neighbours); ``volume.NAME`` (logarithm of ml);
        ``shape.NAME`` (logarithm of the surface against that of a ball of its volume); ``place.NAME.R``
        (from the middle of all classes, mm); ``border.NAME`` (share of its surface where the image ends);
        ``fragments.NAME`` (share of it outside its largest piece). A class that is not there has only the
        volume, of minus infinity.

    Examples
    --------
    >>> labels = np.zeros((12, 14, 10), int)
    >>> labels[2:6, 3:9, :5] = 1
    >>> image = np.random.default_rng(0).normal(size=(1, *labels.shape))
    >>> signs = measure_signs(image, labels, np.diag([2.0, 1.0, 1.0, 1.0]), {1: "organ"})
    >>> round(math.exp(signs["volume.organ"]), 3), round(signs["border.organ"], 3), signs["fragments.organ"]
    (0.24, 0.203, 0.0)
    """
    order, _ = turn_to(affine, "RAS")
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    signs: dict[str, float] = {}
    for letter, axis in zip("RAS", order):
        signs[f"spacing.{letter}"] = math.log(spacing[axis])
        signs[f"extent.{letter}"] = math.log(spacing[axis] * labels.shape[axis])
    signs |= _brightness(image)
    middles: dict[str, NDArray[np.float64]] = {}
    boxes = ndimage.find_objects(labels.astype(np.int32, copy=False), max_label=max(classes))
    for value, name in classes.items():
        box = boxes[value - 1]
        if box is None:
            signs[f"volume.{name}"] = -math.inf
            continue
        signs |= {f"{group}.{name}": v for group, v in _of_class(image, labels == value, box, spacing)}
        middle = np.argwhere(labels[box] == value).mean(axis=0) + [s.start for s in box]
        middles[name] = np.asarray(affine)[:3, :3] @ middle
    if len(middles) > 1:
        centre = np.mean(list(middles.values()), axis=0)
        for name, middle in middles.items():
            signs |= {f"place.{name}.{letter}": float(d) for letter, d in zip("RAS", middle - centre)}
    return signs


def _brightness(image: NDArray[np.floating]) -> dict[str, float]:
    step = max(1, math.ceil((image[0].size / _SAMPLED) ** (1 / 3)))
    first = np.asarray(image[0][(slice(None, None, step),) * 3], np.float64)
    signs = {f"brightness.{p}": float(np.percentile(first, p)) for p in (5, 25, 50, 75, 95)}
    second = np.concatenate([np.diff(image[0], 2, axis=a).ravel()[:: step**3] for a in range(3)])
    signs["grain"] = math.log(np.median(np.abs(second)) + 1e-3) if second.size else 0.0
    return signs


def _of_class(
    image: NDArray[np.floating], mask: NDArray[np.bool_], box: Sequence[slice], spacing: NDArray[np.float64]
) -> Iterator[tuple[str, float]]:
    """Yield the groups of signs of one class, from the part of the volume around it."""
    shape = mask.shape
    wide = tuple(slice(max(0, s.start - _RING), min(n, s.stop + _RING)) for s, n in zip(box, shape))
    mask = mask[wide]
    voxel = float(spacing.prod())
    count = int(mask.sum())
    pixels = image[0][wide]
    inside = pixels[mask]
    yield "brightness", float(inside.mean())
    ring = ndimage.binary_dilation(mask, iterations=_RING) & ~mask
    if ring.any():
        yield "contrast", float(inside.mean() - pixels[ring].mean())
    yield "volume", math.log(count * voxel / 1000)
    surface, outer = 0.0, 0.0
    for axis, distance in enumerate(spacing):
        face = voxel / float(distance)
        surface += face * int(np.diff(mask, axis=axis).sum())
        low, high = np.take(mask, 0, axis), np.take(mask, -1, axis)
        outer += face * int(low.sum()) * (wide[axis].start == 0)
        outer += face * int(high.sum()) * (wide[axis].stop == shape[axis])
    surface += outer
    ball = (36 * math.pi) ** (1 / 3) * (count * voxel) ** (2 / 3)
    yield "shape", math.log(surface / ball)
    yield "border", outer / surface
    pieces, n = ndimage.label(mask, np.ones((3, 3, 3)))
    largest = int(np.bincount(pieces.ravel())[1:].max()) if n else 0
    yield "fragments", 1 - largest / count

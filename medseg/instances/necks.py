"""Objects parted at their necks by a watershed of the distance to the background."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure, segmentation
from skimage.morphology import local_maxima, reconstruction

__all__ = ["components", "watershed", "with_lone_parts"]

Mask = NDArray[np.bool_]

# pixels; levels the steps that a pixel grid leaves in the distances and still keeps small objects apart
SMOOTHING = 0.75
# pixels added to each half-width before widths are compared, so that those steps do not cut thin objects
STEP = 3.0
# fraction of a ball as wide as the object
PINHOLE = 0.015


def components(
    labels: NDArray[Any], *, border: int | None, spacing: tuple[float, ...], **_: Any
) -> NDArray[Any]:
    """Number the components of each class; those of objects with a rim are told apart without it."""
    if border is None:
        found: NDArray[Any] = measure.label(labels, background=0, connectivity=1)
        return found
    inside = measure.label(np.where(labels == border, 0, labels), background=0, connectivity=1)
    return _grow(inside, labels > 0, spacing)


def watershed(
    labels: NDArray[Any],
    *,
    border: int | None,
    spacing: tuple[float, ...],
    neck: float,
    fill_holes: bool,
) -> NDArray[Any]:
    """Divide components further at their necks, each within its bounding box."""
    inside = labels if border is None else np.where(labels == border, 0, labels)
    instances = measure.label(inside, background=0, connectivity=1)
    divided = instances.copy()
    last = int(instances.max(initial=0))
    for i, box in enumerate(ndimage.find_objects(instances) if neck > 0 and last else [], start=1):
        # one pixel more, so that the distance to the background is right; the image's edge is no background
        box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        mask = instances[box] == i
        if fill_holes:
            mask = _fill_pinholes(mask, instances[box] == 0, spacing)
        parts = _divide(mask, neck, spacing)
        if parts is not None:
            divided[box][mask] = np.where(parts[mask] > 1, parts[mask] + (last - 1), i)
            last += int(parts.max()) - 1
    return divided if border is None else _grow(divided, labels > 0, spacing)


def _fill_pinholes(mask: Mask, background: Mask, spacing: tuple[float, ...]) -> Mask:
    """Fill the holes of one component that are too small to be gaps between touching objects.

    A pinhole in a nucleus halves the distances around it, so that the nucleus would fall to pieces; a gap
    among three touching nuclei, on the other hand, is what keeps them apart. Their sizes tell them apart: the
    gap among three equal discs has 5 % of a disc's area, and the widest part of the component gives the size
    of a disc.
    """
    holes, n = ndimage.label(~mask, structure=np.ones((3,) * mask.ndim))
    if n < 2:
        return mask
    filled = ndimage.binary_fill_holes(mask, structure=np.ones((3,) * mask.ndim))
    if filled.all() or (filled == mask).all():
        return mask
    radius = ndimage.distance_transform_edt(filled, sampling=spacing).max()
    ball = math.pi ** (mask.ndim / 2) / math.gamma(mask.ndim / 2 + 1) * radius**mask.ndim
    small = np.bincount(holes.ravel()) * math.prod(spacing) <= PINHOLE * ball
    return np.asarray(mask | (filled & small[holes] & background))


def _divide(mask: Mask, neck: float, spacing: tuple[float, ...]) -> NDArray[Any] | None:
    """Parts 1 to n of one component, or None where it is whole.

    The distance to the background is half the local width. Between two parts of an object it falls to a
    saddle, the neck. Two peaks are two objects if the saddle is lower than `neck` times the lower peak: on
    the logarithm of the distance this is the h-maxima transform with h = -log(neck), which has no length in
    it and so suits small and large objects alike. On objects of a few pixels' width, though, the pixel grid
    alone makes necks of that depth, above all on slanting ones. A constant of three pixels, added to all
    distances, asks for deeper necks there and fades on larger objects.
    """
    if mask.all() or np.count_nonzero(mask) < 4:
        return None
    distance = ndimage.distance_transform_edt(mask, sampling=spacing)
    smooth = ndimage.gaussian_filter(distance, SMOOTHING)
    height = np.log(np.where(mask, smooth, 0) + STEP * min(spacing))
    rise = -math.log(neck)
    lowered = reconstruction(height - rise, height) if rise > 0 else height
    peaks = local_maxima(lowered) & mask
    seeds, n = ndimage.label(peaks, structure=np.ones((3,) * mask.ndim))
    if n < 2:
        return None
    parts: NDArray[Any] = segmentation.watershed(-smooth, seeds, mask=mask)
    return parts


def _grow(instances: NDArray[Any], mask: Mask, spacing: tuple[float, ...]) -> NDArray[Any]:
    """Give border pixels to the nearest object within the mask; a part without any is an object itself."""
    seeds = with_lone_parts(instances, mask)
    if not seeds.any():
        return seeds
    away = ndimage.distance_transform_edt(seeds == 0, sampling=spacing)
    return flooded(away, seeds, mask)


def flooded(height: NDArray[Any], seeds: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """Grow seeds into a mask by a watershed whose result does not depend on what lies elsewhere.

    All seeds come first, and in the order of a scan: among equals the watershed's queue would take them in an
    order that depends on the rest of the image, and a part of an image would differ from the whole.
    """
    height = height.astype(np.float64)
    at = seeds > 0
    height[at] = height.min() - 1 + np.linspace(-1, 0, np.count_nonzero(at), endpoint=False)
    grown: NDArray[Any] = segmentation.watershed(height, seeds, mask=mask)
    return grown


def with_lone_parts(seeds: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """Add each connected part of the mask that holds no seed as a seed of its own."""
    parts = measure.label(mask, background=0, connectivity=1)
    seeded = np.zeros(int(parts.max(initial=0)) + 1, dtype=bool)
    seeded[parts[seeds > 0]] = True
    lone = (parts > 0) & ~seeded[parts]
    return np.where(lone, parts + int(seeds.max(initial=0)), seeds)

"""Objects read from a field: levels that rise, or directions that lead, to the middle of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction

from ..errors import Refused
from .necks import flooded, with_lone_parts

__all__ = ["DIRECTIONS", "directions", "levels"]

# levels by which the saddle between two summits must lie lower than both
_DIP = 0.6
_SMOOTHING = 1.0
# pixels between the places where the ways of one object end
_GATHER = 2

# neighbours counter-clockwise from the next column, in steps of 45 degrees; row 0 is on top
DIRECTIONS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def levels(labels: NDArray[Any], *, spacing: tuple[float, ...], **_: Any) -> NDArray[Any]:
    """Part a map of levels at its valleys; every summit that stands out is an object.

    The levels are smoothed, so that single pixels make no summit; the h-maxima are the seeds of a watershed.
    """
    mask = labels > 0
    if not mask.any():
        return np.zeros(labels.shape, np.int32)
    sigma = [_SMOOTHING * min(spacing) / step for step in spacing]
    height = ndimage.gaussian_filter(labels.astype(np.float32), sigma)
    height = np.where(mask, height, 0)
    lowered = reconstruction(height - _DIP, height)
    seeds, _count = ndimage.label(local_maxima(lowered) & mask, structure=np.ones((3,) * labels.ndim))
    return flooded(-height, with_lone_parts(seeds, mask), mask)


def directions(labels: NDArray[Any], **_: Any) -> NDArray[Any]:
    """Follow each pixel's direction to the end; ends that lie together are an object.

    Every pixel points to one of its 8 neighbours, or to itself where that neighbour is background. Doubling
    the ways, ``next = next[next]``, takes as many rounds as the logarithm of the longest way.
    """
    if labels.ndim != 2:
        raise Refused(
            "bad-dimensions", "directions are told in a plane", got=f"{labels.ndim} axes", expected=2
        )
    if labels.max(initial=0) > len(DIRECTIONS):
        raise Refused(
            "unknown-label",
            "a map of directions",
            got=f"the value {labels.max()}",
            expected=f"0 for background and 1 to {len(DIRECTIONS)}",
        )
    mask = labels > 0
    rows, columns = np.nonzero(mask)
    number = np.full(labels.shape, -1, np.int64)
    number[mask] = np.arange(len(rows))
    step = np.array(DIRECTIONS)[labels[mask].astype(np.int64) - 1]
    there = [np.clip(at + by, 0, n - 1) for at, by, n in zip((rows, columns), step.T, labels.shape)]
    follow = number[tuple(there)]
    follow = np.where(follow < 0, np.arange(len(rows)), follow)
    for _round in range(math.ceil(math.log2(max(2, len(rows))))):
        further = follow[follow]
        if np.array_equal(further, follow):
            break
        follow = further
    ends = np.zeros(labels.shape, bool)
    ends[rows[follow], columns[follow]] = True
    gathered, _count = ndimage.label(
        ndimage.binary_dilation(ends, np.ones((3, 3)), iterations=_GATHER // 2), structure=np.ones((3, 3))
    )
    out = np.zeros(labels.shape, np.int32)
    out[mask] = gathered[rows[follow], columns[follow]]
    return out

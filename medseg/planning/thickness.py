"""How thick the objects of label maps are: what decides at which resolution they can be seen."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np
from scipy import ndimage

__all__ = ["Pieces", "finest", "measure_pieces"]

Pieces = dict[int, list[tuple[float, float]]]
"""Value of a label -> (thickness, size) in pixels of each of its connected pieces."""

_MOST_VALUES = 20
_SHARE = 0.1


def measure_pieces(label: np.ndarray, values: Collection[int]) -> Pieces:
    """Measure the connected pieces of some values of a label map.

    Thickness is the diameter of the largest disc or ball that lies within a piece: a thread is thin however
    long it is.

    Examples
    --------
    >>> label = np.zeros((20, 50), int)
    >>> label[4:9, 3:40] = 7
    >>> measure_pieces(label, [7])
    {7: [(6.0, 185.0)]}
    """
    boxes = ndimage.find_objects(label.astype(np.int64) if label.dtype.kind in "bu" else label)
    found: Pieces = {}
    for value in sorted(values)[:_MOST_VALUES]:
        # beyond the edge of the image an object may go on: only where there is background does it end
        around = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[value - 1])
        pieces, count = ndimage.label(label[around] == value)
        sizes = np.bincount(pieces.ravel())[1:].astype(float)
        if pieces.all():
            depth = np.array([min(label.shape) / 2])
        else:
            away = ndimage.distance_transform_edt(pieces)
            depth = np.atleast_1d(ndimage.maximum(away, pieces, np.arange(1, count + 1)))
        found[value] = list(zip((2 * depth).tolist(), sizes.tolist()))
    return found


def finest(images: Iterable[Pieces], *, objects: bool) -> float:
    """Return the thickness of the finest class, or of objects of one kind.

    Nine tenths of its foreground lie in pieces of at least that thickness; NaN where there is none.

    Examples
    --------
    >>> finest([{1: [(30.0, 900.0), (2.0, 4.0)], 2: [(5.0, 300.0)]}], objects=False)
    5.0
    """
    classes: Pieces = {}
    for pieces in images:
        for value, found in pieces.items():
            classes.setdefault(0 if objects else value, []).extend(found)
    thin = math.nan
    for found in classes.values():
        thickness, size = np.array(sorted(found)).T
        at = float(thickness[np.searchsorted(size.cumsum(), _SHARE * size.sum())])
        thin = at if math.isnan(thin) else min(thin, at)
    return thin

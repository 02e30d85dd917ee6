"""The largest connected part of each class, where one organ is expected."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["keep_largest"]


def keep_largest(labels: NDArray[Any], values: Collection[int]) -> NDArray[Any]:
    """Return a label map in which only the largest connected part of some classes is left.

    Pixels are connected where they share a face; of equally large parts the first in the order of a scan is
    kept. What is dropped becomes 0.

    Parameters
    ----------
    labels : ndarray of integers, any shape
        Not changed; without values returned as it is.
    values : collection of int
        The classes.

    Examples
    --------
    >>> keep_largest(np.array([[1, 0, 2, 0, 1, 1], [0, 0, 0, 0, 2, 0]]), [1]).tolist()
    [[0, 0, 2, 0, 1, 1], [0, 0, 0, 0, 2, 0]]
    """
    if not values:
        return labels
    out = labels.copy()
    boxes = ndimage.find_objects(labels)
    for value in values:
        # in its own box: a map of many classes is not gone through for each of them
        box = boxes[value - 1] if 0 < value <= len(boxes) else None
        if box is None:
            continue
        parts, count = ndimage.label(labels[box] == value)
        if count > 1:
            largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
            out[box][(parts > 0) & (parts != largest)] = 0
    return out

"""Where a volume is worth looking at: in its largest wrong region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..metrics import Contingency

__all__ = ["Place", "telling_place", "wrong_voxels"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Place:
    """A voxel, and the region that it was chosen for.

    Attributes
    ----------
    index : tuple of int
        The voxel where the planes cross.
    size : int
        Voxels of the region; 0 where there is none, and the voxel is the middle.
    box : tuple of slice
        The region's bounding box.
    region : ndarray of bool
        The region inside its box.
    """

    index: tuple[int, ...]
    size: int
    box: tuple[slice, ...]
    region: Mask


def wrong_voxels(prediction: NDArray[Any], reference: NDArray[Any], table: Contingency | None = None) -> Mask:
    """Mark the voxels whose label is wrong.

    Parameters
    ----------
    prediction, reference : ndarray of int, shape (X, Y, Z)
        Label maps; or instance maps, with their `table`.
    table : Contingency, optional
        Ids of instance maps mean nothing: a voxel is right where it lies in two objects that match (IoU above
        one half), or in none.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import contingency
    >>> from medseg.report.place import wrong_voxels
    >>> prediction, reference = np.array([[[7, 7, 7, 0, 3]]]), np.array([[[1, 1, 0, 0, 0]]])
    >>> wrong_voxels(prediction, reference, contingency(prediction, reference)).astype(int)
    array([[[0, 0, 1, 0, 1]]])
    """
    if table is None:
        return np.asarray(prediction != reference)
    ids, partner = table.prediction_ids, np.full(len(table.prediction_ids) + 1, -1, np.int64)
    hit = table.ious > 0.5
    partner[table.rows[hit]] = table.reference_ids[table.columns[hit]]
    wrong = np.empty(prediction.shape, bool)
    for plane in range(len(prediction)):  # a plane at a time: the search needs eight bytes a voxel
        mine, inside = prediction[plane], prediction[plane] > 0
        matched = np.where(inside, partner[np.searchsorted(ids, mine)], 0)
        wrong[plane] = matched != reference[plane]
    return wrong


def telling_place(mask: Mask, spacing: tuple[float, ...]) -> Place:
    """Choose the voxel through which three planes show the largest connected region of a mask.

    The plane across the last axis is the one in which the region is largest, and the voxel lies deepest
    inside it there: the centre of mass of a shell lies outside of it.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        What is wrong, or what is there.
    spacing : tuple of float
        Size of a voxel along each axis.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.report.place import telling_place
    >>> mask = np.zeros((9, 9, 9), bool)
    >>> mask[1, 1, 1], mask[4:7, 3:8, 2] = True, True
    >>> telling_place(mask, (1.0, 1.0, 1.0)).index
    (5, 4, 2)
    """
    outer = bounding_box(mask)
    if outer is None:
        return Place(tuple(s // 2 for s in mask.shape), 0, (slice(0, 0),) * 3, np.zeros((0, 0, 0), bool))
    inner = mask[outer]
    pieces, count = ndimage.label(inner)
    sizes = np.bincount(pieces[inner], minlength=count + 1)
    largest = int(sizes.argmax())
    box = ndimage.find_objects(pieces)[largest - 1]
    piece = pieces[box] == largest
    plane = int(piece.sum(axis=(0, 1)).argmax())
    depth = ndimage.distance_transform_edt(np.pad(piece[..., plane], 1), sampling=spacing[:2])[1:-1, 1:-1]
    deepest = np.unravel_index(int(depth.argmax()), depth.shape)
    whole = tuple(slice(o.start + b.start, o.start + b.stop) for o, b in zip(outer, box))
    index = tuple(int(i) + b.start for i, b in zip((*map(int, deepest), plane), whole))
    return Place(index, int(sizes[largest]), whole, piece)


def bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Smallest box around what is true; None where nothing is."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if not len(hit):
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)

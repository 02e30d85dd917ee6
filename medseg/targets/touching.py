"""Instance maps: checking them, numbering the components of a mask, and parting objects that touch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import Refused

Window = tuple[slice, ...]


def instances_from_mask(mask: NDArray[Any], *, connectivity: int | None = None) -> NDArray[np.int32]:
    """Number the connected components of a mask, or of each class of a label map.

    Parameters
    ----------
    mask : ndarray of bool or int, shape (*spatial)
        Mask, or label map with 0 as background. Components of different classes stay apart.
    connectivity : int, optional
        Number of axes in which neighbours may differ: 1 joins across faces only; the default is the number of
        dimensions, which joins across corners too, as :func:`part_touching` understands touching.

    Returns
    -------
    ndarray of int32, shape (*spatial)
        Instance map numbered from 1, class by class.

    Raises
    ------
    Refused
        ``not-integer`` or ``negative-label``.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import instances_from_mask
    >>> instances_from_mask(np.array([[1, 1, 2, 0, 1]]))
    array([[1, 1, 3, 0, 2]], dtype=int32)
    """
    labels = checked_map(mask, split=False)
    structure = ndimage.generate_binary_structure(labels.ndim, connectivity or labels.ndim)
    out = np.zeros(labels.shape, np.int32)
    found = 0
    for value in [True] if labels.dtype == bool else [v for v in np.unique(labels) if v]:
        components, count = ndimage.label(labels == value, structure=structure, output=np.int32)
        out += np.where(components > 0, components + np.int32(found), np.int32(0))
        found += count
    return out


def part_touching(instances: NDArray[Any]) -> NDArray[Any]:
    """Set to background the pixels that keep touching objects one pixel apart.

    Two objects touch where a pixel of one has a pixel of the other among its neighbours, diagonal ones
    included. Of such a pair of pixels only one is given up, so the gap is one pixel wide, as in Ronneberger
    et al. 2015, section 3. It is given up by the object with more pixels that touch nothing; if these are
    equal by the larger one, then by the one with the larger number. An object with a pixel that touches
    nothing therefore never disappears, and a single pixel beside a large object stays. Only in a cluster of
    objects that touch with all they have can one disappear.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (*spatial)
        Instance map; a mask is split into connected components, which do not touch.

    Returns
    -------
    ndarray, shape (*spatial)
        A new map of the same dtype (int32 for a mask) in which no two objects touch.

    Raises
    ------
    Refused
        ``not-integer`` or ``negative-label``.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import part_touching
    >>> part_touching(np.array([[7, 7, 7, 2, 2, 0, 5]]))
    array([[7, 7, 0, 2, 2, 0, 5]])
    """
    labels = checked_map(instances)
    out = np.array(labels, order="C")  # written through a flat view
    lower: list[NDArray[np.int64]] = []
    upper: list[NDArray[np.int64]] = []
    for here, there in neighbour_pairs(labels.shape, half_neighbourhood(labels.ndim, None)):
        a, b = labels[here], labels[there]
        where = np.flatnonzero((a != b) & (a != 0) & (b != 0))
        if where.size:
            index = np.unravel_index(where, a.shape)
            for pixels, view in ((lower, here), (upper, there)):
                shifted = [i + s.start for i, s in zip(index, view)]
                pixels.append(np.ravel_multi_index(shifted, labels.shape))
    if not lower:
        return out
    p, q = np.concatenate(lower), np.concatenate(upper)
    flat = labels.ravel()
    touching = np.unique(np.concatenate([p, q]))
    # only objects that touch are ranked; all their pixels are counted to know how many are free
    ids, touched = np.unique(flat[touching], return_counts=True)
    sizes = _sizes(labels, ids)
    rank = np.empty(ids.size, np.int64)
    rank[np.lexsort((ids, sizes, sizes - touched))] = np.arange(ids.size)
    loses = rank[np.searchsorted(ids, flat[p])] > rank[np.searchsorted(ids, flat[q])]
    out.reshape(-1)[np.where(loses, p, q)] = 0
    return out


def _sizes(labels: NDArray[Any], ids: NDArray[Any]) -> NDArray[np.int64]:
    """Count the pixels of each of the sorted numbers."""
    if int(ids[-1]) <= labels.size:  # boxes of the few that touch are quicker than a histogram of all pixels
        boxes = ndimage.find_objects(labels, max_label=int(ids[-1]))
        counts = [np.count_nonzero(labels[boxes[int(i) - 1]] == i) for i in ids]
        return np.asarray(counts, np.int64)
    known, found = np.unique(labels, return_counts=True)
    return np.asarray(found[np.searchsorted(known, ids)], np.int64)


def checked_map(instances: NDArray[Any], *, split: bool = True) -> NDArray[Any]:
    """Return an integer map (components of a mask, if split), or refuse."""
    array = np.asarray(instances)
    if array.dtype == bool:
        return instances_from_mask(array) if split else array
    if array.dtype.kind not in "iu":
        raise Refused(
            "not-integer",
            "an instance map holds whole numbers",
            got=array.dtype,
            expected="an integer or boolean type",
            do="cast it before if its values are whole",
        )
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        raise Refused(
            "negative-label", "negative number in the map", got=int(array.min()), expected="0 or more"
        )
    return array


def half_neighbourhood(ndim: int, radius: int | None) -> list[tuple[int, ...]]:
    """One of each two opposite offsets: within the radius, or among all direct neighbours for None."""
    reach = range(-(radius or 1), (radius or 1) + 1)
    offsets = [o for o in product(reach, repeat=ndim) if o > (0,) * ndim]
    return [o for o in offsets if radius is None or sum(i * i for i in o) <= radius * radius]


def neighbour_pairs(
    shape: tuple[int, ...], offsets: list[tuple[int, ...]]
) -> Iterator[tuple[Window, Window]]:
    """For each offset, the two views of an array in which neighbours lie at the same place."""
    for offset in offsets:
        if all(abs(o) < size for o, size in zip(offset, shape)):
            here = tuple(slice(max(0, -o), size - max(0, o)) for o, size in zip(offset, shape))
            there = tuple(slice(max(0, o), size - max(0, -o)) for o, size in zip(offset, shape))
            yield here, there

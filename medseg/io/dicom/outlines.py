"""Outlines of masks along the edges of pixels, and back: exact, holes and corners included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["filled", "outlines"]

# steps along (column, row): to the right, down, to the left, up; the mask is on the right-hand side
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Return the closed polygons around the pixels of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (columns, rows)

    Returns
    -------
    list of ndarray, shape (points, 2)
        Corners as (column, row), where a pixel's centre is a whole number and its edges lie half a pixel
        further. Outer outlines run clockwise on a screen, those of holes the other way. By the even-odd rule
        they hold exactly the mask; pixels that touch at a corner have outlines of their own.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.io.dicom.outlines import outlines
    >>> mask = np.zeros((4, 3), bool)
    >>> mask[1:3, 1] = True
    >>> outlines(mask)[0].tolist()
    [[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]]
    """
    used = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    if not len(used[0]):
        return []
    corner_of_all = np.array([used[0][0], used[1][0]])
    box = mask[used[0][0] : used[0][-1] + 1, used[1][0] : used[1][-1] + 1]
    inside = np.pad(box, 1)
    here, left = inside[1:, 1:], inside[:-1, 1:]
    above, across = inside[1:, :-1], inside[:-1, :-1]
    # at each corner of pixels: does an edge leave it in this direction, with the mask on its right
    leaves = np.stack([here & ~above, left & ~here, across & ~left, above & ~across])
    direction, column, row = np.nonzero(leaves)
    number = np.full(leaves.shape, -1, np.int64)
    number[direction, column, row] = np.arange(len(direction))
    end = _STEPS[direction] + np.stack([column, row], axis=1)
    following = np.full(len(direction), -1, np.int64)
    for turn in (1, 0, -1):  # to the right first: pixels that touch at a corner stay apart
        found = number[(direction + turn) % 4, end[:, 0], end[:, 1]]
        following = np.where(following < 0, found, following)
    corner = direction[following] != direction  # where the next edge has another direction
    points = end + corner_of_all - 0.5
    # the four arrays as lists: one step of the walk below costs a tenth of what an array's would
    after, turns = following.tolist(), corner.tolist()
    seen = bytearray(len(after))
    polygons = []
    for start in range(len(after)):
        if seen[start]:
            continue
        edge, walked = start, []
        while not seen[edge]:
            seen[edge] = 1
            if turns[edge]:
                walked.append(edge)
            edge = after[edge]
        walked = walked[-1:] + walked[:-1]  # from the first corner in the order of rows and columns
        polygons.append(points[walked])
    return polygons


def filled(polygons: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the pixels whose centres lie within closed polygons, by the even-odd rule.

    Parameters
    ----------
    polygons : sequence of ndarray, shape (points, 2)
        Corners as (column, row).
    shape : tuple of int
        Columns and rows.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.io.dicom.outlines import filled
    >>> filled([np.array([[-0.5, 0.2], [3.0, 0.2], [-0.5, 1.4]])], (4, 3)).T.astype(int).tolist()
    [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    inside = np.zeros(shape, bool)
    if not polygons:
        return inside
    # the pixels that can be inside; the rest of a large image is not touched
    ends = np.concatenate(polygons)
    low = np.clip(np.floor(ends.min(axis=0)), 0, shape).astype(np.int64)
    high = np.clip(np.ceil(ends.max(axis=0)) + 1, low, shape).astype(np.int64)
    columns, rows = (high - low).tolist()
    crossings = np.zeros((columns + 1, rows), np.uint8)
    for polygon in polygons:
        a = polygon - low
        b = np.roll(a, -1, axis=0)
        # rows that an edge crosses: its lower end counts, its upper one does not
        first = np.clip(np.ceil(np.minimum(a[:, 1], b[:, 1])), 0, rows).astype(np.int64)
        last = np.clip(np.ceil(np.maximum(a[:, 1], b[:, 1])), 0, rows).astype(np.int64)
        count = np.maximum(last - first, 0)
        edge = np.repeat(np.arange(len(a)), count)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        part = (row - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
        column = a[edge, 0] + part * (b[edge, 0] - a[edge, 0])
        index = np.clip(np.ceil(column), 0, columns).astype(np.int64)
        np.bitwise_xor.at(crossings, (index, row), 1)
    parity = np.bitwise_xor.accumulate(crossings, axis=0)[:columns]
    inside[low[0] : high[0], low[1] : high[1]] = parity == 1
    return inside

"""The overlap of two integer maps, counted once and reused by every metric that needs it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused

__all__ = ["Contingency", "contingency", "joined"]

Ids = NDArray[Any]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contingency:
    """Which ids overlap, and in how many pixels. Sparse: its size is the number of overlapping pairs.

    Attributes
    ----------
    prediction_ids, reference_ids : ndarray of int, shape (P,) and (R,)
        Ids other than 0, ascending.
    prediction_sizes, reference_sizes : ndarray of int64, shape (P,) and (R,)
        Their sizes in pixels.
    rows, columns : ndarray of int64, shape (K,)
        For each overlapping pair the index into `prediction_ids` and into `reference_ids`.
    intersections : ndarray of int64, shape (K,)
        Pixels that the pair shares.
    n_pixels : int
        Pixels of the whole map, background included.

    Examples
    --------
    >>> from medseg.metrics import contingency
    >>> table = contingency([[1, 1, 0]], [[7, 0, 0]])
    >>> table.reference_ids, table.intersections, table.ious
    (array([7]), array([1]), array([0.5]))
    """

    prediction_ids: Ids
    reference_ids: Ids
    prediction_sizes: Counts
    reference_sizes: Counts
    rows: Counts
    columns: Counts
    intersections: Counts
    n_pixels: int

    @cached_property
    def ious(self) -> NDArray[np.float64]:
        """Intersection over union of each overlapping pair, shape (K,)."""
        unions = self.prediction_sizes[self.rows] + self.reference_sizes[self.columns] - self.intersections
        return self.intersections / unions

    @cached_property
    def including_background(self) -> Contingency:
        """The same counts with 0 as an id like any other, as a partition of all pixels has it.

        An id that has no pixel, 0 too, is not in it. `n_common_background` of the result is 0.
        """
        zeros = (
            self.n_pixels - int(self.prediction_sizes.sum()),
            self.n_pixels - int(self.reference_sizes.sum()),
        )
        # what an object does not share with an object, it shares with the background
        rests = (
            self.prediction_sizes - _sums(self.rows, self.intersections, len(self.prediction_ids)),
            self.reference_sizes - _sums(self.columns, self.intersections, len(self.reference_ids)),
        )
        shift_row, shift_column = int(zeros[0] > 0), int(zeros[1] > 0)
        on_row, on_column = np.flatnonzero(rests[0]), np.flatnonzero(rests[1])
        common = np.array([self.n_common_background] if self.n_common_background else [], dtype=np.int64)
        return Contingency(
            prediction_ids=_with_zero(self.prediction_ids, shift_row),
            reference_ids=_with_zero(self.reference_ids, shift_column),
            prediction_sizes=np.concatenate([np.array(zeros[:1])[:shift_row], self.prediction_sizes]),
            reference_sizes=np.concatenate([np.array(zeros[1:])[:shift_column], self.reference_sizes]),
            rows=np.concatenate([0 * common, 0 * on_column, on_row + shift_row, self.rows + shift_row]),
            columns=np.concatenate(
                [0 * common, on_column + shift_column, 0 * on_row, self.columns + shift_column]
            ),
            intersections=np.concatenate([common, rests[1][on_column], rests[0][on_row], self.intersections]),
            n_pixels=self.n_pixels,
        )

    @property
    def n_common_background(self) -> int:
        """Pixels that are 0 in both maps."""
        sizes = self.prediction_sizes.sum() + self.reference_sizes.sum()
        return int(self.n_pixels - sizes + self.intersections.sum())


def contingency(prediction: ArrayLike, reference: ArrayLike) -> Contingency:
    """Count the overlaps of two label maps or instance maps.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Any integer type and any ids from 0 up; booleans count as 0 and 1.

    Returns
    -------
    Contingency

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import contingency
    >>> contingency(np.array([[2**40, 0]]), np.array([[3, 3]])).intersections
    array([1])
    """
    prediction, reference = check_pair(prediction, reference)
    # Maps are piecewise constant. Sorting one entry for each run of equal pairs, not one for each pixel, is
    # many times faster, and it needs no look-up table as long as the largest id. The order of the pixels does
    # not matter; that in which the maps lie in memory, such as the one of NIfTI, needs no copy.
    order: Literal["F", "C"] = "F" if prediction.flags.fnc and reference.flags.fnc else "C"
    flat_prediction, flat_reference = prediction.ravel(order), reference.ravel(order)
    change = np.ones(flat_prediction.size, dtype=bool)
    change[1:] = flat_prediction[1:] != flat_prediction[:-1]
    change[1:] |= flat_reference[1:] != flat_reference[:-1]
    starts = np.flatnonzero(change)
    lengths = np.diff(starts, append=flat_prediction.size)

    prediction_ids, row = np.unique(flat_prediction[starts], return_inverse=True)
    reference_ids, column = np.unique(flat_reference[starts], return_inverse=True)
    n_columns = max(len(reference_ids), 1)
    cells, cell = np.unique(row * n_columns + column, return_inverse=True)
    counts = _sums(cell, lengths, len(cells))
    rows, columns = np.divmod(cells, n_columns)

    # 0 sorts first, so leaving out the background is leaving out index 0
    skip_row = int(len(prediction_ids) > 0 and prediction_ids[0] == 0)
    skip_column = int(len(reference_ids) > 0 and reference_ids[0] == 0)
    both = (rows >= skip_row) & (columns >= skip_column)
    return Contingency(
        prediction_ids=prediction_ids[skip_row:],
        reference_ids=reference_ids[skip_column:],
        prediction_sizes=_sums(rows, counts, len(prediction_ids))[skip_row:],
        reference_sizes=_sums(columns, counts, len(reference_ids))[skip_column:],
        rows=rows[both] - skip_row,
        columns=columns[both] - skip_column,
        intersections=counts[both],
        n_pixels=flat_prediction.size,
    )


def joined(tables: Iterable[Contingency]) -> Contingency:
    """Add up the counts of several pairs of label maps, as if they were one pair.

    Parameters
    ----------
    tables : iterable of Contingency
        In all of which an id means the same.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics.contingency import joined
    >>> table = joined([contingency([[1, 1, 0]], [[1, 2, 0]]), contingency([[1, 3]], [[1, 3]])])
    >>> table.prediction_ids.tolist(), table.intersections.tolist(), table.n_pixels
    ([1, 3], [2, 1, 1], 5)
    """
    tables = list(tables)

    def ids_and_sizes(each: list[tuple[Ids, Counts]]) -> tuple[Ids, Counts]:
        ids = np.array([], np.int64) if not each else np.concatenate([found for found, _ in each])
        sizes = np.concatenate([np.array([], np.int64), *(counts for _, counts in each)])
        ids, place = np.unique(ids, return_inverse=True)
        return ids, _sums(place, sizes, len(ids))

    prediction_ids, prediction_sizes = ids_and_sizes([(t.prediction_ids, t.prediction_sizes) for t in tables])
    reference_ids, reference_sizes = ids_and_sizes([(t.reference_ids, t.reference_sizes) for t in tables])
    n_columns = max(len(reference_ids), 1)
    places = [
        np.searchsorted(prediction_ids, t.prediction_ids)[t.rows] * n_columns
        + np.searchsorted(reference_ids, t.reference_ids)[t.columns]
        for t in tables
    ]
    cells, cell = np.unique(np.concatenate([np.array([], np.int64), *places]), return_inverse=True)
    counts = np.concatenate([np.array([], np.int64), *(t.intersections for t in tables)])
    rows, columns = np.divmod(cells, n_columns)
    return Contingency(
        prediction_ids=prediction_ids,
        reference_ids=reference_ids,
        prediction_sizes=prediction_sizes,
        reference_sizes=reference_sizes,
        rows=rows,
        columns=columns,
        intersections=_sums(cell, counts, len(cells)),
        n_pixels=sum(t.n_pixels for t in tables),
    )


def _sums(index: Counts, values: Counts, length: int) -> Counts:
    # bincount adds in float64, which is exact for counts below 2**53 pixels
    return np.bincount(index, weights=values, minlength=length).astype(np.int64)


def _with_zero(ids: Ids, zero: int) -> Ids:
    return np.concatenate([np.zeros(zero, dtype=ids.dtype), ids])


def check_pair(prediction: ArrayLike, reference: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both maps as arrays, or refuse: unequal shapes, not integer, negative, not 2D or 3D."""
    maps = np.asarray(prediction), np.asarray(reference)
    for name, array in zip(("prediction", "reference"), maps):
        if array.dtype != bool and not np.issubdtype(array.dtype, np.integer):
            raise Refused(
                "not-integer",
                f"the {name} holds no integers",
                got=array.dtype,
                expected="a label map or an instance map",
                do="threshold or take the argmax of probabilities first, or convert with .astype(int)",
            )
        if array.ndim not in (2, 3):
            raise Refused(
                "bad-dimensions",
                f"the {name} is neither 2D nor 3D",
                got=f"shape {array.shape}",
                expected="(Y, X) or (Z, Y, X)",
                do="remove the channel axis",
            )
        if np.issubdtype(array.dtype, np.signedinteger) and array.size and array.min() < 0:
            raise Refused(
                "negative-label",
                f"the {name} holds negative values",
                got=array.min(),
                expected="0 for background and classes or objects from 1 up",
                do="give ignored pixels a class of their own or set them to 0",
            )
    if maps[0].shape != maps[1].shape:
        raise Refused(
            "shape-mismatch",
            "prediction and reference differ in shape",
            got=f"{maps[0].shape} and {maps[1].shape}",
            expected="equal shapes",
            do="resample the prediction to the grid of the reference",
        )
    return maps


def check_objects(prediction: ArrayLike, reference: ArrayLike) -> None:
    """Refuse masks where instance maps are meant: every object of a mask would count as one."""
    for name, array in (("prediction", np.asarray(prediction)), ("reference", np.asarray(reference))):
        if array.dtype == bool:
            raise Refused(
                "not-instances",
                f"the {name} is a mask, in which objects cannot be told apart",
                got="bool",
                expected="an instance map of integers",
                do="call to_instances first",
            )


def object_table(prediction: ArrayLike, reference: ArrayLike) -> Contingency:
    """Count the overlaps of two instance maps, or refuse masks."""
    check_objects(prediction, reference)
    return contingency(prediction, reference)


def ratio(part: int, whole: int) -> float:
    """Divide two counts, rounded once; NaN where there is nothing to count."""
    return part / whole if whole else math.nan

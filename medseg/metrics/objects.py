"""Metrics on instance maps: how well each object is found, and how many are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from ..errors import Refused
from .contingency import Contingency, object_table

__all__ = ["AP_THRESHOLDS", "MatchedPair", "ap", "count_error", "match", "seg"]

AP_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MatchedPair(NamedTuple):
    """One predicted object and the reference object it stands for.

    Attributes
    ----------
    prediction, reference : int
        Ids in the two instance maps.
    iou : float
        Intersection over union of the two.
    """

    prediction: int
    reference: int
    iou: float


def match(
    prediction: ArrayLike, reference: ArrayLike, *, threshold: float = 0.5, table: Contingency | None = None
) -> list[MatchedPair]:
    """Match objects one to one: as many pairs as possible, and of those the largest sum of IoU.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    threshold : float
        Smallest IoU of a pair, above 0 and at most 1.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    list of MatchedPair
        Ascending reference ids. Predicted ids that are in no pair are false positives, reference ids that are
        in no pair are false negatives.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, not 2D or 3D, or a threshold out of
        range.

    References
    ----------
    Schmidt et al. (2018), "Cell detection with star-convex polygons", MICCAI.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import match
    >>> match(np.array([[4, 4, 4, 0, 9]]), np.array([[1, 1, 0, 0, 0]]))
    [MatchedPair(prediction=4, reference=1, iou=0.6666666666666666)]
    """
    table = table or object_table(prediction, reference)
    chosen = _matched(table, threshold)
    chosen = chosen[np.argsort(table.columns[chosen])]
    return [
        MatchedPair(int(p), int(r), float(value))
        for p, r, value in zip(
            table.prediction_ids[table.rows[chosen]],
            table.reference_ids[table.columns[chosen]],
            table.ious[chosen],
        )
    ]


def ap(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    thresholds: Sequence[float] = AP_THRESHOLDS,
    table: Contingency | None = None,
) -> dict[float, float]:
    """Average precision TP / (TP + FP + FN) of matched objects at each IoU threshold.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    thresholds : sequence of float
        Smallest IoU of a match, each above 0 and at most 1.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of float to float
        Threshold to a value in 0..1; 1 where both maps are without objects.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, not 2D or 3D, or a threshold out of
        range.

    References
    ----------
    Schmidt et al. (2018), "Cell detection with star-convex polygons", MICCAI.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import ap
    >>> ap(np.array([[4, 4, 4, 0, 9]]), np.array([[1, 1, 0, 0, 0]]), thresholds=(0.5, 0.7))
    {0.5: 0.5, 0.7: 0.0}
    """
    table = table or object_table(prediction, reference)
    n_objects = len(table.prediction_ids) + len(table.reference_ids)
    found = {float(t): len(_matched(table, t)) for t in thresholds}
    # TP + FP + FN is all objects of both maps, each matched pair counted once
    return {t: n / (n_objects - n) if n_objects else 1.0 for t, n in found.items()}


def seg(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> float:
    """Segmentation accuracy SEG of the Cell Tracking Challenge.

    The mean over reference objects of the IoU with the predicted object that covers more than half of it, or
    0 where none does. Predicted objects that cover nothing cost nothing: `ap` and `count_error` see them.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    float
        In 0..1; NaN where the reference is without objects.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    References
    ----------
    Maška et al. (2014), Bioinformatics 30, 1609-1617; Ulman et al. (2017), Nature Methods 14, 1141-1152.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import seg
    >>> seg(np.array([[4, 4, 4, 0, 0]]), np.array([[1, 1, 0, 0, 2]]))
    0.3333333333333333
    """
    table = table or object_table(prediction, reference)
    if len(table.reference_ids) == 0:
        return math.nan
    covers = 2 * table.intersections > table.reference_sizes[table.columns]
    return float(table.ious[covers].sum() / len(table.reference_ids))


def count_error(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> float:
    """Return the number of predicted objects minus the number of reference objects.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    float
        A whole number of objects; negative where objects are missed or merged.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import count_error
    >>> count_error(np.array([[1, 0, 0]]), np.array([[1, 0, 2]]))
    -1.0
    """
    table = table or object_table(prediction, reference)
    return float(len(table.prediction_ids) - len(table.reference_ids))


def _matched(table: Contingency, threshold: float) -> NDArray[np.int64]:
    """Indices of the matched pairs, into the table's list of overlapping pairs."""
    if not 0 < threshold <= 1:
        raise Refused(
            "bad-threshold",
            "an IoU threshold is out of range",
            got=threshold,
            expected="above 0 and at most 1",
        )
    edges = np.flatnonzero(table.ious >= threshold)
    rows, columns = table.rows[edges], table.columns[edges]
    # Above 0.5 no object can be in two pairs, so that nothing is left to assign but exact halves; far below
    # it, most pairs still stand alone.
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1) if len(edges) else []
    alone = np.asarray(alone, dtype=bool)
    contested = edges[~alone]
    return np.concatenate([edges[alone], contested[_assign(table, contested)]])


def _assign(table: Contingency, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose among contested pairs: the most pairs first, then the largest sum of IoU; indices into `edges`.

    The assignment runs on the pairs that exist. A dense cost matrix of 10,000 by 10,000 objects would take
    800 MB, while each object overlaps a handful of others. The sparse solver matches every row, though, and
    here objects may stay alone. So each object gets a stand-in on the other side: predicted object i may be
    matched to its stand-in, j likewise, and the stand-ins of i and j are joined where i and j are. Then a
    full matching always exists, and its weight is that of the real pairs in it. A pair is worth 1 + IoU /
    (2n), so that all IoU together never outweigh one more pair.
    """
    if len(edges) == 0:
        return np.empty(0, dtype=np.int64)
    _, rows = np.unique(table.rows[edges], return_inverse=True)
    _, columns = np.unique(table.columns[edges], return_inverse=True)
    n_rows, n_columns, n_edges = rows.max() + 1, columns.max() + 1, len(edges)
    n = n_rows + n_columns
    worth = 1 + table.ious[edges] / (2 * min(n_rows, n_columns))
    # the solver drops zeros, and a constant on every edge changes nothing: all costs lie in 1..2.5
    graph = sparse.coo_array(
        (
            np.concatenate([2.5 - worth, np.full(n_edges + n, 2.5)]),
            (
                np.concatenate([rows, n_rows + columns, np.arange(n)]),
                np.concatenate([columns, n_columns + rows, _stand_ins(n_rows, n_columns)]),
            ),
        ),
        shape=(n, n),
    )
    matched_rows, matched_columns = min_weight_full_bipartite_matching(graph.tocsr())
    partner = np.empty(n, dtype=np.int64)
    partner[matched_rows] = matched_columns
    return np.flatnonzero(partner[rows] == columns)


def _stand_ins(n_rows: int, n_columns: int) -> NDArray[np.int64]:
    """Column for each row: objects to their stand-ins behind the columns, stand-ins to their objects."""
    return np.concatenate([n_columns + np.arange(n_rows), np.arange(n_columns)])

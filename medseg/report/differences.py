"""Which objects were found, missed, invented, merged or split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics import Contingency

__all__ = ["Comparison", "compare"]

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison:
    """A verdict on each object; flags in the order of the ids.

    Attributes
    ----------
    found, missed, swallowed, split : ndarray of bool, shape (R,)
        On reference objects: matched with an IoU above 0.5; neither that nor merged nor split; lying
        mostly in a merged prediction; covered by several predictions.
    false, merged, fragment : ndarray of bool, shape (P,)
        On predicted objects: matched with nothing and no part of a merge or split; covering several reference
        objects; a piece of a split one.
    """

    found: Flags
    missed: Flags
    swallowed: Flags
    split: Flags
    false: Flags
    merged: Flags
    fragment: Flags


def compare(table: Contingency) -> Comparison:
    """Judge every object of a prediction and its reference.

    A merge is a prediction that holds more than half of each of several reference objects, a split a
    reference object that holds more than half of each of several predictions; specks below a tenth of it do
    not count.

    Parameters
    ----------
    table : Contingency
        Overlaps of prediction and reference.

    Examples
    --------
    >>> from medseg.metrics import contingency
    >>> from medseg.report.differences import compare
    >>> verdict = compare(contingency([[1, 1, 1, 1, 0, 2]], [[1, 1, 2, 2, 0, 0]]))
    >>> verdict.merged, verdict.swallowed, verdict.false
    (array([ True, False]), array([ True,  True]), array([False,  True]))
    """
    p, r, shared = table.rows, table.columns, table.intersections
    p_size, r_size = table.prediction_sizes[p], table.reference_sizes[r]
    n_p, n_r = len(table.prediction_ids), len(table.reference_ids)
    ious = table.ious
    hit = ious > 0.5  # above one half a partner is unique, so no assignment is needed
    found, matched = _any(r[hit], n_r), _any(p[hit], n_p)
    inside = (2 * shared > r_size) & (10 * r_size >= p_size)
    merged = np.bincount(p[inside], minlength=n_p) > 1
    swallowed = _any(r[inside & merged[p]], n_r)
    pieces = (2 * shared > p_size) & (10 * p_size >= r_size)
    split = np.bincount(r[pieces], minlength=n_r) > 1
    fragment = _any(p[pieces & split[r]], n_p)
    return Comparison(
        found=found,
        missed=~(found | swallowed | split),
        swallowed=swallowed,
        split=split,
        false=~(matched | merged | fragment),
        merged=merged,
        fragment=fragment,
    )


def _any(indices: NDArray[np.int64], n: int) -> Flags:
    flags = np.zeros(n, bool)
    flags[indices] = True
    return flags

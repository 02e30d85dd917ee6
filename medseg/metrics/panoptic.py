"""Panoptic quality of instance maps, for one class of things."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from .contingency import Contingency, object_table

__all__ = ["pq"]


def pq(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> dict[str, float]:
    """Panoptic quality of one class of objects, with its two factors.

    Objects whose IoU is more than 0.5 are matched; then no object can be in two pairs.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of str to float
        "pq", the product of "sq", the mean IoU of the matched pairs, and "rq", TP / (TP + FP / 2 + FN / 2);
        in 0..1. All are NaN where both maps are without objects. Where nothing is matched, "pq" and "rq" are
        0 and "sq" is NaN.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, masks, negative values, or not 2D or 3D.

    References
    ----------
    Kirillov et al. (2019), "Panoptic Segmentation", CVPR, 9404-9413, equations 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import pq
    >>> pq(np.array([[4, 4, 4, 0, 9]]), np.array([[1, 1, 1, 1, 0]]))
    {'pq': 0.5, 'sq': 0.75, 'rq': 0.6666666666666666}
    """
    table = table or object_table(prediction, reference)
    # IoU > 1/2 in integers: 2 I > P + R - I
    sizes = table.prediction_sizes[table.rows] + table.reference_sizes[table.columns]
    matched = 3 * table.intersections > sizes
    n = int(matched.sum())
    n_objects = len(table.prediction_ids) + len(table.reference_ids)
    if not n_objects:
        return dict.fromkeys(("pq", "sq", "rq"), math.nan)
    total = math.fsum(table.ious[matched].tolist())
    # TP + FP / 2 + FN / 2 is half of all objects, matched or not
    return {"pq": 2 * total / n_objects, "sq": total / n if n else math.nan, "rq": 2 * n / n_objects}

"""Panoptic quality: of instance maps, for one class of things, and of panoptic maps of several classes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused
from .contingency import Contingency, check_pair, contingency, object_table

__all__ = ["panoptic_counts", "panoptic_quality", "pq"]


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


def panoptic_counts(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    values: Iterable[int],
    ignore: Collection[int] = (),
    divisor: int = 1000,
) -> NDArray[np.float64]:
    """Match the segments of two panoptic maps and count, for each class.

    The counts of several images add up; `panoptic_quality` makes the numbers of them, so that an image with
    many objects counts for more than one with few.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        ``class * divisor + object``, see `medseg.instances.Panoptic.encoded`. A segment is all pixels of one
        such number; 0 is no segment.
    values : iterable of int
        Values of the classes, things and stuff.
    ignore : collection of int
        Values of classes of the reference whose pixels do not count (void). They are taken out of the
        prediction before it is matched; and a predicted segment that is not matched and lies on them for more
        than half is not counted as wrong.
    divisor : int

    Returns
    -------
    ndarray of float64, shape (K, 4)
        For each class: sum of the IoU of matched segments, and how many are matched (TP), only predicted (FP)
        and only in the reference (FN).

    Raises
    ------
    Refused
        ``unknown-class``, and what `contingency` refuses.

    References
    ----------
    Kirillov et al. (2019), "Panoptic Segmentation", CVPR, 9404-9413, sections 4.1 and 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import panoptic_counts
    >>> prediction = np.array([[7000, 7000, 26001, 26001, 26001]])
    >>> reference = np.array([[7000, 7000, 7000, 26001, 26001]])
    >>> panoptic_counts(prediction, reference, values=(7, 26)).round(2).tolist()
    [[0.67, 1.0, 0.0, 0.0], [0.67, 1.0, 0.0, 0.0]]
    """
    prediction, reference = check_pair(prediction, reference)
    place = {int(value): number for number, value in enumerate(values)}
    void = np.isin(reference // divisor, list(ignore))
    full = dict(zip(*(part.tolist() for part in np.unique(prediction, return_counts=True))))
    hidden = dict(zip(*(part.tolist() for part in np.unique(prediction[void], return_counts=True))))
    table = contingency(np.where(void, 0, prediction), np.where(void, 0, reference))
    counts = np.zeros((len(place), 4))
    matched: set[int] = set()
    for name, ids in (("prediction", [i for i in full if i]), ("reference", table.reference_ids.tolist())):
        if strange := [i // divisor for i in ids if i // divisor not in place]:
            raise Refused(
                "unknown-class",
                f"the {name} holds segments of a class that is not named",
                got=strange[0],
                expected=list(place),
                do="name it in values, or in ignore where the reference has it and it does not count",
            )
    for row, column, iou in zip(table.rows, table.columns, table.ious):
        found, truth = int(table.prediction_ids[row]), int(table.reference_ids[column])
        if found // divisor == truth // divisor and iou > 0.5:
            counts[place[truth // divisor], :2] += iou, 1
            matched.add(found)
    for found, size in full.items():
        if found and found not in matched and 2 * hidden.get(found, 0) <= size:
            counts[place[found // divisor], 2] += 1
    for truth in table.reference_ids.tolist():
        counts[place[truth // divisor], 3] += 1
    counts[:, 3] -= counts[:, 1]
    return counts


def panoptic_quality(
    counts: ArrayLike, classes: Mapping[str, int], *, things: Collection[int] = ()
) -> dict[str, dict[str, float]]:
    """Return panoptic quality and its two factors of each class, and their means.

    Parameters
    ----------
    counts : array_like of float, shape (K, 4)
        Of `panoptic_counts`, or a sum of such.
    classes : mapping of str to int
        Name and value of the classes, in the order of the counts.
    things : collection of int
        Values of the classes that are things; the others are stuff.

    Returns
    -------
    dict of str to dict
        "all", "things", "stuff", then each class: its "pq", "sq" and "rq", in 0..1, as for `pq`, but for "sq"
        of a class of which nothing was found: it is 0 here, and so counts in the mean. The means are over the
        classes that have a segment in either map; NaN where there is none.

    References
    ----------
    Kirillov et al. (2019), "Panoptic Segmentation", CVPR, 9404-9413, equations 1 and 2 and section 4.2.

    Examples
    --------
    >>> from medseg.metrics import panoptic_quality
    >>> scores = panoptic_quality([[0.8, 1, 0, 0], [1.5, 2, 1, 1]], {"road": 7, "car": 26}, things=[26])
    >>> scores["things"]["pq"], round(scores["all"]["pq"], 3)
    (0.5, 0.65)
    """
    rows: dict[str, dict[str, float]] = {}
    for name, (total, both, wrong, missed) in zip(
        classes, np.asarray(counts, np.float64).tolist(), strict=True
    ):
        weight = both + wrong / 2 + missed / 2
        rows[name] = {
            "pq": total / weight if weight else math.nan,
            # of a class of which nothing was found the paper's code counts 0 as well
            "sq": total / both if both else 0.0 if weight else math.nan,
            "rq": both / weight if weight else math.nan,
        }
    groups = {
        "all": list(rows),
        "things": [name for name, value in classes.items() if value in things],
        "stuff": [name for name, value in classes.items() if value not in things],
    }
    means = {}
    for group, members in groups.items():
        there = [rows[name] for name in members if not math.isnan(rows[name]["pq"])]
        means[group] = {
            key: math.fsum(row[key] for row in there) / len(there) if there else math.nan
            for key in ("pq", "sq", "rq")
        }
    return {**means, **rows}

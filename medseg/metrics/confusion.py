"""The confusion of classes, which adds up over images, and the four numbers of FCN's paper made of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused
from .contingency import Contingency, contingency
from .ignoring import without_ignored

__all__ = ["accuracies", "confusion", "pixel_accuracy"]


def confusion(
    prediction: ArrayLike, reference: ArrayLike, *, values: Iterable[int], ignore: Collection[int] = ()
) -> NDArray[np.int64]:
    """Count how often each class was predicted as each.

    The matrices of several images add up to that of all their pixels, of which `accuracies` makes the numbers
    that papers report of a test set.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps.
    values : iterable of int
        The values of the classes, the background, 0, too, if it is to be scored; others are refused.
    ignore : collection of int
        Values of the reference whose pixels do not count.

    Returns
    -------
    ndarray of int64, shape (K, K)
        Row: class of the reference; column: class of the prediction; in the order of ``values``.

    Raises
    ------
    Refused
        ``unknown-class``; and what `contingency` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import confusion
    >>> confusion(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), values=(0, 1), ignore=(255,)).tolist()
    [[1, 1], [0, 0]]
    """
    prediction, reference, ignored = without_ignored(prediction, reference, ignore)
    listed = [int(value) for value in values]
    table = contingency(prediction, reference).including_background
    counts = np.zeros((len(listed), len(listed)), np.int64)
    place = {value: i for i, value in enumerate(listed)}
    for row, column, n in zip(table.rows, table.columns, table.intersections):
        found, truth = int(table.prediction_ids[row]), int(table.reference_ids[column])
        if found == truth == 0:
            n -= ignored  # they are 0 in both maps by now
            if not n:
                continue
        if found not in place or truth not in place:
            strange = found if found not in place else truth
            raise Refused(
                "unknown-class",
                f"the {'prediction' if found not in place else 'reference'} holds a value that is no class",
                got=strange,
                expected=listed,
                do="name it in values, or in ignore where it is the reference's and does not count",
            )
        counts[place[truth], place[found]] += n
    return counts


def accuracies(counts: ArrayLike) -> dict[str, float]:
    """Return pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU of a confusion matrix.

    With ``n_ij`` pixels of class ``i`` predicted as ``j`` and ``t_i`` pixels of class ``i``:

    - pixel accuracy: ``sum_i n_ii / sum_i t_i``
    - mean accuracy: the mean over the classes of ``n_ii / t_i``
    - mean IoU: the mean over the classes of ``n_ii / (t_i + sum_j n_ji - n_ii)``
    - frequency-weighted IoU: the mean of the same, weighted by ``t_i``

    A class that the reference lacks has no accuracy, one that both maps lack no IoU; they are left out of the
    means.

    Parameters
    ----------
    counts : array_like of int, shape (K, K)
        Of `confusion`, or a sum of such.

    Returns
    -------
    dict of str to float
        "pixel_accuracy", "mean_accuracy", "mean_iou", "weighted_iou", in 0..1; NaN where nothing counts.

    References
    ----------
    Long, Shelhamer, Darrell (2015), "Fully Convolutional Networks for Semantic Segmentation", CVPR,
    3431-3440, section 5.

    Examples
    --------
    >>> from medseg.metrics import accuracies
    >>> {name: round(value, 3) for name, value in accuracies([[6, 2], [0, 2]]).items()}
    {'pixel_accuracy': 0.8, 'mean_accuracy': 0.875, 'mean_iou': 0.625, 'weighted_iou': 0.7}
    """
    table = np.asarray(counts, np.float64)
    right, truth, found = table.diagonal(), table.sum(1), table.sum(0)
    if not table.sum():
        return dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "weighted_iou"), math.nan)
    there, either = truth > 0, (truth + found) > 0
    iou = right[either] / (truth + found - right)[either]
    return {
        "pixel_accuracy": float(right.sum() / table.sum()),
        "mean_accuracy": float((right[there] / truth[there]).mean()),
        "mean_iou": float(iou.mean()),
        "weighted_iou": float((truth[either] * iou).sum() / table.sum()),
    }


def pixel_accuracy(
    prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None
) -> dict[str, float]:
    """Pixel accuracy of one image, with mean accuracy, mean IoU and frequency-weighted IoU.

    The background counts as a class where it occurs, as in the paper; the mean of `iou` leaves it out. For
    the numbers of a whole test set add up `confusion` over its images.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of str to float
        See `accuracies`.

    References
    ----------
    Long, Shelhamer, Darrell (2015), CVPR, 3431-3440, section 5.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import pixel_accuracy
    >>> pixel_accuracy(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))["pixel_accuracy"]
    0.75
    """
    table = (table or contingency(prediction, reference)).including_background
    every = np.union1d(table.prediction_ids, table.reference_ids)
    counts = np.zeros((len(every), len(every)), np.int64)
    rows = np.searchsorted(every, table.reference_ids)[table.columns]
    columns = np.searchsorted(every, table.prediction_ids)[table.rows]
    np.add.at(counts, (rows, columns), table.intersections)
    return accuracies(counts)

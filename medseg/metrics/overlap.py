"""Metrics on label maps: how well each class overlaps its reference."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from .contingency import Contingency, contingency, ratio

__all__ = ["dice", "iou", "pixel_error", "sensitivity", "specificity"]


def iou(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    classes: Iterable[int] | None = None,
    table: Contingency | None = None,
) -> dict[int, float]:
    """Intersection over union (Jaccard index) of each class.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of int to float
        Class to IoU in 0..1. A class that is in one map only has 0; one that is in neither has NaN, which
        says that there was nothing to score, and means leave it out.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    References
    ----------
    Jaccard (1912), New Phytologist 11, 37-50.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import iou
    >>> iou(np.array([[1, 1, 0]]), np.array([[1, 0, 0]]), classes=[1, 2])
    {1: 0.5, 2: nan}
    """
    table = table or contingency(prediction, reference)
    return {
        value: ratio(common, first + second - common)
        for value, common, first, second in class_counts(table, classes)
    }


def dice(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    classes: Iterable[int] | None = None,
    table: Contingency | None = None,
) -> dict[int, float]:
    """Dice coefficient of each class.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of int to float
        Class to Dice in 0..1. A class that is in one map only has 0; one that is in neither has NaN, which
        says that there was nothing to score, and means leave it out.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    References
    ----------
    Dice (1945), Ecology 26, 297-302.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import dice
    >>> dice(np.array([[1, 1, 2]]), np.array([[1, 0, 0]]))
    {1: 0.6666666666666666, 2: 0.0}
    """
    table = table or contingency(prediction, reference)
    return {
        value: ratio(2 * common, first + second)
        for value, common, first, second in class_counts(table, classes)
    }


def pixel_error(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> float:
    """Fraction of pixels whose label is wrong; on binary maps the pixel error of ISBI 2012.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    float
        In 0..1, background included; NaN for maps without pixels.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    References
    ----------
    Arganda-Carreras et al. (2015), Frontiers in Neuroanatomy 9, 142.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import pixel_error
    >>> pixel_error(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
    0.25
    """
    table = table or contingency(prediction, reference)
    same = table.prediction_ids[table.rows] == table.reference_ids[table.columns]
    right = table.n_common_background + int(table.intersections[same].sum())
    return ratio(table.n_pixels - right, table.n_pixels)


def sensitivity(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    classes: Iterable[int] | None = None,
    table: Contingency | None = None,
) -> dict[int, float]:
    """Share of the reference of each class that was found: TP / (TP + FN), also called recall.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of int to float
        Class to a number in 0..1; NaN for a class that is not in the reference.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    References
    ----------
    Fraz et al. (2012), IEEE Trans. Biomedical Engineering 59, 2538-2548.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import sensitivity
    >>> sensitivity(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]))
    {1: 0.5}
    """
    table = table or contingency(prediction, reference)
    return {value: ratio(common, there) for value, common, _, there in class_counts(table, classes)}


def specificity(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    classes: Iterable[int] | None = None,
    table: Contingency | None = None,
) -> dict[int, float]:
    """Share of what is not of a class that was left out of it: TN / (TN + FP).

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of int to float
        Class to a number in 0..1; NaN for a class that fills the reference. It depends on how much ground the
        image shows, and is near 1 for small classes whatever was predicted.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, negative values, or not 2D or 3D.

    References
    ----------
    Fraz et al. (2012), IEEE Trans. Biomedical Engineering 59, 2538-2548.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import specificity
    >>> specificity(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]))
    {1: 0.5}
    """
    table = table or contingency(prediction, reference)
    return {
        value: ratio(table.n_pixels - found - there + common, table.n_pixels - there)
        for value, common, found, there in class_counts(table, classes)
    }


def class_counts(table: Contingency, classes: Iterable[int] | None) -> list[tuple[int, int, int, int]]:
    """Rows of class, common pixels, pixels in the prediction, pixels in the reference."""
    in_prediction = dict(zip(table.prediction_ids.tolist(), table.prediction_sizes.tolist()))
    in_reference = dict(zip(table.reference_ids.tolist(), table.reference_sizes.tolist()))
    in_prediction[0] = table.n_pixels - int(table.prediction_sizes.sum())
    in_reference[0] = table.n_pixels - int(table.reference_sizes.sum())

    same = np.flatnonzero(table.prediction_ids[table.rows] == table.reference_ids[table.columns])
    common = dict(zip(table.prediction_ids[table.rows[same]].tolist(), table.intersections[same].tolist()))
    common[0] = table.n_common_background
    if classes is None:
        classes = sorted((in_prediction.keys() | in_reference.keys()) - {0})
    return [
        (int(c), common.get(int(c), 0), in_prediction.get(int(c), 0), in_reference.get(int(c), 0))
        for c in classes
    ]

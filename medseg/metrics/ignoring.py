"""Pixels of the reference that do not count: taken out of both maps before anything is compared."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused
from .contingency import contingency

__all__ = ["without_ignored"]


def without_ignored(
    prediction: ArrayLike, reference: ArrayLike, ignore: Collection[int], *, objects: bool = False
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Set both maps to 0 where the reference holds an ignored value.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
    ignore : collection of int
        Values of the reference, which may be negative.
    objects : bool
        The maps are instance maps. Then a predicted object of which more than half lies on ignored pixels,
        and that is no match (IoU above 1/2 without those pixels), is taken out as a whole: nobody can say
        whether it is wrong.

    Returns
    -------
    prediction, reference : ndarray
        As they were given where nothing is ignored.
    count : int
        How many pixels are ignored.

    Raises
    ------
    Refused
        Unequal shapes, and what `medseg.metrics.contingency` refuses.

    References
    ----------
    Kirillov et al. (2019), "Panoptic Segmentation", CVPR, section 4.2, "Void labels".

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import without_ignored
    >>> without_ignored(np.array([[1, 2, 2]]), np.array([[1, 255, 2]]), [255])
    (array([[1, 0, 2]]), array([[1, 0, 2]]), 1)
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if not len(ignore):
        return prediction, reference, 0
    if prediction.shape != reference.shape:
        raise Refused(
            "shape-mismatch",
            "prediction and reference differ in shape",
            got=f"{prediction.shape} and {reference.shape}",
            expected="equal shapes",
            do="resample the prediction to the grid of the reference",
        )
    ignored = np.isin(reference, list(ignore))
    count = int(np.count_nonzero(ignored))
    if not count:
        return prediction, reference, 0
    full, zero = prediction, prediction.dtype.type(0)
    prediction = np.where(ignored, zero, prediction)
    reference = np.where(ignored, reference.dtype.type(0), reference)
    if objects and prediction.dtype != bool:
        table = contingency(prediction, reference)
        matched = table.prediction_ids[table.rows[table.ious > 0.5]]
        ids, sizes = np.unique(full, return_counts=True)
        under, hidden = np.unique(full[ignored], return_counts=True)
        mostly = under[2 * hidden > sizes[np.searchsorted(ids, under)]]
        prediction = np.where(np.isin(prediction, np.setdiff1d(mostly, matched)), zero, prediction)
    return prediction, reference, count

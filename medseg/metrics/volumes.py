"""Metrics of the volumes of classes, in millilitres."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from numpy.typing import ArrayLike

from ..errors import Refused
from .contingency import Contingency, check_pair, contingency
from .overlap import class_counts
from .spacing import needed_spacing

__all__ = ["volume_error_ml", "volume_ml"]


def volume_ml(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    classes: Iterable[int] | None = None,
    table: Contingency | None = None,
) -> dict[int, float]:
    """Volume of each class in the prediction, in millilitres.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Z, Y, X)
        Label maps; booleans count as 0 and 1. The reference only tells of further classes.
    spacing : sequence of float
        Size of a voxel along each axis, in mm.
    classes : iterable of int, optional
        Classes to measure. By default every class other than 0 that occurs in either map.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of int to float
        Class to volume; 0 for a class that is not in the prediction.

    Raises
    ------
    Refused
        ``no-spacing``, ``bad-spacing``, ``bad-dimensions`` for images, and what `contingency` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import volume_ml
    >>> volume_ml(np.ones((2, 5, 4), int), np.zeros((2, 5, 4), int), spacing=(5, 10, 10))
    {1: 20.0}
    """
    voxel, table = _voxel_ml(prediction, reference, spacing, table, "volume_ml")
    return {value: found * voxel for value, _, found, _ in class_counts(table, classes)}


def volume_error_ml(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    classes: Iterable[int] | None = None,
    table: Contingency | None = None,
) -> dict[int, float]:
    """Volume of each class in the prediction minus that in the reference, in millilitres.

    It has a sign, so that its mean over cases is the bias of the volumes, and its standard deviation gives
    the limits of agreement.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    spacing : sequence of float
        Size of a voxel along each axis, in mm.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of int to float
        Class to difference; 0 is best, negative where the prediction is too small. NaN for a class that is
        in neither map, as in `dice`.

    Raises
    ------
    Refused
        ``no-spacing``, ``bad-spacing``, ``bad-dimensions`` for images, and what `contingency` refuses.

    References
    ----------
    Bland and Altman (1986), The Lancet 327, 307-310.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import volume_error_ml
    >>> volume_error_ml(np.zeros((2, 5, 4), int), np.ones((2, 5, 4), int), spacing=(5, 10, 10))
    {1: -20.0}
    """
    voxel, table = _voxel_ml(prediction, reference, spacing, table, "volume_error_ml")
    return {
        value: (found - there) * voxel if found or there else math.nan
        for value, _, found, there in class_counts(table, classes)
    }


def _voxel_ml(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing: Sequence[float] | None,
    table: Contingency | None,
    what: str,
) -> tuple[float, Contingency]:
    """Volume of a voxel in ml, and the table of two volumes."""
    maps = check_pair(prediction, reference)
    if maps[0].ndim != 3:
        raise Refused(
            "bad-dimensions",
            f"{what} of an image",
            got=f"shape {maps[0].shape}",
            expected="a volume (Z, Y, X)",
            do="score images by other metrics",
        )
    # mm3 are thousandths of a millilitre
    return math.prod(needed_spacing(spacing, 3, what)) / 1000, table or contingency(*maps)

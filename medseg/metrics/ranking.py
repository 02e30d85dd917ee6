"""How well probabilities put pixels of a class before all others, whatever the threshold."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from ..errors import Refused

__all__ = ["auc"]


def auc(probability: ArrayLike, reference: ArrayLike) -> float:
    """Area under the receiver operating characteristic curve.

    The probability that a pixel of the class, drawn at random, has a higher value than one of the rest; a tie
    counts half.

    Parameters
    ----------
    probability : array_like of float
        Any score that grows with the class, such as a probability or a logit.
    reference : array_like of bool, the same shape
        Where the class is: what is not 0.

    Returns
    -------
    float
        1 where all are in order, 0.5 for chance; NaN where either side has no pixel.

    Raises
    ------
    Refused
        ``shape-mismatch``, ``non-finite``.

    References
    ----------
    Hanley, McNeil (1982), Radiology 143, 29-36: it is the Wilcoxon statistic of the ranks.

    Examples
    --------
    >>> from medseg.metrics import auc
    >>> auc([[0.1, 0.4], [0.35, 0.8]], [[0, 0], [1, 1]])
    0.75
    """
    values, inside = np.asarray(probability, float), np.asarray(reference) != 0
    if values.shape != inside.shape:
        raise Refused(
            "shape-mismatch", "a probability for each pixel", got=values.shape, expected=inside.shape
        )
    if not np.isfinite(values).all():
        raise Refused("non-finite", "the probabilities hold NaN or infinite numbers")
    n = int(inside.sum())
    others = inside.size - n
    if not n or not others:
        return math.nan
    ranks = rankdata(values, axis=None).reshape(values.shape)
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * others))

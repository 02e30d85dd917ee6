"""Metrics of information theory on instance maps."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .contingency import Contingency, object_table

__all__ = ["vi"]


def vi(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> dict[str, float]:
    """Variation of information, in bits: what one map leaves unknown of the other.

    All pixels count, and the background is one segment like any other, in both maps.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of str to float
        "vi", the sum of "split", which is the conditional entropy H(prediction | reference), and "merge",
        which is H(reference | prediction); in bits, from 0, at most log2 of the number of pixels. NaN for
        maps without pixels.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, masks, negative values, or not 2D or 3D.

    References
    ----------
    Meilă (2007), Journal of Multivariate Analysis 98, 873-895.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import vi
    >>> vi(np.array([[1, 1, 1, 1]]), np.array([[3, 3, 7, 7]]))
    {'vi': 1.0, 'split': 0.0, 'merge': 1.0}
    """
    table = (table or object_table(prediction, reference)).including_background
    if not table.n_pixels:
        return dict.fromkeys(("vi", "split", "merge"), math.nan)
    split = _entropy(table.intersections, table.reference_sizes[table.columns], table.n_pixels)
    merge = _entropy(table.intersections, table.prediction_sizes[table.rows], table.n_pixels)
    return {"vi": split + merge, "split": split, "merge": merge}


def _entropy(counts: NDArray[np.int64], given: NDArray[np.int64], n: int) -> float:
    """Conditional entropy in bits; a part that is the whole of what is given adds exactly 0."""
    return math.fsum((counts * np.log2(given / counts)).tolist()) / n

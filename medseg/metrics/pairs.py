"""Metrics on pairs of pixels: whether two pixels of one object are in one object of the other map too.

All counts of pairs are Python integers: a map of 10^10 pixels has 10^20 pairs, more than 64 bits hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .contingency import Contingency, object_table, ratio

__all__ = ["adapted_rand", "rand", "v_rand"]


class _Squares(NamedTuple):
    """Sums over the pixels of reference objects, and how many these pixels are."""

    joint: int
    prediction: int
    reference: int
    n_alone: int  # pixels of reference objects that are 0 in the prediction
    n: int


def rand(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> float:
    """Rand error: the fraction of pairs of pixels on which the two maps disagree.

    They agree on a pair that is in one segment in both maps, or in two segments in both. All pixels count,
    and the background is one segment like any other.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    float
        1 - Rand index, in 0..1; NaN for maps of fewer than two pixels.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, masks, negative values, or not 2D or 3D.

    References
    ----------
    Rand (1971), Journal of the American Statistical Association 66, 846-850.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import rand
    >>> rand(np.array([[1, 1, 1, 1]]), np.array([[3, 3, 7, 7]]))
    0.6666666666666666
    """
    table = (table or object_table(prediction, reference)).including_background
    joint = _squares(table.intersections)
    disagreeing = _squares(table.prediction_sizes) + _squares(table.reference_sizes) - 2 * joint
    return ratio(disagreeing, table.n_pixels * (table.n_pixels - 1))


def adapted_rand(prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None) -> float:
    """Adapted Rand error: 1 - F-score of pairs of pixels, on the pixels of the reference's objects.

    Among pairs of two different pixels that are both in a reference object: precision is the fraction of the
    pairs in one predicted object that are in one reference object, recall the reverse. Pixels that are 0 in
    the reference are left out. Pixels that are 0 in the prediction are in no predicted object, so that each
    stands alone: two of them are not a pair.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    float
        In 0..1. NaN where neither map has a pair to score, as without reference objects.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, masks, negative values, or not 2D or 3D.

    Notes
    -----
    It is restricted to the foreground as the Rand error of ISBI 2012 is, with pairs of different pixels.
    SNEMI3D counts each pixel with itself as well, which `v_rand` does. `skimage.metrics.adapted_rand_error`
    takes all pixels that are 0 in the prediction for one object; where there are none inside reference
    objects, it agrees.

    References
    ----------
    Arganda-Carreras et al. (2015), Frontiers in Neuroanatomy 9, 142.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import adapted_rand
    >>> adapted_rand(np.array([[1, 1, 1, 1, 0]]), np.array([[3, 3, 7, 7, 0]]))
    0.5
    """
    sums = _on_objects(table or object_table(prediction, reference))
    # k pixels are k (k - 1) ordered pairs, the squares less the pixels
    n_seen = sums.n - sums.n_alone
    both = sums.joint - n_seen
    either = (sums.prediction - n_seen) + (sums.reference - sums.n)
    return ratio(either - 2 * both, either)


def v_rand(
    prediction: ArrayLike, reference: ArrayLike, *, table: Contingency | None = None
) -> dict[str, float]:
    """Rand score of ISBI 2012 after its revision, V^Rand with alpha 0.5, with its split and merge scores.

    With p_ij the fraction of the reference's object pixels that are in predicted object i and reference
    object j, s_i and t_j the sums over j and over i: split is sum p_ij^2 / sum t_j^2, merge is
    sum p_ij^2 / sum s_i^2, and the score sum p_ij^2 / (0.5 sum s_i^2 + 0.5 sum t_j^2), their harmonic mean.
    Pixels that are 0 in the reference are left out; each pixel that is 0 in the prediction is an object of
    its own.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance maps with any ids from 1 up; 0 is background.
    table : Contingency, optional
        ``contingency(prediction, reference)``, where it is known already.

    Returns
    -------
    dict of str to float
        "v_rand", "split" (1 where nothing is split) and "merge" (1 where nothing is merged), each above 0 and
        at most 1; NaN where the reference is without objects.

    Raises
    ------
    Refused
        Unequal shapes, a type that is not integer, masks, negative values, or not 2D or 3D.

    References
    ----------
    Arganda-Carreras et al. (2015), Frontiers in Neuroanatomy 9, 142, foreground-restricted Rand scoring.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import v_rand
    >>> v_rand(np.array([[1, 1, 1, 1, 0]]), np.array([[3, 3, 7, 7, 0]]))
    {'v_rand': 0.6666666666666666, 'split': 1.0, 'merge': 0.5}
    """
    sums = _on_objects(table or object_table(prediction, reference))
    # a pixel that is an object of its own is one pair, with itself
    joint, predicted = sums.joint + sums.n_alone, sums.prediction + sums.n_alone
    return {
        "v_rand": ratio(2 * joint, predicted + sums.reference),
        "split": ratio(joint, sums.reference),
        "merge": ratio(joint, predicted),
    }


def _on_objects(table: Contingency) -> _Squares:
    predicted = np.zeros(len(table.prediction_ids), dtype=np.int64)
    np.add.at(predicted, table.rows, table.intersections)
    n = int(table.reference_sizes.sum())
    return _Squares(
        joint=_squares(table.intersections),
        prediction=_squares(predicted),
        reference=_squares(table.reference_sizes),
        n_alone=n - int(table.intersections.sum()),
        n=n,
    )


def _squares(counts: NDArray[np.int64]) -> int:
    return sum(count * count for count in counts.tolist())

"""Simple points of digital topology: pixels whose flip changes no object, hole or cavity.

A neighbourhood is a number: bit k is the k-th pixel of the 3 x 3 (x 3) around a pixel, the last axis
fastest, the pixel itself among them. Many neighbourhoods are decided at once by shifting these bits, in 2D
once for all 512 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_simple"]

Codes = NDArray[np.uint32]

_CELLS = np.argwhere(np.ones((3, 3, 3))) - 1  # bit k is at _CELLS[k] from the centre


def _bits(chosen: NDArray[np.bool_]) -> np.uint32:
    return np.uint32(sum(1 << int(k) for k in np.flatnonzero(chosen)))


_distance = np.abs(_CELLS).sum(axis=1)  # in steps through faces
_N6, _N18, _N26 = (_bits((_distance > 0) & (_distance <= n)) for n in (1, 2, 3))
_PLANE = _bits(_CELLS[:, 0] == 0)
# for each axis: how far a step goes in bits, and from where a step back and a step on stay inside
_STEPS = [
    (np.uint32(3 ** (2 - axis)), _bits(_CELLS[:, axis] > -1), _bits(_CELLS[:, axis] < 1)) for axis in range(3)
]


def is_simple(codes: Codes, ndim: int) -> NDArray[np.bool_]:
    """Whether the middle of each neighbourhood is a simple point.

    Objects are connected by 4 neighbours in 2D and by 6 in 3D, the background by 8 and by 26. A point is
    simple where its neighbours that are object, 4- or 6-connected within its 8 or 18 neighbours, touch it
    with exactly one component, and its neighbours that are background are exactly one component.

    Parameters
    ----------
    codes : ndarray of uint32, shape (N,)
        Neighbourhoods of 9 bits in 2D and of 27 in 3D.
    ndim : int
        2 or 3.

    Returns
    -------
    ndarray of bool, shape (N,)

    References
    ----------
    Bertrand and Malandain (1994), Pattern Recognition Letters 15, 169-175.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics.simple_points import is_simple
    >>> is_simple(np.array([0b000_010_000, 0b000_011_000, 0b000_111_000], dtype=np.uint32), 2)
    array([False,  True, False])
    """
    if ndim == 2:
        return _of_the_plane()[codes]
    return _decide(codes, _PLANE | ~_PLANE)


@cache
def _of_the_plane() -> NDArray[np.bool_]:
    """The answer for each of the 512 neighbourhoods in 2D, which are the middle planes of those in 3D."""
    return _decide(np.arange(512, dtype=np.uint32) << np.uint32(9), _PLANE)


def _decide(codes: Codes, universe: np.uint32) -> NDArray[np.bool_]:
    near = codes & _N18 & universe
    touching = near & _N6
    objects = _flood(_lowest(touching), near, _spread_by_faces)
    free = ~codes & _N26 & universe
    background = _flood(_lowest(free), free, _spread_by_corners)
    one_object: NDArray[np.bool_] = (touching != 0) & (touching & ~objects == 0)
    one_background: NDArray[np.bool_] = (free != 0) & (background == free)
    return one_object & one_background


def _lowest(codes: Codes) -> Codes:
    """The lowest bit of each code; none of none."""
    return codes & (~codes + np.uint32(1))


def _flood(seeds: Codes, within: Codes, spread: Callable[[Codes], Codes]) -> Codes:
    while True:
        grown = spread(seeds) & within
        if np.array_equal(grown, seeds):
            return grown
        seeds = grown


def _spread_by_faces(codes: Codes) -> Codes:
    grown = codes
    for step, not_first, not_last in _STEPS:
        grown = grown | (codes & not_first) >> step | (codes & not_last) << step
    return grown


def _spread_by_corners(codes: Codes) -> Codes:
    for step, not_first, not_last in _STEPS:
        codes = codes | (codes & not_first) >> step | (codes & not_last) << step
    return codes

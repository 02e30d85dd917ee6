"""Warping error: what remains of the difference of two maps after boundaries were moved, topology kept."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused
from .contingency import check_pair
from .simple_points import is_simple

__all__ = ["apart", "warp", "warping_error"]

Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]


def warping_error(prediction: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """Fraction of pixels that still differ after the reference is warped towards the prediction.

    Moved boundaries cost nothing as far as they can be moved; a split, a merge, a hole, an object that is
    missed or invented cost at least a pixel each, and a long false border all its length. See `warp` for the
    order of the warping, which ends in a local minimum.

    Parameters
    ----------
    prediction, reference : array_like of int or bool, shape (Y, X) or (Z, Y, X)
        Instance maps, which are made into masks by `apart`; or masks.
    mask : array_like of bool, shape of the maps, optional
        Where pixels may flip; everywhere by default. Differences count everywhere.

    Returns
    -------
    float
        In 0..1; NaN for maps without pixels.

    Raises
    ------
    Refused
        Unequal shapes, a type that is neither integer nor bool, negative values, or not 2D or 3D.

    Notes
    -----
    ISBI 2012 scored volumes slice by slice: give the slices one by one and take the mean. A volume is warped
    in 3D here.

    References
    ----------
    Jain et al. (2010), "Boundary learning by optimization with topological constraints", CVPR, 2488-2495;
    Arganda-Carreras et al. (2015), Frontiers in Neuroanatomy 9, 142.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import warping_error
    >>> reference = np.zeros((5, 8), int)
    >>> reference[1:4, 1:7] = 1
    >>> warping_error(np.roll(reference, 1, axis=1), reference)
    0.0
    >>> split = reference.copy()
    >>> split[:, 4] = 0
    >>> warping_error(split, reference) * split.size
    1.0
    """
    found, truth = check_pair(prediction, reference)
    target = apart(found)
    warped = warp(apart(truth), target, mask=mask)
    return float(np.count_nonzero(warped != target) / target.size) if target.size else math.nan


def apart(instances: ArrayLike) -> Mask:
    """Mask of the objects, in which objects that touch are set apart.

    A pixel with a pixel of another object beside it (4 neighbours in 2D, 6 in 3D) becomes background, so
    that the border between two touching objects is two pixels wide, one of each. Where no two objects touch,
    and for masks, it is what is not 0. What was thinner than its borders is gone.

    Parameters
    ----------
    instances : array_like of int or bool, shape (Y, X) or (Z, Y, X)
        Instance map with any ids from 1 up; 0 is background.

    Returns
    -------
    ndarray of bool, same shape

    Examples
    --------
    >>> from medseg.metrics.warping import apart
    >>> apart([[1, 1, 1, 2, 2, 0, 3]]).astype(int)
    array([[1, 1, 0, 0, 1, 0, 1]])
    """
    instances = np.asarray(instances)
    inside: Mask = instances != 0
    mask: Mask = inside.copy()
    for axis in range(instances.ndim):
        before = (*[slice(None)] * axis, slice(None, -1))
        after = (*[slice(None)] * axis, slice(1, None))
        border = (instances[before] != instances[after]) & inside[before] & inside[after]
        mask[before] &= ~border
        mask[after] &= ~border
    return mask


def warp(source: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None) -> Mask:
    """Warp one mask towards another by flips that keep its topology.

    Only pixels that differ from the target flip, and only simple ones: those whose flip makes, ends, joins
    or parts no object, hole or cavity. Objects are connected by 4 neighbours in 2D and 6 in 3D, the
    background by 8 and 26; outside of the image is background. A pixel flips once at most, so it comes to an
    end.

    The order: objects shrink as far as they can, then they grow as far as they can, and again, until nothing
    flips; shrinking comes first, as a border that is moved has to become wide before it is filled from its
    other side. Within each, pixels are on 4 lattices (8 in 3D) by whether their row, column and plane are
    even or odd: one lattice after the other, all simple pixels of it flip, over and over. No two pixels of a
    lattice are neighbours, so that flipping them together is flipping them one by one.

    The result is a local minimum of the difference, like that of the paper's greedy descent. Another order
    may end elsewhere, and a border of background that is w pixels wide cannot move further than w pixels, as
    no pixel flips on which the maps agree.

    Parameters
    ----------
    source, target : array_like of bool, shape (Y, X) or (Z, Y, X)
        What is warped, and what towards.
    mask : array_like of bool, same shape, optional
        Where pixels may flip; everywhere by default.

    Returns
    -------
    ndarray of bool, same shape

    Raises
    ------
    Refused
        ``shape-mismatch`` for a `mask` of another shape.

    References
    ----------
    Jain et al. (2010), CVPR, 2488-2495; Bertrand and Malandain (1994), Pattern Recognition Letters
    15, 169-175.

    Examples
    --------
    >>> from medseg.metrics.warping import warp
    >>> warp([[0, 1, 1, 1, 0, 0]], [[0, 0, 0, 1, 1, 1]]).astype(int)
    array([[0, 0, 0, 1, 1, 1]])
    >>> warp([[0, 1, 1, 1, 0, 0]], [[0, 0, 0, 0, 0, 0]]).sum()
    np.int64(1)
    """
    image, aim = np.asarray(source, dtype=bool), np.asarray(target, dtype=bool)
    differs = image != aim
    if mask is not None:
        allowed = np.asarray(mask, dtype=bool)
        if allowed.shape != image.shape:
            raise Refused(
                "shape-mismatch",
                "the mask of the warping differs in shape from the maps",
                got=allowed.shape,
                expected=image.shape,
            )
        differs &= allowed
    # with a frame of background, every pixel has all its neighbours
    image, differs = np.pad(image, 1), np.pad(differs, 1)
    shape, offsets = image.shape, _offsets(image.shape)
    flat, open_ = image.reshape(-1), differs.reshape(-1)
    pixels = np.flatnonzero(open_)
    shrinking, growing = (_by_lattice(pixels[flat[pixels] == value], shape) for value in (True, False))
    waiting = shrinking
    while any(shrinking) or any(growing):
        if not any(waiting):
            waiting = growing if waiting is shrinking else shrinking
        for queue in waiting:
            if not queue:
                continue
            pixels = np.unique(np.concatenate(queue))
            queue.clear()
            flips = pixels[is_simple(_codes(flat, pixels, offsets), image.ndim)]
            flat[flips] ^= True
            open_[flips] = False
            # only what has a new neighbour can have become simple
            near = (flips[:, None] + offsets).reshape(-1)
            near = near[open_[near]]
            for queues, value in ((shrinking, True), (growing, False)):
                for queue_of, more in zip(queues, _by_lattice(near[flat[near] == value], shape)):
                    queue_of += more
    return image[tuple(slice(1, -1) for _ in shape)]


def _codes(flat: Mask, pixels: Indices, offsets: Indices) -> NDArray[np.uint32]:
    """Neighbourhoods as numbers: bit k is the k-th pixel of the 3 x 3 (x 3) around, the last axis fastest."""
    codes = np.zeros(len(pixels), dtype=np.uint32)
    for k, offset in enumerate(offsets):
        codes |= flat[pixels + offset].astype(np.uint32) << np.uint32(k)
    return codes


@cache
def _offsets(shape: tuple[int, ...]) -> Indices:
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    steps = np.array(list(itertools.product((-1, 0, 1), repeat=len(shape))))
    offsets: Indices = (steps * strides).sum(axis=1)
    return offsets


def _by_lattice(pixels: Indices, shape: tuple[int, ...]) -> list[list[Indices]]:
    """Pixels of each lattice, as a list of one array or of none."""
    lattice = np.zeros(len(pixels), dtype=np.int64)
    for position in np.unravel_index(pixels, shape):
        lattice = 2 * lattice + position % 2
    found = [pixels[lattice == i] for i in range(2 ** len(shape))]
    return [[some] if len(some) else [] for some in found]

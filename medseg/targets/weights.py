"""Pixel weights: the balance of classes, and the border weight map of the U-Net paper."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import Refused
from .touching import Window, checked_map, part_touching

# border terms below this weight are left out; float32 cannot show the difference beside a weight of 1 to 10
_NEGLIGIBLE = 2e-7
# blocks that stay in the processor's cache while their margins stay small beside them
_BLOCK_SIDE = {1: 1 << 16, 2: 1024, 3: 160}
# beyond so many pixels the exact transform of scipy is quicker, whose time does not grow with the reach
_MOST_SHIFTS = 64
# colours whose rows are worked on together: a row of one is a short call by itself
_AT_ONCE = 4
# farther than 64 pixels, and three squares of 64 can be added to it in 16 bits
_FAR_16 = 16_000


def border_weight_map(
    instances: NDArray[Any],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    spacing: Sequence[float] | None = None,
    class_weights: bool = True,
    part: bool = True,
) -> NDArray[np.float32]:
    """Compute the pixel weights that make a network learn the gaps between objects.

    Ronneberger et al. 2015, equation 2: ``w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))^2 / (2 sigma^2))``, where
    ``d1`` and ``d2`` are the distances to the nearest and the second nearest object. The border term is added
    on background pixels only; with fewer than two objects it is zero.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (*spatial)
        Instance map: 0 is background, every other number is one object; numbers may have gaps and be large.
        A boolean mask is split into connected components. A map of classes goes through
        :func:`instances_from_mask` first.
    w0 : float
        Height of the border term; 0 leaves the class weights alone.
    sigma : float
        Width of the border term, in pixels, or in the unit of ``spacing`` where that is given.
    spacing : sequence of float, optional
        Size of a pixel along each axis.
    class_weights : bool
        Whether ``w_c`` balances background and foreground as in :func:`class_weights`; otherwise it is 1.
    part : bool
        Whether touching objects are parted first by :func:`part_touching`, so that the weights belong to the
        target that :func:`foreground` makes and the pixels of the gap carry the largest of them.

    Returns
    -------
    ndarray of float32, shape (*spatial)
        Weights, within 1e-6 of the formula (relative to the larger of 1 and the weight).

    Raises
    ------
    Refused
        ``not-integer``, ``negative-label``, ``bad-spacing`` or ``bad-value``.

    Notes
    -----
    Distances are taken object by object in a window that reaches as far around it as the border term matters,
    so the time goes with the objects' own size. The image is worked on in blocks with that much margin:
    memory beside the image is that of one block, and an object as large as the image costs no more than its
    blocks.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net. MICCAI 2015, section 3. https://doi.org/10.1007/978-3-319-24574-4_28

    Examples
    --------
    >>> import numpy as np
    >>> from medseg import border_weight_map
    >>> two = np.array([[1, 1, 0, 2, 2]])
    >>> weights = border_weight_map(two, class_weights=False)
    >>> print(weights)  # d1 = d2 = 1 in the gap: 1 + 10 exp(-4 / 50)
    [[ 1.        1.       10.231163  1.        1.      ]]
    """
    sampling = _checked_spacing(spacing, np.ndim(instances))
    for name, value, ok in (("w0", w0, w0 >= 0), ("sigma", sigma, sigma > 0)):
        if not (ok and np.isfinite(value)):
            raise Refused("bad-value", name, got=value, expected="a finite number above 0")
    objects = _consecutive(part_touching(instances) if part else checked_map(instances))
    if class_weights:
        background, foreground = _balance(objects > 0, 2).astype(np.float32)
        out: NDArray[np.float32] = np.where(objects > 0, foreground, background)
    else:
        out = np.ones(objects.shape, np.float32)
    if w0 > _NEGLIGIBLE:
        _add_border_term(out, objects, float(w0), float(sigma), sampling)
    return out


def _add_border_term(
    out: NDArray[np.float32],
    objects: NDArray[np.int32],
    w0: float,
    sigma: float,
    sampling: NDArray[np.float64],
) -> None:
    """Add the second term of equation 2 to ``out`` in place, block by block with a margin of ``R``."""
    limit = sigma * float(np.sqrt(2 * np.log(w0 / _NEGLIGIBLE)))
    side = _BLOCK_SIDE.get(out.ndim, max(out.shape, default=1))
    margins = [int(limit / step) for step in sampling]
    for corner in product(*(range(0, size, side) for size in out.shape)):
        core = tuple(slice(c, min(c + side, size)) for c, size in zip(corner, out.shape))
        outer = tuple(
            slice(max(0, s.start - m), min(size, s.stop + m)) for s, m, size in zip(core, margins, out.shape)
        )
        inner = tuple(slice(c.start - o.start, c.stop - o.start) for c, o in zip(core, outer))
        near, term = _border_term(objects[outer], inner, limit, w0, sigma, sampling)
        out[core][near] += term.astype(np.float32)


def _border_term(
    objects: NDArray[np.int32], inner: Window, limit: float, w0: float, sigma: float, sampling: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Find the background pixels of the inner box near two objects, and their second terms of equation 2."""
    boxes = [(number, box) for number, box in enumerate(ndimage.find_objects(objects), start=1) if box]
    background = np.zeros(objects.shape, bool)
    background[inner] = objects[inner] == 0
    if len(boxes) < 2:
        return background[inner] & False, np.empty(0)
    nearest, second = (d[inner] for d in _two_nearest(objects, boxes, background, limit, sampling))
    near = background[inner] & (second <= limit**2)
    term = np.sqrt(nearest[near], dtype=np.float64)
    term += np.sqrt(second[near], dtype=np.float64)
    beyond = term > limit
    term *= term
    term /= -2 * sigma**2
    np.exp(term, out=term)
    term *= w0
    term[beyond] = 0
    return near, term


def _two_nearest(
    objects: NDArray[np.int32],
    boxes: list[tuple[int, Window]],
    wanted: NDArray[np.bool_],
    limit: float,
    sampling: NDArray[np.float64],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Squared distances to the nearest and the second nearest object, where wanted and up to the limit."""
    by_shifts = objects.ndim in (2, 3) and max(limit / sampling) <= _MOST_SHIFTS
    if by_shifts and objects.ndim == 2 and (sampling == 1).all():
        return _two_nearest_by_colours(objects, boxes, int(limit))
    by_shifts = by_shifts and objects.ndim == 3
    # squares until the end: whole numbers stay exact, and there are fewer roots to take
    dtype, far = _number_type(limit, sampling, by_shifts)
    nearest, second = (np.full(objects.shape, far, dtype) for _ in range(2))
    for number, box in boxes:
        window = _window(box, limit, sampling, wanted)
        if window is None:
            continue
        if by_shifts:
            away = np.where(objects[box] == number, dtype(0), far)
            squared = _squared_by_shifts(away, box, window, limit, sampling)
        else:
            squared = _squared_distance(objects[window] != number, sampling, dtype)
        s, n = second[window], nearest[window]
        np.minimum(s, np.maximum(n, squared), out=s)
        np.minimum(n, squared, out=n)
    return nearest, second


def _two_nearest_by_colours(
    objects: NDArray[np.int32], boxes: list[tuple[int, Window]], reach: int
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Do what `_two_nearest` does, in a plane, for all objects of a colour at once.

    Objects that are near each other have different colours. So the two nearest objects of a pixel, if both
    matter, have different colours, and the two nearest colours are as far. A handful of colours does.
    """
    colours = _colours([box for _, box in boxes], reach + 1)
    table = np.full(boxes[-1][0] + 1, -1, np.int16)
    table[[number for number, _ in boxes]] = colours
    of_pixel = table[objects]
    of_pixel[objects == 0] = -1
    rows, columns = objects.shape
    nearest, second = (np.full(objects.shape, _FAR_16, np.int16) for _ in range(2))
    width = columns + reach  # lines are padded, so that no shift along the flat array reaches the next one
    for first in range(0, int(colours.max()) + 1, _AT_ONCE):
        own = np.arange(first, min(first + _AT_ONCE, int(colours.max()) + 1), dtype=np.int16)[:, None]
        planes = np.full((rows, len(own), width), reach + 1, np.int16)
        np.multiply(of_pixel[:, None] != own, np.int16(reach + 1), out=planes[..., :columns])
        for order in (range(1, rows), range(rows - 2, -1, -1)):
            raised = np.empty_like(planes[0])
            for row in order:
                np.add(planes[row - order.step], np.int16(1), out=raised)
                np.minimum(planes[row], raised, out=planes[row])
        planes *= planes
        planes[planes > reach**2] = _FAR_16
        for plane in np.moveaxis(planes, 1, 0):
            source = plane.ravel()
            least, raised = source.copy(), np.empty_like(source)
            for k in range(1, reach + 1):
                np.add(source, np.int16(k * k), out=raised)
                np.minimum(least[k:], raised[:-k], out=least[k:])
                np.minimum(least[:-k], raised[k:], out=least[:-k])
            squared = least.reshape(rows, width)[:, :columns]
            np.minimum(second, np.maximum(nearest, squared), out=second)
            np.minimum(nearest, squared, out=nearest)
    return nearest, second


def _colours(boxes: list[Window], reach: int) -> NDArray[np.int16]:
    """Give each box the first colour that no earlier box within reach has."""
    low = np.array([[s.start for s in box] for box in boxes])
    high = np.array([[s.stop - 1 for s in box] for box in boxes])
    colours = np.zeros(len(boxes), np.int16)
    for i in range(1, len(boxes)):
        gap = np.maximum(np.maximum(low[:i] - high[i], low[i] - high[:i]), 0)
        taken = np.unique(colours[:i][(gap * gap).sum(1) <= reach * reach])
        free = np.flatnonzero(taken != np.arange(taken.size))
        colours[i] = free[0] if free.size else taken.size
    return colours


def _number_type(limit: float, sampling: NDArray[np.float64], by_shifts: bool) -> tuple[Any, Any]:
    """Choose the smallest type for squared distances, and a number for "beyond the limit"."""
    if (sampling == 1).all() and limit < 1e4:
        return (np.int16, np.int16(_FAR_16)) if by_shifts else (np.int32, np.int32(2**30))
    return np.float64, np.float64(np.inf)


def _squared_by_shifts(
    away: NDArray[Any], box: Window, window: Window, limit: float, sampling: NDArray[np.float64]
) -> NDArray[Any]:
    """Squared distance up to the limit from the zeros of a box, in the window around the box.

    Squared distances are sums over the axes, so along one axis after the other each line takes the minimum
    over its copies, shifted by k and raised by k squared. In volumes this is six times quicker than the
    exact transform of scipy: it works on whole planes of small whole numbers, and the first axes only where
    the object is.
    """
    for own, outer, step in zip(box[::-1], window[::-1], sampling[::-1]):
        source = np.ascontiguousarray(np.moveaxis(away, -1, 0))  # shifts along the first axis move planes
        lead, size, n = own.start - outer.start, outer.stop - outer.start, len(source)
        away = np.full(
            (size, *source.shape[1:]), _FAR_16 if source.dtype == np.int16 else np.inf, source.dtype
        )
        raised = np.empty_like(source)
        reach = int(limit / step)
        for k in range(max(-reach, 1 - n - lead), min(reach, size - lead - 1) + 1):
            low, high = max(0, lead + k), min(size, lead + k + n)
            part = raised[: high - low]
            square = source.dtype.type((k * step) ** 2)
            np.add(source[low - lead - k : high - lead - k], square, out=part)
            np.minimum(away[low:high], part, out=away[low:high])
    return away


def _squared_distance(
    outside: NDArray[np.bool_], sampling: NDArray[np.float64], dtype: type[np.number[Any]]
) -> NDArray[Any]:
    """Squared distance to the nearest False."""
    feature = ndimage.distance_transform_edt(
        outside, sampling=sampling, return_distances=False, return_indices=True
    )
    total = np.zeros(outside.shape, dtype)
    for axis, step in enumerate(sampling):
        along = feature[axis]
        along -= np.arange(outside.shape[axis], dtype=along.dtype).reshape(
            -1, *[1] * (outside.ndim - axis - 1)
        )
        along *= along
        total += along if step == 1 else along * step**2
    return total


def _window(
    box: Window, reach: float, sampling: NDArray[np.float64], wanted: NDArray[np.bool_]
) -> Window | None:
    """Smallest box around an object and the wanted pixels within reach of its box; None if there are none."""
    wide = tuple(
        slice(max(0, s.start - int(reach / step)), min(size, s.stop + int(reach / step)))
        for s, step, size in zip(box, sampling, wanted.shape)
    )
    near = wanted[wide]
    tight = []
    for axis, (own, outer) in enumerate(zip(box, wide)):
        hit = np.flatnonzero(near.any(axis=tuple(a for a in range(near.ndim) if a != axis)))
        if hit.size == 0:
            return None
        tight.append(
            slice(min(own.start, outer.start + int(hit[0])), max(own.stop, outer.start + int(hit[-1]) + 1))
        )
    return tuple(tight)


def class_weights(labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Weigh classes against their frequency, so that the mean weight over the pixels is 1.

    ``w_c = N / (K * N_c)`` for ``N`` pixels, ``N_c`` of class ``c``, and ``K`` classes that are present. An
    absent class has the weight 1, and so has a class that is alone.

    Parameters
    ----------
    labels : ndarray of int or bool, shape (*spatial)
        Label map with numbers below ``n_classes``.
    n_classes : int
        Number of classes, background included.

    Returns
    -------
    ndarray of float64, shape (n_classes,)
        The weight of each class.

    Raises
    ------
    Refused
        ``not-integer``, ``negative-label``, or ``unknown-class`` where a label is not below ``n_classes``.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import class_weights
    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    array([0.66666667, 2.        ])
    """
    checked = checked_map(labels, split=False)
    checked = checked.astype(np.uint8) if checked.dtype == bool else checked  # a mask is classes 0 and 1
    if checked.size and int(checked.max()) >= n_classes:
        raise Refused(
            "unknown-class", "label out of range", got=int(checked.max()), expected=f"below {n_classes}"
        )
    return _balance(checked, n_classes)


def _balance(labels: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    if n_classes == 2 and labels.dtype == bool:  # a count of ones is ten times quicker than a histogram
        ones = int(np.count_nonzero(labels))
        counts = np.array([labels.size - ones, ones])
    else:
        counts = np.bincount(labels.ravel(), minlength=n_classes)
    present = np.count_nonzero(counts)
    weights = np.ones(n_classes)
    np.divide(labels.size, present * counts, out=weights, where=counts > 0)
    return weights


def _checked_spacing(spacing: Sequence[float] | None, ndim: int) -> NDArray[np.float64]:
    steps = np.ones(ndim) if spacing is None else np.asarray(spacing, np.float64)
    if steps.shape != (ndim,) or not np.all(np.isfinite(steps) & (steps > 0)):
        raise Refused("bad-spacing", "spacing", got=spacing, expected=f"{ndim} positive numbers, one an axis")
    return steps


def _consecutive(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Renumber so that the largest number is at most the number of pixels; small numbers stay as they are."""
    if labels.size == 0 or int(labels.max()) <= labels.size:
        return labels.astype(np.int32, copy=False)
    values, index = np.unique(labels, return_inverse=True)
    shift = 0 if values[0] == 0 else 1
    return (index.reshape(labels.shape) + shift).astype(np.int32)

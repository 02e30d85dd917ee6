"""Geometry of overlap tiles: what is read, what is written, which part of the output is kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import Refused

__all__ = ["Geometry", "Tile", "Tiling", "mirror_indices", "read_mirrored", "step_within"]


@dataclass(frozen=True)
class Geometry:
    """How a network's output lies over its input, an entry an axis.

    Attributes
    ----------
    halo : tuple of int or None
        Pixels of context that an exact output pixel needs on either side; None where a layer sees the
        whole input (instance norm, image pooling), so that no tile can be exact.
    stride : tuple of int
        Tiles are placed on multiples of it, and legal input sizes are that far apart.
    shrink : tuple of int
        Pixels a side by which the output is smaller than the input (unpadded convolutions); else 0.
    minimum : tuple of int
        Smallest legal input size.
    mirror : tuple of int or None
        How far beyond the image context is mirrored, rounded up to the stride; there a padded network pads
        with its zeros, as it does around a patch in training. None: as far as the network sees.

    Examples
    --------
    >>> unet = Geometry(halo=(92, 92), stride=(16, 16), shrink=(92, 92), minimum=(188, 188))
    >>> unet.input_size((388, 388)), unet.output_size((572, 572))
    ((572, 572), (388, 388))
    """

    halo: tuple[int, ...] | None
    stride: tuple[int, ...]
    shrink: tuple[int, ...]
    minimum: tuple[int, ...]
    mirror: tuple[int, ...] | None = None

    def legal(self, size: Sequence[int]) -> bool:
        """Tell whether the network takes an input of this size."""
        return all(n >= m and (n - m) % s == 0 for n, m, s in zip(size, self.minimum, self.stride))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the output size of a legal input size; refuse another and name the next larger one."""
        size = tuple(size)
        if not self.legal(size):
            raise Refused(
                "illegal-size",
                "the network cannot take this input size",
                got=size,
                expected=f"{self.minimum} plus multiples of {self.stride}",
                do=f"use {self.round_up(size)}",
            )
        return tuple(n - 2 * c for n, c in zip(size, self.shrink))

    def input_size(self, output: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest legal input size whose output is at least ``output``."""
        return self.round_up([n + 2 * c for n, c in zip(output, self.shrink)])

    def round_up(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest legal input size that is at least ``size``."""
        return tuple(
            m + max(0, math.ceil((n - m) / s)) * s for n, m, s in zip(size, self.minimum, self.stride)
        )


@dataclass(frozen=True)
class Tile:
    """One tile of an image.

    Attributes
    ----------
    read : tuple of (int, int)
        Start and stop an axis of what the network sees; may reach beyond the image (mirrored there).
    write : tuple of slice
        Where the result goes in the image. The tiles' write boxes cover the image once.
    keep : tuple of slice
        The part of the network's output that goes there.
    """

    read: tuple[tuple[int, int], ...]
    write: tuple[slice, ...]
    keep: tuple[slice, ...]

    def split(self, most: int) -> list[Tile]:
        """Return tiles that read the same and write slabs of this one, of at most so many pixels.

        Examples
        --------
        >>> tile = Tile(((-2, 12), (-2, 6)), (slice(0, 10), slice(0, 4)), (slice(2, 12), slice(2, 6)))
        >>> [slab.keep[0] for slab in tile.split(16)]
        [slice(2, 6, None), slice(6, 10, None), slice(10, 12, None)]
        """
        write, keep = self.write[0], self.keep[0]
        rows = max(1, most // max(1, math.prod(side.stop - side.start for side in self.write[1:])))
        slabs = []
        for a in range(0, write.stop - write.start, rows):
            b = min(a + rows, write.stop - write.start)
            written = slice(write.start + a, write.start + b)
            kept = slice(keep.start + a, keep.start + b)
            slabs.append(Tile(self.read, (written, *self.write[1:]), (kept, *self.keep[1:])))
        return slabs


@dataclass(frozen=True)
class Tiling:
    """A grid of equal tiles over an image, each exact where it is kept.

    Parameters
    ----------
    shape : tuple of int
        Spatial shape of the image.
    geometry : Geometry
        The network's. A ``halo`` of None counts as ``shrink``: such tiles fit, but are not exact.
    step : tuple of int
        Largest size of a written part an axis; rounded up to the stride, never beyond the image.

    Notes
    -----
    Two tiles give the same value for a pixel if both see its whole context and if the pooling grid of the
    network falls on the same pixels of the image. The first is the halo; for the second every tile starts
    a multiple of ``stride`` away from the first one. Where unpadded convolutions eat the context the lead
    is just that; with padded ones it is the halo rounded up to the stride, so that the first tile's grid
    is that of an image that begins at pixel 0.

    Examples
    --------
    >>> same = Geometry(halo=(94,), stride=(16,), shrink=(0,), minimum=(16,))
    >>> tiling = Tiling((300,), same, (160,))
    >>> [tile.read for tile in tiling], tiling.tile_shape
    ([((-96, 256),), ((64, 416),)], (352,))
    >>> [tile.write for tile in tiling]
    [(slice(0, 160, None),), (slice(160, 300, None),)]
    """

    shape: tuple[int, ...]
    geometry: Geometry
    step: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(n < 1 for n in self.shape):
            raise Refused("empty-image", "an axis of the image is empty", got=self.shape)
        # tiles of equal size need no more pixels than large ones with a small rest, and batch well
        even = []
        for n, step, s in zip(self.shape, self.step, self.geometry.stride):
            count = math.ceil(n / max(step, 1))
            even.append(math.ceil(math.ceil(n / count) / s) * s)
        object.__setattr__(self, "step", tuple(even))

    @property
    def halo(self) -> tuple[int, ...]:
        """Context a side that tiles are read with at least."""
        return self.geometry.halo or self.geometry.shrink

    @property
    def lead(self) -> tuple[int, ...]:
        """Pixels that a tile is read before its written part."""
        g = self.geometry
        return tuple(c + math.ceil((h - c) / s) * s for h, c, s in zip(self.halo, g.shrink, g.stride))

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """Input size of the largest tile: of every one, but for those that the mirror ends earlier."""
        return tuple(max(stop - start for start, stop in spans) for spans in self._spans)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles an axis."""
        return tuple(math.ceil(n / t) for n, t in zip(self.shape, self.step))

    @property
    def pixels_ratio(self) -> float:
        """Pixels that the network computes over pixels of the image."""
        computed = math.prod(sum(stop - start for start, stop in spans) for spans in self._spans)
        return computed / math.prod(self.shape)

    @cached_property
    def _spans(self) -> list[list[tuple[int, int]]]:
        """Start and stop of what the tiles read, along each axis."""
        g, written = self.geometry, [min(t, n) for t, n in zip(self.step, self.shape)]
        size = g.round_up([a + t + h for a, t, h in zip(self.lead, written, self.halo)])
        every = []
        for axis, (n, t, s, least) in enumerate(zip(self.shape, self.step, g.stride, g.minimum)):
            spans = [
                (i * t - self.lead[axis], i * t - self.lead[axis] + size[axis]) for i in range(-(-n // t))
            ]
            if g.mirror is not None and g.shrink[axis] == 0 and least % s == 0:
                first = -(math.ceil(g.mirror[axis] / s) * s)
                last = first + max(least, math.ceil((n - 2 * first) / s) * s)
                spans = [(max(a, first), min(b, last)) for a, b in spans]
                spans = [(max(first, min(a, b - least)), b) for a, b in spans]
            every.append(spans)
        return every

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        for index in itertools.product(*(range(c) for c in self.counts)):
            starts = [i * t for i, t in zip(index, self.step)]
            stops = [min(a + t, n) for a, t, n in zip(starts, self.step, self.shape)]
            read = tuple(spans[i] for spans, i in zip(self._spans, index))
            skip = [a - first - c for a, (first, _), c in zip(starts, read, self.geometry.shrink)]
            yield Tile(
                read=read,
                write=tuple(slice(a, b) for a, b in zip(starts, stops)),
                keep=tuple(slice(k, k + b - a) for k, a, b in zip(skip, starts, stops)),
            )


def mirror_indices(start: int, stop: int, size: int) -> np.ndarray:
    """Return the indices of ``start`` to ``stop`` on an axis that is mirrored at its ends without repeat.

    The same as ``numpy.pad(mode="reflect")``, for any distance and down to a size of 1 (Ronneberger et al.
    2015, section 2: missing context is extrapolated by mirroring).

    Examples
    --------
    >>> mirror_indices(-3, 6, 4).tolist()
    [3, 2, 1, 0, 1, 2, 3, 2, 1]
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.int64)
    period = 2 * (size - 1)
    index = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(index, period - index)


def read_mirrored(image: Any, read: Sequence[tuple[int, int]], *, take: Callable[..., Any] = np.take) -> Any:
    """Read a box that may reach beyond an image ``(C, *spatial)``; what lies outside is mirrored.

    Parameters
    ----------
    image : array of shape (C, *spatial)
        Anything that slices: an array, a memory map, a tensor. Only the needed part is read.
    read : sequence of (int, int)
        Start and stop an axis.
    take : callable
        ``take(array, indices, axis)``; numpy's, or one for tensors.

    Returns
    -------
    array of shape (C, *stop - start)

    Examples
    --------
    >>> read_mirrored(np.arange(4)[None], [(-2, 3)]).tolist()
    [[2, 1, 0, 1, 2]]
    """
    window: list[slice] = [slice(None)]
    beyond: list[tuple[int, np.ndarray]] = []
    for axis, ((start, stop), size) in enumerate(zip(read, image.shape[1:]), start=1):
        if start >= 0 and stop <= size:
            window.append(slice(start, stop))
            continue
        index = mirror_indices(start, stop, size)
        first, last = int(index.min()), int(index.max())
        window.append(slice(first, last + 1))
        beyond.append((axis, index - first))
    part = image[tuple(window)]
    for axis, index in beyond:
        part = take(part, index, axis)
    return part


def step_within(
    shape: Sequence[int],
    geometry: Geometry,
    budget: float,
    cost: Callable[[tuple[int, ...], tuple[int, ...]], float],
) -> tuple[int, ...]:
    """Return the largest written part of a tile whose cost stays within a budget.

    Sides are as equal as the image allows; then each in turn is made longer where fewer tiles fit, too.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape of the image; no step is larger.
    geometry : Geometry
        The network's.
    budget : float
        Upper bound for ``cost``.
    cost : callable
        ``cost(read, written)`` of a tile that reads and writes so many pixels an axis, such as its peak
        memory in bytes; grows with both.

    Raises
    ------
    Refused
        ``out-of-memory`` where even the smallest tile costs more.

    Examples
    --------
    >>> geometry = Geometry(halo=(8, 8), stride=(4, 4), shrink=(0, 0), minimum=(4, 4))
    >>> step_within((100, 100), geometry, 1600, lambda read, written: math.prod(read))
    (28, 24)
    """

    def step(k: int) -> tuple[int, ...]:
        return tuple(min(math.ceil(n / s), k) * s for n, s in zip(shape, geometry.stride))

    def price_of(size: Sequence[int]) -> float:
        tiling = Tiling(tuple(shape), geometry, tuple(size))
        return cost(tiling.tile_shape, tuple(min(t, n) for t, n in zip(tiling.step, tiling.shape)))

    def price(k: int) -> float:
        return price_of(step(k))

    low, high = 1, max(math.ceil(n / s) for n, s in zip(shape, geometry.stride))
    if price(high) <= budget:
        return step(high)  # so it is for most images, and a price takes longer than such an image
    if price(1) > budget:
        raise Refused(
            "out-of-memory",
            "the network is too big for this memory even on its smallest tile",
            got=f"{max(budget, 0) / 1e9:.2f} GB left for it",
            expected=f"at least {price(1) / 1e9:.2f} GB",
            do="raise max_ram_gb, free memory or use a smaller network",
        )
    while low < high:  # the largest k within the budget; k counts strides
        middle = (low + high + 1) // 2
        if price(middle) <= budget:
            low = middle
        else:
            high = middle - 1
    size = list(step(low))
    for axis, (n, s) in enumerate(zip(shape, geometry.stride)):
        # an even division leaves some of the budget: take fewer tiles along this axis where they fit
        fewest, most = 1, math.ceil(n / size[axis])
        while fewest < most:
            middle = (fewest + most) // 2
            longer = math.ceil(n / middle / s) * s
            if price_of([*size[:axis], longer, *size[axis + 1 :]]) <= budget:
                most = middle
                size[axis] = longer
            else:
                fewest = middle + 1
    return tuple(size)

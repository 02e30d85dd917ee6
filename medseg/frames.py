"""The network's grid in an image's own: axes turned, a box cut out, another spacing; there and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .scratch import Window, boxes

__all__ = ["Frame", "FramedImage", "nonzero_box"]

_MAP_BYTES = 4  # a voxel: the label map, and what writing it takes
_AT_ONCE = 2**22  # values of logits that are interpolated at once

#: For each position along an axis the pixel below it, the one above, and the share of the latter.
_Places = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Frame:
    """How the grid that a network sees lies in the grid of an image.

    Network axis ``a`` is axis ``order[a]`` of the image, gone through backwards where ``flipped``. Of it the
    part ``box`` is used, counted after turning, and pixel ``i`` of the network's grid lies at pixel
    ``box[a][0] + i * step[a]``. Positions beyond the last pixel of the box are on it.

    Attributes
    ----------
    shape : tuple of int
        Spatial shape of the image.
    order : tuple of int
    flipped : tuple of bool
    box : tuple of (int, int)
    step : tuple of float
        Pixels of the image from one pixel of the network's grid to the next.

    Examples
    --------
    >>> frame = Frame((4, 9), order=(1, 0), flipped=(False, True), box=((0, 9), (0, 4)), step=(2.0, 1.0))
    >>> frame.size, frame.is_plain
    ((5, 4), False)
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    flipped: tuple[bool, ...]
    box: tuple[tuple[int, int], ...]
    step: tuple[float, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial shape of the network's grid, as MONAI's Spacing makes it."""
        return tuple(
            int(np.round((b - a - 1) / step + 1)) if step != 1 else b - a
            for (a, b), step in zip(self.box, self.step)
        )

    @property
    def is_plain(self) -> bool:
        """Whether the network sees the image as it is."""
        turned = self.order != tuple(range(len(self.shape))) or any(self.flipped)
        return self._is_whole and not turned and all(step == 1 for step in self.step)

    @property
    def _is_whole(self) -> bool:
        return all(span == (0, self.shape[axis]) for span, axis in zip(self.box, self.order))

    def window(self, spans: Sequence[tuple[int, int]]) -> Window:
        """Return the window of the image for spans along the turned axes, counted from the box."""
        out: list[slice] = [slice(0)] * len(self.shape)
        for a, (start, stop) in enumerate(spans):
            n, first = self.shape[self.order[a]], self.box[a][0]
            start, stop = start + first, stop + first
            out[self.order[a]] = slice(n - stop, n - start) if self.flipped[a] else slice(start, stop)
        return tuple(out)

    def cropped(self, image: Any) -> Any:
        """Return the part of an image that is used, which is read where it is looked at."""
        if self._is_whole:
            return image
        return _Part(image, self.window([(0, stop - start) for start, stop in self.box]))

    def turn(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn a part of the image, its spatial axes last, to the network's axes; a view."""
        lead = array.ndim - len(self.shape)
        moved = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return moved[(..., *(slice(None, None, -1 if f else None) for f in self.flipped))]

    def turn_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Undo `turn`; a view."""
        lead = array.ndim - len(self.shape)
        ahead = array[(..., *(slice(None, None, -1 if f else None) for f in self.flipped))]
        return ahead.transpose(*range(lead), *(lead + int(i) for i in np.argsort(self.order)))

    def _spans_of(self, write: Window) -> list[tuple[int, int]]:
        """Return which pixels of the turned box a part of the network's grid decides."""
        spans = []
        for a, part in enumerate(write):
            below = np.floor(self._places(a)).astype(np.int64)
            start, stop = np.searchsorted(below, [part.start, part.stop])
            spans.append((int(start), int(stop)))
        return spans

    def _places(self, axis: int) -> NDArray[np.float64]:
        """Return where each pixel of the box lies on the network's grid."""
        start, stop = self.box[axis]
        return np.minimum(np.arange(stop - start) / self.step[axis], self.size[axis] - 1)

    def decide(
        self, write: Window, logits: Tensor, *, probabilities: bool = False
    ) -> Iterator[tuple[Window, NDArray[Any], NDArray[Any] | None]]:
        """Yield the classes of the pixels of the image that a part of the network's grid decides.

        The class of a pixel is that of the largest logit, logits being interpolated linearly between pixels.

        Parameters
        ----------
        write : tuple of slice
            The part.
        logits : Tensor of shape (classes, \\*part + 1)
            Of the part and of one pixel more along each axis; what lies beyond the grid is not looked at.
        probabilities : bool
            Whether to give them, too.

        Yields
        ------
        window : tuple of slice
            In the image. Windows are thin: however many classes, little is held at once.
        labels : ndarray
        probabilities : ndarray of shape (classes, \\*window), float32, or None
        """
        spans = self._spans_of(write)
        if any(start == stop for start, stop in spans):
            return  # it lies between the pixels of the image
        places = []
        for a, (start, stop) in enumerate(spans):
            at = self._places(a)[start:stop] - write[a].start
            low = np.floor(at).astype(np.int64)
            places.append((low, np.minimum(low + 1, self.size[a] - 1 - write[a].start), at - low))
        plane = int(np.prod([stop - start for start, stop in spans[1:]]))
        (begin, end), thick = spans[0], max(1, _AT_ONCE // plane)
        for start in range(begin, end, thick):
            stop = min(start + thick, end)
            low, high, share = (part[start - begin : stop - begin] for part in places[0])
            slab = logits[:, low[0] : high[-1] + 1]
            label, kept = _decided(
                slab, [(low - low[0], high - low[0], share), *places[1:]], self.step, probabilities
            )
            window = self.window([(start, stop), *spans[1:]])
            yield window, self.turn_back(label), None if kept is None else self.turn_back(kept)


class _Part:
    """A window of an image, by itself an image of its size."""

    def __init__(self, image: Any, window: Window) -> None:
        self.image, self.window = image, window
        self.shape = (image.shape[0], *(part.stop - part.start for part in window))

    def __getitem__(self, key: Any) -> Any:
        inner = []
        for along, part in zip(key[1:], self.window):
            start, stop, step = along.indices(part.stop - part.start)
            inner.append(slice(part.start + start, part.start + stop, step))
        return self.image[(key[0], *inner)]


class FramedImage:
    """An image on the network's grid, made where it is looked at; slices like an array, gives tensors.

    Values between pixels are interpolated linearly, as by MONAI's Spacing with ``mode="bilinear"`` and
    ``padding_mode="border"``, and do not depend on the slice.

    Parameters
    ----------
    image : array of shape (C, \\*spatial)
        Anything that slices: an array, a tensor, a `medseg.io.LazyImage`.
    frame : Frame
    prepare : callable, optional
        From a float32 tensor ``(C, ...)`` of the image to the network's values, pixel by pixel; before
        interpolation.

    Examples
    --------
    >>> image = np.arange(10.0).reshape(1, 2, 5)
    >>> frame = Frame((2, 5), order=(1, 0), flipped=(True, False), box=((0, 5), (0, 2)), step=(1.5, 1.0))
    >>> FramedImage(image, frame)[:, 0:3, 0:1].flatten().tolist()
    [4.0, 2.5, 1.0]
    """

    def __init__(self, image: Any, frame: Frame, prepare: Callable[[Tensor], Tensor] | None = None) -> None:
        self.image, self.frame, self.prepare = image, frame, prepare
        self.shape = (image.shape[0], *frame.size)
        self.ndim = len(self.shape)

    def part_bytes(self, size: Sequence[int]) -> float:
        """Return how many bytes it takes to make a part of this spatial size and to keep what is decided."""
        held = _MAP_BYTES * math.prod(self.frame.shape)
        grown = math.prod(max(step, 1.0) for step in self.frame.step)
        return float(4 * self.shape[0] * math.prod(size) * (1 + 2 * grown) + 40 * _AT_ONCE + held)

    def __getitem__(self, window: Window) -> Tensor:
        frame, spans, places = self.frame, [], []
        for a, part in enumerate(window[1:]):
            start, stop, _ = part.indices(frame.size[a])
            last = frame.box[a][1] - frame.box[a][0] - 1
            at = np.minimum(np.arange(start, stop) * frame.step[a], last)
            low = np.floor(at).astype(np.int64)
            high = np.minimum(low + 1, last) if frame.step[a] != 1 else low
            spans.append((int(low[0]), int(high[-1]) + 1))
            places.append((low - low[0], high - low[0], at - low))
        stored = self.image[(window[0], *frame.window(spans))]
        turned = np.ascontiguousarray(frame.turn(np.asarray(stored)))
        values = torch.as_tensor(turned).to(torch.float32)
        if self.prepare is not None:
            values = self.prepare(values)
        return _interpolated(values, places, [1 / step for step in frame.step])


def _decided(
    logits: Tensor, places: Sequence[_Places], growth: Sequence[float], probabilities: bool
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Interpolate a few classes at a time, and keep the best of them."""
    classes = logits.shape[0]
    if probabilities:
        every = _interpolated(logits.float(), places, growth)
        label, kept = every.argmax(0), every.softmax(0).cpu().numpy()
        return label.cpu().numpy().astype(np.min_scalar_type(classes - 1)), kept
    some = max(1, _AT_ONCE // int(np.prod([len(low) for low, _, _ in places])))
    best = chosen = None
    for first in range(0, classes, some):
        top, index = _interpolated(logits[first : first + some].float(), places, growth).max(0)
        if best is None or chosen is None:
            best, chosen = top, index
        else:
            chosen = torch.where(top > best, index + first, chosen)
            best = torch.maximum(best, top)
    assert chosen is not None, "a network has classes"
    return chosen.cpu().numpy().astype(np.min_scalar_type(classes - 1)), None


def _interpolated(
    part: Tensor,
    places: Sequence[_Places],
    growth: Sequence[float],
) -> Tensor:
    """Interpolate linearly along each axis behind the first, first along those that grow least.

    The order is that of the grids, never of the part at hand, because sums of floats depend on it.
    """
    for a in sorted(range(len(places)), key=lambda a: growth[a]):
        low, high, share = places[a]
        if np.array_equal(low, np.arange(part.shape[a + 1])) and not share.any():
            continue
        below = part.index_select(a + 1, torch.from_numpy(low).to(part.device))
        if share.any():
            above = part.index_select(a + 1, torch.from_numpy(high).to(part.device))
            weight = torch.from_numpy(share).to(part.device, part.dtype)
            below = below.lerp_(above, weight.reshape(-1, *[1] * (part.ndim - a - 2)))
        part = below
    return part


def nonzero_box(image: Any) -> tuple[tuple[int, int], ...]:
    """Return the smallest box that holds all pixels that are not 0 in some channel; the whole where none is.

    Examples
    --------
    >>> nonzero_box(np.eye(4)[None, 1:3])
    ((0, 2), (1, 3))
    """
    shape = image.shape[1:]
    seen = [np.zeros(n, bool) for n in shape]
    for window in boxes(shape, max(1, _AT_ONCE // image.shape[0])):
        inside: NDArray[np.bool_] = np.any(np.asarray(image[(slice(None), *window)]) != 0, axis=0)
        for axis, part in enumerate(window):
            seen[axis][part] |= np.moveaxis(inside, axis, 0).reshape(inside.shape[axis], -1).any(axis=1)
    if not seen[0].any():
        return tuple((0, int(n)) for n in shape)
    return tuple((int(s.argmax()), int(len(s) - s[::-1].argmax())) for s in seen)

"""Images that stay in their files: they slice like arrays, and only what is asked for is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from ..scratch import Window, boxes
from .pixels import Pixels, decoding, not_finite, portable
from .stored import Stored, refuse_larger_than_memory

__all__ = ["LazyImage"]

_BAND = 2**25  # bytes that are read at once where an image is gone through


@dataclass(frozen=True)
class LazyImage:
    """An image ``(C, *spatial)`` in its file; slices of it are arrays, as `medseg.read` would give them.

    Attributes
    ----------
    path : Path
    stored : Stored
        The array in the file.
    places : tuple of int or None
        For channels and each spatial axis the axis of `stored`; None for channels that it does not have.
    picks : tuple of int
        Which of the file's channels are the image's.
    affine : ndarray of shape (4, 4)
        From array indices to `unit`.
    unit : {"um", "mm", "pixel"}
    format : str
        A word or two for people.
    palette : ndarray of shape (3, colours), optional
        What the stored indices stand for.
    scale : (float, float), optional
        Slope and intercept that make values of the stored numbers, where the file has them.
    geometry : str
        For people: what in the file the affine comes from.

    Examples
    --------
    >>> import tempfile, numpy, medseg
    >>> path = medseg.write(numpy.arange(6, dtype="uint8").reshape(2, 3), tempfile.mkdtemp() + "/a.tif")
    >>> with medseg.io.open_lazy(path) as image:
    ...     image.shape, image[:, 1:, ::2].tolist()
    ((1, 2, 3), [[[3, 5]]])
    """

    path: Path
    stored: Stored
    places: tuple[int | None, ...]
    picks: tuple[int, ...]
    affine: npt.NDArray[np.float64]
    unit: str
    format: str
    palette: npt.NDArray[np.uint8] | None = None
    scale: tuple[float, float] | None = None
    geometry: str = ""
    _files: ExitStack = field(default_factory=ExitStack)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and spatial axes."""
        return (len(self.picks), *(self.stored.shape[i] for i in self.places[1:] if i is not None))

    @property
    def ndim(self) -> int:
        """Number of axes, channels included."""
        return len(self.places)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Pixel type in the file, in the machine's byte order."""
        kind = self.stored.dtype if self.palette is None else self.palette.dtype
        return np.dtype(kind).newbyteorder("=")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Pixel type of what slices give: one that torch computes with, as from `medseg.read`."""
        if self.scale is not None:  # float32 holds every integer of 16 bits, and the scaled one to 7 digits
            small = self.stored_dtype.itemsize <= 2 or self.stored_dtype == np.float32
            return np.dtype(np.float32 if small else np.float64)
        nothing = Pixels(np.empty((1, 0), self.stored_dtype), self.affine, self.unit, "", "")
        return np.dtype(portable(nothing, self.path).array.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that the whole image takes in memory, its own channels only."""
        return math.prod(self.shape[1:]) * len(set(self.picks)) * int(self.dtype.itemsize)

    @property
    def piece_bytes(self) -> int:
        """Bytes that have to be decoded for one pixel: a strip, a tile or a chunk."""
        return self.stored.piece_bytes

    @property
    def held_bytes(self) -> int:
        """Most bytes that stay in memory from one part to the next: a few tiles, or nothing.

        All of the image, as it is stored, where its format cannot be read in parts: NIfTI with gzip, NRRD
        and MetaImage. It is read with the first part; opening the file takes no memory.
        """
        return self.stored.held_bytes

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """Read a part; slices may have steps above 0, and then bands are read, not the whole."""
        given: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
        given += (slice(None),) * (self.ndim - len(given))
        if not all(isinstance(part, slice) for part in given) or len(given) != self.ndim:
            raise Refused("bad-argument", "an image in a file takes slices, one an axis", got=key)
        picks = self.picks[given[0]]
        ranges = [range(*part.indices(n)) for part, n in zip(given[1:], self.shape[1:])]
        if not picks or any(len(r) == 0 for r in ranges):
            return np.empty((len(picks), *map(len, ranges)), self.dtype)
        if self.scale is None and all(r.step == 1 for r in ranges):
            return self._portable(self.raw([slice(r.start, r.stop) for r in ranges], picks))
        if any(r.step < 1 for r in ranges):
            raise Refused("bad-argument", "steps through an image in a file go forward", got=key)
        out = np.empty((len(picks), *map(len, ranges)), self.dtype)
        steps = tuple(slice(None, None, r.step) for r in ranges)
        dense = math.prod(r.step for r in ranges) * self.stored_dtype.itemsize * len(set(picks))
        for box in self._boxes([len(r) for r in ranges], max(1, _BAND // dense)):
            window = [slice(r[s.start], r[s.stop - 1] + 1) for r, s in zip(ranges, box)]
            out[(slice(None), *box)] = self._portable(self.raw(window, picks)[(slice(None), *steps)])
        return out

    def raw(self, window: Sequence[slice], picks: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """Read a window of the spatial axes with the pixel type of the file."""
        wanted = list(self.picks if picks is None else picks)
        inside = [slice(0, 1)] * len(self.stored.shape)
        for place, along in zip(self.places[1:], window):
            assert place is not None, "only channels may be absent"
            inside[place] = along
        first = 0
        if self.places[0] is not None and self.palette is None:
            first = min(wanted)
            inside[self.places[0]] = slice(first, max(wanted) + 1)
        with decoding(self.path, self.format):
            part = self.stored[tuple(inside)]
        kept = [place for place in self.places if place is not None]
        others = [i for i in range(part.ndim) if i not in kept]
        part = part.transpose(others + kept)[(0,) * len(others)]
        part = part if self.places[0] is not None else part[None]
        if self.palette is not None:
            return np.asarray(self.palette[wanted][:, part[0]])
        if wanted != list(range(first, max(wanted) + 1)):
            part = part[[w - first for w in wanted]]
        return np.asarray(part)

    def _portable(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.scale is not None:
            # in double precision, rounded once: 10 steps of a slope that is stored as 0.1 are 1 then
            values = array * np.float64(self.scale[0])
            values += self.scale[1]
            return values.astype(self.dtype)
        return portable(Pixels(array, self.affine, self.unit, "", ""), self.path).array

    def with_channels(self, picks: Sequence[int]) -> LazyImage:
        """Return the same image with these of its channels, which may repeat."""
        return replace(self, picks=tuple(self.picks[i] for i in picks))

    def windows(self) -> list[Window]:
        """Return windows of the spatial axes that cover the image once and take little memory each."""
        values = max(1, _BAND // (self.stored_dtype.itemsize * len(self.picks)))
        return list(self._boxes(self.shape[1:], values))

    def _boxes(self, sizes: Sequence[int], most: int) -> Iterator[Window]:
        """Yield windows of at most so many values, each few contiguous pieces of the file."""
        order = sorted(range(len(sizes)), key=lambda axis: self.places[axis + 1] or 0)
        for box in boxes([sizes[axis] for axis in order], most):
            window = [slice(0)] * len(sizes)
            for axis, along in zip(order, box):
                window[axis] = along
            yield tuple(window)

    def whole(self) -> Pixels:
        """Read all of it, with the pixel type of the file, or as floats where values are scaled.

        Raises
        ------
        Refused
            ``larger-than-memory``, before anything is allocated.
        """
        dtype = self.stored_dtype if self.scale is None else self.dtype
        refuse_larger_than_memory(self.held_bytes + math.prod(self.shape) * dtype.itemsize, self.path)
        out = np.empty(self.shape, dtype)
        for window in self.windows():
            part = self.raw(window)
            out[(slice(None), *window)] = part if self.scale is None else self._portable(part)
        return Pixels(out, self.affine, self.unit, str(self.stored_dtype), self.format)

    def check_finite(self) -> None:
        """Go through an image of floats and refuse NaN and infinity, as `medseg.read` does.

        Raises
        ------
        Refused
            ``non-finite``.
        """
        if self.stored_dtype.kind != "f":
            return
        count, first = 0, None
        for window in self.windows():
            part = self.raw(window)
            bad = ~np.isfinite(part)
            if not bad.any():
                continue
            count += int(bad.sum())
            if first is None:
                channel, *where = (int(i) for i in np.argwhere(bad)[0])
                first = part[(channel, *where)], tuple(i + s.start for i, s in zip(where, window)), channel
        if first is not None:
            raise not_finite(self.path, count, math.prod(self.shape), *first)

    def close(self) -> None:
        """Close the file."""
        self._files.close()

    def __enter__(self) -> LazyImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

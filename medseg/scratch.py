"""Arrays in files, of which only the part at hand is in memory."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import Refused

__all__ = ["DiskArray", "Window", "boxes", "scratch_file", "window_of"]

#: A slice without a step for each axis.
Window = tuple[slice, ...]


class DiskArray:
    """A C-ordered array at a place in an open file; a window of it is read or written by itself.

    Not a memory map: the pages of a map count as memory of the process for as long as it lasts.

    Parameters
    ----------
    file : file opened in binary mode
        Without a buffer, best of all.
    shape : tuple of int
    dtype : numpy dtype
        With its byte order; what is read has the machine's own.
    offset : int
        Of the first value, in bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     array = DiskArray(file, (3, 4), np.int32)
    ...     array[:, :] = np.arange(12).reshape(3, 4)
    ...     array[1:, 1:3]
    array([[ 5,  6],
           [ 9, 10]], dtype=int32)
    """

    def __init__(self, file: BinaryIO, shape: Sequence[int], dtype: Any, offset: int = 0) -> None:
        self.file, self.shape, self.offset = file, tuple(shape), offset
        self.dtype = np.dtype(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a window; slices have no step."""
        window = window_of(key, self.shape)
        out = np.empty([s.stop - s.start for s in window], self.dtype)
        flat = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        done = 0
        for start, size in self._runs(window):
            self.file.seek(start)
            got = 0
            while got < size:
                n = self.file.readinto(flat[done + got : done + size])  # type: ignore[attr-defined]
                if not n:
                    raise Refused(
                        "unreadable", f"'{self.file.name}' is truncated", do="copy it again from its source"
                    )
                got += n
            done += size
        return out if self.dtype.isnative else out.astype(self.dtype.newbyteorder("="))

    def __setitem__(self, key: Any, value: NDArray[Any]) -> None:
        """Write a window; the value has its shape."""
        window = window_of(key, self.shape)
        given = np.ascontiguousarray(value, self.dtype)
        if given.shape != tuple(s.stop - s.start for s in window):
            raise Refused("shape-mismatch", "a part of another size", got=given.shape, expected=window)
        flat = memoryview(given.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        done = 0
        for start, size in self._runs(window):
            self.file.seek(start)
            put = 0
            while put < size:
                put += self.file.write(flat[done + put : done + size])
            done += size

    def _runs(self, window: Window) -> Iterator[tuple[int, int]]:
        """Place and length in bytes of each contiguous piece of a window."""
        sizes = [s.stop - s.start for s in window]
        if 0 in sizes:
            return
        whole = len(sizes)  # axes from here on are taken whole
        while whole and sizes[whole - 1] == self.shape[whole - 1]:
            whole -= 1
        run = math.prod(sizes[max(whole - 1, 0) :]) * self.dtype.itemsize
        strides = [math.prod(self.shape[i + 1 :]) * self.dtype.itemsize for i in range(len(sizes))]
        first = self.offset + sum(s.start * step for s, step in zip(window, strides))
        outer = range(max(whole - 1, 0))
        for index in itertools.product(*(range(sizes[i]) for i in outer)):
            yield first + sum(i * step for i, step in zip(index, strides)), run


def scratch_file(folder: str | Path) -> BinaryIO:
    """Open a file without a name in a folder: it is gone when it is closed, or when the process ends.

    Raises
    ------
    Refused
        ``unwritable``.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder, buffering=0)  # type: ignore[return-value]
    except OSError as error:
        raise Refused(
            "unwritable",
            f"cannot write to '{folder}'",
            got=error.strerror,
            do="choose a folder that you may write to",
        ) from error


def window_of(key: Any, shape: Sequence[int]) -> Window:
    """Return a key as slices with start and stop, one an axis; steps and indices are not windows.

    Examples
    --------
    >>> window_of((slice(None), slice(-2, 9)), (3, 4))
    (slice(0, 3, None), slice(2, 4, None))
    """
    given = key if isinstance(key, tuple) else (key,)
    given = given + (slice(None),) * (len(shape) - len(given))
    out = []
    for part, n in zip(given, shape):
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise Refused("bad-argument", "a window has one slice an axis, without steps", got=part)
        start, stop, _ = part.indices(n)
        out.append(slice(start, max(start, stop)))
    return tuple(out)


def boxes(shape: Sequence[int], most: int) -> Iterator[Window]:
    """Yield windows of at most so many values that cover an array once, in the order of a scan.

    The last axes stay whole as long as they can, so that a window is few contiguous pieces of a file.

    Examples
    --------
    >>> list(boxes((3, 4), 8))
    [(slice(0, 2, None), slice(0, 4, None)), (slice(2, 3, None), slice(0, 4, None))]
    """
    sizes = [1] * len(shape)
    for axis in reversed(range(len(shape))):
        sizes[axis] = max(1, min(shape[axis], most // max(1, math.prod(sizes))))
        if sizes[axis] < shape[axis]:
            break
    starts = [range(0, n, size) for n, size in zip(shape, sizes)]
    for corner in itertools.product(*starts):
        yield tuple(slice(a, min(a + size, n)) for a, size, n in zip(corner, sizes, shape))

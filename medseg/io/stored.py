"""Where the pixels of an image are that is read part by part: in its file, or in memory as it stores them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from os import PathLike
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil

from ..errors import Refused
from ..scratch import DiskArray, Window

__all__ = ["Held", "OnDisk", "Stored", "refuse_larger_than_memory"]


class Stored(Protocol):
    """An array in a file: axes and pixel type are the file's own."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def piece_bytes(self) -> int:
        """Bytes that have to be decoded for one pixel."""

    @property
    def held_bytes(self) -> int:
        """Most bytes of pixels that stay in memory from one part to the next."""

    def __getitem__(self, window: Window) -> npt.NDArray[Any]: ...


class OnDisk(DiskArray):
    """Pixels as they are, one after the other; nothing of them stays in memory."""

    held_bytes = 0

    @property
    def piece_bytes(self) -> int:
        """Bytes of one pixel."""
        return int(self.dtype.itemsize)


class Held:
    """Pixels that cannot be read in parts: all are read with the first part, and kept as they are stored.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy dtype
    read : callable
        Gives the array, and whatever has to live as long as the array does. Called once.

    Examples
    --------
    >>> array = Held((2, 3), np.int16, lambda: (np.arange(6, dtype=np.int16).reshape(2, 3), None))
    >>> array[(slice(1, 2), slice(0, 2))].tolist(), array.held_bytes
    ([[3, 4]], 12)
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, read: Callable[[], tuple[npt.NDArray[Any], Any]]
    ) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read
        self._kept: tuple[npt.NDArray[Any], Any] | None = None
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * int(self.dtype.itemsize)

    @property
    def piece_bytes(self) -> int:
        """Bytes of one pixel: the whole is decoded once, and told by `held_bytes`."""
        return int(self.dtype.itemsize)

    def __getitem__(self, window: Window) -> npt.NDArray[Any]:
        with self._lock:
            if self._kept is None:
                array, owner = self._read()
                array.flags.writeable = False  # parts of it are views
                self._kept = array, owner
            return self._kept[0][window]

    def release(self) -> None:
        """Give the memory back; the next part reads the file again."""
        self._kept = None


def refuse_larger_than_memory(nbytes: int, path: str | PathLike[str]) -> None:
    """Refuse, before anything is allocated, pixels that do not fit into the memory that is free.

    Raises
    ------
    Refused
        ``larger-than-memory``.

    Examples
    --------
    >>> refuse_larger_than_memory(10**18, "scan.nii")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    medseg.errors.Refused: 'scan.nii' is larger than memory: got ...
    """
    free = psutil.virtual_memory().available
    if nbytes > free:
        raise Refused(
            "larger-than-memory",
            f"'{path}' is larger than memory",
            got=f"{nbytes / 1e9:.3g} GB of pixels",
            expected=f"at most the {free / 1e9:.3g} GB that are free",
            do="crop it, or use a machine with more memory",
        )

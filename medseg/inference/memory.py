"""How much memory a forward pass may still take."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from ..errors import Refused

__all__ = ["free_bytes", "refusing_large_tiles"]

_DEFAULT_CAP = 4e9  # larger tiles save little computing, and the machine has other things to do


def free_bytes(device: torch.device, max_ram_gb: float | None) -> float:
    """Return the bytes that may be taken beyond what is in use.

    Parameters
    ----------
    device : torch.device
        Where the network runs.
    max_ram_gb : float, optional
        On the CPU a bound for the whole process in GB (1e9 bytes); on a GPU for what is used there.

    Examples
    --------
    >>> free_bytes(torch.device("cpu"), None) > 0
    True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what PyTorch holds in reserve is free for it, too
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        most = float(0.9 * free)
        return (
            most if max_ram_gb is None else min(most, max_ram_gb * 1e9 - torch.cuda.memory_allocated(device))
        )
    memory = psutil.virtual_memory()
    if max_ram_gb is None:
        return float(min(memory.available / 2, _DEFAULT_CAP))
    _give_back()
    return float(max_ram_gb * 1e9 - psutil.Process().memory_info().rss)


def _give_back() -> None:
    """Let the C library hand freed memory back to the system, so that what is in use can be told.

    Of memory that was taken in small pieces glibc keeps what is free, hundreds of megabytes after a network.
    Other C libraries do not know the call, and give back by themselves.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def refusing_large_tiles() -> Iterator[None]:
    """Refuse, in one line, a tile that was too large after all.

    Examples
    --------
    >>> with refusing_large_tiles():
    ...     raise MemoryError
    Traceback (most recent call last):
    medseg.errors.Refused: a tile did not fit into memory. Give a smaller max_ram_gb.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise Refused(
            "out-of-memory", "a tile did not fit into memory", do="give a smaller max_ram_gb"
        ) from error

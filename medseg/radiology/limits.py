"""How much a child process may take for one study: memory, processor time, time on the clock."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused

__all__ = ["Limits", "die_with_parent", "limit_myself"]

_STATUS = Path("/proc/self/status")
_SET_PARENT_DEATH_SIGNAL = 1  # of Linux' prctl


@dataclass(frozen=True)
class Limits:
    """What one study may take.

    Attributes
    ----------
    memory_gb : float
        Memory of the child in GB (1e9 bytes), with the libraries and the model, which take about 0.5.
    minutes : float
        On the clock.
    cpu_minutes : float
        Of processor time, summed over the child's threads.

    Examples
    --------
    >>> Limits(memory_gb=4).minutes
    30.0
    >>> Limits(minutes=0)
    Traceback (most recent call last):
    medseg.errors.Refused: minutes of a study: got 0, expected more than 0.
    """

    memory_gb: float = 8.0
    minutes: float = 30.0
    cpu_minutes: float = 120.0

    def __post_init__(self) -> None:
        for name in ("memory_gb", "minutes", "cpu_minutes"):
            if not getattr(self, name) > 0:
                raise Refused(
                    "bad-argument",
                    f"{name} of a study",
                    got=getattr(self, name),
                    expected="more than 0",
                )


def limit_myself(memory_gb: float, cpu_seconds: float) -> None:
    """Bound what this process may take from now on; calling again begins a new count.

    The bound of memory is ``RLIMIT_DATA``, on what is writable and this process's own. The bound of all
    addresses, ``RLIMIT_AS``, would count what is only reserved, such as libraries, the stacks and arenas of
    threads, and tens of GB of a GPU's addresses: so it had to be so large that it stopped nothing. What was
    reserved before the call is left out here, too: the limit is what is reserved now, and what is left of
    ``memory_gb`` beside the memory that is resident now. An allocation beyond it fails, as a ``MemoryError``
    that is told; nobody else on the machine notices. The parent also watches the resident memory, which
    catches what is shared.

    Raises
    ------
    Refused
        ``bad-argument`` where the process has more than that already.
    """
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + cpu_seconds) + 1
    _soft(resource.RLIMIT_CPU, seconds)  # its signal ends the process
    _soft(resource.RLIMIT_CORE, 0)  # a dump of memory would hold the patient
    if _STATUS.is_file():
        status = _STATUS.read_text()
        data, resident = (
            int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1]) * 1024  # type: ignore[index]
            for name in ("VmData", "VmRSS")
        )
        left = int(memory_gb * 1e9) - resident
        if left <= 0:
            raise Refused(
                "bad-argument",
                "the memory of a study does not hold the libraries and the model",
                got=f"{memory_gb:g} GB",
                expected=f"more than {resident / 1e9:.2f} GB",
                do="give more (--memory)",
            )
        _soft(resource.RLIMIT_DATA, data + left)


def _soft(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when the one that started it ends, however that ends.

    Linux does it (``prctl``); elsewhere the process ends when it next asks for work. On Linux it is the end
    of the thread that started the process that counts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)

"""The parent's side of a child process: ask, hear, watch, kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..batch import Failure
from .limits import Limits

__all__ = ["Child", "ChildSetup"]

# a fresh interpreter: a fork of a process with threads inherits locks that nobody will ever open. -P keeps
# the folder that the user happens to be in out of the imports.
_CODE = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:0] = given['paths']; "
    "from medseg.radiology.worker import serve; serve(given)"
)
_START_SECONDS = 600.0
_PIECE = 1 << 20


@dataclass(frozen=True)
class ChildSetup:
    """What a child does: a function by "module:name", what it is made of, and where its modules lie."""

    job: str
    setup: Mapping[str, Any]
    paths: tuple[str, ...] = ()
    debug: bool = False


class Child:
    """One child process, which answers one request at a time.

    Attributes
    ----------
    used : int
        Requests that it has answered.
    """

    def __init__(self, setup: ChildSetup, limits: Limits) -> None:
        read, write = os.pipe()
        given = {
            "paths": [*setup.paths, str(Path(__file__).parents[2])],
            "parent": os.getpid(),
            "fd": write,
            "job": setup.job,
            "setup": setup.setup,
            "debug": setup.debug,
        }
        other = None if setup.debug else subprocess.DEVNULL  # libraries print what stands in files
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE, json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=other,
                stderr=other,
                pass_fds=(write,),
            )
        except BaseException:  # Ctrl-C, too, must not leave the pipe open; it is handed on
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._answers, self._heard, self._unsaid = read, b"", b""
        self._limits, self._deadline, self._begun = limits, 0.0, False
        self._killed: tuple[str, str] | None = None
        self.used = 0

    def fileno(self) -> int:
        """Return what to wait on for answers."""
        return self._answers

    def ask(self, request: Mapping[str, Any]) -> None:
        """Send a request; the limits of time and memory hold from its beginning."""
        self._deadline, self._begun = time.monotonic() + _START_SECONDS, False
        about = {"memory_gb": self._limits.memory_gb, "cpu_seconds": 60 * self._limits.cpu_minutes}
        self._unsaid += json.dumps(about | dict(request)).encode() + b"\n"
        self._push()

    def hear(self) -> list[dict[str, Any]]:
        """Return the events since the last call; of a child that ended, the last one is how."""
        ended = False
        with suppress(BlockingIOError):
            while not ended:
                piece = os.read(self._answers, _PIECE)
                self._heard += piece
                ended = not piece
        *lines, self._heard = self._heard.split(b"\n")
        events = [json.loads(line) for line in lines]
        if ended and not any(event["event"] == "failed" for event in events):
            events.append(self._end())
        for event in events:
            if event["event"] == "begun":
                self._deadline, self._begun = time.monotonic() + 60 * self._limits.minutes, True
            self.used += event["event"] in ("done", "refused", "failed")
        return events

    def watch(self) -> None:
        """Kill the child if it takes more than it may; how it ended is heard afterwards."""
        self._push()
        if self._killed or self._process.poll() is not None:
            return
        if time.monotonic() > self._deadline:
            self._kill("time-limit", f"the study took more than {self._limits.minutes:g} minutes.")
            return
        if not self._begun:  # too little for the libraries is told by the child itself
            return
        with suppress(psutil.Error):
            if psutil.Process(self._process.pid).memory_info().rss > self._limits.memory_gb * 1e9:
                self._kill("out-of-memory", "the study does not fit into its memory.")

    def close(self) -> None:
        """End the child, whatever it does; nothing is heard of it any more."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        with suppress(OSError):
            os.close(self._answers)

    def _push(self) -> None:
        """Send what fits into the pipe: a request may name thousands of files, and nobody waits."""
        assert self._process.stdin is not None
        with suppress(BlockingIOError, BrokenPipeError):  # of one that has died is heard next
            while self._unsaid:
                self._unsaid = self._unsaid[os.write(self._process.stdin.fileno(), self._unsaid) :]

    def _kill(self, reason: str, message: str) -> None:
        self._killed = (reason, message)
        self._process.kill()

    def _end(self) -> dict[str, Any]:
        """How a child ended that did not say so itself."""
        code = self._process.wait()
        failure = _failure(code, self._killed, self._limits)
        # a kill that was not ours: by the system for want of memory, or by a person
        passing = failure.reason == "killed"
        return {"event": "failed", "reason": failure.reason, "message": failure.message, "passing": passing}


def _failure(code: int, killed: tuple[str, str] | None, limits: Limits) -> Failure:
    if killed:
        return Failure("", *killed)
    if code == -signal.SIGXCPU:
        return Failure(
            "", "time-limit", f"the study took more than {limits.cpu_minutes:g} minutes of processor time."
        )
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return Failure("", "killed", "the child process was killed by the system or by somebody.")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Failure("", "crashed", f"the child process died with {how}.")


def any_of(children: Sequence[Child], seconds: float) -> list[Child]:
    """Wait until some children have said something or have ended, at most so long."""
    import select

    ready, _, _ = select.select(children, [], [], seconds)
    return list(ready)

"""The child process: it answers one request after the other, and is the wall around what goes wrong."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..batch import Failure
from ..errors import Refused
from .limits import die_with_parent, limit_myself

__all__ = ["Job", "serve"]

Say = Callable[..., None]


class Job(Protocol):
    """What a child does."""

    def prepare(self, request: Mapping[str, Any]) -> None:
        """Load what a request needs, before its limits hold; a refusal here ends the run."""

    def __call__(self, request: Mapping[str, Any], say: Say) -> Mapping[str, Any]:
        """Answer a request: JSON."""


# of a disk or network share that may be back in a moment
_PASSING = {
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO,
}
_TORCH_HAS_NO_MEMORY = ("can't allocate memory", "not enough memory")


def serve(given: Mapping[str, Any]) -> None:
    """Answer requests, one JSON a line on standard input, until it ends.

    Parameters
    ----------
    given : mapping
        "parent": its process id; "fd": where answers go; "job": "module:function" of what makes
        the `Job` from "setup", a mapping; "debug": whether tracebacks are printed.

    Notes
    -----
    Answers are events: "begun", what the job says, and one of "done", "refused", "failed" and "fatal" (no
    study can be done) a request. After "failed" the process ends, because nobody knows what is left of it.
    Sentences hold neither values nor file names: the type and the place of an unforeseen error are told, its
    message is not.
    """
    die_with_parent(given["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent alone decides
    answers = os.fdopen(given["fd"], "wb", buffering=0)

    def say(event: str, **facts: Any) -> None:
        answers.write(json.dumps({"event": event} | facts).encode() + b"\n")

    job: Job | None = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        begun = False
        try:
            if job is None:
                module, _, name = given["job"].partition(":")
                job = getattr(importlib.import_module(module), name)(given["setup"])
            job.prepare(request)
            limit_myself(request["memory_gb"], request["cpu_seconds"])
            begun = True
            say("begun")
            reply = job(request, say)
        except Refused as refused:
            # before a study is begun nothing of it can be wrong: every other would be refused, too
            event = "refused" if begun else "fatal"
            told, do = (
                _redacted(text or "", request.get("files", ())) for text in (refused.sentence, refused.do)
            )
            say(event, reason=refused.reason, message=told, do=do or None)
        except BaseException as error:  # decoders panic past Exception; nothing is hidden, the process ends
            if given["debug"]:
                traceback.print_exc()
            failure, passing = _told(error)
            say("failed", reason=failure.reason, message=failure.message, passing=passing)
            os._exit(1)
        else:
            say("done", **reply)
    os._exit(0)


def _redacted(text: str, files: Sequence[str]) -> str:
    """Leave the names of files and folders out: people give them the names of patients."""
    for number, path in enumerate(files, start=1):
        text = text.replace(path, f"file {number}")
    for folder in sorted(
        {str(p) for f in files for p in Path(f).parents if p != p.parent}, key=len, reverse=True
    ):
        text = text.replace(folder, "its folder")
    return text


def _told(error: BaseException) -> tuple[Failure, bool]:
    """Reason and sentence of an unforeseen error, and whether it may pass by itself."""
    if isinstance(error, MemoryError) or any(word in str(error) for word in _TORCH_HAS_NO_MEMORY):
        return Failure("", "out-of-memory", "the study does not fit into its memory."), False
    if isinstance(error, OSError):
        said = f"the system says: {error.strerror or type(error).__name__}."
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        return Failure("", "unwritable" if full else "unreadable", said), error.errno in _PASSING
    if isinstance(error, Exception):
        return Failure("", "unexpected", f"unexpected {_place(error)}."), False
    return Failure("", "crashed", f"a library gave up: {_place(error)}."), False


def _place(error: BaseException) -> str:
    """Type of an error and where it came from; its message may hold what stands in a file."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(__file__).parents[1]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(root)] or frames
    if not ours:
        return type(error).__name__
    path = Path(ours[-1].filename)
    name = path.relative_to(root.parent).as_posix() if path.is_relative_to(root) else path.name
    return f"{type(error).__name__} in {name}, line {ours[-1].lineno}"

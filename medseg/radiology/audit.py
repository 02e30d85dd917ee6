"""One JSON line for each study: who asked, what went in, which model, what came out, when; append-only."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Refused

__all__ = ["AUDIT", "append", "audit_line", "catch_up"]

AUDIT = "audit.jsonl"


def audit_line(before: str | None, facts: Mapping[str, Any], *, now: float | None = None) -> str:
    """Return a line of the audit.

    Each line holds the checksum of the one before it, so that nobody changes, drops or adds one in between
    without all that follow.

    Parameters
    ----------
    before : str or None
        The last line.
    facts : mapping
        What happened.
    now : float, optional
        Seconds since 1970; by default the clock's.

    Examples
    --------
    >>> audit_line(None, {"event": "done"}, now=0.0)
    '{"time": "1970-01-01T00:00:00Z", "event": "done", "after": ""}'
    """
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now if now is not None else time.time()))
    after = hashlib.sha256(before.encode()).hexdigest() if before is not None else ""
    return json.dumps({"time": moment} | dict(facts) | {"after": after})


def catch_up(path: Path, lines: Sequence[str]) -> None:
    """Append to the file what it lacks of the lines, which may be a half of the last one that it holds.

    Raises
    ------
    Refused
        ``audit-changed`` where the file holds something else than the first lines.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "audit.jsonl"
    >>> _ = path.write_text("one\\ntw")  # killed while it wrote
    >>> catch_up(path, ["one", "two"])
    >>> path.read_text()
    'one\\ntwo\\n'
    """
    whole = "".join(line + "\n" for line in lines).encode()
    with open(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600), "rb+", buffering=0) as file:
        held = file.read()
        if not whole.startswith(held):
            raise Refused(
                "audit-changed",
                f"'{path}' is not what was written to it",
                do="keep it, and choose another folder for further studies",
            )
        if held != whole:
            file.write(whole[len(held) :])
            os.fsync(file.fileno())


def append(path: Path, line: str) -> None:
    """Append one line to a file that holds all lines before it."""
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "wb", buffering=0) as file:
        file.write(line.encode() + b"\n")
        os.fsync(file.fileno())

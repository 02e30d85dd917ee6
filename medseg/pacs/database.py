"""A SQLite database in a folder that one process holds, and whose threads share it."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import Refused
from ..radiology.journal import transaction

__all__ = ["Database"]

_TABLES = """
CREATE TABLE IF NOT EXISTS series (
  uid TEXT PRIMARY KEY, study TEXT NOT NULL, modality TEXT NOT NULL, source TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'receiving', first REAL NOT NULL, last REAL NOT NULL,
  expected INTEGER, matched REAL, next_ask REAL NOT NULL DEFAULT 0,
  generation INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
  note TEXT NOT NULL DEFAULT '', ended REAL, pruned INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS instances (
  uid TEXT PRIMARY KEY, series TEXT NOT NULL REFERENCES series(uid), sha256 TEXT NOT NULL,
  size INTEGER NOT NULL, file TEXT NOT NULL, arrived REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS instances_of ON instances(series);
CREATE TABLE IF NOT EXISTS results (
  uid TEXT PRIMARY KEY, series TEXT NOT NULL REFERENCES series(uid), study TEXT NOT NULL,
  result_series TEXT NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting',
  attempts INTEGER NOT NULL DEFAULT 0, refusals INTEGER NOT NULL DEFAULT 0, next REAL NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '', verified REAL
) STRICT;
CREATE INDEX IF NOT EXISTS results_due ON results(state, next);
"""


class Database:
    """The database of a spool.

    Parameters
    ----------
    folder : Path
        Exists.
    hold : bool, optional
        Whether this process is the one that holds it; False reads beside it.

    Raises
    ------
    Refused
        ``already-serving`` where another process holds it.
    """

    def __init__(self, folder: Path, *, hold: bool = True) -> None:
        self.folder = folder
        self._connections = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock: IO[str] | None = None
        if hold:
            self._take_hold()

    def _take_hold(self) -> None:
        lock = self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 - held as long as the database
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise Refused(
                "already-serving",
                f"another process serves from '{self.folder}'",
                do="stop it, or use another folder",
            ) from None
        with self.write() as db:
            for statement in _TABLES.split(";"):
                if statement.strip():
                    db.execute(statement)

    def close(self) -> None:
        """Let go of the folder."""
        for connection in self._all:
            connection.close()
        if self._lock is not None:
            self._lock.close()

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What a question gives."""
        return self._db().execute(statement, values).fetchall()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction, which ends whole or not at all."""
        with transaction(self._db()) as db:
            yield db

    def _db(self) -> sqlite3.Connection:
        """Connection of this thread."""
        connection: sqlite3.Connection | None = getattr(self._connections, "one", None)
        if connection is None:
            connection = sqlite3.connect(
                self.folder / "spool.sqlite", timeout=30, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._connections.one = connection
            self._all.append(connection)
        return connection

"""Results on their way back to the PACS: which wait, until when, and what became of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused
from .database import Database

__all__ = ["Outbox", "Result", "list_done", "list_refused"]


@dataclass(frozen=True)
class Result:
    """An object that goes back to the PACS."""

    uid: str
    series: str
    study: str
    result_series: str
    file: Path
    state: str
    attempts: int
    refusals: int
    next: float
    reason: str

    @property
    def key(self) -> str:
        """Name for logs."""
        return hashlib.sha256(self.uid.encode()).hexdigest()[:16]

    @property
    def series_key(self) -> str:
        """Name of the series that it came from."""
        return hashlib.sha256(self.series.encode()).hexdigest()[:16]


class Outbox:
    """The results of a spool; they come in with `Spool.finish`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def results(self, *states: str) -> list[Result]:
        """Results in some states, or all."""
        marks = ", ".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        rows = self._database.rows(
            "SELECT uid, series, study, result_series, file, state, attempts, refusals, next, reason"
            f" FROM results {where} ORDER BY rowid",
            *states,
        )
        return [Result(row[0], row[1], row[2], row[3], Path(row[4]), *row[5:]) for row in rows]

    def due(self, now: float) -> list[Result]:
        """Results that wait for being sent and whose pause is over."""
        return [result for result in self.results("waiting") if result.next <= now]

    def postpone(self, uid: str, *, until: float, reason: str, refused: bool = False) -> None:
        """Note an attempt that failed, and when the next is due."""
        with self._database.write() as db:
            db.execute(
                "UPDATE results SET attempts = attempts + 1, refusals = refusals + ?, next = ?, reason = ?"
                " WHERE uid = ?",
                (int(refused), until, reason, uid),
            )

    def hold_back(self, until: float) -> None:
        """Let nothing be due before a time, because the PACS is away."""
        with self._database.write() as db:
            db.execute("UPDATE results SET next = ? WHERE state = 'waiting' AND next < ?", (until, until))

    def give_up(self, uid: str, *, reason: str, text: str) -> None:
        """Note that a result cannot be handed over."""
        with self._database.write() as db:
            db.execute(
                "UPDATE results SET state = 'failed', attempts = attempts + 1, reason = ?, text = ?"
                " WHERE uid = ?",
                (reason, text, uid),
            )

    def verified(self, uid: str, *, now: float) -> None:
        """Note that the PACS holds a result as it was sent."""
        with self._database.write() as db:
            db.execute(
                "UPDATE results SET state = 'verified', reason = '', text = '', verified = ? WHERE uid = ?",
                (now, uid),
            )


def list_refused(folder: str | Path) -> list[tuple[str, str, str, str]]:
    """What was refused or not sent: study and series UIDs, reason, sentence; others may hold the spool.

    Raises
    ------
    Refused
        ``not-found`` where there is no spool.
    """
    return _read(
        folder,
        "SELECT study, uid, reason, text FROM series WHERE state = 'refused'"
        " UNION ALL SELECT study, series, reason, text FROM results WHERE state = 'failed'",
    )


def list_done(folder: str | Path) -> list[str]:
    """UIDs of the series whose results are all in the PACS.

    Raises
    ------
    Refused
        ``not-found`` where there is no spool.
    """
    rows = _read(
        folder,
        "SELECT uid FROM series WHERE state = 'done' AND NOT EXISTS"
        " (SELECT 1 FROM results WHERE results.series = series.uid AND state != 'verified')",
    )
    return [uid for (uid,) in rows]


def _read(folder: str | Path, statement: str) -> list[Any]:
    if not (Path(folder) / "spool.sqlite").is_file():
        raise Refused("not-found", f"no spool in '{folder}'", do="check spool.folder, or serve first")
    database = Database(Path(folder), hold=False)
    try:
        return database.rows(statement)
    finally:
        database.close()

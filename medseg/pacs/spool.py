"""What must outlive a crash: received objects as files, and what is known of them in SQLite.

A file is there before its row is, and a row before the sender hears of success: whoever is killed in between
leaves a file that nothing knows, which the next start takes away, and a sender that sends again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import Refused
from ..files import sync_folder
from ..io.dicom.passing import Passing, differences
from .database import Database
from .outbox import Outbox

__all__ = ["SeriesRow", "Spool", "key_of"]

State = Literal["receiving", "ready", "running", "done", "refused", "left"]


def key_of(uid: str) -> str:
    """Name for files and logs that tells nothing of what the UID says.

    Examples
    --------
    >>> key_of("1.2.3")
    'c47f5b18b8a430e6'
    """
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SeriesRow:
    """What the spool knows of a series; times are seconds of the clock that the caller keeps."""

    uid: str
    study: str
    modality: str
    source: str
    state: str
    first: float
    last: float
    expected: int | None
    matched: float | None
    next_ask: float
    generation: int
    reason: str
    text: str
    note: str
    arrived: int

    @property
    def key(self) -> str:
        """Name for files and logs."""
        return key_of(self.uid)


class Spool:
    """Received series, their states, and results on their way back, in one folder.

    Only one process may hold it; its threads may share it.

    Parameters
    ----------
    folder : str or Path
        Made where it is not there, for nobody else to read.
    max_bytes : int
        The most that received objects may take.
    min_free_bytes : int
        What stays free on the disk.

    Raises
    ------
    Refused
        ``already-serving`` where another process holds it, ``unwritable``.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = 10**15, min_free_bytes: int = 0) -> None:
        self.folder = Path(folder)
        self.max_bytes, self.min_free_bytes = max_bytes, min_free_bytes
        self._accepting = threading.Lock()
        try:
            for name in ("", "series", "incoming", "work"):
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.folder.chmod(0o700)
            self._database = Database(self.folder)
        except OSError as error:
            raise Refused(
                "unwritable", f"cannot write to the spool '{folder}'", got=error.strerror, do="check it"
            ) from error
        self.outbox = Outbox(self._database)
        self._clear_up()

    def close(self) -> None:
        """Let go of the folder."""
        self._database.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # receiving

    def check_room(self, size: int) -> None:
        """Refuse what would overfill the spool or the disk.

        Raises
        ------
        Refused
            ``spool-full``.
        """
        [(held,)] = self._database.rows("SELECT coalesce(sum(size), 0) FROM instances")
        if held + size > self.max_bytes:
            raise Refused("spool-full", "received objects take all the room they may", do="raise max_gb")
        if shutil.disk_usage(self.folder).free - size < self.min_free_bytes:
            raise Refused("spool-full", "the disk is nearly full", do="make room: it is sent again")

    def path_of(self, found: Passing) -> Path:
        """Where an object lies: names are made of UIDs by SHA-256."""
        return self.path_of_series(found.series_uid) / f"{key_of(found.sop_instance_uid)}.dcm"

    def path_of_series(self, uid: str) -> Path:
        """Folder of a series."""
        return self.folder / "series" / key_of(uid)

    def accept(self, file: Path, found: Passing, *, source: str, now: float) -> bool:
        """Take a whole file from ``incoming`` into its series; True where it is new.

        The same object again is no news. An object with the UID of another one that differs from it is
        refused, and so is its series: nobody can know which of the two is meant.

        Raises
        ------
        Refused
            ``same-uid-other-content``.
        """
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with self._accepting:
            known = self._database.rows(
                "SELECT sha256, file, series FROM instances WHERE uid = ?", found.sop_instance_uid
            )
            if known:
                self._compare(file, found, digest, known[0])
                file.unlink()
                return False
            place = self.path_of(found)
            place.parent.mkdir(exist_ok=True, mode=0o700)
            size = file.stat().st_size
            os.replace(file, place)
            sync_folder(place.parent)
            with self._database.write() as db:
                db.execute(
                    "INSERT INTO series (uid, study, modality, source, first, last) VALUES (?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT(uid) DO UPDATE SET last = excluded.last, matched = NULL, next_ask = 0",
                    (found.series_uid, found.study_uid, found.modality, source, now, now),
                )
                # what was deleted after its days is not there to be run with this one: it has to come again
                pruned = "SELECT 1 FROM series WHERE uid = ? AND pruned = 1"
                if db.execute(pruned, (found.series_uid,)).fetchall():
                    db.execute("DELETE FROM instances WHERE series = ?", (found.series_uid,))
                    db.execute("UPDATE series SET pruned = 0 WHERE uid = ?", (found.series_uid,))
                # what was done or given up begins anew with one object more; what runs is run again
                db.execute(
                    "UPDATE series SET state = 'receiving', generation = generation + 1, reason = '',"
                    " text = '', note = '', ended = NULL WHERE uid = ? AND state NOT IN ('receiving')"
                    " AND reason != 'same-uid-other-content'",
                    (found.series_uid,),
                )
                db.execute(
                    "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        found.sop_instance_uid,
                        found.series_uid,
                        digest,
                        size,
                        str(place.relative_to(self.folder)),
                        now,
                    ),
                )
        return True

    def _compare(self, file: Path, found: Passing, digest: str, known: tuple[str, str, str]) -> None:
        """Refuse a file, and the series that has its UID, unless both hold the same object."""
        old_digest, old_file, series = known
        old = self.folder / old_file
        if digest == old_digest:
            return
        if series == found.series_uid and old.is_file() and not differences(old, file, decode=False):
            return
        if old.is_file():
            self.end(
                series,
                "refused",
                reason="same-uid-other-content",
                text="an instance arrived twice with different content; nobody can know which is meant",
            )
        raise Refused(
            "same-uid-other-content",
            "another object with this SOP instance UID has been received",
            do="correct the sender: a UID belongs to one object",
        )

    # series

    def series(self, *states: State) -> list[SeriesRow]:
        """Series in some states, or all, the longest known first."""
        marks = ", ".join("?" * len(states))
        return self._series(f"WHERE state IN ({marks})" if states else "", *states)

    def _series(self, where: str, *values: str) -> list[SeriesRow]:
        rows = self._database.rows(
            "SELECT uid, study, modality, source, state, first, last, expected, matched, next_ask,"
            " generation, reason, text, note,"
            " (SELECT count(*) FROM instances WHERE instances.series = series.uid)"
            f" FROM series {where} ORDER BY first, uid",
            *values,
        )
        return [SeriesRow(*row) for row in rows]

    def known(self, uid: str) -> SeriesRow | None:
        """What is known of one series."""
        return next(iter(self._series("WHERE uid = ?", uid)), None)

    def instances(self, series: str) -> dict[str, Path]:
        """SOP instance UIDs and files of a series."""
        rows = self._database.rows("SELECT uid, file FROM instances WHERE series = ? ORDER BY uid", series)
        return {uid: self.folder / file for uid, file in rows}

    def asked(self, uid: str, *, expected: int | None, matched: float | None, next_ask: float) -> None:
        """Note what the PACS said of a series, and when to ask again."""
        with self._database.write() as db:
            db.execute(
                "UPDATE series SET expected = ?, matched = ?, next_ask = ?"
                " WHERE uid = ? AND state = 'receiving'",
                (expected, matched, next_ask, uid),
            )

    def move(self, row: SeriesRow, state: State, *, note: str = "") -> bool:
        """Give a series another state, unless something arrived since ``row`` was read; True where it did."""
        with self._database.write() as db:
            done = db.execute(
                "UPDATE series SET state = ?, note = CASE WHEN ? = '' THEN note ELSE ? END"
                " WHERE uid = ? AND state = ? AND generation = ?"
                " AND (SELECT count(*) FROM instances WHERE instances.series = series.uid) = ?",
                (state, note, note, row.uid, row.state, row.generation, row.arrived),
            )
            return done.rowcount == 1

    def end(
        self,
        uid: str,
        state: State,
        *,
        reason: str = "",
        text: str = "",
        now: float | None = None,
        generation: int | None = None,
    ) -> None:
        """End the work on a series, with the reason where it could not be done.

        With a generation nothing happens where the series has grown since.
        """
        with self._database.write() as db:
            db.execute(
                "UPDATE series SET state = ?, reason = ?, text = ?, ended = ? WHERE uid = ?"
                " AND generation = coalesce(?, generation)",
                (state, reason, text, now, uid, generation),
            )

    def finish(self, row: SeriesRow, results: Sequence[tuple[Passing, Path]], *, now: float) -> bool:
        """Note that a series is done and what goes back, in one step; False where it grew meanwhile.

        An object that is noted already stays as it is; one that has its UID and another content is sent, so
        that the PACS's answer to it is looked at.
        """
        with self._database.write() as db:
            done = db.execute(
                "UPDATE series SET state = 'done', reason = '', text = '', ended = ?"
                " WHERE uid = ? AND state = 'running' AND generation = ?",
                (now, row.uid, row.generation),
            )
            if done.rowcount != 1:
                return False
            for found, file in results:
                db.execute(
                    "INSERT INTO results (uid, series, study, result_series, file, sha256)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(uid) DO UPDATE SET file = excluded.file,"
                    " sha256 = excluded.sha256, state = 'waiting', next = 0, refusals = 0"
                    " WHERE sha256 != excluded.sha256",
                    (
                        found.sop_instance_uid,
                        row.uid,
                        found.study_uid,
                        found.series_uid,
                        str(file),
                        hashlib.sha256(file.read_bytes()).hexdigest(),
                    ),
                )
            return True

    def wait_again(self) -> None:
        """Let what was being run, and is not any more, be run again."""
        with self._database.write() as db:
            db.execute("UPDATE series SET state = 'ready' WHERE state = 'running'")

    def retry(self) -> int:
        """Let everything that was given up be tried again; how many results and series that is."""
        with self._database.write() as db:
            results = db.execute(
                "UPDATE results SET state = 'waiting', next = 0, refusals = 0 WHERE state = 'failed'"
            )
            series = db.execute(
                "UPDATE series SET state = 'receiving', matched = NULL, next_ask = 0, reason = '', text = '',"
                " note = '', generation = generation + 1 WHERE state = 'refused' AND pruned = 0"
                " AND reason != 'same-uid-other-content'"
            )
            return int(results.rowcount + series.rowcount)

    # keeping house

    def counts(self) -> dict[str, dict[str, int]]:
        """How many series and results are in which state."""
        return {
            "series": dict(
                self._database.rows("SELECT state, count(*) FROM series GROUP BY state ORDER BY state")
            ),
            "results": dict(
                self._database.rows("SELECT state, count(*) FROM results GROUP BY state ORDER BY state")
            ),
        }

    def held_bytes(self) -> int:
        """Bytes of received objects."""
        [(held,)] = self._database.rows("SELECT coalesce(sum(size), 0) FROM instances")
        return int(held)

    def prune(self, *, before: float) -> list[SeriesRow]:
        """Delete the objects of series that ended before a time and whose results have all arrived.

        The series itself stays known, so that it is not fetched and done again.
        """
        gone = [
            row
            for row in self.series("done", "left", "refused")
            if self._database.rows(
                "SELECT 1 FROM series WHERE uid = ? AND pruned = 0 AND coalesce(ended, last) < ?"
                " AND NOT EXISTS (SELECT 1 FROM results WHERE series = ? AND state != 'verified')",
                row.uid,
                before,
                row.uid,
            )
        ]
        for row in gone:
            with self._accepting, self._database.write() as db:
                db.execute("UPDATE series SET pruned = 1 WHERE uid = ?", (row.uid,))
                db.execute("UPDATE instances SET size = 0 WHERE series = ?", (row.uid,))
            shutil.rmtree(self.folder / "series" / row.key, ignore_errors=True)
        return gone

    def _clear_up(self) -> None:
        """Take away what a killed process left: half-written files, and files without a row."""
        for name in ("incoming", "work"):
            for left in (self.folder / name).iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        known = {self.folder / file for (file,) in self._database.rows("SELECT file FROM instances")}
        for file in (self.folder / "series").glob("*/*"):
            if file not in known:
                file.unlink()
        self.wait_again()

"""What is known of each study of a run, in one SQLite file that survives a kill and a loss of power."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused

__all__ = ["JOURNAL", "Entry", "Journal", "transaction"]

JOURNAL = "journal.sqlite"
_FORMAT = 1
_TABLES = """
create table if not exists facts (name text primary key, value text not null) without rowid;
create table if not exists studies (
    id text primary key,
    state text not null check (state in ('begun', 'ready', 'done', 'refused')),
    inputs text not null,
    begun integer not null default 0,
    tries integer not null default 0,
    work text not null default '',
    record text not null default '{}'
) without rowid;
create table if not exists audit (number integer primary key, line text not null);
"""


@dataclass(frozen=True)
class Entry:
    """A study in the journal.

    Attributes
    ----------
    id : str
        See `medseg.radiology.finding.Item`.
    state : {"begun", "ready", "done", "refused"}
        ``ready``: its results lie complete in the folder ``work``, and only wait to be renamed.
    inputs : str
        What its files were, see `medseg.radiology.finding.inputs_of`.
    begun : int
        How often it was begun without an end: runs that were killed meanwhile.
    tries : int
        How often it failed in a way that may pass.
    work : str
        Name of the folder that its results were written to.
    record : dict
        What came of it: of a done study "files" (name -> sha256 and bytes) and what the pages show, of a
        refused one "reason" and "message".
    """

    id: str
    state: str
    inputs: str
    begun: int
    tries: int
    work: str
    record: dict[str, Any]


@contextmanager
def transaction(base: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Give a connection inside a transaction, which ends whole or not at all."""
    base.execute("begin immediate")
    try:
        yield base
    except BaseException:  # Ctrl-C, too, must not leave it open; it is handed on
        base.execute("rollback")
        raise
    base.execute("commit")


class Journal:
    """The journal in the folder of a run; one process at a time may have it open.

    Parameters
    ----------
    folder : Path
        Exists.
    settings : mapping of str to str
        What the results depend on, beside the studies: a folder holds results of one model and one set of
        rules.

    Raises
    ------
    Refused
        ``in-use``, ``other-settings``, ``unwritable``.

    Notes
    -----
    SQLite keeps a rollback journal (``journal_mode=DELETE``) and waits for the disk at every commit
    (``synchronous=EXTRA``). Killing the process leaves what the system holds, which is enough for either kind
    of journal. A loss of power takes commits from a write-ahead log that were not yet on the disk, unless it
    waits, too; and a log needs memory that is shared between processes, which network shares do not have. Its
    speed is worth nothing here: a study commits three times in minutes.

    The audit lines are in the journal before they are in their file, in the same commit as what they tell; so
    neither is without the other, see `medseg.radiology.audit`.

    Examples
    --------
    >>> import tempfile
    >>> with Journal(Path(tempfile.mkdtemp()), {"model": "a"}) as journal:
    ...     journal.begin("0123", "x", "work")
    ...     journal.refused("0123", {"reason": "crashed"}, "a line")
    ...     journal.entry("0123").state, journal.lines()
    ('refused', ['a line'])
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        path = folder / JOURNAL
        try:
            # held until the process ends, however it ends; children do not inherit it
            self._lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise Refused("unwritable", f"cannot write to '{folder}'", got=error.strerror) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Refused(
                "in-use",
                f"another process works in '{folder}'",
                do="wait for it, or choose another folder",
            ) from error
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._base.execute("pragma journal_mode=delete")
            self._base.execute("pragma synchronous=extra")
            self._base.executescript(_TABLES)
            self._check(settings)
        except sqlite3.Error as error:
            os.close(self._lock)
            raise Refused(
                "unreadable",
                f"'{path}' is no journal of studies, or a broken one",
                got=str(error),
                do="choose another folder; the results that lie here stay good",
            ) from error
        except BaseException:  # Ctrl-C, too, must not leave the folder locked; it is handed on
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process work in the folder."""
        self._base.close()
        with suppress(OSError):
            os.close(self._lock)

    def _check(self, settings: Mapping[str, str]) -> None:
        wanted = {"format": str(_FORMAT)} | dict(settings)
        with transaction(self._base):
            known = dict(self._base.execute("select name, value from facts"))
            if not known:
                self._base.executemany("insert into facts values (?, ?)", wanted.items())
                return
        for name in sorted(wanted.keys() | known.keys()):
            if known.get(name) != wanted.get(name):
                raise Refused(
                    "other-settings",
                    f"'{self.folder}' holds results of other settings: {name}",
                    got=wanted.get(name),
                    expected=known.get(name),
                    do="choose another folder, or give the same settings",
                )

    def entry(self, study: str) -> Entry | None:
        """Return what is known of a study; None where that is nothing."""
        return next(self._entries("where id = ?", study), None)

    def entries(self, *states: str) -> list[Entry]:
        """Return the studies in some states, or all, in the order of their ids."""
        marks = ", ".join("?" * len(states))
        where = f"where state in ({marks}) order by id" if states else "order by id"
        return list(self._entries(where, *states))

    def _entries(self, where: str, *values: str) -> Iterator[Entry]:
        columns = "id, state, inputs, begun, tries, work, record"
        for row in self._base.execute(f"select {columns} from studies {where}", values):
            name, state, inputs, begun, tries, work, record = row
            yield Entry(name, state, inputs, begun, tries, work, json.loads(record))

    def interrupted(self) -> dict[str, int]:
        """Return how often each study was begun by runs that ended before it did."""
        return dict(self._base.execute("select id, begun from studies where begun > 0 order by id"))

    def latest(self, most: int) -> list[Entry]:
        """Return the studies that were ended last, the newest first."""
        ended = "select line from audit order by number desc limit ?"
        ids = [json.loads(line).get("study") for (line,) in self._base.execute(ended, (most,))]
        return [entry for study in dict.fromkeys(ids) if study and (entry := self.entry(study))]

    def begin(self, study: str, inputs: str, work: str) -> None:
        """Write that a study is begun, with the folder that its results will be written to."""
        with transaction(self._base):
            self._base.execute(
                "insert into studies (id, state, inputs, begun, work) values (?, 'begun', ?, 1, ?) "
                "on conflict (id) do update set state = 'begun', inputs = excluded.inputs, "
                "work = excluded.work, begun = begun + 1, record = '{}', "
                "tries = case inputs when excluded.inputs then tries else 0 end",
                (study, inputs, work),
            )

    def again(self, study: str, *, failed: bool) -> int:
        """Write that a study is to be begun again, and return how often it has failed."""
        with transaction(self._base):
            self._base.execute(
                "update studies set tries = tries + ?, begun = begun - 1 where id = ?", (int(failed), study)
            )
        entry = self.entry(study)
        return entry.tries if entry else 0

    def ready(self, study: str, record: Mapping[str, Any]) -> None:
        """Write that a study's results lie complete in its folder of work."""
        self._set(study, "ready", record)

    def done(self, study: str, line: str) -> None:
        """Write that a study's results are in their place, with its line of the audit."""
        with transaction(self._base):
            self._base.execute("update studies set state = 'done', begun = 0 where id = ?", (study,))
            self._base.execute("insert into audit (line) values (?)", (line,))

    def refused(self, study: str, record: Mapping[str, Any], line: str) -> None:
        """Write why a study could not be done, with its line of the audit."""
        with transaction(self._base):
            self._base.execute(
                "update studies set state = 'refused', begun = 0, record = ? where id = ?",
                (json.dumps(record), study),
            )
            self._base.execute("insert into audit (line) values (?)", (line,))

    def tell(self, line: str) -> None:
        """Add a line to the audit."""
        with transaction(self._base):
            self._base.execute("insert into audit (line) values (?)", (line,))

    def forget(self, study: str) -> None:
        """Write that a study has to be done, whatever was known of it."""
        with transaction(self._base):
            self._base.execute("update studies set state = 'begun', record = '{}' where id = ?", (study,))

    def lines(self) -> list[str]:
        """Return all lines of the audit, the first one first."""
        return [line for (line,) in self._base.execute("select line from audit order by number")]

    def _set(self, study: str, state: str, record: Mapping[str, Any]) -> None:
        with transaction(self._base):
            self._base.execute(
                "update studies set state = ?, record = ? where id = ?", (state, json.dumps(record), study)
            )

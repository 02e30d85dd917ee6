"""Which of the series that are ready come next: senders take turns, and what ended a run comes last."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")
from pacs_fakes import ct_slices, encoded
from pacs_serve import open_night

from medseg.io.dicom.passing import identify_result
from medseg.pacs import running
from medseg.pacs.completing import QUIET_NOTE
from medseg.pacs.running import RESULTS, Runner
from medseg.pacs.settings import Run, Settings, Spooling
from medseg.pacs.spool import SeriesRow, Spool
from medseg.radiology import Night


@contextmanager
def opened(folder: Path, *, jobs: int = 1) -> Iterator[tuple[Spool, Runner]]:
    """A spool and what runs its series, without a peer."""
    (folder / "spool").mkdir(exist_ok=True)
    settings = Settings(Spooling(str(folder / "spool"), min_free_gb=0), run=Run(jobs=jobs))
    with Spool(settings.spool.folder) as spool, open_night(spool.folder / RESULTS) as night:
        yield spool, Runner(spool, night, settings, lambda: 1000.0)


def arrive(
    spool: Spool, source: str, names: Sequence[str], *, now: float, description: str = "axial", note: str = ""
) -> list[SeriesRow]:
    """Series of a sender, whole and ready."""
    rows = []
    for number, name in enumerate(names):
        for k, ds in enumerate(ct_slices(2, series=name)):
            ds.SeriesDescription = description
            file = spool.folder / "incoming" / f"{name}-{k}"
            file.write_bytes(encoded(ds))
            spool.accept(file, identify_result(file), source=source, now=now + number)
        row = spool.known(str(ds.SeriesInstanceUID))
        assert row is not None
        assert spool.move(row, "ready", note=note)
        rows.append(row)
    return rows


def listed(runner: Runner) -> list[str]:
    """The series on the page, in its order; what it links to is there."""
    text = (runner.night.out / "night.html").read_text(encoding="utf-8")
    for secret in ("Secret", "4711", "19500101", "1950-01-01", "20260102"):
        assert secret not in text
    for link in re.findall(r'href="([^#"]+)"', text):
        assert (runner.night.out / link).is_file()
    return re.findall(r'<th scope="row" data-value="(\w+)"', text)


def done(night: Night) -> list[tuple[str, str]]:
    """Who asked, and the series, in the order in which they were done."""
    lines = [json.loads(line) for line in (night.out / "audit.jsonl").open()]
    assert {line["event"] for line in lines} == {"done"}
    return [(line["asked_by"], line["study"]) for line in lines]


def test_nobody_waits_for_the_backlog_of_another_sender(tmp_path: Path) -> None:
    with opened(tmp_path) as (spool, runner):
        backlog = arrive(spool, "ARCHIVE", [f"a{i}" for i in range(9)], now=0)
        assert runner.run_ready() == 4  # a bounded piece, the oldest first
        urgent = arrive(spool, "EMERGENCY", ["e"], now=100)
        late = arrive(spool, "ARCHIVE", ["z"], now=50)
        assert [runner.run_ready() for _ in range(5)] == [1, 4, 2, 0, 0]
        order = [*backlog[:4], *urgent, *backlog[4:], *late]
        assert done(runner.night) == [(row.source, row.key) for row in order]
        assert spool.counts()["series"] == {"done": 11}
        # a series that comes again after all that is served at once
        arrive(spool, "EMERGENCY", ["f"], now=200)
        assert runner.run_ready() == 1


def test_what_ended_a_run_comes_after_the_others_of_its_turn(tmp_path: Path) -> None:
    with opened(tmp_path) as (spool, runner):
        rows = arrive(spool, "A", [f"a{i}" for i in range(6)], now=0)
        for row in rows[:2]:  # as killed runs leave them: one twice
            for _ in range(1 + (row is rows[0])):
                runner.night._journal.begin(row.key, "x", "work")
    with opened(tmp_path) as (spool, runner):
        assert runner.night.interrupted() == {rows[0].key: 2, rows[1].key: 1}
        assert [runner.run_ready() for _ in range(4)] == [4, 2, 0, 0]
        order = [rows[i] for i in (2, 3, 4, 1, 5, 0)]
        assert [key for _, key in done(runner.night)] == [row.key for row in order]
        assert runner.night.interrupted() == {}


def test_more_children_have_longer_turns_and_what_is_not_wanted_is_left(tmp_path: Path) -> None:
    with opened(tmp_path, jobs=2) as (spool, runner):
        rows = arrive(spool, "A", [f"a{i}" for i in range(9)], now=0)
        for row in rows[:8]:  # of a modality that is left alone
            with spool._database.write() as db:
                db.execute("UPDATE series SET modality = 'US' WHERE uid = ?", (row.uid,))
        assert [runner.run_ready() for _ in range(3)] == [8, 1, 0]
        assert [key for _, key in done(runner.night)] == [rows[8].key]
        assert spool.counts()["series"] == {"done": 1, "left": 8}


def test_the_page_shows_what_was_done_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SHOWN", 3)
    with opened(tmp_path) as (spool, runner):
        assert runner.run_ready() == 0
        assert listed(runner) == []
        rows = arrive(spool, "A", [f"a{i}" for i in range(3)], now=0, note=QUIET_NOTE)
        [bad] = arrive(spool, "A", ["bad"], now=10, description="refuse")
        assert runner.run_ready() == 4
        assert listed(runner) == [*sorted(row.key for row in rows[1:]), bad.key]
        text = (runner.night.out / "night.html").read_text(encoding="utf-8")
        assert "Series segmented by made" in text
        assert "Look here." in text
        assert text.count("Nobody could be asked whether the series is whole") == 2
        assert "uneven-spacing" in text
        (runner.night.out / "night.html").unlink()
    with opened(tmp_path) as (spool, runner):  # started again, it is there again
        assert runner.run_ready() == 0
        assert listed(runner) == [*sorted(row.key for row in rows[1:]), bad.key]
        with spool._database.write() as db:
            db.execute("UPDATE results SET state = 'verified' WHERE series = ?", (rows[1].uid,))
        runner.prune(2000.0)  # what is deleted has no page any more
        assert runner.run_ready() == 0
        assert listed(runner) == [rows[2].key, bad.key]

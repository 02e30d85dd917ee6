"""Studies in children: what dies takes only its study, and a run that is killed goes on where it was."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import Refused
from medseg.radiology import night as night_module
from medseg.radiology.children import ChildSetup
from medseg.radiology.finding import FoundStudies
from medseg.radiology.limits import Limits
from medseg.radiology.night import Night
from medseg.radiology.outcomes import NightResult

HERE = str(Path(__file__).parent)
LIMITS = Limits(memory_gb=0.5, minutes=0.08, cpu_minutes=0.5)


def studies(folder: Path, happenings: list[str]) -> Path:
    for number, what in enumerate(happenings):
        for part in range(2):
            path = folder / f"doe_jane_{number:03d}" / "series" / f"{part}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"study {number} {what}")
    return folder


def open_night(out: Path, *, limits: Limits = LIMITS, jobs: int = 1, **setup: Any) -> Night:
    job = ChildSetup("study_job:Job", setup, (HERE,))
    return Night(out, job, {"model": "m"}, limits=limits, jobs=jobs, about={"asked_by": "test"})


def run(source: Path, out: Path, *, again: bool = False, **options: Any) -> NightResult:
    with open_night(out, **options) as night:
        return night.run(night.find([source]), again=again)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the journal and the audit, which tell times."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("journal.sqlite", "audit.jsonl", ".lock")
    }


def reasons(result: NightResult) -> list[str]:
    """Why studies failed, in the order of their folders."""
    ordered = sorted(result.outcomes, key=lambda o: str(o.source))
    return [o.failure.reason if o.failure else "done" for o in ordered]


def test_whatever_happens_takes_only_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night_module, "_PAUSE", 0.01)
    expected = {
        "crash": "crashed",
        "panic": "crashed",
        "abort": "crashed",
        "exit": "crashed",
        "killed": "killed",
        "memory": "out-of-memory",
        "touch": "out-of-memory",
        "hang": "time-limit",
        "error": "unexpected",
        "refuse": "slices-missing",
        "flaky": "done",
        "dead-share": "unreadable",
        "ok": "done",
    }
    source = studies(tmp_path / "in", list(expected))
    result = run(source, tmp_path / "out")
    assert dict(zip(expected, reasons(result))) == expected
    done = [o for o in result.outcomes if o.state == "done"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == sorted(o.id for o in done)
    for outcome in done:
        assert outcome.folder is not None
        assert sorted(p.name for p in outcome.folder.iterdir()) == ["labels.txt", "measurements.json"]
    assert result.batch.exit_code == 2
    # the names of folders and what stands in files are told nowhere
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    told = " ".join(f.message for f in result.batch.failed)
    for word in ("doe_jane", "DOE^JANE"):
        assert word.encode() not in everything
        assert word not in told
    assert "a slice of 'file 1' is missing. Send its folder again." in told


def test_processor_time_is_bounded(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["spin", "ok"])
    result = run(source, tmp_path / "out", limits=Limits(memory_gb=1.0, minutes=1, cpu_minutes=1 / 60))
    assert reasons(result) == ["time-limit", "done"]
    assert "processor time" in result.batch.failed[0].message


def test_a_study_is_not_blamed_for_what_an_earlier_one_left_behind(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["bend", "victim", "victim"])
    assert reasons(run(source, tmp_path / "out")) == ["done", "done", "done"]


def test_a_broken_model_or_a_full_disk_ends_the_run_and_refuses_no_study(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok", "full", "ok"])
    with pytest.raises(Refused, match="the model is broken") as broken:
        run(source, tmp_path / "a", broken=True)
    assert broken.value.reason == "bad-bundle"
    with pytest.raises(Refused) as full:
        run(source, tmp_path / "out")
    assert full.value.reason == "unwritable"
    (source / "doe_jane_001/series/0.dcm").write_text("study 1 ok")
    (source / "doe_jane_001/series/1.dcm").write_text("study 1 ok")
    again = run(source, tmp_path / "out")
    assert reasons(again) == ["done"] * 3
    assert len(again.new) == 2  # the first was done before the disk was full


def test_after_a_run_that_ended_children_do_not_answer_for_other_studies(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok", "full"])
    with open_night(tmp_path / "out", jobs=2, seconds=0.5) as night:
        found = night.find([source])
        slow_last = FoundStudies(found.items[::-1], {})
        with pytest.raises(Refused):
            night.run(found)
        for part in range(2):
            (source / f"doe_jane_001/series/{part}.dcm").write_text("study 1 ok, long")
        assert reasons(night.run(slow_last)) == ["done", "done"]
    run(source, tmp_path / "quiet")
    assert content(tmp_path / "out") == content(tmp_path / "quiet")


def test_too_little_memory_for_the_libraries_ends_the_run(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok"])
    with pytest.raises(Refused, match="--memory") as refused:
        run(source, tmp_path / "out", limits=Limits(memory_gb=0.001))
    assert refused.value.reason == "bad-argument"


def test_finished_studies_are_not_done_twice(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok", "refuse", "ok"])
    first = run(source, tmp_path / "out")
    before = content(tmp_path / "out")
    second = run(source, tmp_path / "out")
    assert len(first.new) == 3
    assert second.new == frozenset()
    assert [(o.id, o.state, o.record) for o in first.outcomes] == [
        (o.id, o.state, o.record) for o in second.outcomes
    ]
    assert content(tmp_path / "out") == before
    assert len(run(source, tmp_path / "out", again=True).new) == 1  # what was refused, on request
    # a file more, a result that is gone, and a study more
    (source / "doe_jane_001/series/9.dcm").write_text("study 1 ok")
    (source / "doe_jane_001/series/0.dcm").write_text("study 1 ok")
    (source / "doe_jane_001/series/1.dcm").write_text("study 1 ok")
    next((tmp_path / "out" / first.outcomes[0].id).iterdir()).unlink()
    studies(tmp_path / "in/more", ["ok"] * 7)
    third = run(source, tmp_path / "out")
    assert reasons(third).count("done") == len(third.outcomes) == 7
    assert {o.id for o in third.outcomes} >= third.new >= {first.outcomes[0].id}


def test_what_is_still_copied_is_done_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_module, "_PAUSE", 0.01)
    source = studies(tmp_path / "in", ["ok"])
    file = source / "doe_jane_000/series/1.dcm"
    with open_night(tmp_path / "out") as night:
        found = night.find([source])
        inputs, calls = night_module.inputs_of, []

        def grows(files: Any) -> str:
            calls.append(1)
            if len(calls) == 2:  # while the child reads
                file.write_text("study 0 ok, and more of it")
            return inputs(files)

        monkeypatch.setattr(night_module, "inputs_of", grows)
        result = night.run(found)
    assert reasons(result) == ["done"]
    assert len(calls) >= 4
    assert run(source, tmp_path / "out").new == frozenset()


def test_folders_without_a_study_are_listed_and_loose_files_counted(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok", "ok"])
    (source / "README.txt").write_text("read me")
    (source / "doe_jane_000/notes.txt").write_text("beside a study")
    (source / "doe_jane_000/series/junk.bin").write_text("in a study")
    (source / "broken/deep/er").mkdir(parents=True)
    (source / "broken/deep/er/a.dcm").write_text("no study")
    (source / "broken/deep/b.dcm").write_text("no study")
    (source / "broken/crash.dcm").write_text("hostile scan-crash")
    (source / "empty").mkdir()
    os.mkfifo(source / "pipe.dcm")
    result = run(source, tmp_path / "out")
    assert reasons(result) == ["no-study", "done", "done", "empty-study"]  # broken, two studies, empty
    assert "3 files: 2 not-dicom, 1 crashed" in next(
        f.message for f in result.batch.failed if f.reason == "no-study"
    )
    assert result.ignored == {"not-dicom": 1}  # the one above all studies
    assert run(source / "empty", tmp_path / "out2").batch.failed[0].reason == "empty-study"
    with pytest.raises(Refused) as refused:
        run(tmp_path / "nowhere", tmp_path / "out3")
    assert refused.value.reason == "not-found"


def test_jobs_beside_each_other_give_the_same(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok", "crash", "ok", "refuse", "ok", "abort", "ok"])
    one = run(source, tmp_path / "one")
    three = run(source, tmp_path / "three", jobs=3)
    assert reasons(one) == reasons(three)
    assert content(tmp_path / "one") == content(tmp_path / "three")


def test_one_process_and_one_model_a_folder(tmp_path: Path) -> None:
    with open_night(tmp_path), pytest.raises(Refused) as refused:
        open_night(tmp_path)
    assert refused.value.reason == "in-use"
    with pytest.raises(Refused) as refused:
        Night(tmp_path, ChildSetup("study_job:Job", {}, (HERE,)), {"model": "other"}, limits=LIMITS)
    assert refused.value.reason == "other-settings"
    open_night(tmp_path).close()  # nothing of it stays locked
    (tmp_path / "journal.sqlite").write_bytes(b"SQLite format 3\x00" + bytes(4000))
    with pytest.raises(Refused) as refused:
        open_night(tmp_path)
    assert refused.value.reason == "unreadable"


def test_the_audit_tells_everything_once_and_notices_a_change(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["ok", "refuse"])
    run(source, tmp_path / "out")
    audit = tmp_path / "out/audit.jsonl"
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert sorted(line["event"] for line in lines) == ["done", "refused"]
    for line in lines:
        assert line["asked_by"] == "test"
        assert line["input"]["files"] == 2
    assert lines[0]["after"] == ""
    assert len(lines[1]["after"]) == 64
    # half of a line, as a kill leaves it, is made whole
    whole = audit.read_bytes()
    audit.write_bytes(whole[:-30])
    run(source, tmp_path / "out")
    assert audit.read_bytes() == whole
    audit.write_bytes(whole.replace(b"slices-missing", b"slices-present"))
    with pytest.raises(Refused) as refused:
        run(source, tmp_path / "out")
    assert refused.value.reason == "audit-changed"


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_study_queue as t
night = t.open_night(Path(sys.argv[2]), jobs=2, seconds={pace})
with night:
    result = night.run(night.find([Path(sys.argv[1])]))
print(len(result.outcomes))
"""


def killed_run(source: Path, out: Path, seconds: float, *, pace: float = 0.05) -> bool:
    """Run in a process group of its own, and kill it after a while; tell whether it had ended before.

    ``pace`` is how long a study takes, in seconds.
    """
    words = [sys.executable, "-c", SCRIPT.format(here=HERE, pace=pace), str(source), str(out)]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    assert process.returncode == 0
    return True


def test_killed_at_any_moment_the_result_is_that_of_a_quiet_run(tmp_path: Path) -> None:
    happenings = ["ok", "crash", "ok", "refuse", "ok", "panic", "ok", "ok", "exit", "ok", "ok", "ok"]
    source = studies(tmp_path / "in", happenings)
    quiet = run(source, tmp_path / "quiet")
    assert reasons(quiet).count("done") == 8
    rng, kills = random.Random(0), 0
    while kills < 6:
        kills += not killed_run(source, tmp_path / "out", rng.uniform(0.3, 1.2))
    result = run(source, tmp_path / "out")
    assert reasons(result) == reasons(quiet)
    assert content(tmp_path / "out") == content(tmp_path / "quiet")
    assert not (tmp_path / "out/.work").exists()
    events = [json.loads(line) for line in (tmp_path / "out/audit.jsonl").read_text().splitlines()]
    assert sorted(e["study"] for e in events) == sorted(o.id for o in quiet.outcomes)  # each once


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    source = studies(tmp_path / "in", ["hang"])
    words = [sys.executable, "-c", SCRIPT.format(here=HERE, pace=0.05), str(source), str(tmp_path / "out")]
    process = subprocess.Popen(words, start_new_session=True)
    import psutil

    limit = time.monotonic() + 20
    while not (below := psutil.Process(process.pid).children()) and time.monotonic() < limit:
        time.sleep(0.02)
    process.kill()  # it alone, not its group
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert below
    assert alive == []


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_what_was_ready_is_put_in_its_place(tmp_path: Path, moment: str) -> None:
    source, out = studies(tmp_path / "in", ["ok"]), tmp_path / "out"
    study = run(source, out).outcomes[0].id
    before = content(out)
    with sqlite3.connect(out / "journal.sqlite") as base:
        base.execute("update studies set state = 'ready', work = 'w'")
    (out / ".work").mkdir()
    if moment == "before":
        (out / study).rename(out / ".work/w")
    if moment == "between":  # of the two renames that replace an earlier result
        (out / study).rename(out / ".work/w")
        (out / ".work/w-old").mkdir()
    result = run(source, out)
    assert result.new == frozenset()
    assert content(out) == before
    with sqlite3.connect(out / "journal.sqlite") as base:
        base.execute("update studies set state = 'ready', work = 'w'")
    (out / study / "labels.txt").write_text("half")
    assert run(source, out).new == {study}
    assert content(out) == before


def test_a_study_of_thousands_of_files(tmp_path: Path) -> None:
    """The request is larger than a pipe, and is sent while the child starts."""
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:04d}.dcm").write_text("study 1 ok")
    result = run(folder, tmp_path / "out")
    assert [o.record["input"]["files"] for o in result.outcomes] == [1500]

"""200 studies, 30 of them bad, killed 50 times at random: the result is that of a quiet run, to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import test_study_queue as queue

pytestmark = pytest.mark.bench

STUDIES, BAD, KILLS = 200, 30, 50
TESTS = Path(__file__).parents[1]
MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from made_studies import BAD, bad_study, study, threshold_bundle

folder, studies, bad = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
threshold_bundle(folder / "model")
for number in range(studies):
    place, n = folder / "in" / f"{number:03d}", number * bad // studies
    if n != (number - 1) * bad // studies:
        bad_study(place, number, list(BAD)[n % len(BAD)])
    else:
        study(place, number, lift=150.0 + number % 7)
"""


def command(folder: Path, out: Path) -> list[str]:
    words = [sys.executable, "-m", "medseg", "study", str(folder / "model"), str(folder / "in")]
    return [*words, "-o", str(out), "--memory", "2", "--device", "cpu", "--asked-by", "bench", "--no-doubt"]


def start(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(folder, out), start_new_session=True, **quiet)


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def content(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    left_out = ("journal.sqlite", "audit.jsonl", ".lock")  # they tell times
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.name not in left_out}


def test_the_queue_alone_killed_50_times(tmp_path: Path) -> None:
    """Without a model: a start takes a tenth, and more kills fall between two steps of the journal."""
    wrong = ["crash", "panic", "abort", "exit", "error", "refuse"]
    happenings = [wrong[n % len(wrong)] if n % 7 == 3 and n < 7 * BAD else "ok" for n in range(STUDIES)]
    source = queue.studies(tmp_path / "in", happenings)
    quiet = queue.run(source, tmp_path / "quiet")
    assert queue.reasons(quiet).count("done") == happenings.count("ok")
    rng, kills, begun = random.Random(0), 0, time.monotonic()
    while kills < KILLS:
        kills += not queue.killed_run(source, tmp_path / "out", rng.uniform(0.1, 2.0), pace=0.2)
    result = queue.run(source, tmp_path / "out")
    seconds = time.monotonic() - begun
    print(f"\n{KILLS} kills and the last run: {seconds:.0f} s; {len(result.new)} studies in the last run")
    assert queue.reasons(result) == queue.reasons(quiet)
    assert queue.content(tmp_path / "out") == queue.content(tmp_path / "quiet")
    events = [json.loads(line) for line in (tmp_path / "out/audit.jsonl").read_text().splitlines()]
    assert sorted(e["study"] for e in events) == sorted(o.id for o in quiet.outcomes)


def test_200_studies_killed_50_times(tmp_path: Path) -> None:
    words = [sys.executable, "-c", MAKE, str(TESTS), str(tmp_path), str(STUDIES), str(BAD)]
    subprocess.run(words, check=True)
    begun = time.monotonic()
    quiet = start(tmp_path, tmp_path / "quiet")
    while not any((tmp_path / "quiet").glob("[0-9a-f]*/report.html")):
        assert quiet.poll() is None
        time.sleep(0.05)
    first = time.monotonic() - begun
    assert quiet.wait() == 2
    work = time.monotonic() - begun - first
    print(
        f"\nquiet run: {first:.1f} s to the first study, {work / (STUDIES - BAD):.2f} s for each further one"
    )
    rng, audit = random.Random(0), tmp_path / "out/audit.jsonl"
    begun = time.monotonic()
    for _ in range(KILLS):
        more = rng.randint(0, 5)  # studies that the run may end; with none it is killed as it starts
        wanted = lines(audit) + more
        process = start(tmp_path, tmp_path / "out")
        while more and lines(audit) < wanted:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 0.4) if more else rng.uniform(0.2, first))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = subprocess.run(command(tmp_path, tmp_path / "out"), capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    assert last.returncode == 2, last.stderr
    events = [json.loads(line) for line in audit.read_text().splitlines()]
    finished = [event["study"] for event in events]
    print(f"{KILLS} kills and the last run: {seconds:.0f} s")
    assert len(finished) == len(set(finished)) == STUDIES  # each is done, or refused, once
    assert sum(event["event"] == "refused" for event in events) == BAD
    assert content(tmp_path / "out") == content(tmp_path / "quiet")
    assert not (tmp_path / "out/.work").exists()

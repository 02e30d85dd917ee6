"""Many studies: each in a child process with limits; what is finished stays finished, whatever happens."""

from __future__ import annotations

import collections
import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..batch import Failure
from ..errors import Refused
from ..files import check_writable, sweep
from .audit import AUDIT, append, audit_line, catch_up
from .children import ChildSetup, any_of
from .crew import BLINK, Crew, sentence
from .finding import FoundStudies, Item, as_request, group, inputs_of, list_files
from .journal import Entry, Journal
from .limits import Limits
from .outcomes import NightResult, Outcome
from .results import WORK, is_whole, put_in_place

__all__ = ["Night"]

Progress = Callable[[str, int, int], None]

_AT_ONCE = 512  # headers in one request
_TRIES = 3  # of what may pass by itself
_PAUSE = 2.0  # seconds before the second try; before each further one four times as long
# what another process may not meet: the child that failed had answered others before
_MAY_BE_INHERITED = ("crashed", "unexpected", "out-of-memory")


@dataclass
class _Task:
    """A study that waits, and what is known of its tries in this run."""

    item: Item
    inputs: str
    not_before: float = 0.0
    needs_fresh: bool = False
    work: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)


class Night:
    """A folder of results, its journal, and the children that fill it.

    Parameters
    ----------
    out : Path
        The folder; it holds results of one model and one set of rules.
    setup : ChildSetup
        What the children do.
    settings : mapping of str to str
        What the results depend on, see `Journal`.
    limits : Limits
        Of one study.
    jobs : int
        Children at the same time.
    about : mapping
        For the audit: which model.
    model : str
        Its name, for pages.

    Attributes
    ----------
    asked_by : str
        Who asked, for the audit; may be set anew at any time.

    Raises
    ------
    Refused
        ``in-use``, ``other-settings``, ``unwritable``, ``audit-changed``.

    Notes
    -----
    A study's way: ``begun``; its results complete in ``.work`` and ``ready``; renamed; ``done``, with its
    line of the audit. Whatever a run finds between two of these when it begins, it finishes or takes away.

    A child is used for one study after the other, since its start takes as long as a small study. It is
    replaced when it dies, and by a new one before a study is blamed for a death that an earlier one may have
    caused. Use a night in the thread that made it: on Linux the children die with that thread.
    """

    def __init__(
        self,
        out: Path,
        setup: ChildSetup,
        settings: Mapping[str, str],
        *,
        limits: Limits,
        jobs: int = 1,
        about: Mapping[str, Any] | None = None,
        model: str = "",
    ) -> None:
        if jobs < 1:
            raise Refused("bad-argument", "jobs", got=jobs, expected="at least 1")
        self.out, self.limits, self.jobs, self.model = out, limits, jobs, model
        self.asked_by, self._about = "", dict(about or {})
        check_writable(out)
        out.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(out, settings)
        self._crew = Crew(setup, limits, jobs)
        try:
            lines = self._journal.lines()
            catch_up(out / AUDIT, lines)
            self._last = lines[-1] if lines else None
            self._recover()
        except BaseException:  # Ctrl-C, too, must not leave the folder locked; it is handed on
            self.close()
            raise

    def __enter__(self) -> Night:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the children, and let another process work in the folder."""
        self._crew.close()
        with suppress(OSError):  # what is half done there is taken away by the next run
            (self.out / WORK).rmdir()
        self._journal.close()

    def _recover(self) -> None:
        """Finish what a killed run left ready, and take away what it left half done."""
        work = self.out / WORK
        for entry in self._journal.entries("ready"):
            files, place = entry.record["files"], self.out / entry.id
            if is_whole(work / entry.work, files, closely=True):
                put_in_place(work / entry.work, place)
            if is_whole(place, files, closely=True):
                self._finish(entry.id, entry.record)
            else:
                self._journal.forget(entry.id)
        shutil.rmtree(work, ignore_errors=True)
        for name in PAGES:
            sweep(self.out / name)

    # which studies

    def find(self, folders: Sequence[str | Path], *, progress: Progress | None = None) -> FoundStudies:
        """Find the studies in folders; headers are read by a child, which may die of them.

        Raises
        ------
        Refused
            ``not-found``, ``not-a-folder``.
        """
        listed = list_files(folders)
        total = len({path for files in listed.values() for path in files})
        done = 0

        def scan(files: Sequence[Path]) -> Iterator[tuple[Path, str, str, str]]:
            nonlocal done
            for start in range(0, len(files), _AT_ONCE):
                yield from self._crew.scan(files[start : start + _AT_ONCE])
                done += len(files[start : start + _AT_ONCE])
                if progress:
                    progress("Reading headers", done, total)

        return group(listed, scan)

    # what becomes of them

    def interrupted(self) -> dict[str, int]:
        """Return the studies that were at work when runs ended, and how often.

        They may be what ended them: whoever chooses what to run lets others come before them, as `run` does.
        """
        return self._journal.interrupted()

    def latest(self, most: int) -> NightResult:
        """Return what became of the studies that were ended last, in whichever run, as far as it is there."""
        return NightResult(
            tuple(
                Outcome(e.id, e.state, e.record, self.out / e.id if e.state == "done" else None)
                for e in self._journal.latest(most)
                if e.state == "refused"
                or (e.state == "done" and is_whole(self.out / e.id, e.record["files"]))
            )
        )

    def run(
        self,
        found: FoundStudies,
        *,
        again: bool = False,
        on_study: Callable[[Outcome], None] | None = None,
        progress: Progress | None = None,
    ) -> NightResult:
        """Do the studies that are not done yet.

        Parameters
        ----------
        found : FoundStudies
            From `find`.
        again : bool
            Whether refused studies are tried again although their files are the same.
        on_study : callable, optional
            Called with each `Outcome` of this run.
        progress : callable, optional
            Called with a title, the number of studies done in this run, and of all that it does.

        Raises
        ------
        Refused
            What every study would meet: ``bad-bundle``, ``unwritable``; the others stay to be done.
        """
        tasks, new = [], set()
        for item in found.items:
            inputs = inputs_of(item.files)
            entry = self._journal.entry(item.id)
            if entry is None or not self._stands(entry, inputs, again):
                tasks.append((entry.begun if entry else 0, _Task(item, inputs)))
        # a study that was at work when runs ended comes last: if it brings the machine down, the others are
        # done
        tasks.sort(key=lambda task: task[0])
        with closing(self._work([task for _, task in tasks])) as ended:
            for number, outcome in enumerate(ended, start=1):
                new.add(outcome.id)
                if on_study:
                    on_study(outcome)
                if progress:
                    progress("Segmenting studies", number, len(tasks))
        outcomes = []
        for item in sorted(found.items, key=lambda item: item.id):
            entry = self._journal.entry(item.id)
            assert entry is not None, "every study is in the journal when the work is done"
            outcomes.append(self._outcome(entry.id, entry.state, entry.record, item))
        return NightResult(tuple(outcomes), found.ignored, frozenset(new))

    def _stands(self, entry: Entry, inputs: str, again: bool) -> bool:
        """Tell whether what the journal knows of a study still holds."""
        if entry.inputs != inputs:
            return False
        if entry.state == "done":
            return is_whole(self.out / entry.id, entry.record["files"])
        return entry.state == "refused" and not again

    def _work(self, tasks: Sequence[_Task]) -> Generator[Outcome, None, None]:
        """Yield what becomes of each task, in the order in which they end."""
        waiting = collections.deque(tasks)
        busy: dict[int, _Task] = {}
        try:
            yield from self._work_on(waiting, busy)
        finally:  # of a run that ended before its studies: no child may answer for one of a later run
            for slot, task in busy.items():
                self._crew.drop(slot)
                shutil.rmtree(self.out / WORK / task.work, ignore_errors=True)

    def _work_on(self, waiting: collections.deque[_Task], busy: dict[int, _Task]) -> Iterator[Outcome]:
        while waiting or busy:
            for slot in range(self.jobs):
                while slot not in busy and (task := _next(waiting)):
                    if task.item.problem:
                        yield self._refuse(task, task.item.problem)
                    else:
                        self._ask(slot, task)
                        busy[slot] = task
            children = {slot: self._crew.child(slot) for slot in busy}
            any_of(list(children.values()), BLINK)
            for slot, child in children.items():
                for event in child.hear():
                    outcome = self._heard(event, slot, busy[slot], child.used > 1)
                    if event["event"] in ("done", "refused", "failed"):
                        task = busy.pop(slot)
                        if outcome is None:
                            waiting.append(task)
                        else:
                            yield outcome
                        break
                child.watch()

    def _ask(self, slot: int, task: _Task) -> None:
        child = self._crew.child(slot, fresh=task.needs_fresh)
        task.work = f"{task.item.id}-{secrets.token_hex(4)}"
        work = self.out / WORK / task.work
        work.mkdir(parents=True)
        self._journal.begin(task.item.id, task.inputs, task.work)
        asked = {"do": "study", "id": task.item.id, "work": os.fspath(work), "notes": task.item.notes}
        child.ask(asked | as_request(task.item.files))

    def _heard(self, event: dict[str, Any], slot: int, task: _Task, inherited: bool) -> Outcome | None:
        """Act on what a child says; an outcome is the end of a task, none after an end means to try again."""
        kind = event["event"]
        if kind == "input":
            task.input, task.shown = event["input"], event.get("shown", {})
        elif kind == "fatal":
            raise Refused(event["reason"], event["message"], do=event["do"])
        elif kind == "done":
            return self._keep(task, event["record"])
        elif kind in ("refused", "failed"):
            if kind == "failed":
                self._crew.drop(slot)
            shutil.rmtree(self.out / WORK / task.work, ignore_errors=True)
            reason, message = event["reason"], sentence(event)
            if reason == "unwritable":
                raise Refused(reason, f"cannot write to '{self.out}'", got=message.rstrip("."))
            if kind == "failed" and inherited and reason in _MAY_BE_INHERITED and not task.needs_fresh:
                task.needs_fresh = True
                self._journal.again(task.item.id, failed=False)
                return None
            if event.get("passing") or reason == "changed":
                tries = self._journal.again(task.item.id, failed=True)
                if tries < _TRIES:
                    task.not_before = time.monotonic() + _PAUSE * 4 ** (tries - 1)
                    return None
            return self._refuse(task, Failure(task.item.id, reason, message))
        return None

    def _keep(self, task: _Task, record: dict[str, Any]) -> Outcome | None:
        """Put finished results in their place."""
        work, study = self.out / WORK / task.work, task.item.id
        if inputs_of(task.item.files) != task.inputs:  # somebody still copies them
            shutil.rmtree(work)
            task.inputs = inputs_of(task.item.files)
            if self._journal.again(study, failed=True) < _TRIES:
                task.not_before = time.monotonic() + _PAUSE
                return None
            return self._refuse(
                task, Failure(study, "still-changing", "its files changed while they were read.")
            )
        self._journal.ready(study, record)
        put_in_place(work, self.out / study)
        self._finish(study, record)
        return self._outcome(study, "done", record, task.item)

    def _finish(self, study: str, record: Mapping[str, Any]) -> None:
        facts = {
            "event": "done",
            "study": study,
            "input": record["input"],
            "output": {name: about["sha256"] for name, about in record["files"].items()},
        }
        line = audit_line(self._last, {"asked_by": self.asked_by} | self._about | facts)
        self._journal.done(study, line)
        self._append(line)

    def _refuse(self, task: _Task, failure: Failure) -> Outcome:
        study = task.item.id
        record: dict[str, Any] = {"reason": failure.reason, "message": failure.message}
        record |= {"input": task.input, "shown": task.shown}
        if task.item.problem:
            self._journal.begin(study, task.inputs, "")
        place = self.out / study
        if place.exists():  # results of files that have changed since are no results
            shutil.rmtree(place)
        facts = {"event": "refused", "study": study, "input": task.input, "reason": failure.reason}
        line = audit_line(self._last, {"asked_by": self.asked_by} | self._about | facts)
        self._journal.refused(study, record, line)
        self._append(line)
        return self._outcome(study, "refused", record, task.item)

    def _append(self, line: str) -> None:
        append(self.out / AUDIT, line)
        self._last = line

    def _outcome(self, study: str, state: str, record: Mapping[str, Any], item: Item) -> Outcome:
        return Outcome(study, state, record, self.out / study if state == "done" else None, item.folder)


# what is written beside the results, see `medseg.radiology.night_page`
PAGES = ("night.html", "quarantine/refused.json", "quarantine/refused.csv")


def _next(waiting: collections.deque[_Task]) -> _Task | None:
    """Take the first task whose pause is over."""
    now = time.monotonic()
    for i, task in enumerate(waiting):
        if task.not_before <= now:
            del waiting[i]
            return task
    return None

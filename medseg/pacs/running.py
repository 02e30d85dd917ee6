"""Running what is complete, through the queue of studies: a child process for each, and a journal."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from ..bundle_files import BundleFiles, find_bundle
from ..io.dicom import find_series
from ..io.dicom.model import MAYBE_INCOMPLETE
from ..io.dicom.passing import Passing, identify_result
from ..radiology import FoundStudies, Item, Limits, Night, Outcome, StudyOptions, open_night, options
from ..radiology.night_page import NIGHT, write_overview
from .completing import QUIET_NOTE
from .settings import Settings
from .spool import SeriesRow, Spool

__all__ = ["RESULTS", "OpenNight", "Runner", "open_bundle_night"]

log = logging.getLogger(__name__)

#: Folder of the spool where the queue keeps its results.
RESULTS = "results"
#: Opens the queue in a folder; it is called in the thread that uses the queue.
OpenNight = Callable[[Path], Night]
_JOB = "medseg.pacs.job:SeriesJob"
# series of one run, for each child: what arrives meanwhile from another sender waits for so many at most
_TURN = 4
_SHOWN = 200  # series on the page
_MAYBE = ((MAYBE_INCOMPLETE.code, MAYBE_INCOMPLETE.text),)
_NOTE = f"The newest series, at most {_SHOWN}, as long as their results are kept here."


def open_bundle_night(bundle: str | Path, settings: Settings, *, device: str = "auto") -> OpenNight:
    """Return what opens the queue for a model.

    Raises
    ------
    Refused
        ``unknown-bundle``, ``bad-bundle``: by this call, not by the first series.
    """
    path = find_bundle(bundle)
    BundleFiles(path).check_sums()
    made = StudyOptions(results=settings.send.objects, kind=settings.run.kind)
    limits = Limits(memory_gb=settings.run.memory_gb, minutes=settings.run.minutes)

    def opened(out: Path) -> Night:
        # its items are series, not studies
        return open_night(
            path, out, limits=limits, jobs=settings.run.jobs, options=made, device=device, job=_JOB
        )

    return opened


class Runner:
    """Gives complete series to a `Night`, one item a series, and what came of them to the spool.

    Two series of one study are two items: each is whole by itself, and nobody has to choose between them.
    Use it in the thread that opened the night.
    """

    def __init__(self, spool: Spool, night: Night, settings: Settings, clock: Callable[[], float]) -> None:
        self.spool, self.night, self.settings, self.clock = spool, night, settings, clock
        self._turns: dict[str, int] = {}  # sender -> number of its last turn
        self._is_page_old = True  # also of what a killed process had done

    def run_ready(self) -> int:
        """Run some of the series that are ready, all of one sender; return how many were looked at.

        The senders take turns, so that nobody waits for a backlog of somebody else. Of one sender the series
        that is known longest is first.
        """
        ready = self._next()
        wanted = []
        for row in ready:
            if self._wanted(row):
                wanted.append(row)
            else:
                self.spool.end(row.uid, "left", now=self.clock(), generation=row.generation)
        if started := {row.key: row for row in wanted if self.spool.move(row, "running")}:
            self._run(started, asked_by=ready[0].source)
        if self._is_page_old:
            self._write_page()
        return len(ready)

    def _next(self) -> list[SeriesRow]:
        """Choose what to run next: a few series of the sender whose last turn is longest ago.

        What was at work when earlier runs ended may be what ended them. Only one such series is chosen, and
        the queue does it after the others: if it brings the machine down each time, the others are done.
        """
        begun = self.night.interrupted()
        ready = sorted(self.spool.series("ready"), key=lambda row: begun.get(row.key, 0))  # else the oldest
        if not ready:
            return []
        sender = min((row.source for row in ready), key=lambda source: self._turns.get(source, 0))
        self._turns[sender] = 1 + max(self._turns.values(), default=0)
        most = _TURN * self.settings.run.jobs
        fresh = [row for row in ready if row.source == sender and row.key not in begun]
        late = [row for row in ready if row.source == sender and row.key in begun]
        return fresh[: most - 1] + late[:1] if late else fresh[:most]

    def _run(self, started: dict[str, SeriesRow], *, asked_by: str) -> None:
        """Run series, and note what came of each in the spool as it ends."""
        items = tuple(
            Item(
                key,
                tuple(sorted(self.spool.instances(row.uid).values())),
                self.spool.path_of_series(row.uid),
                notes=_MAYBE if row.note == QUIET_NOTE else (),
            )
            for key, row in started.items()
        )
        waiting = dict(started)

        def ended(outcome: Outcome) -> None:
            self._note(waiting.pop(outcome.id), outcome)
            self._write_page()

        self.night.asked_by = asked_by
        try:
            # what was refused is given again only where something arrived or a person wants it
            result = self.night.run(FoundStudies(items, {}), again=True, on_study=ended)
            for outcome in result.outcomes:  # those that a killed run had finished and not noted
                if outcome.id in waiting:
                    ended(outcome)
        finally:  # what every series would meet has ended the run: they wait for it to be mended
            if waiting:
                self.spool.wait_again()

    def _wanted(self, row: SeriesRow) -> bool:
        """Whether a series is asked for: localizers and other modalities are left alone."""
        if row.modality and row.modality not in self.settings.run.modalities:
            return False
        found = find_series(list(self.spool.instances(row.uid).values()))
        # one of which nothing can be read is run, so that it is refused with its reason
        return not found.series or any(
            self.settings.series.fits(series) and not series.no_volume for series in found.series
        )

    def prune(self, before: float) -> None:
        """Delete objects and results whose days are over."""
        for row in self.spool.prune(before=before):
            shutil.rmtree(self.night.out / row.key, ignore_errors=True)
            self._is_page_old = True
            log.info("series %s was deleted here; its results are in the PACS", row.key)

    def _write_page(self) -> None:
        """Write the page on what was done last, whole; it names series by their keys, and no patients."""
        self._is_page_old = True
        result, path = self.night.latest(_SHOWN), self.night.out / NIGHT
        write_overview(path, result, model=self.night.model, items=("series", "series"), note=_NOTE)
        self._is_page_old = False

    def _note(self, row: SeriesRow, outcome: Outcome) -> None:
        now = self.clock()
        if outcome.state == "refused":
            reason, text = str(outcome.record["reason"]), str(outcome.record["message"])
            self.spool.end(row.uid, "refused", reason=reason, text=text, now=now, generation=row.generation)
            log.warning("series %s could not be done: %s [%s]", row.key, text, reason)
            return
        assert outcome.folder is not None, "a study that is done has a folder"
        results = self._results(outcome.folder)
        if self.spool.finish(row, results, now=now):
            noted = f" ({row.note})" if row.note == QUIET_NOTE else ""
            log.info("series %s is done: %d objects to send%s", row.key, len(results), noted)
        else:
            log.info("series %s has grown while it was worked on; it is done again", row.key)

    def _results(self, folder: Path) -> list[tuple[Passing, Path]]:
        files = [folder / options.RESULTS[name] for name in self.settings.send.objects]
        return [(identify_result(file), file) for file in files if file.is_file()]

"""Progress with time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..batch import BatchResult

__all__ = ["Display", "tell_failures"]

_EVERY_SECONDS = 10.0


class Display:
    """Shows one bar at a time on a terminal; elsewhere prints a line every ten seconds."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[about]}"),
            console=self.console,
            transient=True,
        )
        self.task: Any = None
        self.title = ""
        self.begun = self.told = time.monotonic()

    def __enter__(self) -> Display:
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.bar.stop()

    def stage(self, line: str) -> None:
        """Say that a part of the work begins."""
        self._print(line)

    def step(self, info: Any) -> None:
        """Show a `medseg.training.StepInfo`."""
        title = {"reading": "Reading images", "validating": "Validating", "training": "Training"}[info.phase]
        left = info.seconds_left
        about = f"{info.step}/{info.steps}"
        if math.isfinite(info.loss):
            about += f"  loss {info.loss:.3f}"
        self._show(title, info.step, info.steps, about, left)
        if info.scores:
            row = "  ".join(f"{k} {v:.4g}" for k, v in info.scores.items() if k not in ("step", "lr"))
            self._print(f"  step {info.step}: {row}")

    def counter(self, title: str) -> Callable[[int, int], None]:
        """Return a callback that is called with the number that is done and of all."""
        return lambda done, of: self._show(title, done, of, f"{done}/{of}", math.nan)

    def cases(self, title: str, total: int) -> tuple[Callable[..., None], Callable[[int, int], None]]:
        """Return callbacks for whole cases and for the tiles of the case at hand, which count as parts."""
        done = 0

        def on_case(name: str, failure: Any = None) -> None:
            nonlocal done
            done += 1
            self._show(title, done, total, f"{done}/{total}", math.nan)

        def on_tile(tile: int, tiles: int) -> None:
            if tile < tiles:
                about = f"{done}/{total}, tile {tile}/{tiles}"
                self._show(title, done + tile / tiles, total, about, math.nan)

        return on_case, on_tile

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self, title: str, done: float, of: int, about: str, left: float) -> None:
        now = time.monotonic()
        if title != self.title:
            keeps_clock = {title, self.title} == {"Training", "Validating"}
            self.title = title
            if not keeps_clock:
                self.begun = self.told = now
            if self.live:
                if self.task is not None:
                    self.bar.remove_task(self.task)
                self.task = self.bar.add_task(title, total=of or None, about="")
        if not math.isfinite(left) and done and of:
            left = (now - self.begun) / done * (of - done)
        if math.isfinite(left):
            about += f"  {_time(left)} left"
        if self.live:
            self.bar.update(self.task, completed=done, total=of or None, about=about)
        elif now - self.told >= _EVERY_SECONDS:
            self.told = now
            self._print(f"  {title}: {about}")


def tell_failures(result: BatchResult) -> int:
    """Print which cases failed and why, one line where there is one reason; return the exit code."""
    if result.failed:
        total = len(result.done) + len(result.failed)
        same = {failure.message for failure in result.failed}
        if not result.done and len(same) == 1:
            every = f" (all {total} cases)" if total > 1 else ""
            print(f"medseg: {same.pop()}{every}", file=sys.stderr)
            return result.exit_code
        print(f"medseg: {len(result.failed)} of {total} cases failed", file=sys.stderr)
        for failure in result.failed:
            print(f"  {failure.case}: {failure.message} [{failure.reason}]", file=sys.stderr)
    return result.exit_code


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""The children of a night: made when they are needed, replaced when they die."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Refused
from .children import Child, ChildSetup, any_of
from .finding import as_request
from .limits import Limits

__all__ = ["BLINK", "Crew", "sentence"]

BLINK = 0.05
"""Seconds between two looks at what children take."""


class Crew:
    """So many children, by number from 0; each is made at its first work.

    Parameters
    ----------
    setup : ChildSetup
        What they do.
    limits : Limits
        Of one study.
    jobs : int
        How many.
    """

    def __init__(self, setup: ChildSetup, limits: Limits, jobs: int) -> None:
        self._setup, self._limits = setup, limits
        self._children: list[Child | None] = [None] * jobs

    def child(self, slot: int, *, fresh: bool = False) -> Child:
        """Return a child, on request one that has done nothing yet."""
        child = self._children[slot]
        if child is not None and fresh and child.used:
            self.drop(slot)
            child = None
        if child is None:
            child = self._children[slot] = Child(self._setup, self._limits)
        return child

    def drop(self, slot: int) -> None:
        """End a child; another takes its place when it is needed."""
        child, self._children[slot] = self._children[slot], None
        if child is not None:
            child.close()

    def close(self) -> None:
        """End all."""
        for slot in range(len(self._children)):
            self.drop(slot)

    def scan(self, files: Sequence[Path]) -> Iterator[tuple[Path, str, str, str]]:
        """Read headers; if the child dies of them, find out of which by halves.

        Yields
        ------
        path, study, reason, text
            The study is "" where the file belongs to none, which the others explain.
        """
        child = self.child(0)
        child.ask({"do": "scan"} | as_request(files))
        event = _answer(child)
        if event["event"] == "done":
            known = {int(i): study for study, numbers in event["studies"].items() for i in numbers}
            skipped = {int(i): (reason, text) for i, reason, text in event["skipped"]}
            for i, path in enumerate(files):
                reason, text = skipped.get(i, ("not-an-image", "it holds no image."))
                yield path, known.get(i, ""), reason, text
            return
        if event["event"] == "failed":
            self.drop(0)
        if len(files) == 1:
            yield files[0], "", event["reason"], sentence(event)
            return
        half = len(files) // 2
        yield from self.scan(files[:half])
        yield from self.scan(files[half:])


def _answer(child: Child) -> dict[str, Any]:
    """Wait for the answer to the one request of a child."""
    while True:
        any_of([child], BLINK)
        for event in child.hear():
            if event["event"] in ("done", "refused", "failed"):
                return event
            if event["event"] == "fatal":
                raise Refused(event["reason"], event["message"], do=event["do"])
        child.watch()


def sentence(event: Mapping[str, Any]) -> str:
    """What is wrong, and what to do, as a refusal says it."""
    return str(Refused(event["reason"], event["message"], do=event.get("do")))

"""What is asked of a PACS, whichever way it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..io.dicom.passing import Passing

__all__ = ["PASSING_REASONS", "FoundSeries", "Peer"]

#: Reasons that may pass by themselves: what failed for them is tried again, for ever.
PASSING_REASONS = frozenset({"pacs-away", "not-let-in", "not-trusted", "pacs-full", "not-kept"})


@dataclass(frozen=True)
class FoundSeries:
    """A series that the PACS has, and the number of instances that it reports (None: it does not)."""

    study: str
    uid: str
    modality: str
    instances: int | None


class Peer(Protocol):
    """A PACS. Everything raises `Refused` with one of the `PASSING_REASONS` where it cannot be asked."""

    def count(self, study: str, series: str) -> int:
        """Number of instances of a series that the PACS reports; 0 where it does not know the series."""

    def store(self, file: Path, found: Passing) -> None:
        """Send one object; ``not-taken`` where the PACS has it not."""

    def holds(self, found: Passing) -> bool:
        """Whether the PACS reports an object."""

    def fetch(self, found: Passing, into: Path) -> bool:
        """Write an object of the PACS to a file; False where it has none of this UID."""

    def search(self, modality: str, since: str) -> Iterator[FoundSeries]:
        """Series of a modality whose study is not older than a date, YYYYMMDD."""

    def list_instances(self, study: str, series: str) -> Sequence[tuple[str, str]]:
        """SOP class and SOP instance UIDs of a series."""

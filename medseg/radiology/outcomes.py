"""What became of studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..batch import BatchResult, Failure

__all__ = ["NightResult", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Attributes
    ----------
    id : str
        16 hexadecimal digits, see `medseg.radiology.finding.Item`.
    state : {"done", "refused"}
    record : dict
        Of a done study what its pages show and "files" (name -> sha256 and bytes); of a refused one "reason"
        and "message".
    folder : Path or None
        Of the results.
    source : Path or None
        The folder that its files were found in.
    """

    id: str
    state: str
    record: Mapping[str, Any]
    folder: Path | None = None
    source: Path | None = None

    @property
    def failure(self) -> Failure | None:
        """Why it could not be done."""
        if self.state == "done":
            return None
        return Failure(self.id, self.record["reason"], self.record["message"])


@dataclass(frozen=True)
class NightResult:
    """What became of all studies.

    Attributes
    ----------
    outcomes : tuple of Outcome
        In the order of their ids; those that an earlier run has done, too.
    ignored : dict
        Reason -> number of files that belong to no study.
    new : frozenset of str
        Ids of those that this run worked on.
    """

    outcomes: tuple[Outcome, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)
    new: frozenset[str] = frozenset()

    @property
    def batch(self) -> BatchResult:
        """The same as a batch, for the table of failures and the exit code."""
        failed = tuple(failure for o in self.outcomes if (failure := o.failure))
        return BatchResult({o.id: o.folder for o in self.outcomes if o.state == "done"}, failed)

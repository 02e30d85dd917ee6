"""What is wrong with a data set: raised at the first, or collected."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import Refused

__all__ = ["Finding", "Problems"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth to know, with its remedy.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
        An error stops or spoils a training; a warning may be meant; a note is only told.
    reason : str
        Short code, such as ``"image-without-label"``.
    case : str
        Name of the case; empty where it is about the whole data set.
    sentence : str
        What is wrong, with the file, what was got and what was expected.
    fix : str
        What to do; empty where nothing has to be done.

    Examples
    --------
    >>> from medseg.dataset.findings import Finding
    >>> print(Finding("warning", "empty-label", "a1", "the label is 0 everywhere.", "Check it."))
    warning: a1: the label is 0 everywhere. Check it. [empty-label]
    """

    severity: str
    reason: str
    case: str
    sentence: str
    fix: str = ""

    @classmethod
    def of(cls, refusal: Refused, case: str = "", severity: str = "error") -> Finding:
        """Return a refusal as a finding."""
        do = f"{refusal.do[0].upper()}{refusal.do[1:].rstrip('.?')}." if refusal.do else ""
        return cls(severity, refusal.reason, case, refusal.sentence, do)

    def __str__(self) -> str:
        parts = [f"{self.severity}:", f"{self.case}:" if self.case else "", self.sentence, self.fix]
        return " ".join([p for p in parts if p] + [f"[{self.reason}]"])


class Problems:
    """Where the listing of a data set tells what is wrong with it.

    Whoever lists files goes on after he has told: loading raises the first problem, a check collects all.

    Parameters
    ----------
    collect : bool
        Keep what is told in ``findings`` instead of raising it.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.findings: list[Finding] = []

    def refuse(self, refusal: Refused, case: str = "", *, each: Iterable[Finding] = ()) -> None:
        """Tell of a defect; ``each`` takes its place in a check, one finding a case."""
        if not self.collect:
            raise refusal
        self.findings += list(each) or [Finding.of(refusal, case)]

    def warn(self, reason: str, sentence: str, fix: str = "", case: str = "") -> None:
        """Tell of what may be meant: logged where nothing is collected."""
        if self.collect:
            self.findings.append(Finding("warning", reason, case, sentence, fix))
        else:
            _log.warning("%s", " ".join(p for p in (sentence, fix) if p))

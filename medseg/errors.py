"""Refusals: the one exception that says what, got, expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["Refused", "did_you_mean", "refuse_unknown"]


class Refused(ValueError):
    """An input that medseg will not work on, told in one line.

    Parameters
    ----------
    reason : str
        Short code in kebab case for programs, such as ``"not-found"`` or ``"shape-mismatch"``.
    what : str
        What is wrong, with the name of the file, key or argument.
    got, expected : object, optional
        What was found, and what would have been accepted.
    do : str, optional
        The next step for the user, as an imperative.

    Attributes
    ----------
    reason : str
        The short code.
    sentence : str
        What is wrong, without what to do.
    do : str or None
        What to do.

    Examples
    --------
    >>> from medseg import Refused
    >>> error = Refused("not-found", "no such image 'a.png'", do="check the path")
    >>> print(error)
    no such image 'a.png'. Check the path.
    >>> error.reason
    'not-found'
    """

    def __init__(
        self,
        reason: str,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        do: str | None = None,
    ) -> None:
        facts = []
        if got is not None:
            facts.append(f"got {got}")
        if expected is not None:
            facts.append(f"expected {expected}")
        sentence = what.rstrip(".") + (": " + ", ".join(facts) if facts else "") + "."
        self.sentence, self.do = " ".join(sentence.split()), do
        if do:
            sentence += f" {do[0].upper()}{do[1:].rstrip('.')}" + ("" if do.endswith("?") else ".")
        super().__init__(" ".join(sentence.split()))
        self.reason = reason
        self._arguments = (reason, what, got, expected, do)

    def __reduce__(self) -> tuple[object, ...]:
        # keyword arguments would be lost on the way out of a worker process
        return (_rebuild, self._arguments)


def _rebuild(reason: str, what: str, got: object, expected: object, do: str | None) -> Refused:
    return Refused(reason, what, got=got, expected=expected, do=do)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the imperative that names the nearest known name, or all of them.

    Examples
    --------
    >>> from medseg.errors import did_you_mean
    >>> did_you_mean("dise", ["dice", "iou"])
    "did you mean 'dice'?"
    """
    names = sorted(str(k) for k in known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of {', '.join(names)}" if names else None


def refuse_unknown(kind: str, name: str, known: Iterable[str]) -> Refused:
    """Build the refusal of an unknown name; the caller raises it.

    Examples
    --------
    >>> from medseg.errors import refuse_unknown
    >>> print(refuse_unknown("metric", "dise", ["dice", "iou"]))
    unknown metric 'dise'. Did you mean 'dice'?
    """
    return Refused(
        f"unknown-{kind.replace(' ', '-')}", f"unknown {kind} '{name}'", do=did_you_mean(name, known)
    )

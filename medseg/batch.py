"""Many cases, one after the other: what fails is told at the end, and the rest is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .errors import Refused

__all__ = ["BatchResult", "Failure", "map_cases"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A case that could not be done: its name, the refusal's short code, and one line."""

    case: str
    reason: str
    message: str


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes
    ----------
    done : dict
        Case -> what the function gave for it, in the order of the cases.
    failed : tuple of Failure
        The others.
    """

    done: dict[str, Any] = field(default_factory=dict)
    failed: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 where all is done, 2 where some cases failed, 1 where nothing was done."""
        if not self.failed:
            return 0
        return 2 if self.done else 1


def map_cases(
    function: Callable[[Any], Any],
    cases: Iterable[tuple[str, Any]],
    *,
    on_case: Callable[[str, Failure | None], None] | None = None,
) -> BatchResult:
    """Call a function on each case; one that fails does not end the others.

    Parameters
    ----------
    function : callable
        Takes a case's input.
    cases : iterable of (str, object)
        Names and inputs.
    on_case : callable, optional
        Called after each case with its name, and its `Failure` or None.

    Returns
    -------
    BatchResult

    Examples
    --------
    >>> result = map_cases(lambda x: 1 / x, [("a", 2), ("b", 0)])
    >>> result.done, result.failed[0].case, result.exit_code
    ({'a': 0.5}, 'b', 2)
    """
    done: dict[str, Any] = {}
    failed: list[Failure] = []
    for name, item in cases:
        failure = None
        try:
            done[name] = function(item)
        except Refused as error:
            _log.debug("case %s was refused", name, exc_info=True)
            failure = Failure(name, error.reason, str(error))
        except MemoryError:
            failure = Failure(
                name, "out-of-memory", "the case did not fit into memory. Give a smaller max_ram_gb."
            )
        # a library that fails on one case must not cost the night's other cases; the log has the traceback
        except Exception as error:
            _log.exception("case %s failed", name)
            first = (str(error).splitlines() or ["no message"])[0]
            failure = Failure(name, "unexpected", f"unexpected {type(error).__name__}: {first}")
        if failure:
            failed.append(failure)
        if on_case:
            on_case(name, failure)
    return BatchResult(done, tuple(failed))

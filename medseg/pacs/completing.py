"""When a series is complete: the PACS reports as many instances as have arrived, and goes on to."""

from __future__ import annotations

import logging

from ..errors import Refused
from ..io.dicom.model import MAYBE_INCOMPLETE
from .peer import Peer
from .settings import Wait
from .spool import SeriesRow, Spool

__all__ = ["QUIET_NOTE", "look_for_complete"]

log = logging.getLogger(__name__)

#: What the spool notes of a series that no PACS could be asked about.
QUIET_NOTE = MAYBE_INCOMPLETE.code
_LONGEST_PAUSE_S = 120.0


def look_for_complete(spool: Spool, peer: Peer | None, wait: Wait, *, now: float) -> list[SeriesRow]:
    """Move complete series to "ready" and hopeless ones to "refused"; return those that are ready.

    One answer of a PACS is not enough: it may be receiving the series itself, and have as much of it as we
    have. So it must report the same number twice, ``settle_s`` apart, with nothing arriving in between.

    Raises
    ------
    Refused
        One of the `PASSING_REASONS` where the PACS cannot be asked; what was found until then stays.
    """
    ready = []
    for row in spool.series("receiving"):
        if peer is None:
            if now - row.last >= wait.quiet_s and spool.move(row, "ready", note=QUIET_NOTE):
                ready.append(row)
            continue
        if now < row.next_ask or now - row.last < min(1.0, wait.settle_s):
            continue
        expected = peer.count(row.study, row.uid)
        if expected == row.arrived:
            if row.matched is not None and now - row.matched >= wait.settle_s and row.expected == expected:
                if spool.move(row, "ready"):
                    ready.append(row)
                continue
            matched = row.matched if row.expected == expected and row.matched is not None else now
            spool.asked(row.uid, expected=expected, matched=matched, next_ask=matched + wait.settle_s)
            continue
        if now - row.last > wait.give_up_hours * 3600:
            _give_up(spool, row, expected, now)
            continue
        pause = min(_LONGEST_PAUSE_S, max(wait.settle_s, (now - row.last) / 10))
        spool.asked(row.uid, expected=expected, matched=None, next_ask=now + pause)
    return ready


def _give_up(spool: Spool, row: SeriesRow, expected: int, now: float) -> None:
    if expected == 0:
        refused = Refused(
            "incomplete-series",
            "the PACS does not know the series, so nobody can tell whether it is complete",
            got=f"{row.arrived} instances",
            do="send the study to the PACS, too, or ask the right one",
        )
    else:
        refused = Refused(
            "incomplete-series",
            "the series is not what the PACS has",
            got=f"{row.arrived} instances",
            expected=str(expected),
            do="send the rest",
        )
    spool.end(row.uid, "refused", reason=refused.reason, text=str(refused), now=now)
    log.warning("series %s was given up: %s", row.key, refused.sentence)

"""Sending results back, and reading them back: what the PACS holds must be what was sent."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from ..errors import Refused
from ..io.dicom.passing import Passing, differences, identify_result
from .outbox import Result
from .peer import PASSING_REASONS, Peer
from .settings import Send
from .spool import Spool, key_of

__all__ = ["deliver", "pause_s", "send_due"]

log = logging.getLogger(__name__)


def send_due(spool: Spool, peer: Peer, send: Send, *, now: float) -> int:
    """Send what is due; return how many results have been verified.

    The first result that finds the PACS away ends the round: the others would find it so, too. Its pause
    grows, and the others wait with it.
    """
    done = 0
    for result in spool.outbox.due(now):
        try:
            deliver(peer, result.file, spool.folder / "work", read_back=send.read_back)
        except Refused as refused:
            pause = pause_s(result.attempts, send)
            if refused.reason in PASSING_REASONS:
                log.warning("result %s waits %.0f s: %s", key_of(result.uid), pause, refused.sentence)
                _postpone_all(spool, now + pause, refused.reason, result)
                return done
            if refused.reason != "kept-another" and result.refusals + 1 < send.refusals:
                log.warning("result %s waits %.0f s: %s", key_of(result.uid), pause, refused.sentence)
                spool.outbox.postpone(result.uid, until=now + pause, reason=refused.reason, refused=True)
                continue
            log.warning("result %s is given up: %s", key_of(result.uid), refused.sentence)
            spool.outbox.give_up(result.uid, reason=refused.reason, text=str(refused))
        else:
            spool.outbox.verified(result.uid, now=now)
            log.info("result %s is in the PACS", key_of(result.uid))
            done += 1
    return done


def pause_s(attempts: int, send: Send) -> float:
    """Seconds until the next attempt: each twice the last, up to a bound.

    Examples
    --------
    >>> [pause_s(n, Send(first_pause_s=10, max_pause_s=60)) for n in range(5)]
    [10.0, 20.0, 40.0, 60.0, 60.0]
    """
    return float(min(send.max_pause_s, send.first_pause_s * 2 ** min(attempts, 30)))


def deliver(peer: Peer, file: Path, scratch: Path, *, read_back: str = "content") -> None:
    """Make sure that the PACS holds an object: send it unless it is there, then read it back and compare.

    It is looked for first, because who was killed after sending does not know that it sent. The UID follows
    from series and model, so the object that is found is the same, or it is another one that has its UID.

    Raises
    ------
    Refused
        ``kept-another`` where the PACS holds something else under this UID, which it may have reported as
        stored; ``not-kept`` where it holds nothing after success was reported; and as the peer refuses.
    """
    found = identify_result(file)
    if _is_there(peer, file, found, scratch, read_back):
        return
    peer.store(file, found)
    if not _is_there(peer, file, found, scratch, read_back):
        raise Refused(
            "not-kept",
            "the PACS reported an object as stored and does not hold it",
            do="nothing: it is sent again",
        )


def _is_there(peer: Peer, file: Path, found: Passing, scratch: Path, read_back: str) -> bool:
    if read_back == "presence":
        return peer.holds(found)
    theirs = scratch / f"{secrets.token_hex(8)}.dcm"
    try:
        if not peer.fetch(found, theirs):
            return False
        if tags := differences(file, theirs):
            raise Refused(
                "kept-another",
                "the PACS holds another object under the UID of this result",
                got=f"other {', '.join(tags[:4])}",
                do="delete the old one in the PACS, then let it be tried again",
            )
        return True
    finally:
        theirs.unlink(missing_ok=True)


def _postpone_all(spool: Spool, until: float, reason: str, failed: Result) -> None:
    spool.outbox.postpone(failed.uid, until=until, reason=reason)
    spool.outbox.hold_back(until)

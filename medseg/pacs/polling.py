"""Fetching by DICOMweb: new series are looked for by QIDO-RS, their instances fetched by WADO-RS."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import Refused
from ..io.dicom.passing import Passing
from ..io.dicom.sopclasses import IMAGES
from .peer import PASSING_REASONS, FoundSeries, Peer
from .receiving import Intake
from .spool import key_of

__all__ = ["fetch_new", "since"]

log = logging.getLogger(__name__)

SOURCE = "polling"


def since(days: int, now: float) -> str:
    """Date of the oldest studies to be asked for, as DICOM writes it; today is the first day.

    Examples
    --------
    >>> since(2, 86400 * 20_000.5)
    '20241003'
    """
    return time.strftime("%Y%m%d", time.localtime(now - 86400 * (days - 1)))


def fetch_new(
    intake: Intake, peer: Peer, modalities: tuple[str, ...], *, oldest: str, stopped: Callable[[], bool]
) -> int:
    """Fetch the instances that the PACS has and the spool has not; return how many came.

    A series of which as many are here as the PACS reports is left alone, so that one that is done is not
    fetched again. An instance that is refused costs only itself: its series stays incomplete, and says so.

    Raises
    ------
    Refused
        One of the `PASSING_REASONS`; what came until then stays.
    """
    came = 0
    for modality in modalities:
        for series in list(peer.search(modality, oldest)):
            known = intake.spool.known(series.uid)
            if known is not None and series.instances == known.arrived:
                continue
            if known is not None and known.reason == "same-uid-other-content":
                continue
            came += _fetch(intake, peer, series, stopped)
            if stopped():
                return came
    return came


def _fetch(intake: Intake, peer: Peer, series: FoundSeries, stopped: Callable[[], bool]) -> int:
    here = intake.spool.instances(series.uid)
    came = 0
    for sop_class, uid in peer.list_instances(series.study, series.uid):
        if stopped():
            break
        if uid in here or uid in intake.hopeless or sop_class not in IMAGES:
            continue
        wanted = Passing(sop_class, uid, series.uid, series.study, series.modality, "")
        beside = intake.beside()
        try:
            if peer.fetch(wanted, beside):
                came += _take(intake, beside, wanted)
        except Refused as refused:
            if refused.reason in PASSING_REASONS or refused.reason == "spool-full":
                raise
            intake.hopeless.add(uid)  # until the next start: it would be the same again
            log.warning("object %s was refused: %s [%s]", key_of(uid), refused.sentence, refused.reason)
        finally:
            beside.unlink(missing_ok=True)
    return came


def _take(intake: Intake, beside: Path, wanted: Passing) -> bool:
    found, new = intake.take_file(beside, source=SOURCE)
    if found.sop_instance_uid != wanted.sop_instance_uid:
        log.warning("the PACS gave another object than %s", key_of(wanted.sop_instance_uid))
    return new

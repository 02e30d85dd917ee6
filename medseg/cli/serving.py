"""What ``medseg serve`` says and does around the peer: lines with a time, signals, a look at the state."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from ..errors import Refused

__all__ = ["serve_pacs", "show_status"]

_STALE_S = 60.0


def serve_pacs(bundle: str, settings: Path, *, check: bool, retry: bool, device: str) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from ..pacs import Server, load_settings, open_bundle_night, peer_for

    given = load_settings(settings)
    if check:
        for way in ("web", "dimse"):
            if getattr(given, way) is not None:
                peer = peer_for(given, way)
                assert peer is not None
                peer.count("1.2.3", "1.2.3")  # of a study that nobody has
                typer.echo(f"{way}: the PACS answers")
        typer.echo(f"{settings}: nothing is wrong with it")
        return 0
    stop = threading.Event()
    with _lines(), _signals(stop):
        server = Server(given, open_bundle_night(bundle, given, device=device))
        if retry:
            typer.echo(f"{server.spool.retry()} series and results are tried again", err=True)
        server.run(stop)
    return 0


def show_status(settings: Path) -> int:
    """Print the status, and which series were refused; 0 where all is well, 2 where somebody should look."""
    from ..pacs import STATUS, list_refused, load_settings

    folder = Path(load_settings(settings).spool.folder)
    refused = list_refused(folder)
    file = folder / STATUS
    if not file.is_file():
        raise Refused("not-found", "nothing has been served yet", do="serve first")
    status = json.loads(file.read_text(encoding="utf-8"))
    old = time.time() - file.stat().st_mtime
    for name in ("state", "time", "port", "held_gb", "series", "results", "problems"):
        value = status[name]
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items()) or "none"
        typer.echo(f"{name:10}{value}")
    stale = status["state"] == "serving" and old > _STALE_S
    if stale:
        typer.echo(f"medseg: the process has said nothing for {old:.0f} s", err=True)
    for study, series, reason, text in refused:
        typer.echo(f"study {study}, series {series}: {text} [{reason}]")
    return 2 if stale or refused or status["problems"] else 0


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the service, not the process."""

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _lines() -> Iterator[None]:
    """Write what the peer tells to stderr, with the time; whoever starts services keeps it."""
    logger = logging.getLogger("medseg.pacs")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False  # what the command line shows of other modules would come twice
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate

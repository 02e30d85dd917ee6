"""Answer a PACS: series come in from it, are segmented, and their results go back, as ``medseg serve`` does.

Command::

    python pipelines/radiology_pacs.py serve.toml --bundle run/

DATA is the file of settings, see docs/how-to/radiology-pacs.md. It serves until it is stopped; with
``--once`` until what the PACS has is done and sent, which is the job of a timer at night.

Time: that of the PACS and of ``medseg study`` for a series; waiting for a series to be whole takes
``wait.settle_s`` at least.
Numbers: how good the results are says the model's card (``medseg bundle show run/``).
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medseg.batch import BatchResult, Failure
from medseg.cli.script import Data, Quick, run_script
from medseg.pacs import Server, list_done, list_refused, load_settings, open_bundle_night

LOOKS_AGAIN_S = 1.0


def main(
    data: Data,
    *,
    bundle: Annotated[str, typer.Option(help="Run, bundle folder, zip file or name.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Another spool."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left to do.")] = False,
    quick: Quick = False,
) -> BatchResult:
    """Serve a PACS, and tell which series could not be done or sent.

    The spool gets what is received, ``results/`` with a folder a series, the audit and ``status.json``.
    Killed at any moment, the same command goes on. With ``quick`` the segmentation alone is made and sent.
    """
    settings = load_settings(data)
    if out is not None:
        settings = replace(settings, spool=replace(settings.spool, folder=str(out)))
    if quick:
        settings = replace(settings, send=replace(settings.send, objects=("segmentation",)))
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = Server(settings, open_bundle_night(bundle, settings))
    if once:
        threading.Thread(target=stop_when_done, args=(server, stop), daemon=True).start()
    server.run(stop)
    signal.signal(signal.SIGTERM, before)
    return told(Path(settings.spool.folder))


def stop_when_done(server: Server, stop: threading.Event) -> None:
    """Set ``stop`` when the PACS has been asked, and no series and no result waits any more."""
    while not server.is_idle():
        time.sleep(LOOKS_AGAIN_S)
    stop.set()


def told(folder: Path) -> BatchResult:
    """What was done and what could not be, named by the UIDs of series, for the table at the end."""
    failed = tuple(Failure(series, reason, text) for _, series, reason, text in list_refused(folder))
    return BatchResult(dict.fromkeys(list_done(folder)), failed)


if __name__ == "__main__":
    run_script(main)

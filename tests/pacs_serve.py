"""``medseg serve`` without a model, as a process that tests may kill: SETTINGS, seconds of work a series."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from medseg.cli.serving import _lines
from medseg.pacs import Server, load_settings
from medseg.radiology import Limits, Night
from medseg.radiology.children import ChildSetup

HERE = str(Path(__file__).parent)


def open_night(out: Path, seconds: float = 0.0) -> Night:
    """The queue, with a job of the tests."""
    setup = ChildSetup("pacs_job:Job", {"seconds": seconds}, (HERE,))
    limits = Limits(memory_gb=0.6, minutes=0.5)
    return Night(out, setup, {"model": "m"}, limits=limits, model="made")


def main(settings: str, seconds: str) -> None:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with _lines():
        server = Server(load_settings(settings), lambda out: open_night(out, float(seconds)), every_s=0.05)
        port = server.listener.port if server.listener else 0
        print(f"port {port}", flush=True)
        server.run(stop)
    print("stopped", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Read folders in a child that starts warm, and measure what that takes in seconds and memory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_SECONDS = 60.0  # then the child is killed
_SERVER = """
import json, os, resource, sys, time
from pathlib import Path
import numpy, pydicom, pydicom.pixels
from medseg.errors import Refused
from medseg.io.dicom import choose_series, find_series, read_series

def look(folder):
    "find, choose and read: what a study does before it predicts"
    found = find_series(folder)
    told = {"skipped": [[s.reason, s.text] for s in found.skipped], "series": len(found.series)}
    told["words"] = [s.description for s in found.series]
    try:
        volume = read_series(choose_series(found))
    except Refused as refused:
        return told | {"refused": refused.reason, "text": str(refused)}
    image = volume.image.numpy()
    return told | {
        "shape": list(image.shape[1:]), "mean": float(image.mean()), "notes": [n.text for n in volume.notes],
        "affine": volume.image.affine.numpy().tolist(), "sum": float(image.astype("float64").sum()),
    }

def status(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024

print("ready", flush=True)
for line in sys.stdin:
    folders = json.loads(line)
    read, write = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        before = status("VmRSS")
        with os.fdopen(write, "wb") as answer:
            told = []
            for folder in folders:
                start = time.monotonic()
                try:
                    told.append(look(folder))
                except BaseException as error:
                    told.append({"crashed": type(error).__name__ + ": " + str(error)[:300]})
                told[-1] |= {"bytes": status("VmHWM") - before, "seconds": time.monotonic() - start}
            answer.write(json.dumps(told).encode())
            answer.flush()
            os._exit(0)
    os.close(write)
    import select as waiting
    text = b""
    while time.monotonic() - began < 60:
        if waiting.select([read], [], [], 0.5)[0]:
            piece = os.read(read, 1 << 20)
            text += piece
            if not piece:
                break
    else:
        os.kill(child, 9)
    _, code = os.waitpid(child, 0)
    os.close(read)
    crashed = [{"crashed": "code %d" % code, "bytes": 0, "seconds": time.monotonic() - began}]
    print(json.dumps(json.loads(text) if text else crashed * len(folders)), flush=True)
"""


@dataclass(frozen=True)
class Looked:
    """What reading a folder gave, and what it took."""

    seconds: float
    bytes: int
    told: dict[str, Any]

    @property
    def reasons(self) -> set[str]:
        """Of the refusal and of the files that were skipped."""
        return {reason for reason, _ in self.told.get("skipped", [])} | {self.told.get("refused", "")} - {""}

    @property
    def words(self) -> str:
        """Everything that was said."""
        return json.dumps(self.told, ensure_ascii=False)


class Walled:
    """A process that has imported everything, and forks for each folder that it is given."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._answer(120) == "ready"

    def look(self, folder: str | Path) -> Looked:
        """Find the series of a folder, and read it."""
        return self.look_at_all([folder])[0]

    def look_at_all(self, folders: Sequence[str | Path]) -> list[Looked]:
        """Do so for many, in one child; a crash counts for all."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([os.fspath(f) for f in folders]).encode() + b"\n")
        self._process.stdin.flush()
        answers = json.loads(self._answer(2 * MOST_SECONDS))
        return [Looked(told.pop("seconds"), told.pop("bytes"), told) for told in answers]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _answer(self, seconds: float) -> str:
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self._process.stdout], [], [], 1.0)[0]:
                return self._process.stdout.readline().decode().strip()
        self._process.send_signal(signal.SIGKILL)
        raise AssertionError("the child does not answer")

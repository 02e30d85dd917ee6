"""What children do in the tests of the queue: no model, so that a start takes a tenth of a second.

A file is a line: the study's name, and what happens to it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import Refused
from medseg.radiology.results import checksums


class Panic(BaseException):
    """As a library in Rust panics: no Exception."""


class Job:
    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup, self.bent = setup, False

    def prepare(self, request: Mapping[str, Any]) -> None:
        if self.setup.get("broken"):
            raise Refused("bad-bundle", "the model is broken", do="copy it again")

    def __call__(self, request: Mapping[str, Any], say: Callable[..., None]) -> dict[str, Any]:
        lines = [Path(f).read_bytes() for f in request["files"]]
        if request["do"] == "scan":
            return self.scan(lines)
        say(
            "input",
            input={"files": len(lines), "sha256": hashlib.sha256(b"".join(sorted(lines))).hexdigest()},
        )
        work = Path(request["work"])
        (work / "half").write_text("written before anything goes wrong")
        for line in lines:
            self.happen(line.decode().split(), Path(request["files"][0]))
        (work / "half").rename(work / "labels.txt")
        (work / "measurements.json").write_text(json.dumps({"study": request["id"], "lines": len(lines)}))
        time.sleep(self.setup.get("seconds", 0.0))
        record = {"doubt": {"score": len(lines[0]) / 100}, "input": {"files": len(lines)}}
        return {"record": record | {"files": checksums(work)}}

    def scan(self, lines: list[bytes]) -> dict[str, Any]:
        studies: dict[str, list[int]] = {}
        skipped = []
        for i, line in enumerate(lines):
            words = line.decode().split()
            if words[1:] == ["scan-crash"]:
                os.kill(os.getpid(), signal.SIGSEGV)
            if words[:1] == ["study"]:
                studies.setdefault(hashlib.sha256(words[1].encode()).hexdigest()[:16], []).append(i)
            else:
                skipped.append([i, "not-dicom", "it is no DICOM file."])
        return {"studies": studies, "skipped": skipped}

    def happen(self, words: list[str], first: Path) -> None:
        what = words[2] if len(words) > 2 else ""
        if what == "crash":
            ctypes.string_at(0)
        elif what == "panic":
            raise Panic("DOE^JANE")
        elif what == "abort":
            os.abort()
        elif what == "exit":
            os._exit(3)
        elif what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "memory":
            bytearray(3 << 30)
        elif what == "touch":  # memory that no limit of allocations sees: shared pages
            import mmap

            shared, piece = mmap.mmap(-1, 1 << 30), bytes(1 << 24)
            for i in range(0, 1 << 30, 1 << 24):
                shared[i : i + (1 << 24)] = piece
            time.sleep(1000)
        elif what == "spin":
            while True:
                pass
        elif what == "hang":
            time.sleep(1000)
        elif what == "error":
            raise ValueError("DOE^JANE")
        elif what == "refuse":
            raise Refused(
                "slices-missing", f"a slice of '{first}' is missing", do=f"send {first.parent} again"
            )
        elif what == "flaky":  # an error of a share that is back at the second try
            if not first.with_name("tried").exists():
                first.with_name("tried").touch()
                raise OSError(5, "Input/output error", "DOE^JANE")
        elif what == "dead-share":
            raise OSError(5, "Input/output error", "DOE^JANE")
        elif what == "bend":  # leaves something behind that the next study dies of
            self.bent = True
        elif what == "full":
            raise OSError(28, "No space left on device")
        elif what == "victim" and self.bent:
            os.abort()

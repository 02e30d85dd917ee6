"""Orthanc for the tests marked ``pacs``: its own folder, free ports, killed by its process id.

It listens on all interfaces and cannot be told otherwise; the fixtures start it in a network namespace only.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

# Debian puts it where the PATH of users does not look
PROGRAM = shutil.which("Orthanc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
PLUGINS = Path("/usr/share/orthanc/plugins")
USER, PASSWORD = "medseg", "a-word-of-the-tests"


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Orthanc:
    """A PACS that can be stopped and started again; its ports and folder stay the same."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder, self.http, self.dicom, self.ours = folder, free_port(), free_port(), free_port()
        us = {"AET": "MEDSEG", "Host": "127.0.0.1", "Port": self.ours}
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so"), str(PLUGINS / "libOrthancGdcm.so")],
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": False,
            "DicomAlwaysAllowEcho": False,
            "UnknownSopClassAccepted": False,
            "OverwriteInstances": False,
            "ExecuteLuaEnabled": False,
            "DicomModalities": {
                "medseg": us | {f"Allow{what}": True for what in ("Echo", "Find", "Get", "Move", "Store")}
            },
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full"},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(settings | more))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM or "Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=log
            )
        end = time.monotonic() + 20
        while True:
            try:
                self.ask("/system")
                return
            except requests.ConnectionError:
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < end, "Orthanc does not answer"
                time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, or kill it."""
        assert self.process is not None
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(20)
        self.process = None

    def ask(self, path: str, body: Any = None) -> Any:
        """Ask or tell by Orthanc's own interface."""
        url = f"http://127.0.0.1:{self.http}{path}"
        kind = {"auth": (USER, PASSWORD), "timeout": 30}
        if body is None:
            answer = requests.get(url, **kind)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body)
            answer = requests.post(url, data=data, **kind)
        answer.raise_for_status()
        return answer.json()

    def put(self, data: bytes) -> None:
        """Give it an object, as a modality would."""
        self.ask("/instances", data)

    def of_series(self) -> list[dict[str, Any]]:
        """Series that it holds."""
        return [self.ask(f"/series/{name}") for name in self.ask("/series")]

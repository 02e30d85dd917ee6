"""Fixtures of the tests marked ``pacs``: Orthanc, started inside a network namespace only.

unshare -rn bash -c 'ip link set lo up; exec "$@"' _ pytest -m pacs tests/pacs
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pacs_orthanc import PROGRAM, Orthanc


@pytest.fixture
def new_orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """Starts Orthancs, and stops those that still run in the end."""
    if PROGRAM is None:
        pytest.skip("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb orthanc-gdcm dcmtk")
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        pytest.fail(
            "Orthanc listens on all interfaces: run this in a network namespace, see tests/pacs/conftest.py"
        )
    made: list[Orthanc] = []

    def start(**more: Any) -> Orthanc:
        made.append(Orthanc(tmp_path / f"orthanc{len(made)}", **more))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        if one.process is not None:
            one.stop(kill=True)


@pytest.fixture
def orthanc(new_orthanc: Callable[..., Orthanc]) -> Orthanc:
    return new_orthanc()

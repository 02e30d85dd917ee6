"""Seconds until ``import medseg`` and ``medseg --help`` are done, each in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.bench


@pytest.mark.parametrize(
    "arguments", [["-c", "import medseg"], ["-m", "medseg", "--help"]], ids=["import medseg", "medseg --help"]
)
def test_seconds_of_a_fresh_process(arguments, capsys, request) -> None:
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])  # the first one reads files that the others find in memory
    with capsys.disabled():
        print(f"\n{request.node.callspec.id}: {median:.2f} s, aim 0.5 s (first {seconds[0]:.2f} s)")
    assert median < 0.5

"""An image of 20000 x 20000 pixels through the command line, within a bound of memory: time, peak, count."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

import medseg
from medseg.instances import to_instances
from medseg.targets import interior_border

pytestmark = pytest.mark.bench

PART, BOUND_GB = 1000, 2.0


def drawn(path: Path, side: int) -> int:
    """Write a TIFF of equal square parts, never held in memory as a whole; return the number of cells."""
    image, instances = medseg.phantoms.cells((PART, PART), rng=np.random.default_rng(0))
    part = np.round(image * 255).astype(np.uint8)
    times = side // PART
    held = tifffile.memmap(path, shape=(side, side), dtype=np.uint8)
    for i in range(times):
        held[i * PART : (i + 1) * PART] = np.tile(part, (1, times))
    held.flush()
    # cells that are cut at the edge of a part touch what is there in the next one
    one, two = (
        to_instances(np.tile(interior_border(instances), (n, n)), border=2, min_size=30).max() for n in (1, 2)
    )
    inner = two - 2 * one  # of n x n parts: one * n + inner * n * (n - 1) / 2 for parts that meet as these do
    return int(one * times + inner * times * (times - 1) / 2)


def watched(command: list[str]) -> tuple[float, dict[str, float]]:
    """Run a command; return seconds, and the peaks of its resident memory and of the anonymous part."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = {"VmHWM": 0.0, "RssAnon": 0.0}

    def look() -> None:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            for name in peak:
                found = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")]
                peak[name] = max([peak[name], *found])
            time.sleep(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    code = process.wait()
    thread.join()
    assert code == 0
    return time.monotonic() - begun, peak


@pytest.mark.parametrize(("side", "bound"), [(6000, 1.2), (20_000, BOUND_GB)])
def test_a_huge_image_within_the_bound(tmp_path: Path, side: int, bound: float) -> None:
    """Labels and instance map of the shipped model; 20000 x 20000 takes about 20 minutes on two cores."""
    expected = drawn(tmp_path / "huge.tif", side)
    out = tmp_path / "out"
    words = ["predict", "nuclei", str(tmp_path / "huge.tif"), "-o", str(out), "--max-ram", str(bound)]
    seconds, peak = watched([sys.executable, "-m", "medseg", *words])
    found = json.loads((out / "predictions.json").read_text())["cases"][0]["objects"]
    with (out / "objects.csv").open() as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    print(f"\n{side} x {side}: {seconds:.0f} s, {side**2 / seconds / 1e6:.2f} Mpx/s")
    print(f"peak {peak['VmHWM'] / 1e9:.3f} GB of {bound} GB (anonymous {peak['RssAnon'] / 1e9:.3f} GB)")
    print(f"{found} objects, {expected} drawn; map of {(out / 'huge.tif').stat().st_size / 1e6:.0f} MB")
    assert peak["VmHWM"] <= 1.1 * bound * 1e9
    assert found == rows
    assert abs(found - expected) <= 0.1 * expected
    with medseg.io.open_lazy(out / "huge.tif") as held:
        assert held.shape == (1, side, side)
        highest = max(int(held.raw(window).max()) for window in held.windows())
    assert highest == found

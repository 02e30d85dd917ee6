"""Peak memory of whole processes: many classes against two, and what a bound of memory holds to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from medseg.networks import has_bfloat16

pytestmark = pytest.mark.bench

CHILD = """
import json, re, sys, time
import numpy as np, torch
import medseg
from medseg import OverlapTileInferer
from medseg.networks import UNet, fast_network
from monai.inferers import sliding_window_inference

side, classes, gb, how = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
if classes:
    network = UNet(2, 3, classes, channels=(16, 32, 64, 128), padding="same", norm="batch").eval()
else:
    network = medseg.load_bundle("nuclei", device="cpu").network
if how in ("float32", "bfloat16"):
    network = fast_network(network, 3, 2, bfloat16=how == "bfloat16")
image = np.random.default_rng(0).integers(0, 255, (3, side, side), np.uint8)
start = time.perf_counter()
if how == "monai":
    with torch.inference_mode():
        whole = torch.from_numpy(image).float()[None] / 255
        labels = sliding_window_inference(whole, 512, 1, network, overlap=0.25, mode="gaussian").argmax(1)
    tiles = 0
else:
    inferer = OverlapTileInferer(max_ram_gb=gb)
    tiles = len(inferer.plan_tiles(image.shape, network))
    labels, _ = inferer.labels(image, network, prepare=lambda x: x.float() / 255)
seconds = time.perf_counter() - start
# not ru_maxrss, which begins with the peak of the process that starts this one
peak = int(re.search("VmHWM: *\\t* *([0-9]+)", open("/proc/self/status").read())[1]) * 1024 / 1e9
print(json.dumps({"peak": peak, "seconds": seconds, "tiles": tiles}))
"""


def child(side: int, classes: int, gb: float, how: str) -> dict[str, float]:
    """Run the network over an image in a process of its own; classes 0 is the shipped network."""
    words = [sys.executable, "-c", CHILD, str(side), str(classes), str(gb), how]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


HOW = ["as it is", "float32", pytest.param("bfloat16", marks=pytest.mark.skipif(
    not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16"))]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_104_classes_need_no_more_memory_than_2(how: str) -> None:
    two, many = (child(2048, classes, 1.0, how) for classes in (2, 104))
    print(f"\n{how}, 1 GB: 2 classes {two['peak']:.2f} GB, {two['tiles']} tiles, {two['seconds']:.1f} s; "
          f"104 classes {many['peak']:.2f} GB, {many['tiles']} tiles, {many['seconds']:.1f} s; "
          f"ratio {many['peak'] / two['peak']:.2f}")  # fmt: skip
    assert many["peak"] <= 1.2 * two["peak"]


def test_the_sliding_window_needs_memory_for_every_class() -> None:
    """MONAI's, for comparison: it holds all classes of the whole image."""
    two, many = (child(2048, classes, 0.0, "monai") for classes in (2, 104))
    print(f"\nMONAI: 2 classes {two['peak']:.2f} GB, {two['seconds']:.1f} s; "
          f"104 classes {many['peak']:.2f} GB, {many['seconds']:.1f} s")  # fmt: skip
    assert many["peak"] > 1.2 * two["peak"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("gb", [1.0, 2.0, 4.0])
def test_the_process_stays_within_the_bound(how: str, gb: float) -> None:
    found = child(4096, 0, gb, how)
    print(f"\n{how}, bound {gb:g} GB: peak {found['peak']:.2f} GB, {found['peak'] / gb:.2f} of it, "
          f"{found['tiles']} tiles, {found['seconds']:.1f} s")  # fmt: skip
    assert found["peak"] <= 1.1 * gb

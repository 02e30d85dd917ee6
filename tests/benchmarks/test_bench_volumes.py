"""Volumes: overlap tiles against MONAI's sliding window in time and memory, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest
import torch

from medseg.networks import has_bfloat16

pytestmark = pytest.mark.bench

BUDGET_GB = 6.0
CHILD = """
import json, re, sys, time
import numpy as np, torch
import medseg
from medseg.networks import build_network
from medseg.bundle import Bundle
from medseg.inference import predict
from medseg.transforms import frame_of, normaliser
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference

shape, classes, gb = eval(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
how, overlap, spacing = sys.argv[4], float(sys.argv[5]), float(sys.argv[6])
torch.manual_seed(0)
values = {
    "input.spatial_dims": 3, "train.patch": (96, 96, 96), "network.channels": (16, 32, 64, 128),
    "input.normalise": "none", "predict.mirror": 0,
    "target.classes": tuple(f"c{i}" for i in range(classes)), "target.values": tuple(range(classes)),
    "predict.precision": "bfloat16" if how == "bfloat16" else "float32",
}
if spacing:
    values |= {"input.orientation": "RAS", "input.resample": True, "input.spacing": (spacing,) * 3,
               "input.spacing_unit": "mm"}
plan = medseg.Plan(name="bench").with_values(values)
network = build_network(plan).eval()
image = MetaTensor(torch.randint(-1000, 1000, (1, *shape), dtype=torch.int16), affine=torch.eye(4),
                   meta={"spacing_unit": "mm"})
small = image[:, :32, :32, :32]
start = time.perf_counter()
if how == "monai":
    with torch.inference_mode():
        sliding_window_inference(small[None].float(), 32, 1, network)
        start = time.perf_counter()
        labels = sliding_window_inference(
            image.as_tensor()[None].float(), 96, 1, network, overlap=overlap, mode="gaussian"
        ).argmax(1)
else:
    bundle = Bundle("bench", plan, network, torch.device("cpu"), "", None)
    predict(bundle, MetaTensor(small, affine=torch.eye(4), meta={"spacing_unit": "mm"}))
    start = time.perf_counter()
    labels = predict(bundle, image, max_ram_gb=gb).labels
seconds = time.perf_counter() - start
# not ru_maxrss, which begins with the peak of the process that starts this one
peak = int(re.search("VmHWM: *\\t* *([0-9]+)", open("/proc/self/status").read())[1]) * 1024 / 1e9
print(json.dumps({"peak": peak, "seconds": seconds}))
"""


@cache
def child(
    shape: tuple[int, ...], classes: int, gb: float, how: str, overlap: float = 0.0, spacing: float = 0.0
) -> dict[str, float]:
    """Segment a made volume of 1 mm in a process of its own; ``spacing`` is that of the network."""
    words = [str(shape), str(classes), str(gb), how, str(overlap), str(spacing)]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], capture_output=True, text=True, timeout=5400, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


HOW = ["float32", pytest.param("bfloat16", marks=pytest.mark.skipif(
    not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16"))]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("overlap", "least"), [(0.25, 1.5), (0.5, 3.0)])
def test_a_volume_of_256_against_the_sliding_window(how: str, overlap: float, least: float) -> None:
    ours, theirs = (
        child((256,) * 3, 3, BUDGET_GB, how),
        child((256,) * 3, 3, BUDGET_GB, "monai", overlap),
    )
    ratio = theirs["seconds"] / ours["seconds"]
    print(f"\n{how}: overlap tile {ours['seconds']:.1f} s, {ours['peak']:.2f} GB; sliding window 96^3 at "
          f"{overlap} {theirs['seconds']:.1f} s, {theirs['peak']:.2f} GB; {ratio:.2f} x")  # fmt: skip
    assert ratio >= least
    assert ours["peak"] <= 1.1 * BUDGET_GB


@pytest.mark.parametrize("how", HOW)
def test_many_classes_need_little_more_memory_than_2(how: str) -> None:
    """At another spacing, so that all classes are interpolated; MONAI's inferer beside it."""
    shape = (256, 256, 256)
    two, many = (child(shape, classes, 4.0, how, spacing=1.5) for classes in (2, 104))
    theirs = child(shape, 104, 0.0, "monai", 0.25)
    print(f"\n{how}: 2 classes {two['peak']:.2f} GB, {two['seconds']:.1f} s")
    print(f"104 classes {many['peak']:.2f} GB, {many['seconds']:.1f} s: {many['peak'] / two['peak']:.2f} x")
    print(f"MONAI's sliding window, 104 classes: {theirs['peak']:.2f} GB, {theirs['seconds']:.1f} s")
    assert many["peak"] <= 1.2 * two["peak"]
    assert many["peak"] < theirs["peak"] / 4


@pytest.mark.parametrize("bound", [1.2, 2.5])
def test_small_bounds_hold(bound: float) -> None:
    """Room for few voxels beside the context of a tile."""
    found = child((224, 224, 224), 2, bound, "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32")
    print(f"\nwithin {bound:g} GB: {found['peak']:.2f} GB, {found['seconds']:.1f} s")
    assert found["peak"] <= 1.1 * bound


def test_a_whole_body_with_104_classes_needs_the_memory_of_2() -> None:
    """512 x 512 x 600 voxels; a quarter of an hour on two cores."""
    how = "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32"
    two, many = (child((512, 512, 600), classes, 4.0, how) for classes in (2, 104))
    print(f"\n2 classes {two['peak']:.2f} GB, {two['seconds']:.0f} s; 104 classes {many['peak']:.2f} GB, "
          f"{many['seconds']:.0f} s: {many['peak'] / two['peak']:.2f} x")  # fmt: skip
    assert many["peak"] <= 1.2 * two["peak"]
    assert many["peak"] <= 1.1 * 4.0

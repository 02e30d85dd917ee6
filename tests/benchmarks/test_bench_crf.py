"""The fully connected CRF: against all pairs of a small image, and seconds and memory for a large one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import medseg.crf.model as model
from medseg.crf import CRF, dense_crf
from medseg.crf.bilateral import GridKernel
from medseg.crf.layout import layout_of

pytestmark = pytest.mark.bench


def picture(shape, channels, classes, rng):
    """Smooth regions of noisy values, and vague probabilities."""
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), max(shape) / 20) for _ in range(classes)]
    labels = np.argmax(fields, axis=0)
    image = np.moveaxis(rng.random((classes, channels))[labels], -1, 0)
    image = image + 0.05 * rng.normal(size=image.shape)
    index = np.arange(classes).reshape(-1, *[1] * len(shape))
    share = np.exp(1.5 * (labels == index) + rng.normal(size=(classes, *shape)))
    return (share / share.sum(0)).astype(np.float32), image.astype(np.float32)


def all_pairs(probabilities, image, crf):
    grid = np.meshgrid(*(np.arange(n) for n in image.shape[1:]), indexing="ij")
    place, value = (
        np.stack(grid).reshape(2, -1).T.astype(float),
        image.reshape(len(image), -1).T.astype(float),
    )
    far = ((place[:, None] - place) ** 2).sum(-1)
    unlike = ((value[:, None] - value) ** 2).sum(-1)
    total = 0.0
    for weight, kernel in (
        (crf.w_bilateral, np.exp(-far / (2 * crf.theta_alpha**2) - unlike / (2 * crf.theta_beta**2))),
        (crf.w_spatial, np.exp(-far / (2 * crf.theta_gamma**2))),
    ):
        sums = kernel.sum(1)
        kernel /= np.sqrt(sums[:, None] * sums)
        np.fill_diagonal(kernel, 0)
        total = total + weight * kernel
    unary = np.log(probabilities.reshape(len(probabilities), -1).astype(float))
    field = np.exp(unary)
    for _ in range(crf.iterations):
        energy = unary + field @ total
        field = np.exp(energy - energy.max(0))
        field /= field.sum(0)
    return field.reshape(probabilities.shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_against_all_pairs(channels, monkeypatch, capsys) -> None:
    probabilities, image = picture((64, 64), channels, 3, np.random.default_rng(0))
    crf = CRF(theta_alpha=20, theta_beta=0.1)
    start = time.perf_counter()
    expected = all_pairs(probabilities, image, crf)
    theirs = time.perf_counter() - start
    for way in ("chosen", "grid"):
        if way == "grid":
            monkeypatch.setattr(
                model,
                "bilateral_kernel",
                lambda image, sigma, beta, *, bytes_left: GridKernel(
                    image / beta, sigma, layout_of(image / beta, sigma, 0.5)
                ),
            )
        start = time.perf_counter()
        found = dense_crf(probabilities, image, crf=crf)
        mine = time.perf_counter() - start
        error = np.abs(found - expected).max()
        with capsys.disabled():
            print(
                f"\n64 x 64, {channels} channels, {way}: {mine:.2f} s against {theirs:.2f} s of all pairs,"
                f" {theirs / mine:.1f} times faster; largest difference {error:.4f}, aim 0.02"
            )
        assert error < 0.02


CHILD = """
import json, re, sys, time
import numpy as np, torch
from test_bench_crf import picture
from medseg.crf import CRF, dense_crf

def kilobytes(name):
    return int(re.search(name + r":\\s*([0-9]+)", open("/proc/self/status").read())[1])

channels, classes, iterations, memory_gb = (json.loads(word) for word in sys.argv[1:])
both = picture((1024, 1024), channels, classes, np.random.default_rng(0))
probabilities, image = (torch.from_numpy(one) for one in both)
# what is loaded once
dense_crf(probabilities[:, :70, :70], image[:, :70, :70], crf=CRF(theta_alpha=9, iterations=1))
before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of making the image
start, wall = time.process_time(), time.perf_counter()
dense_crf(probabilities, image, crf=CRF(iterations=iterations), memory_gb=memory_gb)
seconds, wall = time.process_time() - start, time.perf_counter() - wall
peak = kilobytes("VmHWM")
taken = (peak - before) * 1024 / 1e9
print(json.dumps({"seconds": seconds, "wall": wall, "peak": peak * 1024 / 1e9, "taken": taken}))
"""


def measured(*numbers):
    words = [sys.executable, "-c", CHILD, *map(json.dumps, numbers)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("channels", "classes", "limit_s"), [(1, 2, 20), (3, 3, 20), (1, 21, 60)])
def test_seconds(channels, classes, limit_s, capsys) -> None:
    found = measured(channels, classes, 10, None)
    with capsys.disabled():
        print(
            f"\n1024 x 1024, {channels} channels, {classes} classes, 10 updates: {found['wall']:.1f} s of the"
            f" clock, {found['seconds']:.1f} s of the processor, aim {limit_s} s; {found['peak']:.2f} GB, of"
            f" which {found['taken']:.2f} GB for the field"
        )
    assert found["seconds"] < limit_s


@pytest.mark.parametrize(
    ("channels", "classes", "memory_gb"), [(1, 2, 0.3), (3, 3, 0.5), (3, 3, 0.8), (1, 5, 0.4)]
)
def test_memory_is_as_promised(channels, classes, memory_gb, capsys) -> None:
    found = measured(channels, classes, 1, memory_gb)
    with capsys.disabled():
        print(f"\n{channels} channels, {classes} classes: {found['taken']:.2f} GB taken of {memory_gb} GB")
    assert found["taken"] < memory_gb

"""The border weight map against one distance transform of the whole image an object."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from medseg import border_weight_map

pytestmark = pytest.mark.bench


def cells(shape, pitch, radius, rng):
    """Balls on a jittered grid."""
    out = np.zeros(shape, np.int32)
    centres = itertools.product(*(np.arange(pitch / 2, size, pitch) for size in shape))
    for number, centre in enumerate(centres, start=1):
        place = [int(c + rng.uniform(-0.3, 0.3) * radius) for c in centre]
        reach = rng.uniform(0.7, 1.2) * radius
        window = tuple(slice(max(0, int(p - reach)), int(p + reach) + 2) for p in place)
        axes = np.ogrid[tuple(slice(w.start, min(w.stop, s)) for w, s in zip(window, shape))]
        out[window][sum((a - p) ** 2 for a, p in zip(axes, place)) <= reach**2] = number
    return out


def one_transform_an_object(instances, w0=10.0, sigma=5.0):
    d1, d2 = np.full((2, *instances.shape), np.inf)
    for number in np.unique(instances[instances > 0]):
        distance = ndimage.distance_transform_edt(instances != number)
        d1, d2 = np.minimum(d1, distance), np.minimum(d2, np.maximum(d1, distance))
    return 1 + np.where(instances == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)


@pytest.mark.parametrize(
    ("shape", "pitch", "radius", "least", "rounds"),
    [((512, 480), 42, 17, 20, 3), ((1024, 1024), 41.5, 16, 300, 1), ((64, 72, 80), 22, 8, 5, 3)],
)
def test_against_whole_images(shape, pitch, radius, least, rounds, capsys) -> None:
    instances = cells(shape, pitch, radius, np.random.default_rng(0))
    mine, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        expected = one_transform_an_object(instances)
        theirs.append(time.perf_counter() - start)
        for _ in range(3):
            start = time.perf_counter()
            got = border_weight_map(instances, class_weights=False, part=False)
            mine.append(time.perf_counter() - start)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    ratio = np.median(theirs) / np.median(mine)
    with capsys.disabled():
        print(
            f"\n{shape}, {instances.max()} objects: {np.median(mine):.3f} s"
            f" against {np.median(theirs):.1f} s, {ratio:.0f} times faster, aim {least}"
        )
    assert ratio > least


@pytest.mark.parametrize(
    ("shape", "pitch", "radius", "limit_s", "limit_gb"),
    [
        ((1024, 1024), 41.5, 16, 0.4, 0.1),
        ((128, 128, 128), 22, 9, 2.0, 0.2),
        ((128, 128, 128), 22, 12, 2.0, 0.2),  # hardly a gap between the balls
        ((4096, 4096), 58, 25, 3.0, 1.0),
    ],
)
def test_seconds_and_memory(shape, pitch, radius, limit_s, limit_gb, capsys) -> None:
    instances = cells(shape, pitch, radius, np.random.default_rng(0))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        border_weight_map(instances)
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    border_weight_map(instances)
    peak = tracemalloc.get_traced_memory()[1] / 1e9
    tracemalloc.stop()
    with capsys.disabled():
        print(
            f"\n{shape}, {instances.max()} objects: {np.median(seconds):.2f} s of the processor,"
            f" aim {limit_s} s;"
            f" {peak:.3f} GB beyond the input, aim {limit_gb} GB"
        )
    assert np.median(seconds) < limit_s
    assert peak < limit_gb

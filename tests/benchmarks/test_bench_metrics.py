"""Surface distances of many classes against MONAI scoring the same volumes, and what many classes cost."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from medseg.metrics import score_arrays

pytestmark = pytest.mark.bench

SPACING = (1.5, 0.8, 0.7)
METRICS = ("hd95_mm", "assd_mm", "nsd")


def organs(shape, n, rng, size=1.0):
    """A label map of n ellipsoids, later ones over earlier ones."""
    out = np.zeros(shape, np.uint8)
    for value in range(1, n + 1):
        radii = size * rng.uniform(0.06, 0.16, 3) * shape
        centre = rng.uniform(0.2, 0.8, 3) * shape
        window = tuple(
            slice(max(0, int(c - r)), min(s, int(c + r) + 2)) for c, r, s in zip(centre, radii, shape)
        )
        axes = np.ogrid[window]
        out[window][sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii)) <= 1] = value
    return out


def warped(labels, rng):
    """The same with borders that are a few voxels off, as of a good network."""
    shift = [
        ndimage.zoom(rng.normal(0, 2.5, (9, 9, 9)), np.array(labels.shape) / 9, order=1) for _ in range(3)
    ]
    places = [
        np.clip(np.rint(g + s), 0, n - 1).astype(np.intp)
        for g, s, n in zip(np.ogrid[tuple(map(slice, labels.shape))], shift, labels.shape)
    ]
    return labels[tuple(places)]


def by_monai(prediction, reference, n):
    """The three metrics of each class, as MONAI's functions give them."""
    pair = [
        torch.from_numpy(np.stack([labels == value for value in range(1, n + 1)]))[None]
        for labels in (prediction, reference)
    ]
    common = {"include_background": True, "spacing": SPACING}
    return [
        compute_hausdorff_distance(*pair, percentile=95, **common),
        compute_average_surface_distance(*pair, symmetric=True, **common),
        compute_surface_dice(*pair, [1.0] * n, **common),
    ]


def test_ten_classes_against_monai(capsys) -> None:
    rng, n = np.random.default_rng(0), 10
    reference = organs((256, 256, 256), n, rng)
    prediction = warped(reference, rng)
    classes = {str(value): value for value in range(1, n + 1)}
    start = time.perf_counter()
    scores = score_arrays(prediction, reference, metrics=METRICS, classes=classes, spacing=SPACING)
    mine = time.perf_counter() - start
    start = time.perf_counter()
    with warnings.catch_warnings(action="ignore"):
        theirs = by_monai(prediction, reference, n)
    peer = time.perf_counter() - start
    for name, values in zip(METRICS, theirs):
        got = [scores.value("", name, label) for label in classes]
        np.testing.assert_allclose(got, values[0].numpy(), rtol=1e-4)
    with capsys.disabled():
        print(
            f"\n256^3, {n} classes: {mine:.1f} s against {peer:.1f} s, {peer / mine:.1f} times faster, aim 10"
        )
    assert peer / mine > 10


def test_many_classes_cost_little_more_than_few(capsys) -> None:
    """A class adds the measuring of its surface, and no pass over the volume."""
    many = organs((160, 192, 224), 104, np.random.default_rng(1), size=0.5)
    few = np.where(many, (many - 1) % 4 + 1, 0).astype(np.uint8)  # the same organs, as four classes
    seconds = {}
    for n, reference in ((4, few), (104, many)):
        prediction = np.roll(reference, 2, axis=1)
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            scores = score_arrays(prediction, reference, metrics=("dice", *METRICS), spacing=SPACING)
            rounds.append(time.perf_counter() - start)
        assert len(scores.labels("nsd")) > 0.9 * n
        seconds[n] = np.median(rounds)
    ratio = seconds[104] / seconds[4]
    with capsys.disabled():
        print(
            f"\n{many.shape}, dice and distances: 4 classes {seconds[4]:.2f} s, 104 classes"
            f" {seconds[104]:.2f} s, ratio {ratio:.2f}, aim 2"
        )
    assert ratio < 2

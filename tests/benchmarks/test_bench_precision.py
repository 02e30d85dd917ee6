"""The fast copies of the shipped network against the network as it is: time in turns, real images' scores."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

import medseg
from medseg import OverlapTileInferer, Prediction
from medseg.inference.prediction import as_image
from medseg.metrics import score_arrays
from medseg.networks import fast_network, has_bfloat16
from medseg.transforms import normalisation

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16"),
]


@pytest.fixture(scope="module")
def bundle() -> medseg.Bundle:
    return medseg.load_bundle("nuclei", device="cpu")


@pytest.fixture(scope="module")
def forms(bundle: medseg.Bundle) -> dict[str, torch.nn.Module]:
    return {
        "plain": bundle.network,
        "float32": fast_network(bundle.network, 3, 2),
        "bfloat16": fast_network(bundle.network, 3, 2, bfloat16=True),
    }


@pytest.mark.parametrize("side", [256, 1024])
def test_times_faster_than_plain_float32(forms: dict[str, torch.nn.Module], side: int) -> None:
    """Contiguous float32 as PyTorch runs it, against the copies, from an image to its label map."""
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    inferer = OverlapTileInferer(tile=side)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(6):
        for name, network in forms.items():
            plain = name == "plain"
            network.takes_any_format = not plain  # contiguous, as before the fast path
            start = time.perf_counter()
            inferer.labels(image, network)
            times[name].append(time.perf_counter() - start)
    seconds = {name: median(values[1:]) for name, values in times.items()}
    ratios = {name: seconds["plain"] / value for name, value in seconds.items()}
    told = (f"{name} {seconds[name] * 1e3:.0f} ms, {ratio:.2f} x" for name, ratio in ratios.items())
    print(f"\n{side} x {side}: " + "; ".join(told))
    assert ratios["bfloat16"] >= (2.3 if side >= 1024 else 1)  # small ones are told, not promised


def test_scores_stay(bundle: medseg.Bundle, forms: dict[str, torch.nn.Module], shared_data: Path) -> None:
    """Mean ap and dice over every fourth image of the Data Science Bowl change by at most 0.002."""
    folder = shared_data / "dsb2018"
    if not folder.is_dir():
        pytest.skip("the images of the Data Science Bowl are absent")
    with open(folder / "index.csv", newline="") as file:
        names = [row["id"] for row in csv.DictReader(file)][::4]
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for case in names:
        pixels = as_image(folder / f"images/{case}.png", bundle.plan)
        reference = np.asarray(medseg.io.read_label(folder / f"labels/{case}.png")[0])
        offset, scale = normalisation(pixels, bundle.plan.input)
        for name, network in forms.items():
            labels, _ = OverlapTileInferer().labels(
                pixels.as_tensor(), network, prepare=lambda x, a=offset, b=scale: (x.float() - a) / b
            )
            found = Prediction(labels, None, np.eye(4), "pixel", bundle.plan).instances()
            ap = score_arrays(found, reference, metrics=("ap",)).mean("ap", "mean")
            ground = [np.uint8(a > 0) for a in (found, reference)]
            scores[name].append((ap, score_arrays(*ground, metrics=("dice",)).mean("dice")))
    means = {name: np.nanmean(values, axis=0) for name, values in scores.items()}
    spread = np.nanstd(np.subtract(scores["bfloat16"], scores["plain"]), axis=0)
    for name, (ap, dice) in means.items():
        print(f"\n{name}: ap {ap:.5f}, dice {dice:.5f} over {len(names)} images", end="")
    print(f"\ndeviation of the change of one image: ap {spread[0]:.5f}, dice {spread[1]:.5f}")
    for name in ("float32", "bfloat16"):
        assert np.abs(means[name] - means["plain"]).max() <= 0.002

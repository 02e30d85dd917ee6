"""Which precision a trained network predicts in: measured on the validation cases, obeyed by predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import medseg
from medseg import Plan
from medseg.bundle import save_bundle, verify_bundle
from medseg.networks import build_network, has_bfloat16
from medseg.training import fit, open_run
from medseg.training import precision as module
from medseg.training.precision import with_precision

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor has no bfloat16")


def samples(n: int = 3) -> list[dict[str, Any]]:
    """Discs of brightness 1 on ground of 0, with noise."""
    found = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[:40, :56]
        disc = (rows - 18) ** 2 + (columns - 20 - 5 * seed) ** 2 < 120
        image = disc + rng.normal(0, 0.05, disc.shape)
        found.append({"image": torch.from_numpy(image[None].astype(np.float32)), "label": disc[None] * 1})
    return found


def threshold(offset: float) -> nn.Module:
    """Brightness above 0.5 is foreground: offset + brightness - (offset + 0.5), in two layers."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
        network[0].bias.copy_(torch.tensor([offset, offset]))
        network[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -1.0]]).reshape(2, 2, 1, 1))
        network[1].bias.copy_(torch.tensor([0.0, -0.5]))
    return network


@needs_bfloat16
def test_bfloat16_is_chosen_where_it_is_as_good() -> None:
    plan = with_precision(Plan(), threshold(0.0), samples())
    assert plan.predict.precision == "bfloat16"
    assert "dice 1.0000 for 1.0000 of 3 validation cases" in plan.reasons["predict.precision"]
    assert Plan.from_toml(plan.to_toml()).reasons == plan.reasons


@needs_bfloat16
def test_bfloat16_is_switched_off_where_it_changes_the_scores() -> None:
    """Large numbers that cancel: float32 keeps 4096 + 0.9 apart from 4096, bfloat16 does not."""
    plan = with_precision(Plan(), threshold(4096.0), samples())
    assert plan.predict.precision == "float32"
    assert "dice 0.0000 for 1.0000" in plan.reasons["predict.precision"]


@needs_bfloat16
def test_both_ap_and_dice_are_measured_for_instances() -> None:
    plan = Plan().with_values({"target.kind": "instances", "target.name": "foreground"})
    good, bad = (with_precision(plan, threshold(offset), samples()) for offset in (0.0, 4096.0))
    assert (good.predict.precision, bad.predict.precision) == ("bfloat16", "float32")
    for found in (good, bad):
        assert "ap " in found.reasons["predict.precision"]
        assert "dice " in found.reasons["predict.precision"]


@needs_bfloat16
@pytest.mark.parametrize(("change", "expected"), [(0.0019, "bfloat16"), (0.0021, "float32")])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("metric", ["ap", "dice"])
def test_the_bound_holds_for_either_metric_up_and_down(
    monkeypatch: pytest.MonkeyPatch, metric: str, sign: int, change: float, expected: str
) -> None:
    scores = iter([{"ap": 0.6, "dice": 0.9}, {"ap": 0.6, "dice": 0.9} | {metric: 0.6 + sign * change}])
    if metric == "dice":
        scores = iter([{"ap": 0.6, "dice": 0.6}, {"ap": 0.6, "dice": 0.6 + sign * change}])
    monkeypatch.setattr(module, "score_labels", lambda *arguments: next(scores))
    plan = Plan().with_values({"target.kind": "instances", "target.name": "foreground"})
    assert with_precision(plan, threshold(0.0), samples()).predict.precision == expected


def test_without_hardware_or_cases_it_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_precision(Plan(), threshold(0.0), []).predict.precision == "float32"
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    plan = with_precision(Plan(), threshold(0.0), samples())
    assert plan.predict.precision == "float32"
    assert "not measured" in plan.reasons["predict.precision"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_given_by_hand_is_left(precision: str) -> None:
    plan = Plan().with_overrides([f"predict.precision={precision}"])
    assert with_precision(plan, threshold(4096.0), samples()) is plan
    plan = Plan().with_values({"predict.precision": precision})
    assert with_precision(plan, threshold(0.0), samples()) is plan
    # but one that another training measured is measured again
    plan = Plan().with_values({"predict.precision": precision}, reason="measured: as good as float32")
    assert with_precision(plan, threshold(4096.0), samples()).predict.precision == "float32"


def test_fit_writes_it_into_the_bundle_and_not_into_the_run(tmp_path: Path) -> None:
    for number in range(4):
        rng = np.random.default_rng(number)
        image, cells = medseg.phantoms.cells((40, 56), n=4, diameter=12, rng=rng)
        medseg.write(image, tmp_path / f"cells/images/{number}.tif")
        medseg.write(cells, tmp_path / f"cells/labels/{number}.tif")
    tiny = {
        "target.kind": "instances",
        "target.name": "foreground",
        "network.channels": (2, 4),
        "train.patch": (32, 48),
        "train.steps": 2,
        "train.workers": 0,
    }
    plan = Plan().with_values(tiny)
    bundle = fit(plan, tmp_path / "cells", tmp_path / "run", device="cpu")
    reason = bundle.plan.reasons["predict.precision"]
    assert ("ap " in reason and " of 1 validation cases" in reason) or not has_bfloat16(CPU)
    assert bundle.plan.with_values({"predict.precision": "float32"}) == plan
    assert open_run(tmp_path / "run").plan == plan, "the same call goes on with the run"
    again = fit(plan, tmp_path / "cells", tmp_path / "run", device="cpu")
    assert again.plan == bundle.plan
    assert again.plan.reasons["predict.precision"] == reason


# the bundle obeys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plan = Plan(name="half").with_values(
        {"network.channels": (4, 8), "predict.precision": "bfloat16", "target.kind": "instances"}
    )
    return save_bundle(tmp_path / "half", plan, build_network(plan), card="")


@needs_bfloat16
def test_a_bundle_predicts_in_its_precision(folder: Path) -> None:
    bundle = medseg.load_bundle(folder, device="cpu")
    assert verify_bundle(bundle) < 1e-6, "the golden output is float32's"
    image = np.random.default_rng(0).random((61, 47))
    half = medseg.predict(bundle, image, probabilities=True).probabilities
    plan = bundle.plan.with_values({"predict.precision": "float32"})
    exact = medseg.load_bundle(save_bundle(folder.parent / "exact", plan, bundle.network, card=""))
    full = medseg.predict(exact, image, probabilities=True).probabilities
    assert half.dtype == full.dtype == np.float32
    assert 1e-5 < np.abs(half - full).max() < 0.05
    assert next(bundle.network.parameters()).dtype == torch.float32


def test_a_processor_without_bfloat16_uses_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.bundle.has_bfloat16", lambda device: False)
    bundle = medseg.load_bundle(folder, device="cpu")
    types = {p.dtype for p in bundle.fast_network().parameters()}
    assert types == {torch.float32}


def test_the_copy_is_kept_until_the_weights_change(folder: Path) -> None:
    bundle = medseg.load_bundle(folder, device="cpu")
    first = bundle.fast_network()
    assert bundle.fast_network() is first
    with torch.no_grad():
        bundle.network.head.bias.add_(torch.tensor([0.0, 50.0]))
    assert bundle.fast_network() is not first
    assert bool((medseg.predict(bundle, np.zeros((9, 8))).labels == 1).all())

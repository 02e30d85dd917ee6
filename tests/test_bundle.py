"""Bundles: written, read, moved, zipped, broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from medseg import Plan, Refused, load_bundle
from medseg.bundle import save_bundle, verify_bundle
from medseg.networks import build_network


@pytest.fixture
def plan() -> Plan:
    return Plan(name="small").with_values({"network.channels": (2, 4)}, reason="small: for a test")


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "small", plan, build_network(plan), card="# Small\n\nCC0")


def test_round_trip_keeps_plan_reasons_and_weights(plan: Plan, tmp_path: Path) -> None:
    network = build_network(plan).train()
    path = save_bundle(tmp_path / "b", plan, network, card="# B")
    bundle = load_bundle(path, device="cpu")
    assert bundle.plan == plan
    assert bundle.plan.reasons["network.channels"] == "small: for a test"
    assert bundle.card == "# B"
    assert network.training
    assert not bundle.network.training
    for a, b in zip(network.state_dict().values(), bundle.network.state_dict().values()):
        assert torch.equal(a, b)
    assert verify_bundle(bundle) < 1e-6
    assert [p.name for p in tmp_path.iterdir()] == ["b"], "nothing is left beside it"


def test_a_second_one_replaces_the_first(plan: Plan, folder: Path) -> None:
    network = build_network(plan)
    save_bundle(folder, plan, network, card="# New")
    assert load_bundle(folder).card == "# New"
    assert [p.name for p in folder.parent.iterdir()] == ["small"]


def test_a_zip_and_a_run_are_read(folder: Path, tmp_path: Path) -> None:
    zipped = shutil.make_archive(str(tmp_path / "zipped"), "zip", folder.parent, "small")
    assert load_bundle(zipped).name == "small"
    run = tmp_path / "run"
    shutil.copytree(folder, run / "bundle")
    assert load_bundle(run).name == "small"


def reason(path: Path | str) -> str:
    with pytest.raises(Refused) as refusal:
        load_bundle(path)
    assert "\n" not in str(refusal.value)
    return refusal.value.reason


def test_every_damage_is_refused(plan: Plan, folder: Path, tmp_path: Path) -> None:
    assert reason("nuclie") == "unknown-bundle"
    assert reason(tmp_path) == "unknown-bundle"
    for name in ("weights.safetensors", "plan.toml", "card.md", "golden.safetensors"):
        broken = tmp_path / f"broken-{name}"
        shutil.copytree(folder, broken)
        with open(broken / name, "ab") as file:
            file.write(b" ")
        assert reason(broken) == "bad-bundle", name
    (folder / "sha256sums.txt").unlink()
    assert reason(folder) == "bad-bundle"


def test_weights_of_another_plan_are_refused(plan: Plan, tmp_path: Path) -> None:
    other = build_network(plan.with_values({"network.channels": (3, 6)}))
    path = save_bundle(tmp_path / "b", plan, other, card="")
    with pytest.raises(Refused, match="do not belong to its plan"):
        load_bundle(path)


def test_a_foreign_network_is_given_by_the_caller(plan: Plan, tmp_path: Path) -> None:
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    custom = plan.with_values({"network.name": "custom"})
    path = save_bundle(tmp_path / "b", custom, network, card="")
    with pytest.raises(Refused, match="unknown network 'custom'"):
        load_bundle(path)
    bundle = load_bundle(path, network=torch.nn.Conv2d(1, 2, 3, padding=1), device="cpu")
    assert verify_bundle(bundle) < 1e-6


def test_a_changed_processor_result_is_noticed(folder: Path) -> None:
    bundle = load_bundle(folder, device="cpu")
    with torch.no_grad():
        next(bundle.network.parameters()).add_(1.0)
    with pytest.raises(Refused, match="golden"):
        verify_bundle(bundle)


def test_unwritable_output_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refused) as refusal:
        save_bundle(tmp_path / "file" / "b", plan, build_network(plan), card="")
    assert refusal.value.reason == "unwritable"

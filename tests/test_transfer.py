"""Transfer learning: a training that begins with weights of another, and keeps its encoder for a while."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import medseg
from medseg import Plan, Refused
from medseg.bundle import join_bundles, load_bundle, save_bundle
from medseg.cli import main
from medseg.networks import VGG16, UNet, build_network
from medseg.phantoms import cells
from medseg.tensors import load_tensors
from medseg.training import StepInfo, fit, open_run, plan_for, start_from

UNET = {"network.channels": (2, 4), "input.channels": 1}
TINY = UNET | {
    "target.kind": "instances",
    "target.name": "foreground",
    "network.dropout": 0.25,
    "train.patch": (32, 48),
    "train.batch_size": 2,
    "train.steps": 6,
    "train.validate_every": 2,
    "train.validate_cases": 1,
    "train.warmup_steps": 2,
    "train.lr": 1e-2,
    "train.weight_decay": 0.5,
    "train.workers": 0,
}
ORGANS = {"target.classes": ("ground", "liver", "spleen"), "target.values": (0, 1, 2)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are quicker on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_cells(root: Path, *, dark: bool, number: int = 6) -> Path:
    """Cells that are bright on dark, or dark on bright with uneven light and noise: two kinds of images."""
    for i in range(number):
        rng = np.random.default_rng(i + 100 * dark)
        image, objects = cells((56, 72), n=5, diameter=14, rng=rng)
        if dark:
            light = np.linspace(0.6, 1.0, image.shape[1])
            image = (light * (1.2 - image) + rng.normal(0, 0.1, image.shape)).astype(np.float32)
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write(objects, root / f"labels/{i}.tif")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cells(tmp_path_factory.mktemp("cells"), dark=False)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(name="cells").with_values(TINY)


@pytest.fixture(scope="module")
def source(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose every number differs from those that a network begins with."""
    return make_bundle(tmp_path_factory.mktemp("source") / "model", plan)


def make_bundle(path: Path, plan: Plan, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    network = build_network(plan)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) / 4 + 0.1)
    return save_bundle(path, plan, network, card="")


def tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone() for name, t in network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor], names: Any = None) -> bool:
    return all(torch.equal(one[name], other[name]) for name in (one if names is None else names))


# what is taken


def test_from_a_bundle_of_the_same_classes_all_is_taken(plan: Plan, source: Path) -> None:
    network = start_from(plan, source)
    assert equal(tensors(network), tensors(load_bundle(source, device="cpu").network))
    started = network.started_from
    assert started.source == "model"
    assert not started.loaded.untouched
    assert not started.loaded.left_out
    assert str(started).startswith("'model': ")


def test_from_a_bundle_of_other_classes_all_but_the_head_is_taken(plan: Plan, source: Path) -> None:
    organs = plan.with_values(ORGANS | {"target.kind": "semantic", "target.name": "classes"})
    names = ("ground", "object")  # as many as in the source, and still others
    for classes in (organs, organs.with_values({"target.classes": names, "target.values": (0, 1)})):
        network, theirs = start_from(classes, source), tensors(load_bundle(source, device="cpu").network)
        fresh = {"head.weight", "head.bias"}
        assert set(network.started_from.loaded.untouched) == fresh
        assert set(network.started_from.loaded.left_out) == fresh
        own = tensors(network)
        assert equal(own, theirs, [name for name in own if name not in fresh])
        # what is fresh is as in a network that is begun without, by the plan's seed
        torch.manual_seed(classes.train.seed)
        assert equal(own, tensors(build_network(classes)), fresh)


def test_deep_supervision_has_heads_too(tmp_path: Path) -> None:
    plan = Plan().with_values({"network.channels": (2, 2, 2), "network.deep_supervision": True})
    source = make_bundle(tmp_path / "deep", plan)
    network = start_from(plan.with_values(ORGANS), source)
    heads = {"head.weight", "head.bias", "coarse_heads.0.weight", "coarse_heads.0.bias"}
    assert set(network.started_from.loaded.untouched) == heads
    plain = start_from(plan.with_values({"network.deep_supervision": False}), source)
    assert not plain.started_from.loaded.untouched


def test_a_run_a_checkpoint_and_a_shipped_bundle(
    data: Path, plan: Plan, source: Path, tmp_path: Path
) -> None:
    short = plan.with_values({"train.steps": 2})
    bundle = fit(short, data, tmp_path / "run", device="cpu")
    for path in (tmp_path / "run", tmp_path / "run" / "best.safetensors"):
        assert equal(tensors(start_from(plan, path)), tensors(bundle.network))
    shipped = load_bundle("nuclei", device="cpu")
    network = start_from(shipped.plan.with_values(ORGANS | {"target.kind": "semantic"}), "nuclei")
    assert equal(tensors(network.encoder), tensors(shipped.network.encoder))


@pytest.mark.parametrize(("theirs", "wanted"), [(3, 1), (1, 3), (1, 2), (4, 1)])
def test_channels_that_are_all_alike_give_what_they_gave(tmp_path: Path, theirs: int, wanted: int) -> None:
    plan = Plan().with_values({"network.channels": (5, 6), "network.residual": True})
    source = make_bundle(tmp_path / "model", plan.with_values({"input.channels": theirs}))
    network = start_from(plan.with_values({"input.channels": wanted}), source).eval()
    image = torch.rand(1, 1, 24, 32)
    with torch.inference_mode():
        given = load_bundle(source, device="cpu").network(image.expand(-1, theirs, -1, -1))
        found = network(image.expand(-1, wanted, -1, -1))
    assert float((found - given).abs().max()) < 1e-4 * float(given.abs().max())


def test_other_channels_are_refused(tmp_path: Path) -> None:
    plan = Plan().with_values(UNET)
    source = make_bundle(tmp_path / "model", plan.with_values({"input.channels": 3}))
    with pytest.raises(
        Refused, match=r"images of 3 channels: got input\.channels = 2\. .*input\.channels=3"
    ) as e:
        start_from(plan.with_values({"input.channels": 2}), source)
    assert e.value.reason == "channel-mismatch"


def test_published_weights_of_vgg16_then_32s_16s_8s(tmp_path: Path) -> None:
    few = {"network.channels": (2, 2, 2, 2, 2, 4), "network.norm": "none", "input.channels": 3}
    plans = {name: Plan().with_values(few | {"network.name": name}) for name in ("fcn32s", "fcn16s", "fcn8s")}
    published = VGG16(2, 3, 1000, channels=few["network.channels"])
    torch.save(published.state_dict(), tmp_path / "vgg16.pth")
    network = start_from(plans["fcn32s"], tmp_path / "vgg16.pth")
    assert equal(tensors(network.features), tensors(published.features))
    assert network.classifier[0].weight.flatten().equal(published.classifier[0].weight.flatten())
    left_out = network.started_from.loaded.left_out
    assert left_out == ("classifier.6.weight", "classifier.6.bias")
    with torch.no_grad():  # as if it had been trained
        for tensor in network.parameters():
            tensor.add_(torch.rand_like(tensor) / 20)
    image = torch.rand(1, 3, 70, 45)
    for before, name in (("fcn32s", "fcn16s"), ("fcn16s", "fcn8s")):
        path = save_bundle(tmp_path / before, plans[before], network, card="")
        given = network.eval()(image)
        network = start_from(plans[name], path)
        assert all(n.startswith("score_pool") for n in network.started_from.loaded.untouched)
        assert torch.allclose(network.eval()(image), given, atol=1e-5)
    other = start_from(plans["fcn32s"].with_values(ORGANS), path)
    assert {n.split(".")[0] for n in other.started_from.loaded.untouched} == {
        "score",
        "up",
        "up_pool3",
        "up_pool4",
    }
    weights = tensors(other)["score.weight"]
    assert weights.shape[0] == 3
    assert not weights.any()


# what is refused


def test_an_encoder_of_another_depth_or_width_is_refused(tmp_path: Path) -> None:
    deep = Plan().with_values({"network.channels": (2, 4, 4)})
    with pytest.raises(Refused) as caught:
        start_from(Plan().with_values({"network.channels": (2, 8)}), make_bundle(tmp_path / "a", deep))
    assert caught.value.reason == "another-network"
    assert "'down.1.0.weight'" in str(caught.value)
    flat = make_bundle(tmp_path / "b", Plan().with_values({"network.channels": (2, 4)}))
    state = {
        n: t for n, t in load_bundle(flat, device="cpu").network.state_dict().items() if n.startswith("down")
    }
    torch.save(state, tmp_path / "encoder.pth")
    assert start_from(Plan().with_values({"network.channels": (2, 4)}), tmp_path / "encoder.pth") is not None
    with pytest.raises(Refused, match=r"lacks down\.2\.0\.weight") as caught:
        start_from(deep, tmp_path / "encoder.pth")
    assert caught.value.reason == "another-network"


def test_a_resnet_of_another_depth_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.networks import NETWORKS
    from medseg.networks.deeplab import DeepLab
    from medseg.networks.resnet import ResNet

    def of(*layers: int) -> Callable[[Plan], nn.Module]:
        def make(plan: Plan) -> nn.Module:
            encoder = ResNet(2, plan.input.channels, layers=layers, channels=(2, 2, 2, 2))
            return DeepLab(encoder, len(plan.target.classes), rates=(1, 2), width=4)

        return make

    monkeypatch.setitem(NETWORKS, "shallow", of(1, 1, 1, 1))
    monkeypatch.setitem(NETWORKS, "deep", of(1, 1, 3, 1))
    plans = {name: Plan().with_values({"network.name": name}) for name in ("shallow", "deep")}
    for name, other, told in (
        ("deep", "shallow", r"has encoder\.layer3\.1"),
        ("shallow", "deep", r"lacks encoder\.layer3\.1"),
    ):
        state = build_network(plans[name]).encoder.state_dict() | {"fc.weight": torch.ones(10, 8)}
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
        assert start_from(plans[name], tmp_path / f"{name}.pth").started_from.loaded.loaded
        with pytest.raises(Refused, match=f"the encoder of .* is another one.*{told}") as caught:
            start_from(plans[other], tmp_path / f"{name}.pth")
        assert caught.value.reason == "another-network"


def test_a_joined_bundle_is_refused(plan: Plan, source: Path, tmp_path: Path) -> None:
    one = load_bundle(source, device="cpu")
    with pytest.raises(Refused, match="holds 2 networks") as caught:
        start_from(plan, join_bundles([one, one], tmp_path / "both"))
    assert caught.value.reason == "another-network"


# frozen and unfrozen


def in_encoder(names: Any) -> list[str]:
    return [name for name in names if name.startswith("down.")]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_frozen_encoder_stays_and_then_learns(
    data: Path, plan: Plan, source: Path, tmp_path: Path, optimizer: str
) -> None:
    plan = plan.with_values({"train.frozen_steps": 3, "train.optimizer": optimizer})
    network, before = start_from(plan, source), tensors(load_bundle(source, device="cpu").network)
    seen: dict[int, dict[str, Tensor]] = {}

    def on_step(info: StepInfo) -> None:
        if info.phase == "training":
            seen[info.step] = tensors(network)

    bundle = fit(plan, data, tmp_path / "run", network=network, on_step=on_step, device="cpu")
    inside = in_encoder(before)
    assert any("running_mean" in name for name in inside)
    for step in (1, 2, 3):
        assert equal(seen[step], before, inside)
    others = [n for n in before if n not in inside]
    assert not any(torch.equal(seen[1][n], before[n]) for n in others)
    # convolutions before a batch norm have no offset, so that every weight and statistic has moved
    assert [n for n in inside if torch.equal(seen[4][n], before[n])] == []
    assert all(p.requires_grad for p in bundle.network.parameters())


def test_no_gradient_no_decay_and_no_state_of_a_frozen_encoder(
    data: Path, plan: Plan, source: Path, tmp_path: Path
) -> None:
    plan = plan.with_values({"train.frozen_steps": 2, "train.steps": 2})
    network = start_from(plan, source)
    never = network.down[0][0].weight.requires_grad_(False)  # what is not to learn at all, does not
    fit(plan, data, tmp_path / "run", network=network, device="cpu")
    assert not never.requires_grad
    assert network.down[1][0].weight.requires_grad
    kept, _ = load_tensors(tmp_path / "run" / "last.safetensors")
    moved = {name for name in kept if name.startswith("optimizer/") and name.endswith("/exp_avg")}
    assert len(moved) == len(list(network.parameters())) - len(list(network.encoder.parameters()))


class Stop(Exception):
    """Ends a training from outside, as a program that fails would."""


@pytest.mark.parametrize(("how", "step"), [("error", 2), ("ctrl-c", 2), ("ctrl-c", 3), ("ctrl-c", 4)])
def test_it_goes_on_bit_for_bit_before_at_and_after_the_border(
    data: Path, plan: Plan, source: Path, tmp_path_factory: pytest.TempPathFactory, step: int, how: str
) -> None:
    plan = plan.with_values({"train.frozen_steps": 3, "train.encoder_lr": 0.25})
    shared = tmp_path_factory.getbasetemp() / "whole-frozen"
    if not shared.exists():
        fit(plan, data, shared, network=start_from(plan, source), device="cpu")
    out = tmp_path_factory.mktemp("stopped") / "run"

    def on_step(info: StepInfo) -> None:
        if info.phase == "training" and info.step == step:
            if how == "error":
                raise Stop
            os.kill(os.getpid(), signal.SIGINT)  # waits for the end of this step, and saves it

    with pytest.raises(Stop if how == "error" else KeyboardInterrupt):
        fit(plan, data, out, network=start_from(plan, source), on_step=on_step, device="cpu")
    if how == "ctrl-c":
        assert load_tensors(out / "last.safetensors")[1]["step"] == step
    fit(plan, data, out, network=start_from(plan, source), device="cpu")
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in shared.iterdir())
    for file in shared.rglob("*"):
        other = out / file.relative_to(shared)
        if file.suffix == ".safetensors":
            (ours, about), (theirs, told) = load_tensors(other), load_tensors(file)
            assert ours.keys() == theirs.keys()
            assert about == told
            assert [k for k in ours if ours[k].numpy().tobytes() != theirs[k].numpy().tobytes()] == []
        elif file.is_file():
            assert other.read_bytes() == file.read_bytes(), file


def test_the_encoder_learns_at_a_rate_of_its_own(
    data: Path, plan: Plan, source: Path, tmp_path: Path
) -> None:
    once = plan.with_values({"train.optimizer": "sgd", "train.steps": 1, "train.clip_norm": 0.0})
    once = once.with_values({"train.mixed_precision": False, "train.validate_every": 1})
    before = tensors(load_bundle(source, device="cpu").network)
    moves = {}
    for factor in (1.0, 0.25, 0.0):
        given = once.with_values({"train.encoder_lr": factor})
        network = start_from(given, source)
        fit(given, data, tmp_path / f"run{factor}", network=network, device="cpu")
        weights = dict(network.named_parameters())
        moves[factor] = {n: (p.detach() - before[n]).double() for n, p in weights.items()}
    for name, move in moves[1.0].items():
        inside = name.startswith("down.")
        assert move.abs().max() > 0
        for factor in (0.25, 0.0):
            expected = move * (factor if inside else 1.0)
            assert torch.allclose(moves[factor][name], expected, rtol=1e-2, atol=1e-7), name


def test_fresh_encoders_and_networks_without_are_not_frozen(data: Path, plan: Plan, tmp_path: Path) -> None:
    frozen = plan.with_values({"train.frozen_steps": 3})
    with pytest.raises(Refused, match="nothing worth keeping") as caught:
        fit(frozen, data, tmp_path / "run", device="cpu")
    assert caught.value.reason == "bad-plan"
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    for values in ({"train.frozen_steps": 3}, {"train.encoder_lr": 0.1}):
        with pytest.raises(Refused, match=r"Sequential does not tell .* 'encoder'") as caught:
            fit(plan.with_values(values), data, tmp_path / "run", network=network, device="cpu")
        assert caught.value.reason == "bad-network"
    assert not (tmp_path / "run").exists()


# what a run remembers


def stopped_run(plan: Plan, data: Path, out: Path, step: int, network: nn.Module | None) -> Path:
    def on_step(info: StepInfo) -> None:
        if info.phase == "training" and info.step == step:
            raise Stop

    with pytest.raises(Stop):
        fit(plan, data, out, network=network, on_step=on_step, device="cpu")
    return out


@pytest.fixture(scope="module")
def begun(data: Path, plan: Plan, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run that began with the weights of the bundle."""
    out = tmp_path_factory.mktemp("begun") / "run"
    fit(plan, data, out, network=start_from(plan, source), device="cpu")
    return out


def test_a_run_records_what_it_began_with(
    data: Path, plan: Plan, source: Path, begun: Path, tmp_path: Path
) -> None:
    network, bundle = start_from(plan, source), load_bundle(begun, device="cpu")
    start = json.loads((begun / "start.json").read_text())
    assert start == open_run(begun).start
    assert start["source"] == "model"
    assert start["sha256"] == network.started_from.sha256
    assert set(start["taken"]) == set(network.state_dict())
    assert start["fresh"] == start["left_out"] == []
    assert f"{len(start['taken'])} tensors of model ({start['sha256'][:8]})" in bundle.card
    fresh = fit(plan.with_values({"train.steps": 1}), data, tmp_path / "fresh", device="cpu")
    assert open_run(tmp_path / "fresh").start is None
    assert "began with" not in fresh.card


@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_began_otherwise_is_not_mistaken(
    data: Path, plan: Plan, source: Path, begun: Path, tmp_path: Path, step: int
) -> None:
    other = make_bundle(tmp_path / "other", plan, seed=6)
    out = stopped_run(plan, data, tmp_path / "run", step, start_from(plan, source))
    with pytest.raises(Refused, match=r"got those of 'other' .*, expected those of 'model'") as caught:
        fit(plan, data, out, network=start_from(plan, other), device="cpu")
    assert caught.value.reason == "another-start"
    fresh = stopped_run(plan, data, tmp_path / "fresh", step, None)
    with pytest.raises(Refused, match="expected fresh ones") as caught:
        fit(plan, data, fresh, network=start_from(plan, source), device="cpu")
    assert caught.value.reason == "another-start"
    if step == 1:  # there is no checkpoint yet, so that it would begin anew with fresh weights
        with pytest.raises(Refused, match=r"got no weights, expected those of 'model'") as caught:
            fit(plan, data, out, device="cpu")
        assert caught.value.reason == "another-start"
    else:  # a checkpoint has all that is needed
        fit(plan, data, out, device="cpu")
        ours, theirs = (tensors(load_bundle(run, device="cpu").network) for run in (out, begun))
        assert equal(ours, theirs)


def test_a_start_that_was_killed_before_its_plan_was_written(
    data: Path, plan: Plan, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "start.json").write_text('{"source": "x"}')
    fit(plan.with_values({"train.steps": 1}), data, tmp_path / "run", device="cpu")
    assert open_run(tmp_path / "run").start is None


def test_the_checksum_is_that_of_what_was_taken(plan: Plan, source: Path, tmp_path: Path) -> None:
    state = load_bundle(source, device="cpu").network.state_dict()
    torch.save({"model": state, "epoch": 7}, tmp_path / "a.pth")
    torch.save({f"module.{k}": t for k, t in reversed(state.items())}, tmp_path / "b.pth")
    sums = {
        start_from(plan, path).started_from.sha256
        for path in (source, tmp_path / "a.pth", tmp_path / "b.pth")
    }
    assert len(sums) == 1
    state["head.bias"] = state["head.bias"] + 1e-6
    torch.save(state, tmp_path / "c.pth")
    assert start_from(plan, tmp_path / "c.pth").started_from.sha256 not in sums


# the plan, the command, and what it is worth


def test_a_plan_follows_the_model_that_it_starts_from(data: Path, tmp_path: Path) -> None:
    theirs = {"network.channels": (8, 8, 8, 8, 8, 8), "network.norm": "none", "input.normalise": "zscore"}
    source = make_bundle(tmp_path / "model", Plan(name="theirs").with_values(theirs))
    dataset = medseg.load_dataset(data)
    plan = plan_for(dataset, tmp_path / "run", overrides=["train.steps=3"], start=source)
    for key, value in theirs.items():
        assert plan.value(key) == value
    assert plan.train.steps == 3
    assert plan.reasons["network.channels"] == "as in the model 'theirs' that it starts from"
    assert all(n % 32 == 0 for n in plan.train.patch)
    assert start_from(plan, source).started_from.loaded.loaded
    volume = Plan().with_values(
        {"input.spatial_dims": 3, "train.patch": (8, 8, 8), "network.channels": (2, 4)}
    )
    with pytest.raises(Refused, match="images of 3 axes") as caught:
        plan_for(dataset, tmp_path / "run", start=make_bundle(tmp_path / "volumes", volume))
    assert caught.value.reason == "another-network"
    torch.save(UNet(2, 1, 2).state_dict(), tmp_path / "unet.pth")
    assert plan_for(dataset, tmp_path / "run", start=tmp_path / "unet.pth") == plan_for(
        dataset, tmp_path / "run"
    )


def test_the_command(data: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["train.steps=2", "train.validate_every=1", "train.workers=0", "train.frozen_steps=1"]
    words = ["train", str(data), "-o", str(tmp_path / "run"), *numbers, "--device", "cpu"]
    assert main([*words, "--from", str(tmp_path / "nothing.pth")]) == 1
    assert "no weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*words, "--from", str(source)]) == 0
    said = capsys.readouterr().out
    assert "Begins with 'model': " in said
    run = open_run(tmp_path / "run")
    assert run.plan.network.channels == (2, 4)
    assert run.start is not None
    assert main(["train", str(data), "-o", str(tmp_path / "run"), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main([*words, "--from", "nuclei"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_few_steps_are_worth_more_after_another_training(data: Path, tmp_path: Path) -> None:
    wide = TINY | {"network.channels": (4, 8), "network.dropout": 0.0, "train.validate_cases": 0}
    quiet = {"augment.elastic_prob": 0.0, "train.weight_decay": 1e-4, "train.lr": 2e-2}
    plan = Plan().with_values(wide | quiet | {"train.steps": 60, "train.validate_every": 60})
    fit(plan, data, tmp_path / "bright", device="cpu")
    dark = make_cells(tmp_path / "data", dark=True)
    few = plan.with_values({"train.steps": 12, "train.validate_every": 12, "train.frozen_steps": 0})
    losses = {}
    for name, network in (("fresh", None), ("begun", start_from(few, tmp_path / "bright"))):
        fit(few, dark, tmp_path / name, network=network, device="cpu")
        losses[name] = open_run(tmp_path / name).history[-1]["val_loss"]
    assert losses["begun"] < 0.9 * losses["fresh"], losses

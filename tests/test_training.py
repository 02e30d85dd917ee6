"""Training: it learns, it goes on bit for bit wherever it was stopped, and it leaves nothing else behind."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

import medseg
from medseg import Dataset, Plan, Refused
from medseg.losses import LOSSES, cross_entropy
from medseg.tensors import load_tensors
from medseg.training import StepInfo, fit, open_run
from medseg.training.optimisation import Stepper, make_optimizer, supervised_loss

FILES = ["best.safetensors", "bundle", "history.json", "last.safetensors", "plan.toml", "split.json"]
BUNDLE = ["card.md", "golden.safetensors", "plan.toml", "sha256sums.txt", "weights.safetensors"]
CELLS = {
    "target.kind": "instances",
    "target.name": "foreground",
    "target.border_weights": True,
    "target.sigma": 3.0,
}
TINY = {
    "network.channels": (2, 4),
    "network.dropout": 0.25,
    "train.patch": (32, 48),
    "train.batch_size": 2,
    "train.steps": 6,
    "train.validate_every": 2,
    "train.validate_cases": 1,
    "train.warmup_steps": 2,
    "train.lr": 1e-2,
    "train.workers": 0,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are quicker on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    for i in range(8):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((56, 72), n=5, diameter=14, rng=rng)
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write(cells, root / f"labels/{i}.tif")
    return root


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(name="cells").with_values(CELLS | TINY)


@pytest.fixture(scope="module")
def undisturbed(data: Path, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(plan, data, out, device="cpu")
    return out


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def assert_same_run(one: Path, other: Path) -> None:
    """Files of two runs hold the same bits, and nothing is left over."""
    for run in (one, other):
        assert names(run) == FILES
        assert names(run / "bundle") == BUNDLE
    for name in (*FILES, *(f"bundle/{name}" for name in BUNDLE)):
        a, b = one / name, other / name
        if name.endswith("safetensors"):
            (tensors, about), (others, told) = load_tensors(a), load_tensors(b)
            assert tensors.keys() == others.keys()
            assert [k for k in tensors if tensors[k].numpy().tobytes() != others[k].numpy().tobytes()] == []
            assert about == told
        elif a.is_file():
            assert a.read_bytes() == b.read_bytes(), name


# it learns


def test_it_learns_to_find_cells(data: Path, tmp_path: Path) -> None:
    more = {"network.channels": (4, 8), "network.dropout": 0.0, "train.steps": 60, "train.lr": 2e-2}
    plan = Plan().with_values(CELLS | TINY | more | {"train.validate_every": 20, "train.validate_cases": 0})
    fit(plan.with_values({"train.lr": 0.0, "train.steps": 1}), data, tmp_path / "untrained", device="cpu")
    bundle = fit(plan, data, tmp_path / "run", device="cpu")
    history = open_run(tmp_path / "run").history
    assert [row["step"] for row in history] == [20, 40, 60]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    untrained = open_run(tmp_path / "untrained").history[-1]
    assert history[-1]["ap"] > untrained["ap"] + 0.3
    assert history[-1]["val_loss"] < 0.5 * untrained["val_loss"]
    run = open_run(tmp_path / "run")
    [case] = run.split.test
    prediction = medseg.predict(bundle, case.image, device="cpu")
    scores = medseg.evaluate(prediction, case.label, metrics=("ap", "dice"))
    assert scores.mean("dice") > 0.8
    best = max(history, key=lambda row: row["ap"])
    assert load_tensors(run.path / "best.safetensors")[1] == {"step": best["step"]}
    assert f"step {best['step']} of 60" in bundle.card


def test_three_classes_with_odd_values(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    for i in range(6):
        label = np.zeros((48, 64), np.uint8)
        r, c = rng.integers(0, 24, 2)
        label[r : r + 20, c : c + 20] = 100
        label[r + 5 : r + 15, c + 5 : c + 15] = 255
        image = label / 255 + rng.normal(0, 0.05, label.shape)
        medseg.write(image.astype(np.float32), root / f"images/{i}.tif")
        medseg.write(label, root / f"labels/{i}.tif")
    values = {"target.classes": ("ground", "rim", "core"), "target.values": (0, 100, 255)}
    more = {
        "train.steps": 40,
        "train.lr": 3e-2,
        "train.validate_every": 40,
        "train.loss": "cross_entropy_dice",
    }
    quiet = {"augment.intensity_prob": 0.0, "augment.elastic_prob": 0.0, "network.dropout": 0.0}
    plan = Plan().with_values(TINY | values | more | quiet | {"network.channels": (4, 8)})
    bundle = fit(plan, root, tmp_path / "run", device="cpu")
    [row] = open_run(tmp_path / "run").history
    assert row["dice"] > 0.8
    labels = medseg.predict(bundle, root / "images/0.tif", device="cpu").labels
    assert set(np.unique(labels)) == {0, 100, 255}
    assert np.mean(labels == medseg.read(root / "labels/0.tif").numpy()[0]) > 0.9


def test_volumes_and_unpadded_networks_and_sgd(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i in range(4):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((8, 40, 48), n=3, diameter=10, rng=rng)
        affine = np.diag([2.5, 0.8, 0.7, 1.0])
        medseg.write(MetaTensor(image[None], affine=affine), root / f"images/{i}.nii.gz")
        mask = (cells > 0).astype(np.uint8)
        medseg.write(MetaTensor(mask[None], affine=affine), root / f"labels/{i}.nii.gz")
    volume = {"input.spatial_dims": 3, "train.patch": (8, 24, 32), "train.steps": 2, "train.batch_size": 1}
    plan = Plan().with_values(TINY | volume)
    bundle = fit(plan, root, tmp_path / "run", device="cpu")
    assert medseg.predict(bundle, root / "images/0.nii.gz", device="cpu").labels.shape == (8, 40, 48)
    paper = {"train.optimizer": "sgd", "train.momentum": 0.99, "network.padding": "valid"}
    plan = plan.with_values(paper | {"train.patch": (26, 34, 34), "network.norm": "none"})
    fit(plan, root, tmp_path / "paper", device="cpu")
    tensors, _ = load_tensors(tmp_path / "paper" / "last.safetensors")
    buffers = [name for name in tensors if name.startswith("optimizer/")]
    assert buffers
    assert all(name.endswith("/momentum_buffer") for name in buffers)


def test_thick_slices_with_all_that_a_unet_can_be(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i in range(4):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((6, 34, 40), n=3, diameter=10, rng=rng)
        affine = np.diag([5.0, 0.8, 0.7, 1.0])
        medseg.write(MetaTensor(image[None], affine=affine), root / f"images/{i}.nii.gz")
        medseg.write(
            MetaTensor((cells > 0).astype(np.uint8)[None], affine=affine), root / f"labels/{i}.nii.gz"
        )
    values = {
        "input.spatial_dims": 3,
        "train.patch": (6, 24, 32),
        "train.steps": 4,
        "train.batch_size": 1,
        "target.border_weights": True,
        "network.channels": (8, 8, 8),
        "network.norm": "channel",
        "network.strides": ((1, 2, 2), (2, 2, 2)),
        "network.kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "network.residual": True,
        "network.deep_supervision": True,
    }
    plan = Plan().with_values(TINY | values)
    whole = fit(plan, root, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        fit(plan, root, tmp_path / "run", on_step=stop_at(3), device="cpu")
    bundle = fit(plan, root, tmp_path / "run", device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert bundle.network.coarse_heads[0].weight.shape == (2, 8, 1, 1, 1)
    labels = [medseg.predict(b, root / "images/0.nii.gz", device="cpu").labels for b in (whole, bundle)]
    assert labels[0].shape == (6, 34, 40)
    assert np.array_equal(*labels)


def test_loss_of_deep_supervision_by_hand(rng: np.random.Generator) -> None:
    logits = [torch.from_numpy(rng.normal(size=(2, 3, *s))) for s in ((4, 8, 12), (4, 4, 6), (2, 2, 3))]
    target = torch.from_numpy(rng.integers(0, 3, (2, 4, 8, 12)))
    weight = torch.from_numpy(rng.random((2, 4, 8, 12)))
    expected = 0.0
    for level, (share, (d, h, w)) in enumerate(zip((4 / 7, 2 / 7, 1 / 7), ((1, 1, 1), (1, 2, 2), (2, 4, 4)))):
        z = logits[level].numpy().astype(np.float32).astype(np.float64)
        total = np.empty(z[:, 0].shape)
        for n, k, j, i in np.ndindex(total.shape):
            place = (n, k * d + d // 2, j * h + h // 2, i * w + w // 2)
            p = np.exp(z[n, :, k, j, i] - z[n, :, k, j, i].max())
            total[n, k, j, i] = -np.log(p[target[place]] / p.sum()) * weight[place]
        expected += share * total.mean()
    found = supervised_loss(cross_entropy, logits, target, weight)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(supervised_loss(cross_entropy, logits[0], target)) == pytest.approx(
        float(cross_entropy(logits[0].float(), target)), rel=0
    )
    with pytest.raises(Refused, match="lie evenly") as refusal:
        supervised_loss(cross_entropy, [logits[0], torch.zeros(2, 3, 3, 4, 6)], target)
    assert refusal.value.reason == "bad-network"


def test_coarse_heads_learn(rng: np.random.Generator) -> None:
    values = {
        "network.channels": (4, 4, 4),
        "network.deep_supervision": True,
        "train.patch": (16, 24),
        "train.mixed_precision": False,
    }
    plan = Plan().with_values(values)
    stepper, network = Stepper(plan, torch.device("cpu")), medseg.networks.build_network(plan)
    before = [p.clone() for p in network.coarse_heads.parameters()]
    image = torch.from_numpy(rng.normal(size=(2, 1, 16, 24)).astype(np.float32))
    batch = {"image": image, "target": (image[:, 0] > 0).long()}
    optimizer = make_optimizer(plan, network)
    losses = [stepper.step(batch, network, cross_entropy, optimizer) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, network.coarse_heads.parameters()))


# it goes on


class Stop(Exception):
    """Ends a training from outside, as a program that fails would."""


def stop_at(step: int) -> Callable[[StepInfo], None]:
    def on_step(info: StepInfo) -> None:
        if info.phase == "training" and info.step == step:
            raise Stop

    return on_step


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_it_goes_on_after_an_error(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    with pytest.raises(Stop):
        fit(plan, data, tmp_path / "run", device="cpu", on_step=stop_at(step))
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize(
    "values",
    [
        {"train.optimizer": "sgd", "train.momentum": 0.99},
        {"train.optimizer": "sgd", "train.momentum": 0.0, "train.clip_norm": 0.0},
        {"network.norm": "group", "network.channels": (8, 16), "train.mixed_precision": False},
        {"network.padding": "valid", "network.norm": "none", "train.schedule": "constant"},
    ],
    ids=["sgd", "plain sgd", "group norm", "valid"],
)
def test_it_goes_on_with_any_plan(data: Path, plan: Plan, tmp_path: Path, values: dict[str, Any]) -> None:
    plan = plan.with_values(values | {"train.patch": (34, 50) if "network.padding" in values else (32, 48)})
    plan = plan.with_values({"train.steps": 4})
    fit(plan, data, tmp_path / "whole", device="cpu")
    with pytest.raises(Stop):
        fit(plan, data, tmp_path / "run", device="cpu", on_step=stop_at(3))
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_workers_change_nothing_and_neither_does_their_absence(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path
) -> None:
    two = plan.with_values({"train.workers": 2})
    with pytest.raises(Stop):
        fit(two, data, tmp_path / "run", device="cpu", on_step=stop_at(4))
    fit(two, data, tmp_path / "run", device="cpu")
    for name in ("best.safetensors", "last.safetensors"):
        (one, _), (other, _) = load_tensors(undisturbed / name), load_tensors(tmp_path / "run" / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_ctrl_c_saves_the_step_and_says_how_to_go_on(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, torch, medseg\n"
        "torch.set_num_threads(1)\n"
        "def tell(info):\n"
        "    print(info.phase, info.step, flush=True)\n"
        "    if info.phase == 'training' and info.step == 3:\n"
        "        sys.stdin.readline()\n"
        "try:\n"
        "    plan = medseg.load_plan(sys.argv[1])\n"
        "    medseg.fit(plan, sys.argv[2], sys.argv[3], device='cpu', on_step=tell)\n"
        "except KeyboardInterrupt as stop:\n"
        "    print('stopped:', stop, flush=True)\n"
        "    sys.exit(130)\n"
    )
    path = plan.save(tmp_path / "plan.toml")
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(data), str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line == "training 3\n":
            break
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    out, err = child.communicate("\n", timeout=60)
    assert child.returncode == 130, err
    assert "stopped: stopped and saved after step" in out
    _, about = load_tensors(tmp_path / "run" / "last.safetensors")
    assert about["step"] in (3, 4)  # between two validations, where nobody else saves
    assert len(about["losses"]) == about["step"] % 2
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(undisturbed, tmp_path / "run")


def train_until_killed(plan: Plan, data: Path, out: Path, renames: int) -> None:
    """In a process of its own: die before the file of that number is put into its place."""
    torch.set_num_threads(1)
    left = [renames]
    replace = os.replace

    def count(*paths: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        replace(*paths)

    os.replace = count
    Path.replace = lambda self, target: count(self, target)  # type: ignore[assignment,method-assign]
    fit(plan, data, out, device="cpu")


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medseg.training", "medseg.io", "torch", "monai.transforms", "skimage"])
    return context


@pytest.mark.parametrize(
    "renames", [1, 2, 3, 4, 5, pytest.param("all", marks=pytest.mark.bench, id="every file")]
)
def test_a_kill_between_any_two_files(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path, processes: Any, renames: int | str
) -> None:
    short = plan.with_values({"train.steps": 4})
    whole = tmp_path / "whole"
    fit(short, data, whole, device="cpu")
    for k in range(40) if renames == "all" else [renames]:
        out = tmp_path / f"run{k}"
        child = processes.Process(target=train_until_killed, args=(short, data, out, k))
        child.start()
        child.join(120)
        if child.exitcode == 0:
            assert k > 10
            break
        assert child.exitcode == 9
        fit(short, data, out, device="cpu")
        assert_same_run(whole, out)


def train(plan: Plan, data: Path, out: Path, connection: Any) -> None:
    """In a process of its own: tell each step."""
    torch.set_num_threads(1)
    fit(plan, data, out, device="cpu", on_step=lambda info: connection.send((info.phase, info.step)))


def kill_at_random(plan: Plan, data: Path, out: Path, processes: Any, kills: int) -> int:
    """Kill a training again and again; return how many of the kills hit one that was running."""
    rng, hits = random.Random(0), 0
    for _ in range(kills):
        here, there = processes.Pipe()
        child = processes.Process(target=train, args=(plan, data, out, there))
        child.start()
        there.close()
        for _ in range(rng.randrange(1, 12)):  # so many messages later, and some way into the next
            try:
                here.recv()
            except EOFError:
                break
        time.sleep(rng.uniform(0, 0.06))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        hits += child.exitcode == -signal.SIGKILL
    return hits


def test_kill_9_at_random_moments(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path, processes: Any
) -> None:
    assert kill_at_random(plan, data, tmp_path / "run", processes, 3) >= 1
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.bench
def test_kill_9_twenty_times(data: Path, plan: Plan, tmp_path: Path, processes: Any) -> None:
    plan = plan.with_values({"train.steps": 60, "train.validate_every": 3})
    fit(plan, data, tmp_path / "whole", device="cpu")
    assert kill_at_random(plan, data, tmp_path / "run", processes, 20) >= 15
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_history_that_was_not_written_is_written(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        fit(plan, data, tmp_path / "run", device="cpu", on_step=stop_at(6))
    rows = json.loads((tmp_path / "run/history.json").read_text())
    (tmp_path / "run/history.json").write_text(json.dumps(rows[:-1]))  # killed after the checkpoint
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_finished_run_is_returned(data: Path, plan: Plan, undisturbed: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")}
    infos: list[StepInfo] = []
    bundle = fit(plan, data, undisturbed, device="cpu", on_step=infos.append)
    assert infos == []
    assert {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*")} == before
    weights, _ = load_tensors(undisturbed / "best.safetensors")
    assert all(torch.equal(t, weights[f"network/{k}"]) for k, t in bundle.network.state_dict().items())


# what it tells


def test_what_on_step_is_told(data: Path, plan: Plan, tmp_path: Path) -> None:
    infos: list[StepInfo] = []
    fit(plan, data, tmp_path / "run", device="cpu", on_step=infos.append)
    phases = [info.phase for info in infos]
    assert set(phases) == {"reading", "training", "validating"}
    reading = [i for i in infos if i.phase == "reading"]
    cases = len(open_run(tmp_path / "run").split.train)
    assert [(i.step, i.steps) for i in reading] == [(k, cases) for k in range(1, cases + 1)]
    assert phases.index("training") > phases.count("reading") - 1
    training = [i for i in infos if i.phase == "training"]
    assert [(i.step, i.steps) for i in training] == [(k, 6) for k in range(1, 7)]
    assert [i.step for i in infos if i.phase == "validating"] == [2, 4, 6]
    for info in training:
        assert math.isfinite(info.loss)
        assert info.seconds_left >= 0
        assert info.lr > 0
    assert training[-1].seconds_left == 0
    assert [i.lr for i in training[:3]] == pytest.approx([5e-3, 1e-2, 1e-2])
    history = open_run(tmp_path / "run").history
    assert [i.scores for i in training if i.scores] == history
    assert [set(row) for row in history] == [{"step", "loss", "lr", "val_loss", "ap"}] * 3
    assert history[1]["loss"] == pytest.approx((training[2].loss + training[3].loss) / 2)


def test_nothing_is_set_globally(data: Path, plan: Plan, tmp_path: Path) -> None:
    def state() -> list[Any]:
        return [
            torch.random.get_rng_state().tolist(),
            str(np.random.get_state()),  # noqa: NPY002 - it is asked for, not used
            random.getstate(),
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
            os.getcwd(),
            dict(os.environ),
        ]

    torch.manual_seed(5)
    before = state()
    fit(plan, data, tmp_path / "run", device="cpu")
    assert state() == before
    with pytest.raises(Stop):
        fit(plan, data, tmp_path / "other", device="cpu", on_step=stop_at(1))
    assert state() == before


def test_the_callers_random_state_does_not_matter(
    data: Path, plan: Plan, undisturbed: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - what must not matter
    fit(plan, data, tmp_path / "run", device="cpu")
    assert_same_run(undisturbed, tmp_path / "run")
    fit(plan.with_values({"train.seed": 1}), data, tmp_path / "other", device="cpu")
    one, other = (load_tensors(p / "best.safetensors")[0] for p in (undisturbed, tmp_path / "other"))
    assert not all(torch.equal(one[key], other[key]) for key in one)


# what it refuses


def test_a_learning_rate_that_explodes(data: Path, plan: Plan, tmp_path: Path) -> None:
    hot = plan.with_values({"train.lr": 1e30, "train.warmup_steps": 0, "network.norm": "none"})
    for _ in range(2):  # the same call gives the same answer
        with pytest.raises(Refused, match=r"train\.lr") as caught:
            fit(hot, data, tmp_path / "run", device="cpu")
        assert caught.value.reason == "non-finite-loss"
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "bundle").exists()
    for name in names(tmp_path / "run"):  # nothing spoilt was saved
        if name.endswith("safetensors"):
            tensors, _ = load_tensors(tmp_path / "run" / name)
            assert all(bool(t.isfinite().all()) for t in tensors.values())


def test_a_loss_that_is_not_finite(data: Path, plan: Plan, undisturbed: Path, tmp_path: Path) -> None:
    calls = [0]

    def fails_at_the_fifth_step(logits: Tensor, target: Tensor, **extra: Any) -> Tensor:
        value = cross_entropy(logits, target, **extra)
        if logits.requires_grad:
            calls[0] += 1
        return value * math.nan if logits.requires_grad and calls[0] == 5 else value

    with pytest.raises(Refused, match=r"step 5 .*the last good checkpoint is kept") as caught:
        fit(plan, data, tmp_path / "run", device="cpu", loss=fails_at_the_fifth_step)
    assert caught.value.reason == "non-finite-loss"
    tensors, about = load_tensors(tmp_path / "run" / "last.safetensors")
    assert about["step"] == 4
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    fit(plan, data, tmp_path / "run", device="cpu")  # with a good loss it goes on
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_gradient_that_is_not_finite(data: Path, plan: Plan, tmp_path: Path) -> None:
    def steep(logits: Tensor, target: Tensor, **extra: Any) -> Tensor:
        return cross_entropy(logits, target) + (logits.sum() * 0).abs().sqrt()  # finite, its slope is not

    with pytest.raises(Refused) as caught:
        fit(plan, data, tmp_path / "run", device="cpu", loss=steep)
    assert caught.value.reason == "non-finite-loss"
    assert "nothing was saved" in str(caught.value)


def test_another_plan_or_split_is_refused(data: Path, plan: Plan, undisturbed: Path) -> None:
    before = {p: p.read_bytes() for p in undisturbed.rglob("*") if p.is_file()}
    with pytest.raises(Refused, match=r"train\.lr") as caught:
        fit(plan.with_values({"train.lr": 0.5}), data, undisturbed, device="cpu")
    assert caught.value.reason == "another-plan"
    with pytest.raises(Refused) as caught:
        fit(plan, data, undisturbed, fold=1, device="cpu")
    assert caught.value.reason == "another-split"
    dataset = medseg.load_dataset(data)
    fewer = Dataset(dataset.name, dataset.cases[:-1], dataset.root, dataset.layout, source=dataset.source)
    with pytest.raises(Refused) as caught:
        fit(plan, fewer, undisturbed, device="cpu")
    assert caught.value.reason == "another-split"
    assert {p: p.read_bytes() for p in undisturbed.rglob("*") if p.is_file()} == before


def test_a_folder_with_other_files_is_refused(data: Path, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("three years")
    with pytest.raises(Refused) as caught:
        fit(plan, data, tmp_path, device="cpu")
    assert caught.value.reason == "not-a-run"
    assert names(tmp_path) == ["thesis.docx"]
    with pytest.raises(Refused) as caught:
        open_run(tmp_path)
    assert caught.value.reason == "not-a-run"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"train.patch": (33, 48)}, "illegal-size"),
        ({"train.loss": "cross_entrpy"}, "unknown-loss"),
        ({"network.name": "unett"}, "unknown-network"),
        ({"target.name": "forground"}, "unknown-target"),
        ({"network.channels": (2**14, 2**15)}, "out-of-memory"),
        ({"train.patch": (2**15, 2**15)}, "out-of-memory"),
        ({"train.batch_size": 10**7}, "out-of-memory"),
    ],
)
def test_impossible_plans_are_refused_before_training(
    data: Path, plan: Plan, tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    used = psutil.Process().memory_info().rss
    with pytest.raises(Refused) as caught:
        fit(plan.with_values(values), data, tmp_path / "run", device="cpu")
    assert caught.value.reason == reason
    assert not (tmp_path / "run").exists()
    assert psutil.Process().memory_info().rss - used < 12e9


def test_a_checkpoint_of_another_network_is_refused(data: Path, plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit(plan, data, tmp_path / "run", device="cpu", on_step=stop_at(2))
    other = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    with pytest.raises(Refused) as caught:
        fit(plan, data, tmp_path / "run", device="cpu", network=other)
    assert caught.value.reason == "another-network"


# what the caller brings


def make_network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(4, 2, 1),
    ]
    return nn.Sequential(*layers)


def test_a_network_and_a_loss_of_ones_own(data: Path, plan: Plan, tmp_path: Path) -> None:
    seen = set()

    def loss(logits: Tensor, target: Tensor, *, weight: Tensor) -> Tensor:
        seen.add((logits.dtype, target.dtype, weight.dtype, logits.shape[2:] == target.shape[1:]))
        return LOSSES["cross_entropy"](logits, target, weight=weight)

    plan = plan.with_values({"network.name": "my own", "train.loss": "my own"})
    whole = fit(plan, data, tmp_path / "whole", device="cpu", network=make_network(), loss=loss)
    assert seen == {(torch.float32, torch.int64, torch.float32, True)}
    with pytest.raises(Stop):
        fit(plan, data, tmp_path / "run", network=make_network(), loss=loss, on_step=stop_at(3), device="cpu")
    fit(plan, data, tmp_path / "run", network=make_network(), loss=loss, device="cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    image = np.random.default_rng(0).random((30, 41))
    loaded = medseg.load_bundle(tmp_path / "run", network=make_network(), device="cpu")
    labels = [medseg.predict(bundle, image, device="cpu").labels for bundle in (whole, loaded)]
    assert np.array_equal(*labels)
    assert not whole.network.training


def test_fit_runs_outside_the_main_thread(data: Path, plan: Plan, undisturbed: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fit, plan, data, tmp_path / "run", device="cpu").result()
    assert_same_run(undisturbed, tmp_path / "run")

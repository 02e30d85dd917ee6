"""How much of a training step is spent waiting for patches."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import medseg
from medseg import Dataset, Plan
from medseg.losses import LOSSES
from medseg.networks import build_network, fast_format, geometry_of
from medseg.sampling import PatchDataset, load_samples, patch_loader
from medseg.training.optimisation import Stepper, make_optimizer

pytestmark = pytest.mark.bench

STEPS, WARM_UP = 16, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("cells")
    for i in range(8):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((300 + 10 * i, 340), n=60, diameter=28, rng=rng)
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write(cells, root / f"labels/{i}.tif")
    return medseg.load_dataset(root)


def plan_of(dataset: Dataset, workers: int, weights: bool) -> Plan:
    return medseg.make_plan(dataset).with_values(
        {
            "network.channels": (16, 32, 64, 128, 192),
            "target.border_weights": weights,
            "augment.elastic_prob": 1.0,
            "train.patch": (256, 256),
            "train.batch_size": 4,
            "train.workers": workers,
        }
    )


def seconds_of_steps(dataset: Dataset, plan: Plan) -> tuple[float, float]:
    """Run steps as `medseg.fit` does; return the seconds a step waiting for the batch, and computing."""
    network = build_network(plan).to(memory_format=fast_format(2)).train()
    shrink = geometry_of(network, plan.input.channels, 2).shrink
    patches = PatchDataset(
        load_samples(dataset.cases, plan), plan, shrink=shrink, length=STEPS * plan.train.batch_size
    )
    stepper, optimizer = Stepper(plan, torch.device("cpu")), make_optimizer(plan, network)
    waited, computed = [], []
    start = time.perf_counter()
    for batch in patch_loader(patches, plan, start=0):
        middle = time.perf_counter()
        stepper.step(batch, network, LOSSES[plan.train.loss], optimizer)
        end = time.perf_counter()
        waited.append(middle - start)
        computed.append(end - middle)
        start = end
    return float(np.sum(waited[WARM_UP:])) / len(waited[WARM_UP:]), float(np.mean(computed[WARM_UP:]))


@pytest.mark.parametrize("weights", [False, True], ids=["no weights", "border weights"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_share_of_waiting(dataset, workers, weights, capsys, request) -> None:
    waiting, computing = seconds_of_steps(dataset, plan_of(dataset, workers, weights))
    share = waiting / (waiting + computing)
    name, aim = request.node.callspec.id.split("-")[-1], ", aim 10%" if workers == 2 else ""
    with capsys.disabled():
        print(
            f"\n{workers} workers, {torch.get_num_threads()} threads, {name}:"
            f" {waiting * 1e3:.0f} ms waiting and {computing * 1e3:.0f} ms computing a step,"
            f" {share:.1%} waiting{aim}"
        )
    assert workers < 2 or share < 0.1

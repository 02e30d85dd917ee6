"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import medseg
from medseg import OverlapTileInferer, Plan
from medseg.demo import make_demo_data
from medseg.networks import UNet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_tiles_are_exact_on_a_gpu(padding: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(2, 1, 3, channels=(8, 16, 32), padding=padding, norm="batch").eval().cuda()
    image = torch.rand(1, 1, 301, 233, generator=torch.Generator().manual_seed(0)).cuda()
    one = OverlapTileInferer(tile=512)(image, network)
    many = OverlapTileInferer(tile=40, batch_size=4)(image, network)
    assert float((one - many).abs().max()) < 1e-5
    assert bool((one.argmax(1) == many.argmax(1)).all())


def test_the_tile_follows_from_free_memory() -> None:
    network = UNet(2, 1, 2, channels=(8, 16), padding="same").eval().cuda()
    small = OverlapTileInferer(max_ram_gb=0.05).plan_tiles((1, 4000, 3000), network)
    large = OverlapTileInferer().plan_tiles((1, 4000, 3000), network)
    assert len(small) > len(large)


def test_training_in_half_precision_learns(tmp_path: Path) -> None:
    data = make_demo_data(tmp_path / "data", train=6, test=1)
    values = {"network.channels": (8, 16, 32), "train.patch": (96, 96), "train.steps": 60, "train.lr": 3e-3}
    plan = medseg.make_plan(data).with_values(values | {"train.validate_every": 30, "train.workers": 0})
    bundle = medseg.fit(plan, data, tmp_path / "run", device="cuda")
    assert bundle.device.type == "cuda"
    history = medseg.training.open_run(tmp_path / "run").history
    assert history[-1]["loss"] < history[0]["loss"]
    image = medseg.read(data / "images/test_0.tif")
    on_gpu = medseg.predict(bundle, image).labels
    on_cpu = medseg.predict(tmp_path / "run", image, device="cpu").labels
    assert np.mean(on_gpu != on_cpu) < 1e-3
    assert isinstance(plan, Plan)

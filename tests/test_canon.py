"""Every network by its name through the same four calls: fit, predict, evaluate, save and load; 2D and 3D."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medseg
from medseg import OverlapTileInferer, Refused
from medseg.bundle import save_bundle
from medseg.dataset import Dataset
from medseg.networks import NETWORKS, build_network, geometry_of

# name -> a narrow form of it
FEW: dict[str, dict[str, Any]] = {
    "unet": {"network.channels": (4, 8), "network.strides": (), "network.kernels": ()},
    "encoder-decoder": {"network.channels": (4, 8), "network.strides": (), "network.kernels": ()},
    "patch": {"network.channels": (2, 2, 2, 2, 4), "train.batch_size": 4},
    "patch-dense": {"network.channels": (2, 2, 2, 2, 4)},
    "fcn32s": {"network.channels": (2, 2, 2, 2, 2, 4)},
    "fcn16s": {"network.channels": (2, 2, 2, 2, 2, 4)},
    "fcn8s": {"network.channels": (2, 2, 2, 2, 2, 4)},
    "deeplab-vgg16": {"network.channels": (2, 2, 2, 2, 4), "network.rates": (1, 2)},
    "deeplab-resnet50": {"network.channels": (2, 2, 2, 4), "network.rates": (1, 2)},
    "deeplab-resnet101": {"network.channels": (2, 2, 2, 4), "network.rates": (1, 2)},
}
PLANES_ONLY = ("patch", "patch-dense")  # a window of 95 voxels a side is larger than most volumes
SYSTEMS = [(name, dims) for name in NETWORKS for dims in (2, 3) if dims == 2 or name not in PLANES_ONLY]
SMALL = {"train.steps": 2, "train.validate_every": 2, "train.workers": 0, "network.deep_supervision": False}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Dataset]:
    """Three classes in images of odd sizes, and two in volumes of thick slices that lie obliquely."""
    root, rng = tmp_path_factory.mktemp("canon"), np.random.default_rng(0)
    for i in range(4):
        image, cells = medseg.phantoms.cells((70 + i, 91), n=6, diameter=18, rng=rng)
        label = np.where(cells > 0, 1 + cells % 2, 0).astype(np.uint8)
        medseg.write(image, root / f"planes/images/{i}.tif")
        medseg.write(label, root / f"planes/labels/{i}.tif")
        block = np.zeros((34, 40, 20), np.uint8)
        block[8:20, 10 : 25 + i, 5:15] = 1
        turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.diag([0.8, 0.9, 1.6])
        affine = np.block([[turn, np.ones((3, 1))], [np.zeros((1, 3)), 1]])
        noisy = (block + rng.normal(0, 0.1, block.shape)).astype(np.float32)
        medseg.write(MetaTensor(noisy[None], affine=affine), root / f"volumes/images/{i}.nii.gz")
        medseg.write(MetaTensor(block[None], affine=affine), root / f"volumes/labels/{i}.nii.gz")
    return {2: medseg.load_dataset(root / "planes"), 3: medseg.load_dataset(root / "volumes")}


def test_every_network_is_in_the_table() -> None:
    assert set(FEW) == set(NETWORKS)


@pytest.mark.parametrize(("name", "dims"), SYSTEMS)
def test_the_four_calls(name: str, dims: int, datasets: dict[int, Dataset], tmp_path: Path) -> None:
    dataset = datasets[dims]
    plan = medseg.make_plan(dataset, network=name).with_values({**SMALL, "train.batch_size": 2, **FEW[name]})
    geometry = geometry_of(build_network(plan), plan.input.channels, dims)
    if not name.startswith("patch"):
        side = (32,) * dims if dims == 3 else (64,) * dims
        plan = plan.with_values({"train.patch": geometry.round_up(side)})
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    fresh = {key: value.clone() for key, value in build_network(bundle.plan).state_dict().items()}
    learned = bundle.network.state_dict()
    assert learned.keys() == fresh.keys()
    assert any(not torch.equal(learned[key], fresh[key]) for key in fresh), "nothing was learned"

    case = dataset.cases[0]
    prediction = medseg.predict(bundle, case)
    reference = medseg.io.read_label(case.label)
    assert prediction.labels.shape == tuple(reference.shape[-dims:])
    assert set(np.unique(prediction.labels)) <= set(plan.target.values)
    scores = medseg.evaluate(prediction, case, metrics=("dice", "iou"))
    assert 0 <= np.nan_to_num(scores.mean("dice")) <= 1

    saved = save_bundle(tmp_path / "bundle", bundle.plan, bundle.network, card="# one of the canon")
    again = medseg.predict(medseg.load_bundle(saved, device="cpu"), case)
    np.testing.assert_array_equal(again.labels, prediction.labels)


def awake(network: torch.nn.Module, image: torch.Tensor) -> torch.nn.Module:
    """Make a network that a training has not touched answer: score layers start at zero, norms as nothing."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                layer.momentum = 1.0
        network.train()(image)
        for layer in network.modules():  # of a channel that hardly varies a norm would show the rounding
            if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
                layer.running_var.clamp_(min=0.1)
    return network.eval()


@pytest.mark.parametrize(("name", "dims"), SYSTEMS)
def test_tiles_are_exact(name: str, dims: int, datasets: dict[int, Dataset]) -> None:
    plan = medseg.make_plan(datasets[dims], network=name).with_values({**SMALL, **FEW[name]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(plan)
        geometry = geometry_of(network, plan.input.channels, dims)
        assert geometry.halo is not None
        # an image so long that a tile and its context are a part of it
        rows = geometry.halo[0] + 64 + 13
        image = torch.randn(1, plan.input.channels, rows, *(29, 21)[: dims - 1])
        side = geometry.round_up((96,) * dims if dims == 2 else (64, 32, 32))
        awake(network, torch.randn(2, plan.input.channels, *side))
    inferer = OverlapTileInferer(tile=(64,) * dims, mirror=0)
    assert inferer.exact(network, tuple(image.shape[1:]))
    whole = OverlapTileInferer(tile=(2 * rows, *(64,) * (dims - 1)), mirror=0)(image, network)
    tiled = inferer(image, network)
    size = max(1.0, float(whole.abs().max()))
    assert whole.shape == (1, len(plan.target.classes), *image.shape[2:])
    assert whole.flatten(2).std(2).min() > 1e-3 * size, "scores that are all alike would show nothing"
    assert float((tiled - whole).abs().max()) <= 1e-5 * size
    best, second = whole.topk(2, dim=1).values.unbind(1)
    assert bool((tiled.argmax(1) == whole.argmax(1))[best - second > 1e-4 * size].all())


def test_networks_that_see_everything_say_so(datasets: dict[int, Dataset]) -> None:
    for name, values in (
        ("deeplab-resnet50", {"network.image_pooling": True}),
        ("unet", {"network.norm": "instance"}),
        ("encoder-decoder", {"network.norm": "group"}),
    ):
        plan = medseg.make_plan(datasets[2], network=name).with_values({**SMALL, **FEW[name], **values})
        network = build_network(plan).eval()
        assert not OverlapTileInferer(tile=48).exact(network, (plan.input.channels, 130, 97))


def test_the_patch_network_is_for_images(datasets: dict[int, Dataset]) -> None:
    for name in PLANES_ONLY:
        with pytest.raises(Refused):
            medseg.make_plan(datasets[3], network=name)

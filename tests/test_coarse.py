"""Coarser pixels: what is averaged and interpolated, which tiles are exact, and when a plan wants them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

import medseg
from medseg import OverlapTileInferer, Plan, Refused
from medseg.bundle import save_bundle
from medseg.chains import loading_chain
from medseg.networks import Coarse, UNet, build_network, measure_geometry
from medseg.planning import make_plan
from medseg.planning.thickness import finest, measure_pieces
from medseg.training.validation import score_labels
from medseg.transforms import Downsampled

# blocks


@pytest.mark.parametrize(
    ("shape", "factors"),
    [((12, 18), (3, 2)), ((13, 19), (4, 3)), ((5, 7), (8, 8)), ((6, 7, 9), (1, 3, 2))],
)
def test_blocks_by_brute_force(shape: tuple[int, ...], factors: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((2, *shape)).astype(np.float32)
    label = rng.integers(0, 3, (1, *shape)).astype(np.int32) * 1000
    sample = {"image": MetaTensor(image), "label": MetaTensor(label)}
    out = Downsampled(["image", "label"], factors)(sample)
    coarse = tuple(-(-n // f) for n, f in zip(shape, factors))
    assert out["image"].shape == (2, *coarse)
    assert out["label"].shape == (1, *coarse)
    assert out["image"].dtype == torch.float32
    assert out["label"].dtype == torch.int32
    for place in np.ndindex(*coarse):
        # a block that reaches beyond the image repeats the last pixel
        rows = [np.minimum(np.arange(p * f, (p + 1) * f), n - 1) for p, f, n in zip(place, factors, shape)]
        block = np.ix_(*rows)
        assert out["image"][(0, *place)] == pytest.approx(image[0][block].mean(), rel=1e-5)
        counts = Counter(label[0][block].ravel().tolist())
        most = max(counts.values())
        assert out["label"][(0, *place)] == min(v for v, n in counts.items() if n == most)
    assert np.array_equal(sample["image"], image)


# the network


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("factors", [(2, 3), (4, 1), (1, 1)])
def test_tiles_of_a_coarse_network_are_exact(padding: str, factors: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = Coarse(UNet(2, 1, 3, channels=(3, 5), padding=padding), factors, 1).eval()
    image = torch.rand(1, 1, 83, 97)
    whole = OverlapTileInferer(tile=(400, 400))(image, network)
    assert whole.shape == (1, 3, 83, 97)
    for tile in (8, 30):
        tiled = OverlapTileInferer(tile=tile)(image, network)
        assert (whole - tiled).abs().max() < 1e-5


@pytest.mark.parametrize("factor", [2, 4])
def test_the_geometry_is_no_smaller_than_what_is_measured(factor: int) -> None:
    inner = UNet(2, 1, 2, channels=(2, 3), padding="same", norm=None)
    network = Coarse(inner, (factor, factor), 1)
    measured = measure_geometry(network, 1, 2)
    assert measured.halo is not None
    assert network.geometry.halo is not None
    assert network.geometry.stride == (2 * factor,) * 2
    assert all(a >= b for a, b in zip(network.geometry.halo, measured.halo))
    assert all(a <= b + 2 * factor for a, b in zip(network.geometry.halo, measured.halo))
    with pytest.raises(Refused) as caught:
        network(torch.rand(1, 1, 2 * factor + 1, 4 * factor))
    assert caught.value.reason == "illegal-size"


def test_a_blob_stays_where_it_is() -> None:
    """Average and interpolation together shift nothing: the centre of mass of a blob stays."""
    y, x = np.indices((60, 84))
    blob = np.exp(-((y - 27.0) ** 2 + (x - 40.5) ** 2) / 60).astype(np.float32)
    network = Coarse(torch.nn.Conv2d(1, 1, 1, bias=False), (4, 3), 1)
    torch.nn.init.ones_(network.network.weight)
    with torch.no_grad():
        out = network(torch.from_numpy(blob)[None, None])[0, 0].numpy()
    assert ndimage.center_of_mass(out) == pytest.approx((27.0, 40.5), abs=0.02)


# prediction and training


def test_predictions_lie_on_the_fine_grid_and_do_not_depend_on_tiles(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plan = Plan().with_values({"network.channels": (3, 5), "input.downsample": (3, 2)})
    bundle = medseg.load_bundle(save_bundle(tmp_path / "b", plan, build_network(plan), card=""))
    image = np.random.default_rng(0).random((101, 77)).astype(np.float32)
    whole = medseg.predict(bundle, image, probabilities=True)
    assert whole.labels.shape == (101, 77)
    assert whole.probabilities is not None
    assert whole.probabilities.std() > 0.005
    # the same by hand: normalised, averaged, through the network, interpolated
    low, high = np.percentile(image, plan.input.percentiles)
    prepared = torch.from_numpy((image - low) / (high - low))[None, None].float()
    coarse = Coarse(bundle.network, (3, 2), 1).eval()
    by_hand = OverlapTileInferer(tile=24)(prepared, coarse)[0].softmax(0)
    assert np.abs(by_hand.detach().numpy() - whole.probabilities).max() < 1e-4


def test_training_samples_are_coarse(tmp_path: Path) -> None:
    mask = np.zeros((40, 63), np.uint8)
    mask[9:30, 12:44] = 255
    image = medseg.write((mask // 2 + 20).astype(np.uint8), tmp_path / "a.png")
    label = medseg.write(mask, tmp_path / "a_mask.png")
    plan = Plan().with_values({"input.downsample": (4, 5), "target.values": (0, 255)})
    sample = loading_chain(plan)({"image": image, "label": label})
    assert sample["image"].shape == sample["label"].shape == (1, 10, 13)
    assert sample["label"].unique().tolist() == [0, 1]
    assert float(sample["label"].float().mean()) == pytest.approx((mask > 0).mean(), abs=0.05)


def test_objects_of_coarse_samples_are_not_too_small(tmp_path: Path) -> None:
    y, x = np.indices((160, 240))
    label = (np.hypot(y - 80, x - 60) < 50) * 1 + (np.hypot(y - 80, x - 180) < 50) * 2
    image = medseg.write(((label > 0) * 200).astype(np.uint8), tmp_path / "a.png")
    label_file = medseg.write(label.astype(np.uint8), tmp_path / "a_instances.png")
    own = {"target.kind": "instances", "target.name": "foreground", "predict.min_size": 2500}
    plan = Plan().with_values(own | {"input.downsample": (4, 4)})
    network = torch.nn.Conv2d(1, 2, 1)  # what is brighter than a half is an object
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 2.0])[:, None, None, None])
        network.bias.copy_(torch.tensor([0.0, -1.0]))
    sample = loading_chain(plan)({"image": image, "label": label_file})
    assert sample["label"].max() == 2
    assert score_labels(network.eval(), [sample], plan) == {"ap": 1.0, "dice": 1.0}


def test_one_number_an_axis() -> None:
    for wrong in ((2,), (2, 2, 2), (0, 2)):
        with pytest.raises(Refused) as caught:
            Plan().with_values({"input.downsample": wrong})
        assert caught.value.reason == "bad-plan"


# the plan


def dataset(folder: Path, masks: list[np.ndarray]) -> Path:
    for i, mask in enumerate(masks):
        medseg.write(np.where(mask > 0, 180, 40).astype(np.uint8), folder / f"images/{i}.png")
        medseg.write(mask.astype(np.uint8), folder / f"labels/{i}.png")
    return folder


def test_large_objects_are_looked_at_coarsely_and_threads_are_not(tmp_path: Path) -> None:
    y, x = np.indices((540, 800))
    disc = (np.hypot(y - 270, x - 400) < 160) * 255
    plan = make_plan(dataset(tmp_path / "disc", [disc] * 3))
    context = 2 * 46  # of the default network, see test_networks
    assert plan.input.downsample == (-(-320 // context),) * 2
    assert "320 pixels thick" in plan.reasons["input.downsample"]
    assert plan.train.patch == (232, 256)  # 135 + 2 * 46 rows, rounded up; 200 + 2 * 46 columns, at most 256

    ring = ((np.hypot(y - 270, x - 400) > 150) & (np.hypot(y - 270, x - 400) < 160)) * 255
    assert make_plan(dataset(tmp_path / "ring", [ring] * 3)).input.downsample == ()
    both = np.where(disc, 1, 0)
    both[ring > 0] = 2
    assert make_plan(dataset(tmp_path / "both", [both] * 3)).input.downsample == ()
    small = disc[200:340, 300:500]  # all of the image: nothing is gained below the network's context
    assert make_plan(dataset(tmp_path / "small", [small] * 3)).input.downsample == ()


def test_thickness() -> None:
    y, x = np.indices((120, 150))
    disc = np.hypot(y - 60, x - 50) <= 30
    bar = (np.abs(x - 120) <= 3) & (y > 5)
    label = disc * 1 + bar * 4
    found = measure_pieces(label, [1, 4])
    assert found[1][0][0] == pytest.approx(61, abs=2)
    assert found[4][0][0] == pytest.approx(8, abs=0.1)
    assert (found[1][0][1], found[4][0][1]) == (disc.sum(), bar.sum())
    assert finest([found], objects=False) == found[4][0][0]
    crumbs = {1: [(2.0, 3.0)] * 5 + [(50.0, 2000.0)]}
    assert finest([crumbs, {}], objects=False) == 50.0
    assert finest([{1: [(10.0, 60.0)], 2: [(30.0, 500.0)]}], objects=True) == 10.0
    assert finest([{1: [(10.0, 40.0)], 2: [(30.0, 500.0)]}], objects=True) == 30.0
    assert np.isnan(finest([], objects=True))
    full = np.full((7, 9), 3)
    assert measure_pieces(full, [3]) == {3: [(7.0, 63.0)]}

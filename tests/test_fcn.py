"""FCN-32s, 16s and 8s: sizes, where scores lie, exact tiles, how each starts from the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import medseg
from medseg import OverlapTileInferer, Plan, Refused
from medseg.bundle import save_bundle
from medseg.networks import FCN, build_network, load_weights, measure_geometry
from medseg.networks.dense import conv_size, interpolate_at_start, linear_kernel, up_conv_size
from medseg.tiling import Geometry

FEW = (2, 2, 3, 3, 4, 5)
NAMES = ("fcn32s", "fcn16s", "fcn8s")


def awake(network: nn.Module) -> nn.Module:
    """Give score layers, which start at zero, numbers; and all layers offsets."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("score") or name.endswith("bias"):
                parameter.normal_()
            elif name.startswith("up"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


# sizes


def test_sizes_are_those_of_the_layers(rng: np.random.Generator) -> None:
    for _ in range(60):
        k, s, d = int(rng.integers(1, 6)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
        p, n = int(rng.integers(0, k)), int(rng.integers(12, 40))
        x = torch.zeros(1, 1, n)
        layer = nn.Conv1d(1, 1, k, stride=s, padding=p, dilation=d)
        assert layer(x).shape[2] == conv_size(n, k, stride=s, padding=p, dilation=d)
        if 2 * p <= k:
            assert nn.MaxPool1d(k, stride=s, padding=p)(x).shape[2] == conv_size(n, k, stride=s, padding=p)
        up = nn.ConvTranspose1d(1, 1, k, stride=s, padding=p)
        assert up(x).shape[2] == up_conv_size(n, k, stride=s, padding=p)


@pytest.mark.parametrize("skips", [0, 1, 2])
@pytest.mark.parametrize("shape", [(1, 1), (32, 96), (33, 31), (50, 101)])
def test_any_size_goes_in_and_comes_out(skips: int, shape: tuple[int, int]) -> None:
    network = awake(FCN(2, 2, 3, skips=skips, channels=FEW))
    out = network(torch.rand(2, 2, *shape))
    assert out.shape == (2, 3, *shape)
    assert bool(out.isfinite().all())
    assert out.std() > 0


def test_volumes() -> None:
    network = awake(FCN(3, 1, 3, skips=2, channels=FEW))
    assert network(torch.rand(1, 1, 33, 40, 20)).shape == (1, 3, 33, 40, 20)


# interpolation


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_starts_as_linear_interpolation(factor: int, dims: int) -> None:
    kind = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
    size = 2 * factor - factor % 2
    pad = (size - factor) // 2
    up = kind(3, 3, size, stride=factor, padding=pad, bias=False)
    interpolate_at_start(up)
    x = torch.randn(1, 3, *(4, 5, 6)[:dims])
    found = up(x)
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    expected = functional.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)
    assert found.shape == expected.shape
    inside = (slice(None), slice(None), *[slice(factor, -factor)] * dims)  # zeros lie beyond the border
    assert torch.allclose(found[inside], expected[inside], atol=1e-5)


def test_the_kernel_is_a_tent_by_hand() -> None:
    assert linear_kernel([3]).tolist() == [0.5, 1.0, 0.5]
    tent = torch.tensor([1, 3, 5, 7, 7, 5, 3, 1]) / 8
    assert torch.allclose(linear_kernel([8, 4]), tent[:, None] * torch.tensor([1, 3, 3, 1]) / 4)
    assert linear_kernel([16]).sum() == pytest.approx(8), "each pixel gets weights that add up to 1"


def test_scores_lie_in_the_middle_of_their_pixels() -> None:
    """With kernels that are alike from both sides, a mirrored image gives the mirrored result."""
    network = awake(FCN(2, 1, 3, skips=2, channels=FEW))
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.weight.add_(layer.weight.flip(-1)).div_(2)
                layer.weight.add_(layer.weight.flip(-2)).div_(2)
    image = torch.rand(1, 1, 96, 160)
    with torch.inference_mode():
        out = network(image)
        for axis in (2, 3):
            assert torch.allclose(network(image.flip(axis)), out.flip(axis), atol=1e-5)


# tiles


@pytest.mark.parametrize(("skips", "norm"), [(0, None), (1, "batch"), (2, None)])
@pytest.mark.parametrize("mirror", [None, 0])
def test_tiles_are_exact(skips: int, norm: str | None, mirror: int | None) -> None:
    network = awake(FCN(2, 1, 3, skips=skips, channels=FEW, norm=norm))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    image = torch.rand(1, 1, 301, 167)
    whole = OverlapTileInferer(tile=512, mirror=mirror)(image, network)
    inferer = OverlapTileInferer(tile=(64, 96), mirror=mirror, batch_size=2)
    assert inferer.exact(network, (1, 301, 167))
    tiled = inferer(image, network)
    assert whole.shape == (1, 3, 301, 167)
    assert whole.std(dim=(2, 3)).min() > 1e-3
    assert float((whole - tiled).abs().max()) <= 1e-5 * max(1.0, float(whole.abs().max()))
    assert int((whole.argmax(1) != tiled.argmax(1)).sum()) == 0
    if mirror == 0:  # nothing is mirrored: it is the network over the image, filled up to a multiple of 32
        filled = medseg.tiling.read_mirrored(
            image[0],
            [(0, 320), (0, 192)],
            take=lambda x, index, axis: x.index_select(axis, torch.as_tensor(index)),
        )
        direct = network(filled[None])[:, :, :301, :167]
        assert torch.allclose(direct, whole, atol=1e-5 * max(1.0, float(whole.abs().max())))


class Whole(nn.Module):
    """A network that takes multiples of 32 only, as its tiles are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if any(n % 32 for n in x.shape[2:]):
            raise ValueError("size")
        out: Tensor = self.network(x)
        return out


@pytest.mark.parametrize("skips", [0, 2])
def test_geometry_is_the_measured_one(skips: int) -> None:
    network = FCN(2, 1, 2, skips=skips, channels=(1, 1, 1, 1, 1, 1)).eval()
    measured = measure_geometry(Whole(network), 1, 2, largest=1024)
    assert network.geometry == Geometry((220, 220), (32, 32), (0, 0), (32, 32))
    assert measured.halo == network.geometry.halo
    assert measured.stride == network.geometry.stride
    assert measured.shrink == network.geometry.shrink


# one starts from the other


def test_each_starts_with_what_the_one_before_it_gave() -> None:
    networks: list[FCN] = [FCN(2, 1, 3, skips=skips, channels=FEW, dropout=0) for skips in (0, 1, 2)]
    image = torch.rand(1, 1, 77, 115)
    for coarse, fine, name in zip(networks, networks[1:], ("score_pool4", "score_pool3")):
        # as after a training: the interpolations have learned, too
        with torch.no_grad():
            for parameter in coarse.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        loaded = load_weights(fine, coarse.state_dict())
        assert set(loaded.untouched) == {f"{name}.weight", f"{name}.bias"}
        assert not loaded.left_out
        with torch.inference_mode():
            expected, found = coarse.eval()(image), fine.eval()(image)
        assert expected.std() > 1e-3
        assert torch.allclose(found, expected, atol=1e-6 * max(1.0, float(expected.abs().max())))


def test_a_skip_that_starts_at_zero_learns() -> None:
    network = awake(FCN(2, 1, 3, skips=2, channels=FEW))
    with torch.no_grad():
        network.score_pool3.weight.zero_()
    network(torch.rand(1, 1, 64, 96))[:, 1].sum().backward()
    assert network.score_pool3.weight.grad.abs().max() > 0
    assert network.features[0].weight.grad.abs().max() > 0
    assert network.up_pool4.weight.grad.abs().max() > 0


def test_the_encoder_is_all_but_scores_and_interpolation() -> None:
    network = FCN(2, 1, 3, skips=2, channels=FEW)
    inside = {id(p) for p in network.encoder.parameters()}
    outside = {name.split(".")[0] for name, p in network.named_parameters() if id(p) not in inside}
    assert outside == {"score", "score_pool4", "score_pool3", "up_pool4", "up_pool3", "up"}
    assert not any(name.startswith("encoder") for name in network.state_dict())


# the four calls


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in five images of odd sizes."""
    root = tmp_path_factory.mktemp("fcn") / "cells"
    for i in range(5):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((70 + i, 91), n=6, diameter=18, rng=rng)
        label = np.where(cells > 0, 1 + cells % 2, 0).astype(np.uint8)
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write(label, root / f"labels/{i}.tif")
    return root


def small(plan: Plan, **values: Any) -> Plan:
    few: dict[str, Any] = {"network.channels": FEW, "train.steps": 2, "train.workers": 0}
    return plan.with_values({**few, "train.batch_size": 2, **values})


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_through_the_four_calls(name: str, data: Path, tmp_path: Path) -> None:
    dataset = medseg.load_dataset(data)
    plan = medseg.make_plan(dataset, network=name)
    assert plan.network.channels == (64, 128, 256, 512, 512, 4096)
    assert all(n % 32 == 0 for n in plan.train.patch)
    assert "VGG16" in plan.reasons["network.channels"]
    bundle = medseg.fit(small(plan), dataset, tmp_path / "run")
    case = dataset.cases[0]
    prediction = medseg.predict(bundle, case.image)
    assert prediction.labels.shape == (70, 91)
    scores = medseg.evaluate(prediction, case.label, metrics=("dice",))
    assert 0 <= np.nan_to_num(scores.mean("dice")) <= 1
    saved = save_bundle(tmp_path / "bundle", bundle.plan, bundle.network, card="# FCN")
    again = medseg.predict(medseg.load_bundle(saved), case.image)
    assert np.array_equal(again.labels, prediction.labels)
    state, fresh = bundle.network.state_dict(), build_network(bundle.plan).state_dict()
    assert state.keys() == fresh.keys()
    assert not torch.equal(state["score.weight"], torch.zeros_like(state["score.weight"])), "it learned"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"network.channels": (4, 8)}, "5 stages"),
        ({"network.channels": (2, 2, 2, 2, 2)}, "6 numbers"),
        ({"network.norm": "instance"}, "norm"),
        ({"network.padding": "valid"}, "padding"),
        ({"network.residual": True}, "residual"),
    ],
)
def test_impossible_plans_are_refused(values: dict[str, Any], told: str) -> None:
    good = {"network.name": "fcn8s", "network.channels": FEW, "network.norm": "none"}
    build_network(Plan().with_values(good))
    with pytest.raises(Refused, match=told):
        build_network(Plan().with_values({**good, **values}))

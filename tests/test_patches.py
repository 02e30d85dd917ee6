"""The patch network: one window after the other, all at once, and as convolutions: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import medseg
from medseg import OverlapTileInferer, Plan, Refused
from medseg.bundle import save_bundle
from medseg.networks import PatchNetwork, build_network, load_weights, measure_geometry
from medseg.tiling import Geometry

FEW: dict[str, Any] = {"channels": (3, 4, 6), "kernels": (2, 3)}  # a window of 17


def lively(network: nn.Module) -> nn.Module:
    """Give all layers offsets, and batch norms statistics."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return network.eval()


def by_hand(network: PatchNetwork, image: torch.Tensor, place: tuple[int, ...]) -> torch.Tensor:
    """Classify the window around a pixel, with nothing but the weights."""
    half = network.window // 2
    x = image[(slice(None), slice(None), *(slice(p - half, p + half + 1) for p in place))]
    for layer in network.features:
        x = layer(x)
    x = x.flatten(1)
    first, last = (layer for layer in network.classifier if isinstance(layer, nn.Linear))
    hidden = functional.relu(x @ first.weight.T + first.bias)
    return hidden @ last.weight.T + last.bias


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("shape", [(17, 17), (18, 17), (20, 31)])
def test_all_windows_at_once_are_one_after_the_other(norm: str | None, shape: tuple[int, int]) -> None:
    network = lively(PatchNetwork(2, 2, 3, **FEW, norm=norm))
    twin = lively(PatchNetwork(2, 2, 3, **FEW, norm=norm, dense=True))
    twin.load_state_dict(twin.adapt_weights(network.state_dict()))
    image = torch.rand(2, 2, *shape)
    with torch.inference_mode():
        dense, slid = network(image), network.slide(image, batch_size=5)
        assert dense.shape == (2, 3, shape[0] - 16, shape[1] - 16)
        assert dense.abs().max() > 1e-2
        assert torch.allclose(dense, slid, atol=1e-5)
        assert torch.allclose(twin(image), slid, atol=1e-4)
        assert torch.allclose(twin.slide(image), slid, atol=1e-4)
        for i, j in {(8, 8), (shape[0] - 9, shape[1] - 9), (shape[0] - 9, shape[1] // 2)}:
            assert torch.allclose(dense[:, :, i - 8, j - 8], by_hand(network, image, (i, j)), atol=1e-5)


def test_volumes() -> None:
    network = lively(PatchNetwork(3, 1, 2, **FEW))
    image = torch.rand(1, 1, 18, 20, 17)
    with torch.inference_mode():
        dense = network(image)
        assert dense.shape == (1, 2, 2, 4, 1)
        assert torch.allclose(dense, network.slide(image), atol=1e-5)
        assert torch.allclose(dense[0, :, 1, 2, 0], by_hand(network, image, (9, 10, 8))[0], atol=1e-5)


def test_the_coarse_grid_is_every_fourth_window() -> None:
    network = lively(PatchNetwork(2, 1, 2, **FEW))
    image = torch.rand(1, 1, 17 + 3 * 4, 17 + 5 * 4 + 3)
    with torch.inference_mode():
        coarse, dense = network.coarse(image), network(image)
    assert coarse.shape == (1, 2, 4, 6)
    assert torch.allclose(coarse, dense[:, :, ::4, ::4], atol=1e-5)


def test_weights_go_from_one_form_to_the_other_and_back() -> None:
    network, twin = PatchNetwork(2, 1, 3, **FEW), PatchNetwork(2, 1, 3, **FEW, dense=True)
    loaded = load_weights(twin, network.state_dict())
    assert not loaded.left_out
    assert not loaded.untouched
    assert twin.classifier[0].weight.shape == (6, 4, 3, 3)
    assert twin.classifier[3].weight.shape == (3, 6, 1, 1)
    back = PatchNetwork(2, 1, 3, **FEW)
    assert not load_weights(back, twin.state_dict()).untouched
    for a, b in zip(network.parameters(), back.parameters()):
        assert torch.equal(a, b)


def test_learning_from_an_image_is_learning_from_all_of_its_windows() -> None:
    """The gradient of the mean over a dense output is that of a batch of all windows (Long et al., 3.4)."""
    network = lively(PatchNetwork(2, 1, 3, **FEW))
    image, target = torch.rand(1, 1, 22, 19), torch.randint(0, 3, (1, 6, 3))
    gradients = []
    for call in (network, network.slide):
        network.zero_grad()
        functional.cross_entropy(call(image), target).backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert all(float(g.abs().max()) > 0 for g in gradients[0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients))


def test_both_forms_begin_alike() -> None:
    """He et al. 2015: deviation sqrt(2 / N), of 432 and 200 inputs in N4."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for dense in (False, True):
            network = PatchNetwork(2, 1, 30, dense=dense)
            for number, inputs in ((0, 48 * 9), (3, 200)):
                layer = network.classifier[number]
                assert layer.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.03)
                assert not layer.bias.any()


def test_geometry_is_the_measured_one() -> None:
    network = PatchNetwork(2, 1, 2, **FEW).eval()
    assert network.geometry == measure_geometry(network, 1, 2) == Geometry((8, 8), (1, 1), (8, 8), (17, 17))


def test_tiles_are_exact() -> None:
    network = lively(PatchNetwork(2, 1, 3, **FEW))
    image = torch.rand(1, 1, 53, 38)
    whole = OverlapTileInferer(tile=64)(image, network)
    tiled = OverlapTileInferer(tile=(7, 20), batch_size=3)(image, network)
    assert whole.shape == (1, 3, 53, 38)
    assert float((whole - tiled).abs().max()) < 1e-5
    assert int((whole.argmax(1) != tiled.argmax(1)).sum()) == 0
    with torch.inference_mode():  # beyond the border the windows see the mirrored image
        mirrored = functional.pad(image, (8, 8, 8, 8), mode="reflect")
        assert torch.allclose(network.slide(mirrored), whole, atol=1e-5)


# the four calls


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches") / "cells"
    for i in range(4):
        rng = np.random.default_rng(i)
        image, cells = medseg.phantoms.cells((61 + i, 83), n=5, diameter=18, rng=rng)
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write((cells > 0).astype(np.uint8), root / f"labels/{i}.tif")
    return root


@pytest.mark.parametrize("name", ["patch", "patch-dense"])
def test_it_goes_through_the_four_calls(name: str, data: Path, tmp_path: Path) -> None:
    dataset = medseg.load_dataset(data)
    plan = medseg.make_plan(dataset, network=name)
    assert plan.network.channels == (48, 48, 48, 48, 200)
    if name == "patch":
        assert plan.train.patch == (95, 95), "one pixel of a patch is classified"
        assert plan.train.batch_size == 64
        assert plan.train.foreground == 0.5
        assert "window" in plan.reasons["train.patch"]
    few = {"network.channels": (2, 2, 2, 2, 4), "train.batch_size": 2, "train.steps": 2, "train.workers": 0}
    bundle = medseg.fit(plan.with_values({**few, "train.validate_cases": 1}), dataset, tmp_path / "run")
    case = dataset.cases[0]
    prediction = medseg.predict(bundle, case.image)
    assert prediction.labels.shape == (61, 83)
    medseg.evaluate(prediction, case.label, metrics=("dice",))
    saved = save_bundle(tmp_path / "bundle", bundle.plan, bundle.network, card="# patches")
    again = medseg.load_bundle(saved)
    assert np.array_equal(medseg.predict(again, case.image).labels, prediction.labels)
    other = bundle.plan.with_values({"network.name": {"patch": "patch-dense"}.get(name, "patch")})
    twin = build_network(other).eval()
    assert not load_weights(twin, again.network.state_dict()).untouched
    image = torch.rand(1, 1, 97, 101)
    with torch.inference_mode():
        assert torch.allclose(twin(image), again.network(image), atol=1e-4)


def test_the_encoder_is_what_is_convolved() -> None:
    network = PatchNetwork(2, 1, 2, **FEW)
    assert {f"features.{name}" for name, _ in network.encoder.named_parameters()} == {
        name for name, _ in network.named_parameters() if not name.startswith("classifier.")
    }


@pytest.mark.parametrize(
    "values",
    [
        {"channels": (3, 4)},
        {"kernels": (3, 3)},
        {"kernels": ()},
        {"norm": "instance"},
        {"channels": (0, 4, 6)},
    ],
)
def test_impossible_networks_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        PatchNetwork(2, 1, 2, **{**FEW, **values})
    assert refused.value.reason == "bad-network"


def test_impossible_plans_and_images_are_refused() -> None:
    values = {"network.name": "patch", "network.norm": "none", "network.channels": (2, 2, 2, 2, 4)}
    with pytest.raises(Refused, match="padded"):
        build_network(Plan().with_values(values))
    good = Plan().with_values({**values, "network.padding": "valid"})
    with pytest.raises(Refused, match="residual"):
        build_network(good.with_values({"network.residual": True}))
    volume = {"input.spatial_dims": 3, "train.patch": (95, 95, 95)}
    with pytest.raises(Refused, match="images"):
        build_network(good.with_values(volume))
    with pytest.raises(Refused) as refused:
        build_network(good)(torch.zeros(1, 1, 94, 95))
    assert refused.value.reason == "illegal-size"
    for call in ("coarse", "slide"):
        with pytest.raises(Refused) as refused:
            getattr(build_network(good), call)(torch.zeros(1, 1, 60, 95))
        assert refused.value.reason == "illegal-size"
        with pytest.raises(Refused) as refused:
            getattr(build_network(good), call)(torch.zeros(1, 2, 95, 95))
        assert refused.value.reason == "channel-mismatch"
    with pytest.raises(TypeError, match="colour"):
        PatchNetwork(2, 1, 2, colour=True)

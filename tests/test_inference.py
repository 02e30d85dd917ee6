"""Tiled inference equal to the whole image's, for any tile, batch and image size."""

from __future__ import annotations

import itertools
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

import medseg
from medseg import OverlapTileInferer, Plan, Refused
from medseg.bundle import save_bundle
from medseg.networks import UNet, build_network, forward_bytes


def network(dims: int, padding: str, norm: str | None, *, seed: int = 0, classes: int = 3) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = UNet(dims, 1, classes, channels=(4, 6, 8) if dims == 2 else (3, 4), padding=padding, norm=norm)
        for module in net.modules():  # as after a training: not the identity that batch norm starts with
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


def whole_image(net: UNet, image: Tensor) -> Tensor:
    """Run the network once over the mirrored image, by numpy's padding and nothing of the tiling code.

    Padded convolutions see zeros at the border of what they are given, so they are given 64 (in 3D 16)
    pixels more, a multiple of every stride here; unpadded ones are given just what they eat.
    """
    before = net.geometry.shrink[0] or (64 if net.spatial_dims == 2 else 16)
    after = []
    for n in image.shape[2:]:
        size = n + before
        while not net.geometry.legal((size,) * net.spatial_dims) or size < n + 2 * before:
            size += 1
        after.append(size - n - before)
    pads = [(0, 0), (0, 0)] + [(before, a) for a in after]
    padded = torch.from_numpy(np.pad(image.numpy(), pads, mode="reflect"))
    with torch.inference_mode():
        out = net(padded)
    cut = before - net.geometry.shrink[0]
    return out[(slice(None), slice(None), *[slice(cut, cut + n) for n in image.shape[2:]])]


CASES = [(d, p, n) for d in (2, 3) for p in ("valid", "same") for n in (None, "batch")]


@pytest.mark.parametrize(("dims", "padding", "norm"), CASES)
def test_tiled_equals_whole(dims: int, padding: str, norm: str | None, rng: np.random.Generator) -> None:
    net = network(dims, padding, norm)
    for trial in range(8):
        high = 90 if dims == 2 else 26
        shape = tuple(int(n) for n in rng.integers(1, high, dims))
        tile = tuple(int(n) for n in rng.integers(1, 70 if dims == 2 else 24, dims))
        image = torch.from_numpy(rng.normal(size=(2, 1, *shape)).astype(np.float32))
        expected = whole_image(net, image)
        inferer = OverlapTileInferer(tile=tile, batch_size=1 + trial % 4)
        found = inferer(image, net)
        assert found.shape == expected.shape
        scale = max(1.0, float(expected.abs().max()))
        assert float((found - expected).abs().max()) <= 1e-5 * scale, (shape, tile)
        assert bool((found.argmax(1) == expected.argmax(1)).all()), (shape, tile)
        labels, probabilities = inferer.labels(image[0], net, probabilities=True)
        assert np.array_equal(labels, expected[0].argmax(0).numpy())
        np.testing.assert_allclose(probabilities, expected[0].softmax(0).numpy(), atol=1e-5)


@pytest.mark.parametrize(("dims", "padding"), [(2, "valid"), (2, "same"), (3, "same")])
def test_down_to_one_pixel(dims: int, padding: str) -> None:
    net = network(dims, padding, None)
    image = torch.full((1, 1, *(1,) * dims), 0.7)
    assert torch.allclose(OverlapTileInferer(tile=5)(image, net), whole_image(net, image), atol=1e-5)


def test_less_halo_is_not_exact() -> None:
    """The halo is tight: one stride less changes the result, so the test above can fail."""
    net = network(2, "same", "batch")
    image = torch.rand(1, 1, 80, 64, generator=torch.Generator().manual_seed(0))
    expected = whole_image(net, image)
    short = OverlapTileInferer(tile=16, halo=net.halo - net.geometry.stride[0])
    assert not short.exact(net, image.shape[1:])
    assert float((short(image, net) - expected).abs().max()) > 1e-5


@pytest.mark.parametrize(("dims", "padding"), [(2, "valid"), (2, "same"), (3, "same")])
def test_flips_do_not_depend_on_tiles_and_are_the_average(dims: int, padding: str) -> None:
    net = network(dims, padding, "batch")
    shape = (61, 38) if dims == 2 else (13, 22, 17)
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    one = OverlapTileInferer(tile=200, flips=True)(image, net)
    many = OverlapTileInferer(tile=12, flips=True, batch_size=3)(image, net)
    assert float((one - many).abs().max()) < 1e-5
    assert torch.allclose(one.exp().sum(1), torch.ones(()), atol=1e-4)
    if dims == 2 and padding == "valid":  # the same average by hand, over the whole mirrored image
        padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), (20, 23), (20, 22)], mode="reflect"))
        total = 0
        for turn in range(4):
            for mirror in (False, True):
                x = torch.rot90(padded.flip(-1) if mirror else padded, turn, (-2, -1))
                with torch.inference_mode():
                    y = torch.rot90(net(x).softmax(1), -turn, (-2, -1))
                total = total + (y.flip(-1) if mirror else y)
        assert torch.allclose(one.exp(), (total / 8)[..., :61, :38], atol=1e-5)


def test_a_network_that_sees_everything_is_blended_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    net = network(2, "same", "instance")
    image = torch.rand(1, 1, 90, 70, generator=torch.Generator().manual_seed(0))
    inferer = OverlapTileInferer(tile=32)
    assert not inferer.exact(net, image.shape[1:])
    with caplog.at_level(logging.WARNING, logger="medseg"):
        blended = inferer(image, net)
    assert "blended" in caplog.text
    assert blended.shape == (1, 3, 90, 70)
    assert bool(blended.isfinite().all())
    one = OverlapTileInferer(tile=128)(image, net)
    with torch.inference_mode():
        assert one.shape == blended.shape


def test_blending_a_constant_gives_the_constant() -> None:
    class Constant(nn.Module):
        geometry = medseg.tiling.Geometry(None, (4, 4), (0, 0), (4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.ones_like(x).repeat(1, 2, 1, 1) * 3

    out = OverlapTileInferer(tile=8)(torch.rand(1, 1, 33, 50), Constant())
    assert torch.allclose(out, torch.tensor(3.0))


def test_foreign_networks_are_measured_and_exact() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Upsample(scale_factor=2),
        ).eval()
    image = torch.rand(1, 1, 45, 70)
    one, many = OverlapTileInferer(tile=100)(image, net), OverlapTileInferer(tile=6)(image, net)
    assert float((one - many).abs().max()) < 1e-5
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), (8, 9), (8, 8)], mode="reflect"))
    with torch.inference_mode():
        assert torch.allclose(one, net(padded)[..., 8:53, 8:78], atol=1e-5)


def test_it_is_a_monai_inferer_and_a_memory_map_will_do(tmp_path: Path) -> None:
    net = network(2, "same", "batch")
    inferer = OverlapTileInferer(tile=32)
    assert isinstance(inferer, Inferer)
    stored = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (1, 70, 90))
    stored[:] = np.random.default_rng(0).integers(0, 255, stored.shape)
    labels, _ = inferer.labels(stored, net, prepare=lambda x: x.float() / 255)
    expected = whole_image(net, torch.from_numpy(stored[None] / np.float32(255))).argmax(1)[0]
    assert np.array_equal(labels, expected.numpy())


def test_the_budget_decides_the_tile() -> None:
    net = network(2, "same", None)
    used = psutil.Process().memory_info().rss / 1e9
    small = OverlapTileInferer(max_ram_gb=used + 0.02).plan_tiles((1, 2000, 3000), net)
    large = OverlapTileInferer(max_ram_gb=used + 0.2).plan_tiles((1, 2000, 3000), net)
    assert len(small) > len(large) > 1
    with pytest.raises(Refused) as refusal:
        OverlapTileInferer(max_ram_gb=used / 2).plan_tiles((1, 2000, 3000), net)
    assert refusal.value.reason == "out-of-memory"


def test_many_classes_take_smaller_tiles_only_where_all_logits_are_there_at_once() -> None:
    """The logits of a tile count, so that the same bound holds for 104 classes as for 2."""
    used = psutil.Process().memory_info().rss / 1e9
    counts: dict[bool, list[int]] = {True: [], False: []}
    for in_parts, classes in itertools.product(counts, (2, 104)):
        net = network(2, "same", "batch", classes=classes)
        net.runs_parts = in_parts
        tiling = OverlapTileInferer(max_ram_gb=used + 0.3).plan_tiles((1, 2000, 3000), net)
        counts[in_parts].append(len(tiling))
        if not in_parts:
            assert forward_bytes(net, 1)(tiling.tile_shape) <= 0.3e9
    assert counts[False][0] < counts[False][1]
    assert counts[True][1] <= 2 * counts[True][0]


class Watched(nn.Module):
    """Counts the results that are still there when the next is computed; keeps its inputs' formats."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 3, padding=1)
        self.results: list[weakref.ref[Any]] = []
        self.alive: list[int] = []
        self.contiguous: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.alive.append(sum(result() is not None for result in self.results))
        self.contiguous.append(x.is_contiguous())
        out = self.layer(x)
        self.results.append(weakref.ref(out.untyped_storage()))
        return out


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_tile_is_let_go_before_the_next_is_computed(batch_size: int) -> None:
    inferer = OverlapTileInferer(tile=16, batch_size=batch_size)
    image = torch.rand(2, 60, 44)
    for run in (
        lambda net: inferer.labels(image, net),
        lambda net: inferer.labels(image, net, probabilities=True),
        lambda net: inferer(image[None], net),
    ):
        net = Watched().eval()
        inferer.plan_tiles(image.shape, net)  # measures the network
        net.alive.clear()
        run(net)
        assert len(net.alive) == -(-12 // batch_size)
        assert max(net.alive) == 0


def test_only_networks_that_say_so_are_given_channels_last() -> None:
    image = torch.rand(1, 2, 33, 21)
    for says_so in (False, True):
        net = Watched().eval()
        net.takes_any_format = says_so
        out = OverlapTileInferer(tile=16)(image, net)
        assert all(contiguous is not says_so for contiguous in net.contiguous[-6:])
        with torch.inference_mode():
            whole = net(
                torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="reflect"))
            )
        assert torch.allclose(out, whole[..., 1:-1, 1:-1], atol=1e-5)


def test_progress_counts_tiles() -> None:
    seen: list[tuple[int, int]] = []
    OverlapTileInferer(tile=16, batch_size=2).labels(
        torch.rand(1, 40, 40), network(2, "same", None), progress=lambda done, all: seen.append((done, all))
    )
    assert seen == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize(
    "arguments", [{"tile": 0}, {"batch_size": 0}, {"max_ram_gb": -1.0}, {"tile": (3, -1)}]
)
def test_bad_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(Refused):
        OverlapTileInferer(**arguments)


@pytest.fixture
def bundle(tmp_path: Path) -> medseg.Bundle:
    plan = Plan(name="small").with_values({"network.channels": (2, 4)})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return medseg.load_bundle(
            save_bundle(tmp_path / "b", plan, build_network(plan), card=""), device="cpu"
        )


def test_predict_takes_files_arrays_and_tensors_alike(bundle: medseg.Bundle, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 60000, (31, 47)).astype(np.uint16)
    path = medseg.write(grey, tmp_path / "grey.tif")
    from_file = medseg.predict(bundle, path)
    assert from_file.labels.shape == (31, 47)
    for image in (
        grey,
        grey.astype(np.int64),
        grey.astype(np.float64),
        medseg.read(path),
        np.stack([grey] * 3, -1),
    ):
        assert np.array_equal(medseg.predict(bundle, image).labels, from_file.labels)
    rgba = np.stack([grey] * 3 + [np.full_like(grey, 65535)], -1)
    assert np.array_equal(medseg.predict(bundle, rgba).labels, from_file.labels)
    # brightness and gain do not matter: each image is normalised by itself
    assert np.array_equal(medseg.predict(bundle, grey * 0.001 + 5.0).labels, from_file.labels)
    assert np.array_equal(medseg.predict(str(bundle.path), path).labels, from_file.labels)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((5, 8, 9)), "channel-mismatch"),
        (np.random.default_rng(0).random((4, 4, 3)), "channel-mismatch"),
        (np.full((4, 4), np.nan), "non-finite"),
        (np.zeros((0, 4)), "empty-image"),
        (np.zeros((1, 2, 4, 4)), "too-many-dimensions"),
        (np.zeros(7), "too-few-dimensions"),
        (np.array([["a", "b"]]), "bad-image"),
        ("no-such-file.png", "not-found"),
    ],
)
def test_predict_refuses(bundle: medseg.Bundle, image: object, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        medseg.predict(bundle, image)
    assert refusal.value.reason == reason


def test_a_prediction_is_saved_on_its_grid(bundle: medseg.Bundle, tmp_path: Path) -> None:
    image = medseg.io.raster_affine
    array = torch.from_numpy(np.random.default_rng(0).random((1, 20, 30)).astype(np.float32))
    from monai.data import MetaTensor

    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = [[0, 0.5, 0], [0.25, 0, 0], [0, 0, 1]]
    image = MetaTensor(array, affine=affine, meta={"spacing_unit": "um"})
    prediction = medseg.predict(bundle, image)
    assert np.allclose(prediction.affine, affine)
    back = medseg.io.read_label(prediction.save(tmp_path / "p.tif"))
    assert np.array_equal(back[0].numpy(), prediction.labels)
    assert np.allclose(back.affine, affine)
    with pytest.raises(Refused):
        prediction.write(np.zeros((3, 3), np.uint8), tmp_path / "q.tif")

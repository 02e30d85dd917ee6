"""U-Net: geometry derived, measured and seen; refusals; memory."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet as MonaiUNet
from torch import Tensor, nn

from medseg import OverlapTileInferer, Plan, Refused, load_bundle
from medseg.bundle import verify_bundle
from medseg.networks import (
    UNet,
    build_network,
    fast_network,
    forward_bytes,
    geometry_of,
    has_bfloat16,
    measure_geometry,
    resolve_device,
    training_format,
)
from medseg.networks.blocks import ChannelNorm, Residual
from medseg.tiling import Geometry

CASES = [
    (2, "valid", (2, 4, 4), None),
    (2, "same", (2, 4, 4, 4), "batch"),
    (2, "same", (3,), None),
    (2, "valid", (2, 2), "batch"),
    (3, "same", (2, 2), "batch"),
    (3, "valid", (2, 2), None),
]


@pytest.mark.parametrize(("dims", "padding", "channels", "norm"), CASES)
def test_derived_geometry_is_what_a_broken_pixel_shows(
    dims: int, padding: str, channels: tuple, norm: str
) -> None:
    network = UNet(dims, 1, 2, channels=channels, padding=padding, norm=norm)
    assert network.geometry == measure_geometry(network, 1, dims)


@pytest.mark.parametrize(("dims", "padding", "channels", "norm"), CASES)
def test_output_size_is_what_comes_out(dims: int, padding: str, channels: tuple, norm: str) -> None:
    network = UNet(dims, 1, 3, channels=channels, padding=padding, norm=norm).eval()
    g = network.geometry
    for k in range(3):
        size = tuple(m + s * (k + axis) for axis, (m, s) in enumerate(zip(g.minimum, g.stride)))
        assert network(torch.zeros(1, 1, *size)).shape == (1, 3, *network.output_size(size))
        assert network.input_size(network.output_size(size)) == size


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_every_size_is_either_legal_or_refused_with_the_next(padding: str) -> None:
    network = UNet(2, 1, 2, channels=(2, 2, 2), padding=padding).eval()
    legal = network.geometry.minimum[0]
    for n in range(1, 70):
        if network.geometry.legal((n, legal)):
            assert min(network(torch.zeros(1, 1, n, legal)).shape) > 0
        else:
            with pytest.raises(Refused, match="Use ") as refusal:
                network(torch.zeros(1, 1, n, legal))
            assert refusal.value.reason == "illegal-size"


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_over_the_whole_input_have_no_halo(norm: str) -> None:
    network = UNet(2, 1, 2, channels=(4, 8), padding="same", norm=norm)
    assert network.halo is None
    assert measure_geometry(network, 1, 2) == network.geometry


def test_geometry_of_a_foreign_network_is_measured() -> None:
    """A dilated convolution on pooled cells and a bilinear way back, worked out by hand below."""
    network = nn.Sequential(
        nn.Conv2d(3, 2, 3, padding=1),
        nn.MaxPool2d(4),
        nn.Conv2d(2, 2, 3, padding=2, dilation=2),
        nn.Upsample(scale_factor=4, mode="bilinear"),
    )
    # one fouled pixel is one fouled cell; the dilated convolution adds two: three cells are 12 pixels,
    # and bilinear interpolation between cell centres reaches half a cell further
    assert geometry_of(network, 3, 2) == Geometry((14, 14), (4, 4), (0, 0), (4, 4))
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Upsample((8, 8)))
    with pytest.raises(Refused):
        measure_geometry(pooled, 1, 2)


def test_refusals() -> None:
    with pytest.raises(Refused, match="Did you mean 'batch'"):
        UNet(2, 1, 2, norm="bach")
    with pytest.raises(Refused, match="expected 2 or 3"):
        UNet(4, 1, 2)
    with pytest.raises(Refused) as refusal:
        UNet(2, 3, 2, channels=(2,))(torch.zeros(1, 1, 8, 8))
    assert refusal.value.reason == "channel-mismatch"
    with pytest.raises(Refused) as refusal:
        resolve_device("cuda:99")
    assert refusal.value.reason == "no-such-device"


def test_bytes_of_a_forward_pass_by_hand() -> None:
    """Two convolutions in a row: the input, the first result and the second one are alive together."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1))
    assert forward_bytes(network, 1)((30, 50)) == 4 * 30 * 50 * (1 + 8 + 4)
    network = UNet(2, 1, 2, channels=(4, 8), padding="same")
    before = [p.clone() for p in network.parameters()]
    assert forward_bytes(network, 1)((64, 64)) > 4 * 64 * 64 * (1 + 4 + 4)
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters()))


# volumes with thick slices: strides and kernels an axis, residual blocks, channel norm, deep supervision

THICK: dict[str, Any] = {
    "channels": (3, 4, 6),
    "strides": ((1, 2, 2), 2),
    "kernels": ((1, 3, 3), (3, 3, 3), 3),
}
LONG: dict[str, Any] = {
    "channels": (3, 4, 4),
    "strides": ((2, 1, 4), (1, 2, 1)),
    "kernels": (3, (3, 1, 5), (1, 3, 3)),
}


def volume_network(padding: str, norm: str | None, form: dict[str, Any], **more: Any) -> UNet:
    """A network whose norms are as after a training: not the identity that they start with."""
    if norm == "channel":
        form = form | {"channels": (8, 8, 10)}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = UNet(3, 1, 3, padding=padding, norm=norm, **form, **more)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
            if isinstance(layer, nn.BatchNorm3d | ChannelNorm):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
    return network.eval()


FORMS = [
    ("valid", None, THICK, {}),
    ("valid", "batch", LONG, {"residual": True}),
    ("same", "batch", THICK, {"deep_supervision": True}),
    ("same", None, LONG, {"residual": True, "deep_supervision": True}),
    ("same", "channel", THICK, {"residual": True}),
]


@pytest.mark.parametrize(("padding", "norm", "form", "more"), FORMS)
def test_geometry_of_axes_that_differ(padding: str, norm: str | None, form: dict, more: dict) -> None:
    network = volume_network(padding, norm, form, **more)
    g = network.geometry
    assert g == measure_geometry(network, 1, 3)
    assert len(set(g.stride)) > 1
    size = tuple(m + s * k for m, s, k in zip(g.minimum, g.stride, (1, 0, 2)))
    assert network(torch.zeros(1, 1, *size)).shape[2:] == g.output_size(size)
    with pytest.raises(Refused, match="cannot take"):
        network(torch.zeros(1, 1, *(n + (s > 1) for n, s in zip(size, g.stride))))


def mirrored(network: UNet, image: Tensor) -> Tensor:
    """Run the network once over the whole volume, mirrored by numpy; nothing of the tiling code is used."""
    g = network.geometry
    # a multiple of the stride, and beyond the reach of what zero padding spoils
    before = [c or -(-h // s) * s for c, h, s in zip(g.shrink, g.halo, g.stride)]
    after = []
    for n, b, m, s in zip(image.shape[2:], before, g.minimum, g.stride):
        size = max(m, n + 2 * b)
        after.append(size + (m - size) % s - n - b)
    padded = np.pad(image.numpy(), [(0, 0), (0, 0), *zip(before, after)], mode="reflect")
    with torch.inference_mode():
        out = network(torch.from_numpy(padded))
    window = [slice(b - c, b - c + n) for b, c, n in zip(before, g.shrink, image.shape[2:])]
    return out[(slice(None), slice(None), *window)]


@pytest.mark.parametrize(("padding", "norm", "form", "more"), FORMS)
def test_tiles_of_thick_slices_equal_the_whole(
    padding: str, norm: str | None, form: dict, more: dict, rng: np.random.Generator
) -> None:
    network = volume_network(padding, norm, form, **more)
    for shape, tile in (((7, 33, 26), (3, 16, 9)), ((1, 18, 40), (1, 5, 40)), ((12, 21, 9), (5, 30, 64))):
        image = torch.from_numpy(rng.normal(size=(1, 1, *shape)).astype(np.float32))
        expected = mirrored(network, image)
        scale = max(1.0, float(expected.abs().max()))
        for net in (network, fast_network(network, 1, 3)):
            found = OverlapTileInferer(tile=tile, batch_size=2)(image, net)
            assert float((found - expected).abs().max()) <= 1e-5 * scale
            assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("norm", ["batch", "channel"])
def test_volumes_in_bfloat16(norm: str) -> None:
    if not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16, so a bundle does not use it")
    network = volume_network("same", norm, THICK, residual=True)
    fast, image = fast_network(network, 1, 3, bfloat16=True), torch.rand(1, 1, 10, 36, 28)
    assert not any(isinstance(layer, nn.BatchNorm3d) for layer in fast.modules()), "all are folded"
    expected, whole = OverlapTileInferer(tile=64)(image, network), OverlapTileInferer(tile=64)(image, fast)
    assert 1e-5 < float((whole - expected).abs().max()) / float(expected.abs().max()) < 0.1
    tiled = OverlapTileInferer(tile=(4, 12, 16))(image, fast)
    assert float((tiled - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


def test_strides_and_kernels_are_those_of_the_layers() -> None:
    network = UNet(3, 1, 2, padding="same", **LONG).eval()
    seen: list[tuple[int, ...]] = []
    for block in network.down:
        block[-1].register_forward_hook(lambda layer, inputs, out: seen.append(tuple(out.shape[2:])))
    network(torch.zeros(1, 1, 6, 10, 16))
    assert seen == [(6, 10, 16), (3, 10, 4), (3, 5, 4)]
    kernels = [tuple(block[0].kernel_size) for block in network.down]
    assert kernels == [(3, 3, 3), (3, 1, 5), (1, 3, 3)]
    assert [tuple(block[0].kernel_size) for block in network.merge] == [(3, 1, 5), (3, 3, 3)]


def test_channel_norm_by_hand(rng: np.random.Generator) -> None:
    norm = ChannelNorm(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = rng.normal(3, 2, (2, 5, 3, 4, 6))
    normalised = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + norm.eps)
    gain, offset = (p.detach().double().numpy().reshape(5, 1, 1, 1) for p in (norm.weight, norm.bias))
    image = torch.from_numpy(x.astype(np.float32))
    for form in (torch.contiguous_format, torch.channels_last_3d):
        out = norm(image.contiguous(memory_format=form))
        np.testing.assert_allclose(out.detach().numpy(), normalised * gain + offset, atol=1e-5)
        assert out.is_contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = norm(image.to(torch.bfloat16, memory_format=form))
        assert half.dtype == torch.bfloat16
        np.testing.assert_allclose(
            half.detach().float().numpy(), normalised * gain + offset, rtol=0.02, atol=0.05
        )


def test_channel_norm_does_not_hide_how_bright_a_voxel_is() -> None:
    network = UNet(2, 1, 2, channels=(8, 8), padding="same", norm="channel").eval()
    for bias in (network.down[0][0].bias, network.down[0][3].bias):
        nn.init.normal_(bias)
    with torch.inference_mode():
        dark, bright = (network(torch.full((1, 1, 32, 32), value))[0, :, 16, 16] for value in (1.0, 3.0))
    assert float((dark - bright).abs().max()) > 1e-3


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("channels", [3, 4])
def test_residual_block_by_hand(padding: str, channels: int) -> None:
    network = UNet(2, 3, 2, channels=(channels,), padding=padding, residual=True).eval()
    [block] = network.down
    assert isinstance(block, Residual)
    x, cut = torch.randn(1, 3, 9, 12), 2 if padding == "valid" else 0
    carried = block.shortcut[0](x) if channels == 4 else x
    assert len(block.shortcut) == (channels == 4), "the identity where as many channels go in as come out"
    with torch.inference_mode():
        inner = block.body[2](block.body[0](x).relu())
        by_hand = network.head((carried[:, :, cut : 9 - cut, cut : 12 - cut] + inner).relu())
        torch.testing.assert_close(network(x), by_hand)


def test_deep_supervision_is_for_training_alone() -> None:
    network = UNet(3, 1, 2, padding="same", deep_supervision=True, **THICK | {"channels": (3, 4, 6)})
    plain = UNet(3, 1, 2, padding="same", **THICK)
    more = set(network.state_dict()) - set(plain.state_dict())
    assert more == {"coarse_heads.0.weight", "coarse_heads.0.bias"}
    image = torch.rand(2, 1, 4, 8, 12)
    finest, coarse = network.train()(image)
    assert finest.shape == (2, 2, 4, 8, 12)
    assert coarse.shape == (2, 2, 4, 4, 6)
    calls: list[int] = []
    network.coarse_heads[0].register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(network.eval()(image), finest)
    assert not calls
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if k not in more})
    assert torch.equal(plain.eval()(image), finest)
    deeper = UNet(2, 1, 2, channels=(2, 3, 4, 5), padding="same", deep_supervision=True)
    assert [tuple(o.shape[2:]) for o in deeper(torch.rand(1, 1, 16, 24))] == [(16, 24), (8, 12), (4, 6)]
    assert [head.in_channels for head in deeper.coarse_heads] == [3, 4]


def test_memory_of_deep_supervision_is_counted() -> None:
    deep, plain = (
        UNet(3, 1, 50, channels=(2, 2, 2), padding="same", deep_supervision=d) for d in (True, False)
    )
    shape = (8, 16, 32)
    coarse_logits = 4 * 50 * 4 * 8 * 16
    difference = [forward_bytes(n, 1, backward=True)(shape) for n in (deep, plain)]
    assert difference[0] - difference[1] >= coarse_logits
    assert forward_bytes(deep, 1)(shape) == forward_bytes(plain, 1)(shape)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"strides": (2,)}, "one entry fewer than levels"),
        ({"kernels": (3, 3)}, "one entry a level"),
        ({"kernels": (3, 2, 3)}, "odd"),
        ({"strides": ((2, 2), 2)}, "one size an axis"),
        ({"strides": (0, 2)}, "1 or more"),
        ({"deep_supervision": True, "padding": "valid"}, "padding same"),
        ({"deep_supervision": True, "channels": (2, 4)}, "3 or more"),
        ({"norm": "channel"}, "8 or more"),
    ],
)
def test_forms_that_are_refused(form: dict, message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        UNet(3, 1, 2, **{"channels": (2, 3, 4), "padding": "same"} | form)
    assert refusal.value.reason in ("bad-network", "bad-size")
    with pytest.raises(TypeError, match="residuel"):
        UNet(3, 1, 2, residuel=True)


def test_a_plan_names_them_all() -> None:
    values = {
        "input.spatial_dims": 3,
        "train.patch": (4, 8, 8),
        "network.channels": (8, 9, 10),
        "network.norm": "channel",
        "network.strides": [[1, 2, 2], [2, 2, 2]],
        "network.kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "network.residual": True,
        "network.deep_supervision": True,
    }
    plan = Plan().with_values(values)
    again = Plan.from_toml(plan.to_toml())
    assert again == plan
    assert again.network.strides == ((1, 2, 2), (2, 2, 2))
    assert again.reasons["network.strides"] == "set by hand"
    network = build_network(again)
    assert network.geometry.stride == (2, 4, 4)
    assert isinstance(network.down[0], Residual)
    assert len(network.coarse_heads) == 1
    given = plan.with_overrides(["network.strides=[[1, 1, 2], [2, 4, 1]]", "network.kernels=[]"])
    assert build_network(given).geometry.stride == (2, 4, 2)
    for wrong in ([[1, 2, 2]], [[1, 2], [2, 2]], [2, 2], [[1, 2, 2], [0, 1, 1]], [[1, 2, 2.5], [1, 1, 1]]):
        with pytest.raises(Refused, match=r"network\.strides"):
            plan.with_values({"network.strides": wrong})
    with pytest.raises(Refused, match="odd"):
        plan.with_values({"network.kernels": [[1, 3, 3], [3, 2, 3], [3, 3, 3]]})


def test_plans_and_weights_of_before_are_read() -> None:
    text = Plan().to_toml()
    new = ("strides", "kernels", "residual", "deep_supervision")
    before = "\n".join(line for line in text.splitlines() if not line.startswith(new))
    assert Plan.from_toml(before) == Plan()
    bundle = load_bundle("nuclei", device="cpu")
    assert verify_bundle(bundle) < 1e-3
    assert "down.0.0.weight" in bundle.network.state_dict()


def test_a_foreign_network_of_volumes_is_measured_in_seconds() -> None:
    network = MonaiUNet(
        3, 1, 2, channels=(16, 32, 64), strides=((1, 2, 2), 2), kernel_size=3, num_res_units=1, norm="batch"
    )
    start = time.perf_counter()
    g = measure_geometry(network, 1, 3)
    assert time.perf_counter() - start < 20
    assert g.stride == (2, 4, 4)
    assert g.halo is not None
    image = torch.randn(1, 1, 24, 64, 48)
    network.eval()
    with torch.inference_mode():
        whole = OverlapTileInferer(tile=200)(image, network)
        tiled = OverlapTileInferer(tile=(5, 9, 20))(image, network)
    assert torch.allclose(whole, tiled, atol=1e-5)


def test_what_is_measured_holds_for_every_kind_of_convolution() -> None:
    """Dilated, grouped, strided, transposed: worked out by hand for each axis."""
    network = nn.Sequential(
        nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 2, 1), dilation=(1, 2, 1)),  # reaches 0, 2, 1
        nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), groups=4),  # 1, 0, 0
        nn.Conv3d(4, 6, (1, 2, 1), stride=(1, 2, 1)),
        nn.Conv3d(6, 6, 3, padding=1, groups=2),  # 1, 2 (one cell), 1
        nn.ConvTranspose3d(6, 2, (1, 2, 1), stride=(1, 2, 1)),
    )
    assert measure_geometry(network, 2, 3) == Geometry((2, 4, 2), (1, 2, 1), (0, 0, 0), (1, 2, 1))


def test_volumes_smaller_than_a_kernel_are_not_trained_in_channels_last() -> None:
    """Where they are, gradients in bfloat16 are at times not finite, and at times the process ends."""
    unet = UNet(3, 1, 2, channels=(2, 4, 4), padding="same")
    assert training_format(unet, 1, (16, 12, 16)) == torch.channels_last_3d
    assert training_format(unet, 1, (16, 8, 16)) == torch.contiguous_format
    assert (
        training_format(UNet(2, 1, 2, channels=(2, 4, 4), padding="same"), 1, (8, 8)) == torch.channels_last
    )
    assert not any(layer._forward_hooks for layer in unet.modules())

"""U-Net: geometry derived, measured and seen; refusals; memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg import Refused
from medseg.networks import UNet, forward_bytes, geometry_of, measure_geometry, resolve_device
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

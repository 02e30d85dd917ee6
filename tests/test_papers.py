"""Numbers that the papers state, found in what is built here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medseg.networks import UNet


def convolutions(network: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return [m for m in network.modules() if isinstance(m, kinds)]


def test_unet_has_the_papers_layers() -> None:
    """Ronneberger et al. 2015, section 2: 23 convolutional layers, 64 to 1024 channels."""
    network = UNet(2, 1, 2)
    layers = convolutions(network)
    assert len(layers) == 23
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in layers) == 4
    assert max(m.out_channels for m in layers) == 1024
    assert [m.out_channels for m in layers[:10:2]] == [64, 128, 256, 512, 1024]
    assert layers[-1].kernel_size == (1, 1)
    for m in layers:
        if isinstance(m, nn.ConvTranspose2d):
            assert m.out_channels * 2 == m.in_channels, "an up-convolution halves the channels"


def test_unet_572_gives_388() -> None:
    network = UNet(2, 1, 2)
    assert network.output_size(572) == 388
    assert network.input_size(388) == 572
    assert network.output_size((572, 700)) == (388, 516)
    assert network.halo == 92
    with torch.device("meta"):
        out = UNet(2, 1, 2).eval()(torch.empty(1, 1, 572, 572))
    assert out.shape == (1, 2, 388, 388)


def test_unet_is_he_initialised() -> None:
    """Section 3: deviation sqrt(2 / N); 3x3 convolution over 64 channels has N = 9 * 64 = 576."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(2, 1, 2, channels=(64, 128, 256))
    layer = convolutions(network)[1]
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 576), rel=0.02)
    assert layer.bias.abs().max() == 0


def test_unet_drops_out_at_the_end_of_the_contracting_path() -> None:
    network = UNet(2, 1, 2, channels=(4, 8, 16), dropout=0.5).train()
    dropped: list[str] = []
    network.run(
        "x", lambda layer, x: dropped.append(type(layer).__name__) or x, lambda skip, x: x, lambda a, b: a
    )
    last_pool = len(dropped) - 1 - dropped[::-1].index("MaxPool2d")
    first_up = dropped.index("ConvTranspose2d")
    where = [i for i, name in enumerate(dropped) if name == "Dropout"]
    assert len(where) == 2
    assert where[-1] == first_up - 1
    assert last_pool - 1 == where[0]

"""The fast copy of a network gives what the network gives, in half the memory where it is in bfloat16."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from medseg import OverlapTileInferer
from medseg.networks import UNet, fast_network, forward_bytes, has_bfloat16
from medseg.networks.fast import fold_batch_norm
from medseg.networks.resnet import ResNet


def trained(network: nn.Module) -> nn.Module:
    """Batch norms as after a training: not the identity that they start with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network.eval()


def unet(dims: int = 2, padding: str = "same", norm: str | None = "batch") -> UNet:
    channels = (4, 8, 8) if dims == 2 else (3, 4)
    return trained(UNet(dims, 1, 3, channels=channels, padding=padding, norm=norm))


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("norm", [None, "batch", "instance", "group"])
def test_it_gives_what_the_network_gives(dims: int, padding: str, norm: str | None) -> None:
    network = unet(dims, padding, norm)
    before = copy.deepcopy(network.state_dict())
    size = network.input_size((20, 33) if dims == 2 else (6, 9, 14))
    image = torch.rand(2, 1, *size)
    fast, half = fast_network(network, 1, dims), fast_network(network, 1, dims, bfloat16=True)
    with torch.inference_mode():
        expected = network(image)
        # norms over the whole input add in another order
        assert largest(fast(image), expected) < (1e-5 if norm in (None, "batch") else 1e-4)
        rounded = half(image)
    assert rounded.dtype == torch.float32
    assert 1e-5 < largest(rounded, expected) < 0.1, "3 digits, added up over the layers"
    assert fast.geometry == half.geometry == network.geometry
    folded = any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in fast.modules())
    assert not folded
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the network is left as it was"
    assert all(p.requires_grad for p in network.parameters())


def test_the_last_layer_keeps_float32() -> None:
    """Two classes whose logits differ by less than bfloat16 tells apart are told apart."""
    network = unet()
    with torch.no_grad():
        network.head.weight[1] = network.head.weight[0]
        network.head.bias.copy_(torch.tensor([100.0, 100.01, 0.0]))
    found = fast_network(network, 1, 2, bfloat16=True)(torch.rand(1, 1, 64, 48)).argmax(1)
    assert bool((found == 1).all())


def test_layers_used_twice_or_watched_are_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            shared = nn.Conv2d(1, 1, 3, padding=1)
            self.a = nn.Sequential(shared, nn.BatchNorm2d(1))
            self.b = nn.Sequential(shared, nn.ReLU())
            self.c = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
            self.d = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
            self.e = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
            self.f = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.f(self.e(self.d(self.c(self.b(self.a(x))))))

    network = Twice()
    for norm in (network.a[1], network.c[1], network.e[2], network.f[1]):
        norm.running_mean.normal_()
    network.eval()
    seen: list[int] = []
    network.c[0].register_forward_hook(lambda *_: seen.append(1))
    image = torch.rand(1, 1, 9, 7)
    expected = network(image)
    folded = fold_batch_norm(copy.deepcopy(network))
    kept = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert kept == ["a.1", "c.1", "d.1", "e.2"]
    assert torch.allclose(folded(image), expected, atol=1e-5)


def test_norms_of_a_residual_network_are_folded_too() -> None:
    network = ResNet(2, 3, layers=(2, 1), channels=(4, 8), output_stride=8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.eval()
    image = torch.rand(1, 3, 41, 30)
    folded = fold_batch_norm(copy.deepcopy(network))
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.allclose(folded(image), network(image), rtol=1e-4, atol=1e-4)


class Viewing(nn.Module):
    """Fails where its input is not contiguous, as many foreign networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x.view(x.shape[0], -1).view(x.shape))


def test_a_network_that_cannot_runs_as_it_is_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for bfloat16 in (False, True):
        caplog.clear()
        network = Viewing().eval()
        with caplog.at_level(logging.WARNING, logger="medseg"):
            assert fast_network(network, 1, 2, bfloat16=bfloat16) is network
        assert "runs as it is" in caplog.text
    foreign = trained(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
    image = torch.rand(1, 1, 30, 41)
    fast = fast_network(foreign, 1, 2)
    assert fast is not foreign
    assert largest(fast(image), foreign(image)) < 1e-5


def test_bfloat16_needs_half_the_memory() -> None:
    network = UNet(2, 1, 2, channels=(16, 32, 64), padding="same", norm="batch").eval()
    shape = (320, 256)
    plain, half = (
        forward_bytes(net, 1)(shape) for net in (network, fast_network(network, 1, 2, bfloat16=True))
    )
    assert 0.4 < half / plain < 0.6
    assert forward_bytes(fast_network(network, 1, 2), 1)(shape) <= plain


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("dims", "padding"), [(2, "same"), (2, "valid"), (3, "same")])
def test_tiles_do_not_change_the_result(dims: int, padding: str, bfloat16: bool) -> None:
    if bfloat16 and not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16, so a bundle does not use it")
    fast = fast_network(unet(dims, padding), 1, dims, bfloat16=bfloat16)
    shape = (150, 97) if dims == 2 else (13, 22, 31)
    image = torch.randn(1, 1, *shape)
    whole = OverlapTileInferer(tile=200)(image, fast)
    for tile in (5, 16, 50, 100):
        tiled = OverlapTileInferer(tile=tile, batch_size=1 + tile % 3)(image, fast)
        assert largest(tiled, whole) <= 1e-5, tile
        assert torch.equal(tiled.argmax(1), whole.argmax(1)), tile

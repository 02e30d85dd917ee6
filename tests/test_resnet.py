"""ResNet: MONAI's as an oracle, atrous convolution, receptive fields, published names, refusals."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.resnet import ResNet as MonaiResNet
from torch import Tensor, nn

from medseg import Refused
from medseg.networks import load_weights
from medseg.networks.atrous_vgg import AtrousVGG16
from medseg.networks.reach import Reach, reach_along, step_geometry
from medseg.networks.resnet import LAYERS, ResNet, strides_and_rates

SMALL = {"layers": (1, 2, 1, 2), "channels": (2, 3, 4, 5)}
SIZES = {2: (70, 97), 3: (33, 40, 50)}


def trained(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give the norms of a network what a training leaves in them: not the identity they start with."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
                layer.running_mean.normal_(std=0.1)
                layer.running_var.uniform_(0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.1)
    return network.eval()


def resnet(dims: int, **form: object) -> ResNet:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = ResNet(dims, 2, **{**SMALL, **form})
    trained(network)
    return network


def noise(dims: int, channels: int = 2) -> Tensor:
    return torch.rand(1, channels, *SIZES[dims], generator=torch.Generator().manual_seed(2))


NORM = ("weight", "bias", "running_mean", "running_var")


def published(blocks: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file of ImageNet weights; written down from table 1 of the paper."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 2048)}
    shapes["fc.bias"] = (1000,)
    norms = {"bn1": 64}
    given = 64
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512)), 1):
        for number in range(count):
            block = f"layer{stage}.{number}"
            shapes |= {
                f"{block}.conv1.weight": (width, given, 1, 1),
                f"{block}.conv2.weight": (width, width, 3, 3),
                f"{block}.conv3.weight": (4 * width, width, 1, 1),
            }
            norms |= {f"{block}.bn1": width, f"{block}.bn2": width, f"{block}.bn3": 4 * width}
            if number == 0:
                shapes[f"{block}.downsample.0.weight"] = (4 * width, given, 1, 1)
                norms[f"{block}.downsample.1"] = 4 * width
            given = 4 * width
    for name, width in norms.items():
        shapes |= {f"{name}.{entry}": (width,) for entry in NORM}
        shapes[f"{name}.num_batches_tracked"] = ()
    return shapes


@pytest.mark.parametrize(("name", "tensors"), [("resnet50", 320), ("resnet101", 626)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_names_and_shapes_are_those_of_the_published_file(
    name: str, tensors: int, output_stride: int
) -> None:
    expected = published(LAYERS[name])
    assert len(expected) == tensors
    with torch.device("meta"):
        network = ResNet(2, 3, layers=LAYERS[name], output_stride=output_stride)
        file = {key: torch.empty(shape) for key, shape in expected.items()}
    own = {key: tuple(t.shape) for key, t in network.state_dict().items()}
    assert own == {key: shape for key, shape in expected.items() if not key.startswith("fc.")}
    assert network.adapt_weights(file).keys() == own.keys()


@pytest.mark.parametrize("dims", [2, 3])
def test_same_weights_give_what_monais_resnet_gives(dims: int) -> None:
    mine = resnet(dims)
    other = MonaiResNet(
        "bottleneck",
        list(SMALL["layers"]),
        list(SMALL["channels"]),
        spatial_dims=dims,
        n_input_channels=2,
        conv1_t_size=7,
        conv1_t_stride=2,
        bias_downsample=False,
        num_classes=7,
    ).eval()
    state = mine.adapt_weights(other.state_dict())
    assert set(other.state_dict()) - set(state) == {"fc.weight", "fc.bias"}
    missing, unexpected = other.load_state_dict(mine.state_dict(), strict=False)
    assert unexpected == []
    assert missing == ["fc.weight", "fc.bias"]
    seen: list[Tensor] = []
    other.layer4.register_forward_hook(lambda layer, given, out: seen.append(out))
    with torch.inference_mode():
        found = mine(noise(dims))
        other(noise(dims))
    assert found.shape == seen[0].shape
    assert torch.allclose(found, seen[0], atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_atrous_convolution_keeps_every_feature_and_adds_those_between(dims: int, output_stride: int) -> None:
    """Chen et al. 2017, section 3.1: with its strides left out, the network is the same, but denser."""
    coarse, dense = resnet(dims), resnet(dims, output_stride=output_stride)
    dense.load_state_dict(coarse.state_dict())
    with torch.inference_mode():
        few, many = coarse(noise(dims)), dense(noise(dims))
    assert many.shape[2:] == tuple(-(-n // output_stride) for n in SIZES[dims])
    step = slice(None, None, 32 // output_stride)
    assert torch.allclose(many[(..., *[step] * dims)], few, atol=1e-5)
    assert few.std() > 0.01, "features that are all alike would show nothing"
    assert coarse.receptive_field == dense.receptive_field


def test_receptive_field_is_what_changes() -> None:
    """Brute force: of one feature, the gradient reaches exactly so many pixels."""
    network = resnet(2, layers=(1, 1, 1, 1), output_stride=8).double()
    image = torch.rand(1, 2, 256, 320, dtype=torch.float64, requires_grad=True)
    for layer in network.modules():  # everything counts, nothing is rectified away
        if isinstance(layer, nn.ReLU):
            layer.forward = lambda x: x  # type: ignore[method-assign]
    for name, weight in network.named_parameters():
        if "conv" in name or "downsample.0" in name:
            nn.init.uniform_(weight, 0.5, 1.0)
    network.maxpool.forward = lambda x: nn.functional.avg_pool2d(x, 3, 2, 1)  # type: ignore[method-assign]
    network(image)[0, :, 16, 20].sum().backward()
    assert image.grad is not None
    reached = [image.grad.abs().sum(dim=(0, 1, 3 - a)).nonzero().flatten() for a in range(2)]
    for axis, (reach, at) in enumerate(zip(reach_along(network.run, 2, add=widest), (16, 20))):
        assert (int(reached[axis][0]), int(reached[axis][-1])) == (
            at * reach.stride - reach.before,
            at * reach.stride + reach.after,
        )


def widest(shortcut: Reach, x: Reach) -> Reach:
    return x.beside(shortcut)


def test_reach_of_uneven_layers() -> None:
    """Worked out by hand: a convolution of 4, not padded evenly, on every third pixel of one of 2."""
    reach = Reach().through(nn.Conv2d(1, 1, (2, 5), stride=(3, 1)), 0)
    assert reach == Reach(3, 0, 1)
    reach = reach.through(nn.Conv2d(1, 1, 4, padding=1, dilation=2))
    # pixels of feature i: from 3 (i - 1) to 3 (i - 1 + 6) + 1
    assert reach == Reach(3, 3, 16)
    assert reach.field == 20
    # halo: features are fouled as far as they reach, and pixels up to the next one
    assert step_geometry([reach], local=True).halo == (18,)
    with pytest.raises(Refused, match="two strides"):
        reach.beside(Reach())
    assert Reach(2, 1, 3).through(nn.AvgPool2d(3, stride=2, padding=1)) == Reach(4, 3, 5)
    for layer in (nn.ConvTranspose2d(1, 1, 2), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(3)):
        with pytest.raises(Refused, match=type(layer).__name__):
            Reach().through(layer)
    with pytest.raises(Refused, match="padding"):
        Reach().through(nn.Conv2d(1, 1, 3, padding="same"))


def test_grey_images_take_colour_weights_and_the_classifier_stays_out() -> None:
    grey, colour = ResNet(2, 1, **SMALL).eval(), trained(ResNet(2, 3, **SMALL))
    state = dict(colour.state_dict()) | {"fc.weight": torch.rand(5, 20), "fc.bias": torch.rand(5)}
    loaded = load_weights(grey, grey.adapt_weights(state))
    assert loaded.untouched == ()
    image = noise(2, 1)
    assert torch.allclose(grey(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-5)


def test_refusals() -> None:
    with pytest.raises(Refused, match="output_stride"):
        ResNet(2, 1, **SMALL, output_stride=12)
    with pytest.raises(Refused, match="output_stride"):
        ResNet(2, 1, **SMALL, output_stride=64)
    with pytest.raises(Refused, match="blocks and channels"):
        ResNet(2, 1, layers=(1, 1), channels=(2, 2, 2))
    with pytest.raises(Refused, match="Did you mean 'batch'"):
        ResNet(2, 1, **SMALL, norm="bach")
    with pytest.raises(Refused, match="expected 2 or 3"):
        ResNet(1, 1)
    for encoder in (ResNet(2, 3, **SMALL), AtrousVGG16(2, 3, channels=(2, 2, 2, 2, 2))):
        for shape in ((1, 1, 40, 50), (3, 40, 50), (1, 3, 40, 50, 9)):
            with pytest.raises(Refused) as refused:
                encoder(torch.zeros(shape))
            assert refused.value.reason == "channel-mismatch"
    for stride in (2, 9, 0):
        with pytest.raises(Refused, match="output_stride"):
            ResNet(2, 1, **SMALL, output_stride=stride)
    assert strides_and_rates((4, 1, 2, 2, 2), 16) == [(4, 1), (1, 1), (2, 1), (2, 1), (1, 2)]


@pytest.mark.parametrize("norm", ["batch", "channel", "instance", "group", None])
def test_norms(norm: str | None) -> None:
    network = ResNet(2, 1, layers=(1, 1), channels=(8, 8), output_stride=8, norm=norm).train()
    out = network(torch.rand(2, 1, 20, 33))
    assert out.shape == (2, 32, 3, 5)
    out.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert list(LAYERS["resnet101"]) == [3, 4, 23, 3]

"""DeepLab: tiles equal to the whole, the pyramid and the interpolation by brute force, the four calls."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn
from torch.nn import functional

import medseg
from medseg import OverlapTileInferer, Plan, Refused
from medseg.networks import NETWORKS, build_network, fast_network, load_weights, measure_geometry
from medseg.networks.atrous_vgg import AtrousVGG16
from medseg.networks.deeplab import Aspp, DeepLab, rates_at
from medseg.networks.resnet import ResNet
from medseg.planning.networks import with_network, with_training

NAMES = ("deeplab-vgg16", "deeplab-resnet50", "deeplab-resnet101")
CASES = [
    ("resnet", 2, 8, (1, 2, 3)),
    ("resnet", 2, 16, (1, 2)),
    ("vgg", 2, 8, (2, 1)),
    ("vgg", 2, 16, (1, 3)),
    ("resnet", 3, 8, (1, 2)),
    ("vgg", 3, 8, (1,)),
]


def deeplab(kind: str, dims: int, stride: int, rates: tuple[int, ...], **form: Any) -> DeepLab:
    """A small one whose norms are as after a training."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        encoder: Any
        if kind == "resnet":
            # fewer stages see less, so that tiles may be small
            stages = {8: 2, 16: 3}[stride]
            encoder = ResNet(
                dims, 1, layers=(1,) * (stages + 1), channels=(3, 4, 4, 5)[: stages + 1], output_stride=stride
            )
        else:
            encoder = AtrousVGG16(dims, 1, channels=(2, 2, 3, 3, 4), output_stride=stride, norm="batch")
        network = DeepLab(encoder, 3, rates=rates, width=5, **form)
        # norms as after a training: what comes in leaves them with mean 0 and deviation 1
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
        size = (64, 56) if dims == 2 else (24, 32, 24)
        for layer in norms:
            layer.momentum = 1.0
            nn.init.uniform_(layer.weight, 0.7, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
        with torch.no_grad():
            network.train()(torch.rand(4, 1, *size))
            logits = network.eval()(noise(*size))
            network.head.bias -= logits.mean(
                dim=(0, *range(2, 2 + dims))
            )  # so that each class wins somewhere
            network.head.weight /= logits.std()
            network.head.bias /= logits.std()
    return network


def noise(*size: int, channels: int = 1) -> Tensor:
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(6))


class OnlyLegal(nn.Module):
    """Refuses what tiles are not: DeepLab itself takes any size."""

    def __init__(self, network: DeepLab) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        self.network.geometry.output_size(image.shape[2:])
        out: Tensor = self.network(image)
        return out


# geometry and tiles


@pytest.mark.parametrize(("kind", "dims", "stride", "rates"), CASES)
def test_derived_geometry_is_what_a_broken_pixel_shows(kind: str, dims: int, stride: int, rates: Any) -> None:
    network = deeplab(kind, dims, stride, rates)
    assert network.geometry.stride == (stride,) * dims
    assert network.geometry == measure_geometry(OnlyLegal(network), 1, dims)


# a volume with all of its mirrored context takes minutes
@pytest.mark.parametrize(
    ("mirror", "kind", "dims", "stride", "rates"),
    [(mirror, *case) for case in CASES for mirror in (None, 0) if case[1] == 2 or mirror == 0],
)
def test_tiles_give_what_the_whole_image_gives(
    mirror: int | None, kind: str, dims: int, stride: int, rates: Any
) -> None:
    network = deeplab(kind, dims, stride, rates)
    image = noise(*((131, 70) if dims == 2 else (53, 30, 18)))
    whole = OverlapTileInferer(tile=500, mirror=mirror)(image, network)
    steps = (40, (16, 64)) if dims == 2 else ((16, 24, 8),)
    for step in steps:
        tiled = OverlapTileInferer(tile=step, mirror=mirror, batch_size=2)(image, network)
        assert tiled.shape == (1, 3, *image.shape[2:])
        assert float((tiled - whole).abs().max()) < 1e-5 * max(1.0, float(whole.abs().max()))
        assert int((tiled.argmax(1) != whole.argmax(1)).sum()) == 0
    varies = whole.std(dim=tuple(range(2, 2 + dims)))
    assert float(varies.min()) > 0.01, "logits that are alike everywhere would show nothing"


@pytest.mark.parametrize("stride", [8, 16])
def test_a_stride_less_of_context_is_not_enough(stride: int) -> None:
    network = deeplab("resnet", 2, stride, (1, 2)).double()
    image = noise(200, 48).double()
    assert network.geometry.halo is not None
    halo = network.geometry.halo[0]

    def rim(distance: int) -> float:
        """What a change of all that lies beyond ``distance`` changes at the first pixel that is kept."""
        other = image.clone()
        other[:, :, : 160 - distance] = 1 - other[:, :, : 160 - distance]
        with torch.inference_mode():
            return float((network(image) - network(other))[:, :, 160:].abs().max())

    assert rim(halo) == 0
    assert rim(halo - stride) > 0


def test_boxes_of_the_output_are_parts_of_it() -> None:
    network, image = deeplab("resnet", 2, 8, (1, 2)), noise(50, 61)
    boxes = [(slice(0, 50), slice(0, 61)), (slice(7, 8), slice(3, 60)), (slice(16, 41), slice(9, 10))]
    with torch.inference_mode():
        whole = network(image)
        for box, part in zip(boxes, network.parts(image, boxes), strict=True):
            assert torch.equal(part, whole[(slice(None), slice(None), *box)])


# what is computed


@pytest.mark.parametrize("dims", [2, 3])
def test_logits_between_features_are_interpolated(dims: int) -> None:
    """Brute force: linear interpolation at pixel x of features that lie on pixels 0, 8, 16."""
    network = deeplab("resnet", dims, 8, (1, 2))
    size = (43, 30) if dims == 2 else (17, 20, 9)
    padded = functional.pad(noise(*size), [k for n in reversed(size) for k in (0, (1 - n) % 8)])
    with torch.inference_mode():
        found = network(noise(*size)).numpy()
        features = network.encoder(padded)
        coarse = network.head(network.aspp(features)).numpy()
    at = np.stack(np.meshgrid(*(np.arange(n) / 8 for n in size), indexing="ij"))
    for k in range(3):
        expected = map_coordinates(coarse[0, k].astype(np.float64), at, order=1)
        assert np.abs(found[0, k] - expected).max() < 1e-5
    step = slice(None, None, 8)
    there = found[(..., *[step] * dims)]
    assert np.allclose(there, coarse[(slice(None), slice(None), *(slice(0, n) for n in there.shape[2:]))])


def test_every_size_goes_in_and_comes_out() -> None:
    for kind in ("resnet", "vgg"):
        network = deeplab(kind, 2, 8, (1, 2))
        with torch.inference_mode():
            for n in (1, 2, 7, 8, 9, 16, 17, 31):
                assert network(noise(n, 40 - n)).shape == (1, 3, n, 40 - n)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_pyramid_is_convolutions_with_holes(dims: int) -> None:
    """Chen et al. 2017, equation 1: y[i] = sum over k of x[i + r k] w[k], here with the holes written out."""
    rates = (1, 2, 3)
    pyramid = Aspp(dims, 2, 3, rates=rates, norm=None).eval()
    x = noise(*((11, 9) if dims == 2 else (8, 7, 9)), channels=2)
    conv = {2: functional.conv2d, 3: functional.conv3d}[dims]
    parts = []
    with torch.inference_mode():
        for rate, branch in zip(rates, pyramid.branches):
            weight, bias = branch[0].weight, branch[0].bias
            assert weight.shape[2:] == ((1,) if rate == 1 else (3,)) * dims
            size = rate * (weight.shape[2] - 1) + 1
            holes = torch.zeros(*weight.shape[:2], *[size] * dims)
            holes[(..., *[slice(None, None, rate)] * dims)] = weight
            parts.append(conv(x, holes, bias, padding=size // 2).relu())
        last = pyramid.project[0]
        expected = conv(torch.cat(parts, 1), last.weight, last.bias).relu()
        assert torch.allclose(pyramid(x), expected, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_image_pooling_shows_the_mean_of_the_whole(dims: int) -> None:
    pyramid = Aspp(dims, 2, 3, rates=(1,), image_pooling=True).eval()
    x = noise(*((6, 9) if dims == 2 else (4, 5, 6)), channels=2)
    y = x.flatten(2).flip(2).reshape(x.shape)  # other places, the same mean
    with torch.inference_mode():
        for one, other in ((x, y), (y, x)):
            mean = one.flatten(2).mean(2).reshape(1, 2, *[1] * dims)
            parts = [pyramid.branches[0](other), pyramid.pooled(mean).expand(-1, -1, *other.shape[2:])]
            assert torch.allclose(pyramid(other), pyramid.project(torch.cat(parts, 1)), atol=1e-6)


def test_image_pooling_has_no_halo_and_prediction_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network = deeplab("resnet", 2, 8, (1, 2), image_pooling=True)
    assert network.halo is None
    assert measure_geometry(OnlyLegal(network), 1, 2) == network.geometry
    inferer, image = OverlapTileInferer(tile=32), noise(70, 49)
    assert not inferer.exact(network, (1, 70, 49))
    with caplog.at_level(logging.WARNING):
        assert inferer(image, network).shape == (1, 3, 70, 49)
    assert "not exact" in caplog.text
    # one image in a step: its mean has no deviation
    network.train()(noise(24, 40)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_norms_over_the_whole_input_have_no_halo() -> None:
    for norm, local in (("batch", True), ("channel", True), (None, True), ("group", False)):
        encoder = ResNet(2, 1, layers=(1, 1), channels=(8, 8), output_stride=8, norm=norm)
        network = DeepLab(encoder, 2, rates=(1,), width=9, norm=norm)
        assert (network.halo is not None) == local


# plans and the four calls


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_takes_the_papers_numbers(name: str) -> None:
    for dims in (2, 3):
        start = Plan().with_values({"input.spatial_dims": dims, "train.patch": (64,) * dims})
        plan = with_training(with_network(start, name))
        with torch.device("meta"):
            network: Any = NETWORKS[name](plan)
        stride = 8 if name.endswith("vgg16") or dims == 3 else 16
        assert network.geometry.stride == (stride,) * dims
        rates = [1 if b[0].kernel_size[0] == 1 else b[0].dilation[0] for b in network.aspp.branches]
        assert tuple(rates) == ((1, 2, 3, 4) if dims == 3 else rates_at(stride))
        assert network.head.in_channels == 256
        assert network.geometry.legal(plan.train.patch)
        assert plan.predict.mirror == 0
        assert all(plan.reasons[f"network.{key}"] for key in ("channels", "norm", "rates", "output_stride"))
        assert Plan.from_toml(plan.to_toml()) == plan


def test_numbers_of_other_networks_are_refused() -> None:
    few = {"network.channels": (2, 2, 2, 2), "network.name": "deeplab-resnet50"}
    for key, value in (("padding", "valid"), ("residual", True), ("strides", ((2, 2), (2, 2), (2, 2)))):
        with pytest.raises(Refused, match=f"has no 'network.{key}'"):
            build_network(Plan().with_values(few | {f"network.{key}": value}))
    with pytest.raises(Refused, match="5 stages"):
        build_network(Plan().with_values(few | {"network.name": "deeplab-vgg16"}))
    with pytest.raises(Refused, match="output_stride"):
        Plan().with_values({"network.output_stride": 12})
    with pytest.raises(Refused):
        Plan().with_values({"network.rates": (0, 6)})
    with pytest.raises(Refused, match="one mean"):
        Aspp(2, 2, 8, image_pooling=True, norm="instance")
    with pytest.raises(Refused, match="rates"):
        Aspp(2, 2, 8, rates=())
    with pytest.raises(Refused, match="input"):
        deeplab("resnet", 2, 8, (1,))(noise(8, 9, channels=2))


@pytest.mark.parametrize("kind", ["resnet", "vgg"])
def test_weights_of_an_encoder_go_into_it(kind: str) -> None:
    network = deeplab(kind, 2, 8, (1, 2))
    published = {name: t + 1 for name, t in network.encoder.state_dict().items()}
    published |= (
        {"fc.weight": torch.rand(3, 4)} if kind == "resnet" else {"classifier.0.weight": torch.rand(3, 4)}
    )
    before = {name: t.clone() for name, t in network.state_dict().items()}
    loaded = load_weights(network, network.adapt_weights(published))
    assert loaded.left_out == ()
    for name, tensor in network.state_dict().items():
        inner = name.removeprefix("encoder.")
        source = published[inner] if inner != name else before[name]
        assert torch.equal(tensor, source), name
    own = network.state_dict()
    assert network.adapt_weights(own).keys() == own.keys()


@pytest.mark.parametrize(("theirs", "own"), [(None, "batch"), ("batch", None)])
def test_vgg16_with_and_without_norms_is_not_mixed_up(theirs: str | None, own: str | None) -> None:
    """Their layers have other numbers; a convolution must not come to lie where another one was."""
    widths = (2, 3, 4, 5, 6)
    published = AtrousVGG16(2, 3, channels=widths, norm=theirs).state_dict()
    network = DeepLab(AtrousVGG16(2, 3, channels=widths, norm=own), 2, width=2, norm=own)
    with pytest.raises(Refused, match="another network") as refused:
        load_weights(network, published)
    assert refused.value.reason == "another-network"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cells")
    for i in range(4):
        image, found = medseg.phantoms.cells((41, 60), n=4, diameter=12, rng=np.random.default_rng(i))
        medseg.write(image, root / f"images/{i}.tif")
        medseg.write(found > 0, root / f"labels/{i}.tif")
    return root


@pytest.mark.parametrize(("kind", "dims", "stride", "rates"), [CASES[0], CASES[2], CASES[4]])
def test_the_fast_copy_gives_the_same_classes(kind: str, dims: int, stride: int, rates: Any) -> None:
    network = deeplab(kind, dims, stride, rates)
    fast, half = (fast_network(network, 1, dims, bfloat16=b) for b in (False, True))
    assert fast is not network
    assert half is not network
    image = noise(*((64, 80) if dims == 2 else (16, 32, 24)))
    with torch.inference_mode():
        expected, same, rounded = network(image), fast(image), half(image)
    assert float((same - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert rounded.dtype == torch.float32
    best, second = expected.topk(2, dim=1).values.unbind(1)
    agree = rounded.argmax(1) == expected.argmax(1)
    # logits have a deviation of 1; norms that no training has settled make much of rounding
    assert float(agree.float().mean()) > 0.9
    assert bool(agree[best - second > 1].all())

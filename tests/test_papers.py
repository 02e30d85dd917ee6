"""Numbers that the papers state, found in what is built here."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from medseg.networks import FCN, VGG16, PatchNetwork, UNet
from medseg.networks.atrous_vgg import AtrousVGG16
from medseg.networks.deeplab import DeepLab
from medseg.networks.reach import Reach
from medseg.networks.resnet import LAYERS, ResNet
from medseg.networks.vgg import vgg16_features


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


def test_unet_has_the_papers_maps_parameters_and_field() -> None:
    """Figure 1: the size of each map behind a convolution or pooling; weights are counted by its channels."""
    network, sizes = UNet(2, 1, 2, channels=(1, 2, 4, 8, 16)), [572]

    def note(layer: nn.Module, x: torch.Tensor) -> Any:
        sizes.extend([] if layer(x).shape[-1] == sizes[-1] else [layer(x).shape[-1]])
        return layer(x)

    def cut(skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        side, rest = x.shape[-1], skip.shape[-1] - x.shape[-1]
        assert rest // 2 in (88, 40, 16, 4)
        assert rest % 2 == 0
        return torch.cat([skip[..., :side, :side], x], dim=1)

    network.to("meta").run(torch.empty(1, 1, 572, 572, device="meta"), note, cut, lambda a, b: a)
    down = [572, 570, 568, 284, 282, 280, 140, 138, 136, 68, 66, 64, 32, 30, 28]
    assert sizes == [*down, 56, 54, 52, 104, 102, 100, 200, 198, 196, 392, 390, 388]

    reach, fields = Reach(), []
    for level, block in enumerate(network.down):
        for layer in ([network.pool[level - 1]] if level else []) + list(block.children()):
            reach = reach.through(layer)
        fields.append((reach.field, reach.stride))
    assert fields == [(5, 1), (14, 2), (32, 4), (68, 8), (140, 16)]

    wide = (64, 128, 256, 512, 1024)
    for skips, given in ((True, 2), (False, 1)):
        count = 64 * 2 + 2 + sum(9 * a * b + b + 9 * b * b + b for a, b in pairwise((1, *wide)))
        for b, a in pairwise(wide):
            count += 4 * a * b + b + 9 * given * b * b + b + 9 * b * b + b
        with torch.device("meta"):
            assert sum(p.numel() for p in UNet(2, 1, 2, skips=skips).parameters()) == count
        assert count == (31_030_658 if skips else 27_897_218)


def test_without_skips_only_what_is_handed_over_is_missing() -> None:
    """The first convolution of each level of the way up has half the inputs; all else is alike."""
    with torch.device("meta"):
        given, plain = (dict(UNet(2, 1, 2, skips=skips).named_parameters()) for skips in (True, False))
    assert given.keys() == plain.keys()
    differ = {name for name in given if given[name].shape != plain[name].shape}
    assert differ == {f"merge.{level}.0.weight" for level in range(4)}
    for level, width in enumerate((512, 256, 128, 64)):
        name = f"merge.{level}.0.weight"
        assert given[name].shape == (width, 2 * width, 3, 3)
        assert plain[name].shape == (width, width, 3, 3)
    assert UNet(2, 1, 2, channels=(1,) * 5).geometry == UNet(2, 1, 2, channels=(1,) * 5, skips=False).geometry


def test_a_pixel_of_the_unet_sees_188_or_204_pixels() -> None:
    """Four or five features of field 140 and stride 16; measured by the gradient of a network of averages."""
    network = UNet(2, 1, 1, channels=(1,) * 5).double()
    for layer in convolutions(network):
        nn.init.ones_(layer.weight)
    network.pool = nn.ModuleList(nn.AvgPool2d(2) for _ in network.pool)
    image = torch.ones(1, 1, 204, 188, dtype=torch.float64, requires_grad=True)
    out = network(image)
    assert out.shape[2:] == (20, 4)
    seen = []
    for row in range(17):
        gradient = torch.autograd.grad(out[0, 0, row, 0], image, retain_graph=True)[0]
        rows = gradient[0, 0].sum(1).nonzero().flatten().tolist()
        seen.append((92 + row - rows[0], rows[-1] - 92 - row))
    assert seen == [
        *((92 + i, 95 - i) for i in range(4)),
        *((96 + i, 107 - i) for i in range(12)),
        (92, 95),
    ]


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


# ResNet and DeepLab


def test_resnet_has_the_papers_layers() -> None:
    """He et al. 2016, table 1: 50 and 101 layers with weights, 112 to 7 pixels of 224; published counts."""
    for name, depth, published in (("resnet50", 50, 25_557_032), ("resnet101", 101, 44_549_160)):
        with torch.device("meta"):
            network = ResNet(2, 3, layers=LAYERS[name])
        shortcuts = sum(
            block.downsample is not None for block in network.modules() if hasattr(block, "downsample")
        )
        assert len(convolutions(network)) - shortcuts + 1 == depth, "the classifier is the last layer"
        classifier = (network.out_channels + 1) * 1000
        assert sum(p.numel() for p in network.parameters()) + classifier == published
        sizes: list[int] = []

        def note(layer: nn.Module, given: Any, out: torch.Tensor, sizes: list[int] = sizes) -> None:
            sizes.append(out.shape[-1])

        for layer in ("conv1", "maxpool", *(f"{stage}.0.conv2" for stage in network.stages)):
            network.get_submodule(layer).register_forward_hook(note)
        # blocks are walked and not called, so their convolutions of 3 are looked at
        assert network.eval()(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 2048, 7, 7)
        assert sizes == [112, 56, 56, 28, 14, 7]
        strides = [network.get_submodule(f"{s}.0.conv2").stride for s in network.stages]
        assert strides == [(1, 1), (2, 2), (2, 2), (2, 2)]


def slim(layers: tuple[int, ...]) -> Reach:
    """A ResNet whose strides are in the last block of each stage, that of Araujo et al."""
    reach = Reach().through(nn.Conv2d(1, 1, 7, stride=2, padding=3)).through(nn.MaxPool2d(3, 2, 1))
    for stage, blocks in enumerate(layers):
        for block in range(blocks):
            last = block == blocks - 1 and stage < 3
            reach = reach.through(nn.Conv2d(1, 1, 3, stride=2 if last else 1, padding=1))
    return reach


def test_receptive_fields_are_the_published_ones() -> None:
    """Araujo et al., Distill 2019, the table: 483 and 1027 of ResNet-50 and -101, 212 of VGG16."""
    assert slim(LAYERS["resnet50"]).field == 483
    assert slim(LAYERS["resnet101"]).field == 1027
    reach = Reach()
    with torch.device("meta"):
        vgg, resnets = vgg16_features(2, 3), [ResNet(2, 3, layers=layers) for layers in LAYERS.values()]
    for layer in vgg:
        reach = reach.through(layer)
    assert (reach.field, reach.stride) == (212, 32)
    # with the strides where torchvision has them: in the first block of a stage, and not in the last
    assert [network.receptive_field for network in resnets] == [(427, 427), (971, 971)]


def test_atrous_vgg16_keeps_the_papers_resolution() -> None:
    """Chen et al. 2015, section 3.1: the last two poolings have no stride, three convolutions are dilated.

    The published network takes sizes of 32 k - 31 and gives 4 k - 3 features: 41 for 321.
    """
    with torch.device("meta"):
        network = AtrousVGG16(2, 3, output_stride=8)
        assert network(torch.empty(1, 3, 321, 321)).shape == (1, 512, 41, 41)
    pools = [m for m in network.features if isinstance(m, nn.MaxPool2d)]
    assert [m.stride for m in pools] == [2, 2, 2, 1, 1]
    assert {m.kernel_size for m in pools} == {3}
    assert [m.dilation[0] for m in convolutions(network)] == [1] * 10 + [2] * 3


@pytest.mark.parametrize(
    ("stride", "features", "rates"), [(16, 33, (1, 6, 12, 18)), (8, 65, (1, 12, 24, 36))]
)
def test_deeplab_has_the_papers_rates(stride: int, features: int, rates: tuple[int, ...]) -> None:
    """Chen et al. 2017, section 3.3: rates 6, 12, 18, doubled at output stride 8, and 256 filters each.

    Section 4: crops of 513 pixels, which are 33 or 65 features. Figure 3: the last stage, or the last two,
    are dilated by 2, and by 2 and 4.
    """
    with torch.device("meta"):
        network = DeepLab(ResNet(2, 3, output_stride=stride), 21, image_pooling=True)
        seen = network.encoder(torch.empty(1, 3, 513, 513))
        assert seen.shape == (1, 2048, features, features)
        assert network.eval()(torch.empty(1, 3, 513, 513)).shape == (1, 21, 513, 513)
    branches = [branch[0] for branch in network.aspp.branches]
    assert [m.kernel_size[0] for m in branches] == [1, 3, 3, 3]
    assert tuple(m.dilation[0] for m in branches) == rates
    assert {m.out_channels for m in (*branches, network.aspp.pooled[0], network.aspp.project[0])} == {256}
    assert network.aspp.project[0].in_channels == 5 * 256
    dilated = [network.encoder.get_submodule(f"{s}.1.conv2").dilation[0] for s in network.encoder.stages]
    assert dilated == ([1, 1, 1, 2] if stride == 16 else [1, 1, 2, 4])
    assert network.geometry.halo is None


@pytest.mark.parametrize(
    ("name", "stride", "encoder", "field", "halo"),
    [
        ("vgg16", 8, 227, 803, 408),
        ("resnet50", 16, 427, 1003, 512),
        ("resnet50", 8, 427, 1003, 504),
        ("resnet101", 16, 971, 1547, 784),
    ],
)
def test_deeplab_sees_far(name: str, stride: int, encoder: int, field: int, halo: int) -> None:
    """The pyramid adds twice its largest rate, 18 features of 16 pixels or 36 of 8: 576 pixels.

    Of VGG16, stage by stage and pooling of 3 by pooling of 3: 5, 7; 15, 19; 43, 51; 99, 115; 211, 227.
    """
    with torch.device("meta"):
        made = (
            AtrousVGG16(2, 3, output_stride=stride)
            if name == "vgg16"
            else ResNet(2, 3, layers=LAYERS[name], output_stride=stride)
        )
        network = DeepLab(made, 21)
    assert made.receptive_field == (encoder, encoder)
    assert network.receptive_field == (field, field) == (encoder + 576,) * 2
    assert network.halo == halo


# Patch network, VGG16 and FCN


def sizes_through(layers: nn.Sequential, size: int) -> list[int]:
    """Sizes of the maps behind each layer that changes them."""
    x, sizes = torch.empty(1, next(layers.parameters()).shape[1], size, size, device="meta"), [size]
    for layer in layers:
        x = layer(x)
        sizes += [x.shape[-1]] if x.shape[-1] != sizes[-1] else []
    return sizes


def test_n4_has_the_papers_layers() -> None:
    """Ciresan et al. 2012, table 1: 95, 92, 46, 42, 21, 18, 9, 6, 3; 48 maps, 200 neurons, 2 classes."""
    with torch.device("meta"):
        network = PatchNetwork(2, 1, 2)
    assert network.window == 95
    assert sizes_through(network.features, 95) == [95, 92, 46, 42, 21, 18, 9, 6, 3]
    layers = convolutions(network)
    assert [(m.out_channels, m.kernel_size[0]) for m in layers] == [(48, 4), (48, 5), (48, 4), (48, 4)]
    connected = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in connected] == [(48 * 3 * 3, 200), (200, 2)]


def multiplications(network: PatchNetwork, size: int) -> int:
    """Count those of a call, from what goes into and out of the layers."""
    counted: list[int] = []
    convolve, connect = torch.nn.functional.conv2d, torch.nn.functional.linear

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if function in (convolve, connect):
                counted.append(out.numel() * args[1][0].numel())
            return out

    with Counting():
        network(torch.empty(1, 1, size, size, device="meta"))
    return sum(counted)


def test_n4_makes_555_times_as_many_multiplications_window_by_window() -> None:
    """By hand: each kernel times each place that it is laid on in a window, or once for each pixel."""
    with torch.device("meta"):
        network = PatchNetwork(2, 1, 2)
    kernels = (1 * 48 * 16, 48 * 48 * 25, 48 * 48 * 16, 48 * 48 * 16, 48 * 9 * 200, 200 * 2)
    window = sum(k * n * n for k, n in zip(kernels, (92, 42, 18, 6, 1, 1)))
    assert multiplications(network, 95) == window == 121_464_592
    assert sum(kernels) == 218_896
    assert round(window / sum(kernels)) == 555
    # at the rim of a map of 300 x 300 some features are for few pixels
    assert 1 < multiplications(network, 300 + 94) / (sum(kernels) * 300**2) < 1.5


@pytest.mark.parametrize("dense", [False, True])
def test_vgg16_has_the_papers_layers_and_parameters(dense: bool) -> None:
    """Simonyan, Zisserman 2015, table 1 (D) and table 2: 16 layers, 138 million parameters; 224 to 7."""
    with torch.device("meta"):
        network = VGG16(2, 3, 1000, dense=dense)
        out = network(torch.empty(1, 3, 224, 224))
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16
    assert sum(p.numel() for p in network.parameters()) == 138_357_544
    assert sum(p.numel() for p in network.features.parameters()) == 14_714_688
    assert [m.out_channels for m in convolutions(network)[:13]] == (
        [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    )
    assert sizes_through(network.features, 224) == [224, 112, 56, 28, 14, 7]
    assert out.shape == ((1, 1000, 1, 1) if dense else (1, 1000))


def test_fcn_has_the_papers_field_stride_and_parameters() -> None:
    """Long et al. 2015, table 1: 16 layers, 134 million parameters, a field of 404 pixels, stride 32."""
    with torch.device("meta"):
        network = FCN(2, 3, 21, skips=0)
    reach = Reach()
    for layer in (*network.features, *network.classifier, network.score):
        reach = reach.through(layer)
    assert (reach.field, reach.stride) == (404, 32)
    assert len([m for m in convolutions(network) if isinstance(m, nn.Conv2d)]) == 16
    scoring = [network.features, network.classifier, network.score]
    # 7 x 7 to 4096, 1 x 1 to 4096 and to 21 classes, and the 13 convolutions
    count = 14_714_688 + 4096 * (7 * 7 * 512 + 1) + 4096 * 4097 + 21 * 4097
    assert sum(p.numel() for part in scoring for p in part.parameters()) == count == 134_346_581
    assert [m.kernel_size for m in network.classifier if isinstance(m, nn.Conv2d)] == [(7, 7), (1, 1)]


def test_a_score_of_the_fcn_sees_404_pixels_around_its_own_32() -> None:
    """Measured by the gradient of a network of averages: score 7 is for the pixels from 224 to 255."""
    network = FCN(2, 1, 1, skips=0, channels=(1,) * 6).double().eval()
    layers = []
    for layer in (*network.features, *network.classifier, network.score):
        layers.append(nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer)
        for parameter in layer.parameters():
            nn.init.ones_(parameter)
    image = torch.ones(1, 1, 480, 512, dtype=torch.float64, requires_grad=True)
    scores = nn.Sequential(*layers)(image)
    assert scores.shape == (1, 1, 15, 16)
    seen = torch.autograd.grad(scores[0, 0, 7, 8], image)[0][0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [404, 404]
    assert ((seen.amax(0) + seen.amin(0)) / 2).tolist() == [7 * 32 + 15.5, 8 * 32 + 15.5]


def test_fcn8s_interpolates_by_2_2_and_8_and_starts_bilinear_with_scores_of_zero() -> None:
    """Section 4.2, figure 3: pool4 and pool3 join at strides 16 and 8. Section 4.2: zero-initialised skips.

    Section 3.3 and 4.3: up-sampling starts as bilinear interpolation; the class scoring starts at zero.
    """
    network = FCN(2, 3, 21, skips=2, channels=(1, 2, 3, 4, 5, 6))
    ups = [network.up_pool4, network.up_pool3, network.up]
    assert [(m.stride[0], m.kernel_size[0]) for m in ups] == [(2, 4), (2, 4), (8, 16)]
    assert network.score_pool4.in_channels == 4
    assert network.score_pool3.in_channels == 3
    for layer in (network.score, network.score_pool4, network.score_pool3):
        assert layer.out_channels == 21
        assert all(bool((p == 0).all()) for p in layer.parameters())
    for up in ups:
        f = up.stride[0]
        for a, b in [(0, 0), (20, 20), (0, 1), (7, 3)]:
            for i, j in [(0, 0), (f - 1, f), (1, 2 * f - 1)]:
                tent = [1 - abs(k - f + 0.5) / f for k in (i, j)]
                assert up.weight[a, b, i, j].item() == pytest.approx(tent[0] * tent[1] if a == b else 0)

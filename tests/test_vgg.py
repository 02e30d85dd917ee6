"""VGG16: the layout of its published weights, its convolutional twin, and what is made of a file of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from medseg import Refused
from medseg.networks import FCN, VGG16, load_weights, read_weights
from medseg.networks.vgg import vgg16_features

FEW = (2, 3, 4, 5, 6, 7)
# Simonyan, Zisserman 2015, table 1, D: convolutions of 3 by their numbers in the published file, with the
# channels that go in and out; ReLU and pooling have numbers, too
CONVOLUTIONS = {
    0: (3, 64),
    2: (64, 64),
    5: (64, 128),
    7: (128, 128),
    10: (128, 256),
    12: (256, 256),
    14: (256, 256),
    17: (256, 512),
    19: (512, 512),
    21: (512, 512),
    24: (512, 512),
    26: (512, 512),
    28: (512, 512),
}
CONNECTED = {0: (512 * 7 * 7, 4096), 3: (4096, 4096), 6: (4096, 1000)}


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file of ImageNet weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (a, b) in CONVOLUTIONS.items():
        shapes |= {f"features.{number}.weight": (b, a, 3, 3), f"features.{number}.bias": (b,)}
    for number, (a, b) in CONNECTED.items():
        shapes |= {f"classifier.{number}.weight": (b, a), f"classifier.{number}.bias": (b,)}
    return shapes


def thin(shape: tuple[int, ...], name: str, few: tuple[int, ...] = FEW, classes: int = 10) -> tuple[int, ...]:
    """Shape of a tensor of the published file with few channels."""
    number = int(name.split(".")[1])
    stage = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    if name.startswith("classifier"):
        a, b = {0: (few[4] * 49, few[5]), 3: (few[5], few[5]), 6: (few[5], classes)}[number]
        return (b, a) if len(shape) == 2 else (b,)
    place = list(CONVOLUTIONS).index(number)
    a, b = 3 if place == 0 else few[stage[place - 1]], few[stage[place]]
    return (b, a, 3, 3) if len(shape) == 4 else (b,)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the published layout with few channels."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, shape in published().items():
        shape = thin(shape, name)
        state[name] = torch.randn(shape, generator=generator) * (2 / max(1, shape[-1] * 9)) ** 0.5
    torch.save(state, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        state = VGG16(2, 3, 1000).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == published()
    assert len(state) == 32


def test_with_batch_norm_the_numbers_are_those_of_the_published_file_with_it() -> None:
    with torch.device("meta"):
        state = VGG16(2, 3, 1000, norm="batch").state_dict()
    # a norm behind each convolution moves on what follows it
    moved = {old: old + place for place, old in enumerate(CONVOLUTIONS)}
    shapes = {name: s for name, s in published().items() if name.startswith("classifier")}
    for old, (a, b) in CONVOLUTIONS.items():
        shapes |= {f"features.{moved[old]}.weight": (b, a, 3, 3), f"features.{moved[old]}.bias": (b,)}
        entries = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"features.{moved[old] + 1}.{entry}": (b,) for entry in entries}
        shapes[f"features.{moved[old] + 1}.num_batches_tracked"] = ()
    assert {name: tuple(t.shape) for name, t in state.items()} == shapes
    assert len(state) == 97
    layers = vgg16_features(2, 3, FEW, norm="batch")
    convolutions = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    assert convolutions == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    assert all(isinstance(layers[i + 1], nn.BatchNorm2d) for i in convolutions)
    assert all(layers[i].bias is not None for i in convolutions)


def test_a_file_goes_into_a_classifier_and_into_its_twin_with_the_same_numbers(file: Path) -> None:
    network = VGG16(2, 3, 10, channels=FEW).eval()
    twin = VGG16(2, 3, 10, channels=FEW, dense=True).eval()
    for one in (network, twin):
        loaded = load_weights(one, read_weights(file))
        assert len(loaded.loaded) == 32
        assert not loaded.left_out
        assert not loaded.untouched
    assert [tuple(p.shape) for p in twin.classifier.parameters()][::2] == [
        (7, 6, 7, 7),
        (7, 7, 1, 1),
        (10, 7, 1, 1),
    ]
    image = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected, found = network(image), twin(image)
    assert expected.shape == (2, 10)
    assert found.shape == (2, 10, 1, 1)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found[:, :, 0, 0], expected, atol=1e-4)


def test_the_twin_gives_for_each_place_what_the_connected_layers_give_there(file: Path) -> None:
    network = VGG16(2, 3, 10, channels=FEW).eval()
    twin = VGG16(2, 3, 10, channels=FEW, dense=True).eval()
    for one in (network, twin):
        load_weights(one, read_weights(file))
    image = torch.rand(1, 3, 250, 313)
    with torch.inference_mode():
        features, found = network.features(image), twin(image)
        assert features.shape[2:] == (8, 10)  # what is left of 250 and 313 halved five times, rounded up
        assert found.shape[2:] == (2, 4)
        for i in range(2):
            for j in range(4):
                expected = network.classifier(features[:, :, i : i + 7, j : j + 7].flatten(1))
                assert torch.allclose(found[:, :, i, j], expected, atol=1e-4)


def test_a_file_goes_into_an_fcn(file: Path) -> None:
    state = read_weights(file)
    network = FCN(2, 3, 4, skips=2, channels=FEW)
    loaded = load_weights(network, state)
    assert loaded.left_out == ("classifier.6.weight", "classifier.6.bias")
    assert all(name.startswith(("score", "up")) for name in loaded.untouched)
    assert len(loaded.loaded) == 30
    own = network.state_dict()
    assert torch.equal(own["features.28.weight"], state["features.28.weight"])
    assert torch.equal(own["classifier.0.weight"].flatten(1), state["classifier.0.weight"])
    encoder = {id(p) for p in network.encoder.parameters()}
    assert encoder == {id(p) for name, p in network.named_parameters() if name in loaded.loaded}


def test_weights_for_colour_see_grey_as_colour_that_is_alike(file: Path) -> None:
    colour, grey = FCN(2, 3, 2, channels=FEW).eval(), FCN(2, 1, 2, channels=FEW).eval()
    load_weights(colour, read_weights(file))
    load_weights(grey, read_weights(file))
    image = torch.rand(1, 1, 40, 60)
    with torch.inference_mode():
        expected = colour.features(image.repeat(1, 3, 1, 1))
        assert expected.abs().max() > 1e-3
        assert torch.allclose(grey.features(image), expected, atol=1e-4)


def test_weights_of_other_widths_or_of_another_network_are_refused(file: Path) -> None:
    before = FCN(2, 3, 2, channels=(2, 3, 4, 5, 6, 8))
    first = before.features[0].weight.clone()
    with pytest.raises(Refused, match=r"classifier\.0\.weight") as refused:
        load_weights(before, read_weights(file))
    assert refused.value.reason == "another-network"
    assert torch.equal(before.features[0].weight, first), "all or nothing"
    with pytest.raises(Refused):
        load_weights(FCN(2, 3, 2, channels=FEW), {"layer1.0.conv1.weight": torch.zeros(2, 3, 3, 3)})
    with pytest.raises(Refused, match="features"):  # a volume's convolutions are no images'
        load_weights(VGG16(3, 3, 10, channels=FEW, dense=True), read_weights(file))


def test_volumes() -> None:
    features = vgg16_features(3, 2, FEW)
    with torch.inference_mode():
        assert features(torch.rand(1, 2, 33, 40, 20)).shape == (1, 6, 2, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ((2, 3, 10), {"channels": (2, 3, 4)}),
        ((4, 3, 10), {}),
        ((2, 3, 10), {"norm": "instance"}),
        ((2, 0, 10), {}),
        ((2, 3, 0), {}),
        ((2, 3, 0), {"dense": True}),
    ],
)
def test_impossible_networks_are_refused(arguments: tuple[int, ...], values: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        VGG16(*arguments, **{"channels": FEW, **values})  # type: ignore[arg-type]
    assert refused.value.reason == "bad-network"


def test_images_of_other_channels_or_too_small_for_one_answer_are_refused() -> None:
    with pytest.raises(Refused, match="3"):
        VGG16(2, 3, 10, channels=FEW)(torch.zeros(1, 1, 224, 224))
    twin = VGG16(2, 3, 10, channels=FEW, dense=True)
    assert twin(torch.zeros(1, 3, 193, 230)).shape == (1, 10, 1, 2)
    with pytest.raises(Refused, match="193 or more") as refused:
        twin(torch.zeros(1, 3, 192, 230))
    assert refused.value.reason == "illegal-size"


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(
    "make", [lambda n: VGG16(2, n, 10, channels=FEW), lambda n: FCN(2, n, 2, channels=FEW)]
)
def test_weights_for_colour_are_refused_for_two_and_four_channels(
    file: Path, channels: int, make: Callable[[int], nn.Module]
) -> None:
    with pytest.raises(Refused, match=rf"got \(2, 3, 3, 3\) .*expected \(2, {channels}, 3, 3\)") as refused:
        load_weights(make(channels), read_weights(file))
    assert refused.value.reason == "another-network"


def test_connected_layers_and_convolutions_begin_alike() -> None:
    """He et al. 2015: deviation sqrt(2 / N), of N = 7 * 7 * 64 inputs and then of 128."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for dense in (False, True):
            network = VGG16(2, 3, 100, channels=(1, 1, 1, 1, 64, 128), dense=dense)
            for number, inputs in ((0, 7 * 7 * 64), (3, 128), (6, 128)):
                layer = network.classifier[number]
                assert layer.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.03)
                assert not layer.bias.any()

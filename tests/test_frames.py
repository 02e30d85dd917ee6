"""The network's grid in an image's: against MONAI on the way there, against scipy on the way back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from scipy import ndimage

from medseg import OverlapTileInferer
from medseg.frames import Frame, FramedImage, nonzero_box
from medseg.networks import UNet
from medseg.plan import InputPlan
from medseg.transforms import frame_of, framing_transforms, normaliser

SPACING = (0.8, 1.3, 3.1)
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], *, oblique: bool) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * SPACING[axis]
    if oblique:
        a, b = 0.3, 0.2
        about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
        about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
        affine[:3, :3] = np.array(about_z) @ np.array(about_x) @ affine[:3, :3]
    affine[:3, 3] = (5, -7, 3)
    return affine


def whole(image: FramedImage) -> torch.Tensor:
    return image[tuple(slice(0, n) for n in image.shape)]


EVERY = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize("oblique", [False, True])
def test_the_48_orders_of_axes_as_by_monai(oblique: bool, rng: np.random.Generator) -> None:
    how = InputPlan(spatial_dims=3, orientation="RAS", spacing=(1.1, 1.0, 2.0), resample=True)
    image = rng.random((2, 11, 14, 9)).astype(np.float32)
    assert len(EVERY) == 48
    for order, signs in EVERY:
        affine = affine_of(order, signs, oblique=oblique)
        frame = frame_of(image, affine, how)
        turned = Orientation("RAS", labels=LABELS)(MetaTensor(image, affine=torch.from_numpy(affine)))
        expected = Spacing(how.spacing, mode="bilinear", padding_mode="border")(turned)
        framed = FramedImage(image, frame)
        assert framed.shape == tuple(expected.shape)
        assert torch.allclose(whole(framed), expected.as_tensor().float(), atol=1e-6)
        back = frame.turn_back(frame.turn(image))
        assert np.array_equal(back, image)


def test_a_part_has_the_values_of_the_whole(rng: np.random.Generator) -> None:
    image = rng.random((1, 20, 31, 12))
    frame = Frame(
        image.shape[1:], (2, 0, 1), (True, False, True), ((1, 12), (0, 20), (3, 29)), (0.6, 1.7, 1.0)
    )
    framed = FramedImage(image, frame)
    every = whole(framed)
    for _ in range(20):
        stops = [int(rng.integers(1, n + 1)) for n in frame.size]
        window = tuple(slice(int(rng.integers(0, stop)), stop) for stop in stops)
        assert torch.equal(framed[(slice(0, 1), *window)], every[(slice(0, 1), *window)])


def test_training_and_prediction_see_the_same(rng: np.random.Generator) -> None:
    values = torch.from_numpy(rng.normal(50, 80, (1, 12, 15, 9)))
    affine = torch.from_numpy(affine_of((2, 0, 1), (-1, 1, -1), oblique=True))
    how = InputPlan(
        spatial_dims=3,
        orientation="LPS",
        spacing=(1.0, 2.0, 1.5),
        resample=True,
        normalise="window",
        window=((0.0, 100.0),),
        mean=(40.0,),
        deviation=(20.0,),
    )
    sample: Any = {"image": MetaTensor(normaliser(values, how)(values), affine=affine)}
    sample["label"] = MetaTensor(torch.ones(1, 12, 15, 9, dtype=torch.int32), affine=affine)
    for transform in framing_transforms(how):
        sample = transform(sample)
    framed = FramedImage(values, frame_of(values, np.asarray(affine), how), normaliser(values, how))
    assert torch.allclose(whole(framed), sample["image"].as_tensor(), atol=1e-5)
    assert sample["label"].dtype == torch.int32
    assert sample["label"].shape == sample["image"].shape


@pytest.mark.parametrize("crop", ["none", "nonzero"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_tiles_give_what_the_whole_gives_and_scipy(crop: Any, padding: Any, rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    network = UNet(3, 1, 5, channels=(4, 8), padding=padding, norm="batch").eval()
    image = rng.random((1, 27, 31, 18)).astype(np.float32)
    image[:, :3] = 0
    image[:, :, 28:] = 0
    how = InputPlan(spatial_dims=3, orientation="RAS", spacing=(1.3, 1.1, 1.7), resample=True, crop=crop)
    frame = frame_of(image, affine_of((2, 0, 1), (-1, 1, 1), oblique=True), how)
    framed = FramedImage(image, frame)
    labels, shares = OverlapTileInferer(tile=300).labels(framed, network, probabilities=True)
    assert shares is not None
    for tile in (8, (16, 12, 20)):
        again, others = OverlapTileInferer(tile=tile, batch_size=2).labels(
            framed, network, probabilities=True
        )
        alone, _ = OverlapTileInferer(tile=tile).labels(framed, network)
        assert np.array_equal(again, labels)
        assert np.array_equal(alone, labels)
        assert np.abs(others - shares).max() < 1e-5
    logits = OverlapTileInferer(tile=300)(whole(framed)[None], network)[0].numpy()
    numbers = frame.turn(np.arange(image[0].size).reshape(image.shape[1:]))
    numbers = numbers[tuple(slice(a, b) for a, b in frame.box)]
    places = [np.minimum(np.arange(n) / s, m - 1) for n, s, m in zip(numbers.shape, frame.step, frame.size)]
    grid = np.array(np.meshgrid(*places, indexing="ij"))
    best = np.stack([ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in logits]).argmax(0)
    expected = np.zeros(image[0].size, int)  # what is cropped away is background
    expected[numbers.ravel()] = best.ravel()
    assert (expected.reshape(labels.shape) != labels).sum() <= 1  # scipy interpolates in float64
    assert (labels != 0).any()


def test_many_classes_are_decided_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    from medseg import frames

    frame = Frame((9, 13, 7), (0, 1, 2), (False,) * 3, ((0, 9), (0, 13), (0, 7)), (0.5, 1.0, 2.0))
    logits = torch.from_numpy(rng.random((300, *(n + 1 for n in frame.size))))
    write = tuple(slice(0, n) for n in frame.size)

    def decided() -> np.ndarray:
        out = np.full(frame.shape, -1)
        for window, labels, _ in frame.decide(write, logits):
            assert labels.dtype == np.uint16
            out[window] = labels
        return out

    at_once = decided()
    monkeypatch.setattr(frames, "_AT_ONCE", 50)
    assert np.array_equal(decided(), at_once)
    assert at_once.min() >= 0


def test_what_is_all_zero_is_not_cropped() -> None:
    assert nonzero_box(np.zeros((1, 3, 4))) == ((0, 3), (0, 4))
    image = np.zeros((2, 5, 6))
    image[1, 2, 4] = -1.0
    assert nonzero_box(image) == ((2, 3), (4, 5))


def test_a_plain_frame_leaves_the_image_alone() -> None:
    image = np.zeros((1, 5, 6))
    frame = frame_of(image, np.eye(4), InputPlan())
    assert frame.is_plain
    assert frame.cropped(image) is image

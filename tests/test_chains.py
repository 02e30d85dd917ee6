"""The chains of a plan: what comes out of files, and what augmentation may and may not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medseg
from medseg import Plan, Refused
from medseg.chains import augmenting_chain, image_chain, loading_chain, target_chain
from medseg.plan import InputPlan, TargetPlan
from medseg.sampling import refusals
from medseg.transforms import (
    Channelsd,
    ClassIndicesd,
    Normalized,
    RandInvertd,
    RandMirrorCropd,
    Renumberd,
    is_grey,
    normalisation,
    with_channels,
)

NOTHING = {
    "augment.elastic_prob": 0.0,
    "augment.affine_prob": 0.0,
    "augment.flip_prob": 0.0,
    "augment.intensity_prob": 0.0,
}


def write_tiff(path: Path, array: np.ndarray) -> Path:
    import tifffile

    tifffile.imwrite(path, array)
    return path


def write_png(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    Image.fromarray(array).save(path)
    return path


# brightness


def test_percentiles_of_sixteen_bits(rng: np.random.Generator) -> None:
    image = rng.integers(0, 65536, (1, 61, 47)).astype(np.uint16)
    how = InputPlan(percentiles=(2.0, 95.0))
    low, high = np.percentile(image.astype(float), (2, 95))
    assert normalisation(image, how) == pytest.approx((low, high - low))
    tensor = MetaTensor(torch.from_numpy(image.astype(np.int32)))
    out = Normalized("image", how)({"image": tensor})["image"]
    assert out.dtype == torch.float32
    assert np.allclose(out.numpy(), (image - low) / (high - low), atol=1e-6)
    assert torch.equal(tensor, torch.from_numpy(image.astype(np.int32)))  # left as it was


def test_zscore(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.normal(1000, 30, (2, 61, 47)))
    out = Normalized("image", InputPlan(normalise="zscore"))({"image": image})["image"]
    assert (float(out.mean()), float(out.std(unbiased=False))) == pytest.approx((0, 1), abs=1e-5)


@pytest.mark.parametrize("normalise", ["percentile", "zscore", "none"])
@pytest.mark.parametrize("value", [0, 7, 65535])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (1, 2, 3, 4)])
def test_constant_images_stay_finite(normalise: Any, value: int, shape: tuple[int, ...]) -> None:
    image = torch.full(shape, value)
    out = Normalized("image", InputPlan(normalise=normalise))({"image": image})["image"]
    expected = value if normalise == "none" else 0
    assert torch.equal(out, torch.full(shape, float(expected)))


def test_a_few_bright_pixels_are_brought_into_range() -> None:
    image = np.zeros((1, 100, 120))
    image[0, 3:5, 2:6] = 60000  # fewer than the upper percentile sees
    assert normalisation(image, InputPlan()) == (0.0, 60000.0)


def test_of_huge_images_a_part_is_looked_at(rng: np.random.Generator) -> None:
    image = rng.normal(500, 100, (1, 2100, 2300)).astype(np.float32)
    asked = []

    class Watched:
        shape = image.shape

        def __getitem__(self, window: Any) -> np.ndarray:
            asked.append(image[window].size)
            return image[window]

    for normalise in ("percentile", "zscore"):
        found = normalisation(Watched(), InputPlan(normalise=normalise))
        low, high = np.percentile(image, (1, 99.8))
        exact = (low, high - low) if normalise == "percentile" else (image.mean(), image.std())
        assert found == pytest.approx(exact, rel=0.01)
    assert max(asked) <= 2**21


# channels


def test_channels_without_loss(rng: np.random.Generator) -> None:
    grey = torch.from_numpy(rng.integers(0, 255, (1, 5, 7)))
    assert torch.equal(with_channels(grey, 3), grey.repeat(3, 1, 1))
    assert torch.equal(with_channels(grey.repeat(3, 1, 1), 1), grey)
    colour = grey.repeat(3, 1, 1).clone()
    colour[2, 4, 6] += 1
    assert with_channels(colour, 3) is colour
    assert (is_grey(colour), is_grey(grey), is_grey(grey.repeat(3, 1, 1))) == (False, True, True)


@pytest.mark.parametrize(("found", "wanted"), [(3, 1), (2, 1), (1, 2), (4, 3), (3, 4), (2, 3)])
def test_other_channels_are_refused_by_name(found: int, wanted: int, rng: np.random.Generator) -> None:
    image = MetaTensor(torch.from_numpy(rng.random((found, 5, 7))), meta={"filename_or_obj": "my cells.png"})
    with pytest.raises(Refused, match=r"my cells\.png.*got " + str(found)) as caught:
        Channelsd("image", wanted)({"image": image})
    assert caught.value.reason == "channel-mismatch"


# labels


def test_values_become_indices_in_the_order_of_the_plan() -> None:
    target = TargetPlan(classes=("background", "a", "b", "c"), values=(0, 255, 7, 100))
    label = MetaTensor(torch.tensor([[[0, 255, 7], [100, 7, 0]]], dtype=torch.int32))
    out = ClassIndicesd("label", target)({"label": label})["label"]
    assert out.tolist() == [[[0, 1, 2], [3, 2, 0]]]


@pytest.mark.parametrize("wrong", [1, 254, 256, 2**40])
def test_a_value_without_a_class_is_refused_by_name(wrong: int) -> None:
    label = MetaTensor(torch.tensor([[[0, 255, wrong]]]), meta={"filename_or_obj": "m.png"})
    with pytest.raises(Refused, match=rf"m\.png.*got \[{wrong}\], expected \[0, 255\]") as caught:
        ClassIndicesd("label", TargetPlan(values=(0, 255)))({"label": label})
    assert caught.value.reason == "unknown-label"


def test_objects_are_numbered() -> None:
    label = MetaTensor(torch.tensor([[[0, 2**40, 2**40], [7, 0, 2**24 + 1]]]))
    out = Renumberd("label")({"label": label})["label"]
    assert (out.tolist(), out.dtype) == ([[[0, 1, 1], [2, 0, 3]]], torch.int32)


# from files


def test_a_sixteen_bit_tiff_and_its_mask(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 65536, (30, 44)).astype(np.uint16)
    mask = np.zeros((30, 44), np.uint8)
    mask[3:9, 20:40] = 255
    plan = Plan().with_values({"target.values": (0, 255)})
    sample = loading_chain(plan)(
        {"image": write_tiff(tmp_path / "a.tif", image), "label": write_png(tmp_path / "a.png", mask)}
    )
    low, high = np.percentile(image.astype(float), plan.input.percentiles)
    assert np.allclose(sample["image"].numpy()[0], (image - low) / (high - low), atol=1e-5)
    assert np.array_equal(sample["label"].numpy()[0], mask > 0)


def test_a_png_with_opacity(tmp_path: Path, rng: np.random.Generator) -> None:
    colours = rng.integers(0, 255, (30, 44, 4)).astype(np.uint8)
    image = medseg.read(write_png(tmp_path / "a.png", colours))
    out = image_chain(Plan().with_values({"input.channels": 3, "input.normalise": "none"}))({"image": image})
    assert np.array_equal(out["image"].numpy(), np.moveaxis(colours[..., :3], -1, 0))
    with pytest.raises(Refused, match=r"a\.png") as caught, refusals():
        image_chain(Plan())({"image": image})
    assert caught.value.reason == "channel-mismatch"
    grey = np.dstack([colours[..., :1]] * 3 + [colours[..., 3:]])
    image = medseg.read(write_png(tmp_path / "b.png", grey))
    assert image_chain(Plan())({"image": image})["image"].shape == (1, 30, 44)


def test_one_mask_file_an_object(tmp_path: Path) -> None:
    masks = np.zeros((3, 20, 31), np.uint8)
    masks[0, 2:5, 3:9] = masks[1, 8:12, 3:9] = masks[2, 8:12, 20:30] = 255
    paths = tuple(write_png(tmp_path / f"m{i}.png", mask) for i, mask in enumerate(masks))
    image = write_tiff(tmp_path / "a.tif", np.arange(620, dtype=np.uint16).reshape(20, 31))
    plan = Plan().with_values({"target.kind": "instances", "target.name": "foreground"})
    label = loading_chain(plan)({"image": image, "label": paths})["label"]
    assert np.array_equal(label[0].numpy(), sum((i + 1) * (m > 0) for i, m in enumerate(masks)))


def test_broken_pairs_are_refused_by_name(tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "a.tif", np.zeros((20, 31), np.uint16))
    small = write_png(tmp_path / "small.png", np.zeros((20, 30), np.uint8))
    odd = write_png(tmp_path / "odd.png", np.full((20, 31), 3, np.uint8))
    for label, reason, name in (
        (small, "shape-mismatch", "a.tif"),
        (odd, "unknown-label", "odd.png"),
        (tmp_path / "none.png", "not-found", "none.png"),
    ):
        with pytest.raises(Refused, match=name) as caught, refusals():
            loading_chain(Plan())({"image": image, "label": label})
        assert caught.value.reason == reason


def test_large_ids_survive_the_resampling(tmp_path: Path) -> None:
    ids = np.array([2**24 + 1, 2**24 + 2, 2**31 + 5], np.uint32)
    label = np.zeros((60, 90), np.uint32)
    label[:, :30], label[:, 30:60], label[:, 60:] = ids
    image = write_tiff(tmp_path / "a.tif", np.zeros((60, 90), np.uint16))
    plan = Plan().with_values(
        {"target.kind": "instances", "target.name": "foreground", "train.patch": (60, 90)}
        | {"augment.affine_prob": 1.0, "augment.scale": (1.0, 1.0), "augment.rotate_degrees": 0.0}
    )
    sample = loading_chain(plan)({"image": image, "label": write_tiff(tmp_path / "l.tif", label)})
    out = augmenting_chain(plan).set_random_state(seed=0)(sample)["label"]
    assert len(np.unique(out)) == 3


# patches


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (40, 7), (16, 24), (50, 70)])
def test_windows_are_cut_out_of_the_mirrored_image(shape: tuple[int, int], rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.random((2, *shape)))
    label = torch.from_numpy(rng.integers(0, 99, (1, *shape)))
    crop = RandMirrorCropd(["image", "label"], (16, 24)).set_random_state(seed=0)
    wide = np.pad(image.numpy(), [(0, 0), (40, 40), (40, 40)], mode="reflect")
    starts = set()
    for _ in range(20):
        out = crop({"image": image, "label": label})
        a, b = crop.start
        starts.add((a, b))
        assert np.array_equal(out["image"].numpy(), wide[:, a + 40 : a + 56, b + 40 : b + 64])
        assert out["label"].shape == (1, 16, 24)
        for start, n, size in zip((a, b), shape, (16, 24)):
            assert min(0, n - size) <= start <= max(0, n - size)
    assert (len(starts) == 1) == (shape == (16, 24))
    before = image.clone()
    out["image"].zero_()
    assert torch.equal(image, before)  # what is cached is not changed with the patch


def test_every_place_is_drawn() -> None:
    crop = RandMirrorCropd("image", (4, 4)).set_random_state(seed=0)
    image = torch.zeros(1, 6, 5)
    starts = set()
    for _ in range(200):
        crop({"image": image})
        starts.add(crop.start)
    assert starts == {(a, b) for a in range(3) for b in range(2)}


def test_a_margin_brings_the_rim_into_the_middle_of_windows() -> None:
    """Windows of 6 whose middle of 2 may lie anywhere in the image."""
    crop = RandMirrorCropd("image", (6, 6), margin=(2, 2)).set_random_state(seed=0)
    image = torch.arange(20.0).reshape(1, 4, 5)
    wide = np.pad(image.numpy(), [(0, 0), (2, 2), (2, 2)], mode="reflect")
    starts = {crop.start for _ in range(300) if crop({"image": image})}
    assert starts == {(a, b) for a in (-2, -1, 0) for b in (-2, -1, 0, 1)}
    out = crop({"image": image})["image"].numpy()
    a, b = crop.start
    assert np.array_equal(out, wide[:, a + 2 : a + 8, b + 2 : b + 8])


@pytest.mark.parametrize("dims", [2, 3])
def test_augmentation_keeps_values_and_alignment(dims: int) -> None:
    shape, patch = ((80, 100), (48, 64)) if dims == 2 else ((12, 50, 60), (8, 32, 48))
    # stripes far wider than a pixel: where image and label are moved alike they agree off the edges
    grids = np.meshgrid(*[np.linspace(0, 3, n) for n in shape], indexing="ij")
    label = (np.sin(2 * np.pi * sum(grids) / 3) > 0).astype(np.int32) * 21
    sample = {"image": MetaTensor(label[None].astype(np.float32)), "label": MetaTensor(label[None])}
    plan = Plan().with_values(
        {"input.spatial_dims": dims, "train.patch": patch, "augment.intensity_prob": 0.0}
        | {"augment.elastic_prob": 1.0, "augment.affine_prob": 1.0, "augment.elastic_sigma": 3.0}
    )
    chain = augmenting_chain(plan)
    for seed in range(6):
        out = chain.set_random_state(seed=seed)(dict(sample))
        image, found = np.asarray(out["image"][0]), np.asarray(out["label"][0])
        assert image.shape == found.shape == patch
        assert set(np.unique(found)) <= {0, 21}
        assert np.issubdtype(found.dtype, np.integer)
        assert image.min() >= -1e-3
        assert image.max() <= 21 + 1e-3
        assert np.mean((image > 10.5) == (found > 0)) > 0.93  # other draws would agree on half
    assert np.array_equal(sample["label"].numpy()[0], label)


@pytest.mark.parametrize(("spacing", "turns"), [((0.5, 2.0), False), ((0.5, 0.55), True), ((), True)])
def test_an_image_of_oblong_pixels_is_not_sheared_by_a_turn(spacing: tuple[float, ...], turns: bool) -> None:
    """A turn of pixels that are four times as long as wide would make a round thing oblong, and back."""
    rows, columns = np.mgrid[:64, :64] - 32
    oblong = MetaTensor(torch.from_numpy(((rows / 24) ** 2 + (columns / 6) ** 2 < 1).astype(np.int32)))[None]
    values = NOTHING | {"augment.affine_prob": 1.0, "augment.scale": (1.0, 1.0), "train.patch": (64, 64)}
    unit = {"input.spacing": spacing, "input.spacing_unit": "mm"} if spacing else {}
    chain = augmenting_chain(Plan().with_values(values | unit)).set_random_state(seed=1)
    sample = {"image": oblong.float(), "label": oblong}
    heights = {int(chain(dict(sample))["label"][0].amax(1).sum()) for _ in range(6)}
    assert (len(heights) > 1) == turns
    if not turns:
        assert heights == {47}


def test_nothing_random_without_probabilities() -> None:
    label = torch.arange(16 * 24).reshape(1, 16, 24)
    plan = Plan().with_values(NOTHING | {"train.patch": (16, 24)})
    out = augmenting_chain(plan).set_random_state(seed=3)({"image": label.float(), "label": label})
    assert torch.equal(out["image"].as_tensor(), label.float())
    assert torch.equal(out["label"].as_tensor(), label)


def test_each_switch_switches() -> None:
    grey = torch.linspace(0, 1, 24 * 32).reshape(1, 24, 32) ** 2
    image = torch.cat([grey, grey**2, grey**3])
    label = (grey > 0.3).int()
    for key in ("elastic_prob", "affine_prob", "flip_prob", "intensity_prob", "invert_prob", "grey_prob"):
        plan = Plan().with_values(NOTHING | {"train.patch": (24, 32), f"augment.{key}": 1.0})
        out = augmenting_chain(plan).set_random_state(seed=1)({"image": image, "label": label})
        changed = not torch.equal(out["image"].as_tensor(), image)
        moved = not torch.equal(out["label"].as_tensor().int(), label)
        assert changed, key
        assert is_grey(out["image"].as_tensor()) == (key == "grey_prob"), key
        assert moved == (key in ("elastic_prob", "affine_prob", "flip_prob")), key


def test_inversion_keeps_the_range() -> None:
    image = torch.tensor([[[0.0, 0.25, 1.0]]])
    invert = RandInvertd("image", prob=1.0)
    assert invert({"image": image})["image"].tolist() == [[[1.0, 0.75, 0.0]]]
    around_zero = RandInvertd("image", prob=1.0, pivot=0.0)
    assert around_zero({"image": image})["image"].tolist() == [[[0.0, -0.25, -1.0]]]
    assert RandInvertd("image", prob=0.0)({"image": image})["image"] is image


# targets


def test_weights_come_before_the_target() -> None:
    label = torch.zeros(1, 20, 30, dtype=torch.int32)
    label[0, 5:15, 4:14], label[0, 5:15, 16:26] = 1, 2
    plan = Plan().with_values(
        {"target.kind": "instances", "target.name": "foreground", "target.border_weights": True}
        | {"target.w0": 7.0, "target.sigma": 3.0}
    )
    out = target_chain(plan)({"label": label})
    expected = medseg.border_weight_map(label[0].numpy(), w0=7.0, sigma=3.0)
    assert np.array_equal(out["weight"][0].numpy(), expected)
    assert out["label"].unique().tolist() == [0, 1]
    assert set(target_chain(Plan())({"label": label})) == {"label"}  # class indices are the target


def test_an_unknown_target_is_refused() -> None:
    plan = Plan().with_values({"target.kind": "instances", "target.name": "forground"})
    with pytest.raises(Refused, match="Did you mean 'foreground'"):
        target_chain(plan)

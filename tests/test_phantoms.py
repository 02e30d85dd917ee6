"""Phantoms: the map is what it says, and the picture is neither trivial nor hopeless."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from medseg import Refused
from medseg.phantoms import cells, em_membranes


def ids(instances: np.ndarray) -> list[int]:
    return [i for i in np.unique(instances).tolist() if i]


def touching_ids(instances: np.ndarray) -> set[int]:
    """Ids with a face or corner neighbour of another id, by comparing shifted copies."""
    found: set[int] = set()
    padded = np.pad(instances, 1)
    core = (slice(1, -1),) * instances.ndim
    for step in np.ndindex((3,) * instances.ndim):
        other = np.roll(padded, np.array(step) - 1, axis=tuple(range(instances.ndim)))[core]
        found |= set(instances[(other > 0) & (instances > 0) & (other != instances)].tolist())
    return found


def ap_at_half(prediction: np.ndarray, reference: np.ndarray) -> float:
    """TP / (TP + FP + FN) at IoU above 0.5, pair by pair."""
    hits = 0
    for i in ids(prediction):
        mine = prediction == i
        for j in np.unique(reference[mine]):
            theirs = reference == j
            if j and (mine & theirs).sum() / (mine | theirs).sum() > 0.5:
                hits += 1
    return hits / (len(ids(prediction)) + len(ids(reference)) - hits)


@pytest.mark.parametrize("shape", [(96, 160), (20, 40, 64)])
def test_ids_run_from_one_to_n_and_each_is_connected(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    image, instances = cells(shape, n=11, rng=rng, diameter=12)
    assert image.shape == instances.shape == shape
    assert (image.dtype, instances.dtype) == (np.float32, np.int32)
    assert 0 <= image.min() < image.max() <= 1
    assert ids(instances) == list(range(1, 12))
    for i in ids(instances):
        assert ndimage.label(instances == i)[1] == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_asked_share_touches(share: float) -> None:
    _, instances = cells((300, 400), n=60, rng=np.random.default_rng(4), diameter=20, touching=share)
    assert len(touching_ids(instances)) == pytest.approx(share * 60, abs=2)


def test_equal_generators_give_equal_pictures_and_others_do_not() -> None:
    first, again, other = (cells((64, 96), rng=np.random.default_rng(s)) for s in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[1], other[1])
    em = [em_membranes((2, 40, 50), rng=np.random.default_rng(s)) for s in (3, 3, 4)]
    assert np.array_equal(em[0], em[1])
    assert not np.array_equal(em[0], em[2])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_threshold_finds_the_cells_but_cannot_part_them(seed: int) -> None:
    image, instances = cells((320, 384), n=60, rng=np.random.default_rng(seed), diameter=22, touching=0.8)
    mask = ndimage.gaussian_filter(image, 1)
    mask = mask > threshold_otsu(mask)
    assert ap_at_half(ndimage.label(mask)[0], instances) < 0.5
    assert ap_at_half(instances, instances) == 1
    # the picture does show the cells: a local background makes nearly all of each of them brighter
    inside = image[instances > 0].mean()
    assert inside > 3 * image[instances == 0].mean()


def test_diameter_is_measured_in_spacing_units(rng: np.random.Generator) -> None:
    _, instances = cells((48, 400), n=12, rng=rng, diameter=20, spacing=(2.0, 0.5), touching=0)
    boxes = [b for b in ndimage.find_objects(instances) if b[0].start and b[1].start]
    whole = [b for b in boxes if b[0].stop < 48 and b[1].stop < 400]
    tall = np.mean([b[0].stop - b[0].start for b in whole])
    wide = np.mean([b[1].stop - b[1].start for b in whole])
    assert tall * 2.0 == pytest.approx(20, rel=0.3)
    assert wide * 0.5 == pytest.approx(20, rel=0.3)


def test_noise_and_uneven_do_what_they_say() -> None:
    flat, _ = cells((128, 192), n=0, rng=np.random.default_rng(0), noise=0, uneven=0)
    assert np.abs(flat - np.median(flat)).max() < 0.2  # only debris
    assert np.median(flat) == pytest.approx(0.035, abs=0.01)
    noisy, _ = cells((128, 192), n=0, rng=np.random.default_rng(0), noise=0.1, uneven=0)
    assert noisy.std() > flat.std()
    steep, _ = cells((128, 192), n=0, rng=np.random.default_rng(0), noise=0, uneven=1)
    assert steep.min() == pytest.approx(0.2 * 0.035, rel=0.2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (1, 1, 1), (2, 30, 5)])
def test_tiny_fields_work(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    image, instances = cells(shape, rng=rng)
    assert image.shape == instances.shape == shape
    assert ids(instances)[0] == 1
    picture, label = em_membranes(shape, rng=rng)
    assert picture.shape == label.shape == shape


def test_no_cells_is_an_empty_map(rng: np.random.Generator) -> None:
    image, instances = cells((30, 40), n=0, rng=rng)
    assert not instances.any()
    assert image.mean() > 0


def test_membranes_are_dark_and_part_the_cells(rng: np.random.Generator) -> None:
    image, label = em_membranes((3, 128, 160), rng=rng)
    assert image.dtype == label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 255}
    assert 0.08 < (label == 0).mean() < 0.4
    assert image[label == 255].mean() - image[label == 0].mean() > 25
    assert ndimage.label(label[0])[1] > 8
    # sections follow one another: more alike than chance, yet moved
    near = (label[0] == label[1]).mean()
    assert 0.75 < near < 1


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad-shape", {"shape": (40,)}),
        ("bad-shape", {"shape": (0, 40)}),
        ("bad-value", {"touching": 1.5}),
        ("bad-value", {"noise": -0.1}),
        ("bad-value", {"uneven": 2}),
        ("bad-value", {"diameter": 1}),
        ("bad-value", {"n": -1}),
        ("bad-value", {"spacing": (1, 1, 1)}),
        ("bad-value", {"spacing": (1, 0)}),
        ("does-not-fit", {"n": 500}),
    ],
)
def test_refusals(reason: str, change: dict[str, object], rng: np.random.Generator) -> None:
    arguments: dict[str, object] = {"shape": (40, 60), "rng": rng} | change
    with pytest.raises(Refused) as refusal:
        cells(arguments.pop("shape"), **arguments)  # type: ignore[arg-type]
    assert refusal.value.reason == reason

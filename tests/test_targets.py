"""Border weights against the formula evaluated one object at a time, and the properties of the targets."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import find_boundaries

from medseg import Refused, border_weight_map
from medseg.targets import (
    TARGETS,
    class_weights,
    foreground,
    instances_from_mask,
    interior_border,
    part_touching,
)


def oracle(instances, w0=10.0, sigma=5.0, spacing=None, balance=True):
    """Equation 2 with one full distance transform an object, all kept."""
    ids = [i for i in np.unique(instances) if i]
    out = np.ones(instances.shape)
    if balance and 0 < np.count_nonzero(instances) < instances.size:
        for side in (instances == 0, instances != 0):
            out[side] = instances.size / (2 * np.count_nonzero(side))
    if len(ids) > 1:
        all_distances = [ndimage.distance_transform_edt(instances != i, sampling=spacing) for i in ids]
        d1, d2 = np.sort(all_distances, axis=0)[:2]
        out += np.where(instances == 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)), 0)
    return out


def seeds(shape, count, radius, rng):
    """Overlapping balls: many of the objects touch."""
    out = np.zeros(shape, np.int32)
    grid = np.indices(shape)
    for number in range(1, count + 1):
        centre = [rng.integers(0, s) for s in shape]
        ball = sum((g - c) ** 2 for g, c in zip(grid, centre)) <= rng.uniform(0.5, 1) * radius**2
        out[ball] = number
    return out


def touches(instances):
    """Pixels with another object among all their neighbours, found with maxima and minima of a 3-box."""
    high = ndimage.maximum_filter(instances, size=3, mode="nearest")
    low = ndimage.minimum_filter(np.where(instances == 0, np.iinfo(instances.dtype).max, instances), size=3)
    return (instances != 0) & ((high != instances) | (low != instances))


@pytest.mark.parametrize(
    ("shape", "count", "radius", "spacing", "sigma"),
    [
        ((70, 110), 25, 7, None, 5.0),
        ((70, 110), 25, 7, (0.5, 1.7), 5.0),
        ((70, 110), 4, 3, None, 12.0),
        ((1, 90), 6, 3, None, 5.0),
        ((20, 30, 40), 12, 5, None, 3.0),
        ((14, 30, 40), 12, 5, (3.0, 0.8, 1.1), 4.0),
        ((12, 20, 90), 9, 4, None, 14.0),  # reaches farther than shifts do
        ((120,), 7, 3, None, 5.0),
    ],
)
def test_weights_equal_the_formula(shape, count, radius, spacing, sigma, rng) -> None:
    instances = seeds(shape, count, radius, rng)
    got = border_weight_map(instances, sigma=sigma, spacing=spacing)
    expected = oracle(part_touching(instances), sigma=sigma, spacing=spacing)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert got.max() > 3  # there is something to compare


def test_blocks_leave_no_seams(rng, monkeypatch) -> None:
    instances = seeds((130, 90), 40, 6, rng)
    instances[5, :] = 99  # an object longer than a block
    monkeypatch.setattr("medseg.targets.weights._BLOCK_SIDE", {2: 32})
    np.testing.assert_allclose(
        border_weight_map(instances), oracle(part_touching(instances)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("spacing", [None, (2.0, 0.7, 1.3)])
def test_shifts_equal_the_exact_transform(spacing, rng, monkeypatch) -> None:
    instances = seeds((40, 30, 50), 15, 5, rng)
    instances[3, 4, 2:48] = 77  # long, thin, and away from the edge
    by_shifts = border_weight_map(instances, spacing=spacing, sigma=3)
    monkeypatch.setattr("medseg.targets.weights._MOST_SHIFTS", 0)
    exact = border_weight_map(instances, spacing=spacing, sigma=3)
    np.testing.assert_allclose(by_shifts, exact, rtol=1e-7)


def test_weight_in_a_gap_by_hand() -> None:
    row = np.array([[1, 0, 0, 0, 2, 2]])
    got = border_weight_map(row, w0=10, sigma=5, class_weights=False)
    inside = 1 + 10 * np.exp(-16 / 50)  # 1 + 3, 2 + 2 and 3 + 1 are all 4
    np.testing.assert_allclose(got, [[1, inside, inside, inside, 1, 1]], rtol=1e-6)
    balanced = border_weight_map(row, w0=0)
    np.testing.assert_allclose(balanced, 1)
    np.testing.assert_allclose(
        border_weight_map(row, spacing=(1, 2), class_weights=False)[0, 1], 1 + 10 * np.exp(-64 / 50)
    )


@pytest.mark.parametrize(
    "instances", [np.zeros((4, 7), int), np.ones((4, 7), int), np.eye(4, 7, dtype=int), np.zeros((0, 5), int)]
)
def test_fewer_than_two_objects_have_no_border(instances) -> None:
    got = border_weight_map(instances)
    assert got.shape == instances.shape
    np.testing.assert_allclose(got, oracle(instances), rtol=1e-6)
    if instances.size:
        assert np.isclose(got.mean(), 1)


def test_numbers_may_be_huge_and_have_gaps(rng) -> None:
    small = seeds((50, 80), 12, 6, rng)
    names = np.concatenate([[0], np.sort(rng.choice(2**40, 12, replace=False)) + 2**50])
    np.testing.assert_array_equal(border_weight_map(names[small]), border_weight_map(small))
    np.testing.assert_array_equal(
        border_weight_map(small.astype(np.uint64) + np.uint64(2**63) * (small > 0).astype(np.uint64)),
        border_weight_map(small),
    )


def test_a_mask_is_split_and_a_full_image_has_no_background(rng) -> None:
    mask = seeds((50, 80), 9, 5, rng) > 0
    np.testing.assert_array_equal(border_weight_map(mask), border_weight_map(instances_from_mask(mask)))
    halves = np.ones((6, 9), int)
    halves[:, 5:] = 2
    touching = border_weight_map(halves)
    assert touching.max() > 10
    assert (np.unique(np.nonzero(touching > 5)[1]).size) == 1  # a gap of one column
    assert border_weight_map(halves, part=False).max() == 1


def test_memory_does_not_grow_with_the_objects() -> None:
    def peak(step):
        instances = np.zeros((600, 500), np.int32)
        centres = [np.arange(3, size - 3, step) for size in instances.shape]
        for number, (row, column) in enumerate(itertools.product(*centres), start=1):
            instances[row - 1 : row + 2, column - 1 : column + 2] = number
        tracemalloc.start()
        border_weight_map(instances)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top, instances.max()

    # in both nearly all of the background is near two objects, so only their number differs
    (few, n_few), (many, n_many) = peak(14), peak(6)
    assert n_many > 5 * n_few
    assert many < 1.2 * few


@pytest.mark.parametrize(("shape", "count", "radius"), [((60, 90), 60, 9), ((18, 22, 30), 40, 5)])
def test_parting_leaves_a_gap_and_the_objects(shape, count, radius, rng) -> None:
    instances = seeds(shape, count, radius, rng)
    assert touches(instances).any()
    parted = part_touching(instances)
    assert not touches(parted).any()
    kept = parted != 0
    np.testing.assert_array_equal(parted[kept], instances[kept])
    gone = (instances != 0) & ~kept
    assert touches(instances)[gone].all()
    free = np.unique(instances[~touches(instances)])
    assert set(free) <= set(np.unique(parted))
    np.testing.assert_array_equal(part_touching(parted), parted)
    # minimal: a pixel that was given up had a kept or given-up neighbour, so about half of those that touch
    assert gone.sum() < 0.75 * touches(instances).sum()


def test_small_and_thin_objects_stay() -> None:
    speck = np.ones((5, 7), np.uint16)
    speck[2, 3] = 9
    parted = part_touching(speck)
    assert parted.dtype == np.uint16
    assert parted[2, 3] == 9
    assert (parted[1:4, 2:5] == 0).sum() == 8
    ring = np.zeros((8, 9), int)
    ring[1:7, 1:8] = 1
    ring[2:6, 2:7] = 2
    assert set(np.unique(part_touching(ring))) == {0, 1, 2}
    diagonal = np.array([[3, 3, 0], [3, 3, 0], [0, 0, 4]])
    assert part_touching(diagonal)[2, 2] == 4
    assert part_touching(diagonal)[1, 1] == 0


def test_input_is_left_alone(rng) -> None:
    instances = seeds((30, 40), 9, 6, rng)
    instances.setflags(write=False)
    for function in (part_touching, border_weight_map, foreground, interior_border, instances_from_mask):
        function(instances)
    fortran = np.asfortranarray(instances)
    np.testing.assert_array_equal(part_touching(fortran), part_touching(instances))


def test_class_weights() -> None:
    labels = np.array([[0, 0, 0, 2], [0, 0, 2, 2]])
    np.testing.assert_allclose(class_weights(labels, 4), [8 / (2 * 5), 1, 8 / (2 * 3), 1])
    np.testing.assert_allclose(class_weights(labels, 3)[labels].mean(), 1)
    np.testing.assert_allclose(class_weights(np.zeros((2, 3), int), 2), [1, 1])


def test_components_are_numbered_class_by_class() -> None:
    labels = np.array([[1, 1, 0, 2, 0], [0, 0, 1, 2, 0], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(
        instances_from_mask(labels), [[1, 1, 0, 3, 0], [0, 0, 1, 3, 0], [0, 0, 0, 0, 2]]
    )
    assert instances_from_mask(labels, connectivity=1).max() == 4
    assert instances_from_mask(np.zeros((2, 3), bool)).max() == 0


@pytest.mark.parametrize("shape", [(40, 60), (12, 20, 25)])
def test_interior_and_border(shape, rng) -> None:
    instances = seeds(shape, 15, 6, rng)
    got = interior_border(instances)
    inner = find_boundaries(instances, mode="inner", connectivity=1)
    np.testing.assert_array_equal(got == 2, inner)
    np.testing.assert_array_equal(got != 0, instances != 0)
    thick = interior_border(instances, width=2)
    brute = np.zeros(shape, bool)
    for number in np.unique(instances[instances > 0]):
        own = instances == number
        brute |= own & (
            ndimage.distance_transform_edt(np.pad(own, 3, mode="edge"))[(slice(3, -3),) * own.ndim] <= 2
        )
    # padding by repetition stands for an object that goes on behind the edge
    np.testing.assert_array_equal(thick == 2, brute)


def test_registry(rng) -> None:
    instances = seeds((30, 40), 9, 6, rng)
    assert set(TARGETS) == {"foreground", "interior-border", "distance-levels", "centre-directions"}
    for target in TARGETS.values():
        made = target(instances)
        assert made.dtype == np.uint8
        assert made.max() == target.n_classes - 1
    np.testing.assert_array_equal(foreground(instances), part_touching(instances) > 0)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: border_weight_map(np.zeros((3, 4))), "not-integer"),
        (lambda: border_weight_map(np.full((3, 4), -1)), "negative-label"),
        (lambda: border_weight_map(np.zeros((3, 4), int), spacing=(1, 1, 1)), "bad-spacing"),
        (lambda: border_weight_map(np.zeros((3, 4), int), spacing=(1, 0)), "bad-spacing"),
        (lambda: border_weight_map(np.zeros((3, 4), int), sigma=0), "bad-value"),
        (lambda: border_weight_map(np.zeros((3, 4), int), w0=float("nan")), "bad-value"),
        (lambda: interior_border(np.zeros((3, 4), int), width=0), "bad-value"),
        (lambda: class_weights(np.array([0, 5]), 2), "unknown-class"),
        (lambda: part_touching(np.zeros((3, 4), np.float32)), "not-integer"),
    ],
)
def test_refusals(call, reason) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.reason == reason


def test_real_nuclei(shared_data: Path) -> None:
    from PIL import Image

    done = 0
    for path in sorted((shared_data / "dsb2018" / "labels").glob("*.png"))[:40:8]:
        instances = np.asarray(Image.open(path)).astype(np.int32)
        if instances.size > 300 * 400 or instances.max() > 60:
            continue
        parted = part_touching(instances)
        assert not touches(parted).any()
        np.testing.assert_allclose(border_weight_map(instances), oracle(parted), rtol=1e-6, atol=1e-6)
        done += 1
    assert done


def test_class_weights_of_a_mask_are_those_of_its_two_classes() -> None:
    mask = np.array([[True, False, False, True, False, False, False, False]])
    np.testing.assert_allclose(class_weights(mask, 2), class_weights(mask.astype(int), 2))

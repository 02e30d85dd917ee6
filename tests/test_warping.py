"""The warping error against slow warping by counted components, and against what it must and must not see."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure, morphology

from medseg import Refused
from medseg.metrics import warping_error
from medseg.metrics.simple_points import is_simple
from medseg.metrics.warping import apart, warp


def structure(ndim: int, *, foreground: bool) -> np.ndarray:
    return ndimage.generate_binary_structure(ndim, 1 if foreground else ndim)


def components(mask: np.ndarray, *, foreground: bool) -> int:
    return int(ndimage.label(mask, structure(mask.ndim, foreground=foreground))[1])


def numbers(image: np.ndarray) -> tuple[int, int]:
    """Objects and parts of the background of a whole image, which is surrounded by background."""
    image = np.pad(image, 1)
    return components(image, foreground=True), components(~image, foreground=False)


def simple_by_counting(image: np.ndarray, place: tuple[int, ...]) -> bool:
    """By definition, in 2D: the flip changes no count of the whole image. In 3D tunnels are not counted, so
    that components of the neighbourhood decide."""
    if image.ndim == 2:
        flipped = image.copy()
        flipped[place] ^= True
        return numbers(flipped) == numbers(image)
    around = np.pad(image, 1)[tuple(slice(i, i + 3) for i in place)].copy()
    return simple_in_the_middle(around)


def simple_in_the_middle(around: np.ndarray) -> bool:
    """Bertrand and Malandain's numbers of a neighbourhood, by labels: T6 = 1 and T26 = 1."""
    middle = (1,) * around.ndim
    distance = np.abs(np.indices(around.shape) - 1).sum(axis=0)
    near = around & (distance > 0) & (distance < 3)
    labels = ndimage.label(near, structure(around.ndim, foreground=True))[0]
    touching = set(labels[distance == 1].tolist()) - {0}
    free = ~around
    free[middle] = False
    return len(touching) == 1 and components(free, foreground=False) == 1


def slow_warp(source: np.ndarray, target: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """One pixel after the other: all that shrinks, then all that grows, until neither does."""
    image = source.copy()
    while True:
        before = image.copy()
        for value in (True, False):
            while slow_round(image, target, allowed & (image == value)):
                pass
        if np.array_equal(before, image):
            return image


def slow_round(image: np.ndarray, target: np.ndarray, allowed: np.ndarray) -> int:
    flips = 0
    for odd in itertools.product((1, 0), repeat=image.ndim):  # the lattices; the frame shifts odd and even
        for place in itertools.product(*map(range, image.shape)):
            if tuple(i % 2 for i in place) != odd or image[place] == target[place] or not allowed[place]:
                continue
            if simple_by_counting(image, place):
                image[place] ^= True
                flips += 1
    return flips


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    kind = rng.integers(3)
    if kind == 0:
        return rng.random(shape) < rng.uniform(0.2, 0.8)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.0, mode="constant")
    return smooth > np.quantile(smooth, rng.uniform(0.2, 0.8))


SHAPES = [
    (7, 10),
    (9, 6),
    (1, 12),
    (5, 1),
    (3, 4, 6),
    (5, 2, 4),
    (2, 6, 3),
    (1, 1),
    (1, 1, 1),
    (14, 9),
    (8, 17),
]


@pytest.mark.parametrize("seed", range(180))
def test_it_warps_as_the_slow_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = SHAPES[seed % len(SHAPES)]
    source, target = random_mask(rng, shape), random_mask(rng, shape)
    allowed = rng.random(shape) < (0.7 if seed % 2 else 2)
    expected = slow_warp(source, target, allowed)
    got = warp(source, target, mask=allowed)
    assert np.array_equal(got, expected)
    assert warping_error(target, source, mask=allowed) == np.mean(expected != target)
    assert not ((got != source) & ((source == target) | ~allowed)).any()


def test_every_neighbourhood_in_the_plane_is_decided_as_by_counting() -> None:
    for code in range(512):
        around = np.array([code >> k & 1 for k in range(9)], dtype=bool).reshape(3, 3)
        image = np.pad(around, 2)
        assert is_simple(np.array([code], np.uint32), 2)[0] == simple_by_counting(image, (3, 3)), around


@pytest.mark.parametrize("seed", range(4))
def test_neighbourhoods_in_space_are_decided_as_by_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    many = rng.random((400, 3, 3, 3)) < rng.uniform(0.02, 0.98, (400, 1, 1, 1))
    codes = (many.reshape(400, 27) << np.arange(27)).sum(axis=1).astype(np.uint32)
    got = is_simple(codes, 3)
    assert got.tolist() == [simple_in_the_middle(one) for one in many]
    assert 0 < got.sum() < 400


@pytest.mark.parametrize("seed", range(12))
def test_the_topology_of_the_reference_is_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = [(40, 57), (9, 14, 20)][seed % 2]
    source, target = random_mask(rng, shape), random_mask(rng, shape)
    warped = warp(source, target)
    assert (warped != source).any()
    assert numbers(warped) == numbers(source)
    # tunnels too: the Euler number counts objects less tunnels plus cavities
    euler = [measure.euler_number(np.pad(m, 1), connectivity=1) for m in (warped, source)]
    assert euler[0] == euler[1]
    assert (warped != target).sum() < (source != target).sum()
    # what is left is a local minimum: none of it could flip
    for place in np.argwhere(warped != target)[:40]:
        assert not simple_by_counting(warped, tuple(place))


def disks(shape: tuple[int, ...], centres: list[tuple[float, ...]], radius: float) -> np.ndarray:
    instances = np.zeros(shape, int)
    for k, centre in enumerate(centres, start=1):
        distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(centre), axis=-1)
        instances[distance < radius] = k
    return instances


CELLS = [
    ((40, 60), [(11, 12), (28, 14), (12, 40), (28, 46)], 6.5),
    ((16, 20, 34), [(7, 7, 8), (8, 11, 24)], 5.5),
]


@pytest.mark.parametrize(("shape", "centres", "radius"), CELLS)
def test_moved_and_grown_boundaries_cost_nothing(
    shape: tuple[int, ...], centres: list[tuple[float, ...]], radius: float
) -> None:
    reference = disks(shape, centres, radius)
    for prediction in (
        reference,
        disks(shape, centres, radius - 2.5),
        disks(shape, centres, radius + 1),
        np.roll(reference, 2, axis=-1),
        np.roll(reference, (1, 2), axis=(0, 1)),
    ):
        assert warping_error(prediction, reference) == 0.0
        assert warping_error(reference, prediction) == 0.0
    assert np.mean((np.roll(reference, 2, axis=-1) > 0) != (reference > 0)) > 0.02


@pytest.mark.parametrize(("shape", "centres", "radius"), CELLS)
def test_errors_of_topology_cost(
    shape: tuple[int, ...], centres: list[tuple[float, ...]], radius: float
) -> None:
    reference = disks(shape, centres, radius)
    n = reference.size
    first = tuple(int(i) for i in centres[0])
    hole = reference.copy()
    hole[first] = 0
    assert warping_error(hole, reference) * n == pytest.approx(1)
    missed = np.where(reference == 1, 0, reference)
    assert warping_error(missed, reference) * n == pytest.approx(1)  # shrunk to a pixel, which stays
    assert warping_error(reference, missed) == pytest.approx((reference == 1).mean())  # it cannot appear
    invented = reference.copy()
    invented[(0,) * len(shape)] = 9
    assert warping_error(invented, reference) * n == pytest.approx(1)
    split = reference.copy()
    split[..., first[-1]][split[..., first[-1]] == 1] = 0
    cut = int((reference[..., first[-1]] == 1).sum())
    assert 0 < warping_error(split, reference) * n <= cut
    merged = reference.copy()
    merged[(*first[:-1], slice(first[-1], int(centres[-1][-1])))] = 1  # a bar, and all is one object
    assert warping_error((merged > 0).astype(int), reference) > 0
    assert warping_error(np.zeros(shape, int), reference) * n == pytest.approx(len(centres))


def test_a_tunnel_costs_in_space() -> None:
    plate = np.zeros((5, 9, 11), int)
    plate[1:4, 1:8, 1:10] = 1
    bored = plate.copy()
    bored[:, 4, 5] = 0
    assert numbers(plate > 0) == numbers(bored > 0)  # as many objects, as many parts of the background
    assert warping_error(bored, plate) * plate.size == pytest.approx(1)
    assert warping_error(plate, bored) * plate.size == pytest.approx(3)  # as long as it is, it stays


def test_touching_objects_are_told_apart() -> None:
    reference = np.zeros((20, 30), int)
    reference[4:16, 3:15], reference[4:16, 15:27] = 1, 2
    merged = (reference > 0).astype(int)
    assert warping_error(merged, reference) * reference.size > 0
    assert warping_error(reference, merged) * reference.size > 0
    moved = np.where(reference == 0, 0, np.where(np.arange(30) < 17, 1, 2))
    assert warping_error(moved, reference) == 0.0  # by the two pixels that the border is wide
    assert warping_error(moved[:, ::-1], reference[:, ::-1]) == 0.0
    far = np.where(reference == 0, 0, np.where(np.arange(30) < 20, 1, 2))
    assert warping_error(far, reference) > 0  # the local minimum that the page tells of


@pytest.mark.parametrize("seed", range(6))
def test_apart_is_the_loop_over_neighbours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances = rng.integers(0, 3, [(6, 9), (3, 5, 4)][seed % 2]).repeat(2, axis=0)
    expected = instances > 0
    for place in np.argwhere(instances):
        for axis, step in itertools.product(range(instances.ndim), (-1, 1)):
            other = place.copy()
            other[axis] += step
            inside = (other >= 0).all() and (other < instances.shape).all()
            if inside and instances[tuple(other)] not in (0, instances[tuple(place)]):
                expected[tuple(place)] = False
    assert np.array_equal(apart(instances), expected)
    assert np.array_equal(apart(instances > 0), instances > 0)


def test_flips_stay_within_the_mask() -> None:
    reference = disks((20, 30), [(10, 12)], 6)
    prediction = np.roll(reference, 3, axis=1)
    differs = (prediction > 0) != (reference > 0)
    assert warping_error(prediction, reference, mask=np.zeros((20, 30), bool)) == differs.mean()
    near = morphology.dilation(reference > 0, morphology.disk(1)) & ~morphology.erosion(
        reference > 0, morphology.disk(1)
    )
    error = warping_error(prediction, reference, mask=near)
    assert 0 < error < differs.mean()
    with pytest.raises(Refused, match="mask of the warping"):
        warping_error(prediction, reference, mask=np.ones((30, 20), bool))


def test_empty_and_full_maps() -> None:
    empty, full = np.zeros((6, 9), int), np.full((6, 9), 3)
    assert warping_error(empty, empty) == warping_error(full, full) == 0.0
    assert warping_error(full, empty) == 1.0  # an object cannot come out of nothing
    assert warping_error(empty, full) * 54 == pytest.approx(1)
    assert math.isnan(warping_error(np.zeros((0, 3), int), np.zeros((0, 3), int)))


def test_a_whole_image_is_warped_in_seconds() -> None:
    import time

    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(512, 511)), 6)
    other = ndimage.gaussian_filter(rng.normal(size=(512, 511)), 6)
    start = time.process_time()
    warped = warp(smooth > 0, smooth + other > 0)
    assert time.process_time() - start < 20  # a tenth of a second to two; a loop over pixels takes minutes
    assert numbers(warped) == numbers(smooth > 0)

"""Objects as fields: levels that rise to the middle, directions that lead there, and back to objects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medseg import Refused, phantoms
from medseg.instances import METHODS, to_instances
from medseg.instances.fields import DIRECTIONS
from medseg.metrics import ap
from medseg.targets import TARGETS, centre_directions, distance_levels

FIELDS = {"distance-levels": "levels", "centre-directions": "directions"}


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return phantoms.cells((120, 161), n=40, diameter=16, rng=np.random.default_rng(2))[1]


@pytest.mark.parametrize(("target", "method"), FIELDS.items())
def test_there_and_back(target: str, method: str, cells: np.ndarray) -> None:
    """Touching cells come back, and by far not as their connected components."""
    assert TARGETS[target].method == method
    field = TARGETS[target](cells)
    np.testing.assert_array_equal(field > 0, cells > 0)
    got = to_instances(field, method=method)
    np.testing.assert_array_equal(got > 0, cells > 0)
    assert ap(got, cells)[0.5] > 0.95
    assert ap(to_instances(field > 0, method="components"), cells)[0.5] < 0.7


@pytest.mark.parametrize(("target", "method"), FIELDS.items())
def test_wrong_pixels_are_borne(target: str, method: str, cells: np.ndarray) -> None:
    """Five in a hundred object pixels with a value at random."""
    rng = np.random.default_rng(0)
    field = TARGETS[target](cells)
    wrong = (field > 0) & (rng.random(field.shape) < 0.05)
    field[wrong] = rng.integers(1, TARGETS[target].n_classes, wrong.sum())
    got = to_instances(field, method=method, min_size=16)
    assert ap(got, cells)[0.5] > 0.9


@pytest.mark.parametrize("method", FIELDS.values())
@pytest.mark.parametrize("shape", [(9, 14), (1, 12), (1, 1), (0, 5)])
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_any_map_gives_objects_on_its_foreground(method: str, shape: tuple[int, int], density: float) -> None:
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(shape) < density, rng.integers(1, 5, shape), 0)
    before = labels.copy()
    got = to_instances(labels, method=method, fill_holes=False)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(got > 0, labels > 0)
    assert set(np.unique(got)) - {0} == set(range(1, got.max(initial=0) + 1))


def test_levels_against_the_distance_of_each_object(cells: np.ndarray) -> None:
    got = distance_levels(cells, n_levels=3)
    for number in np.unique(cells[cells > 0]):
        mask = cells == number
        # an object goes on behind the edge: repeat it there
        distance = ndimage.distance_transform_edt(np.pad(mask, 40, mode="edge"))[40:-40, 40:-40]
        inside = not (mask[[0, -1]].any() or mask[:, [0, -1]].any())
        if inside:
            step = 3 * distance[mask] / distance[mask].max()
            np.testing.assert_array_equal(got[mask], np.ceil(step - 1e-9))


def test_levels_of_volumes_and_of_wide_numbers() -> None:
    volume = np.zeros((9, 11, 16), np.int64)
    volume[1:8, 1:10, 1:8] = 2**40
    volume[1:8, 1:10, 8:15] = 3
    got = distance_levels(volume)
    assert got[4, 5, 4] == got[4, 5, 11] == 4
    assert got[4, 5, 7] == got[4, 5, 8] == 1
    assert to_instances(got, method="levels").max() == 2


def test_directions_by_the_angle_to_the_middle(cells: np.ndarray) -> None:
    got = centre_directions(cells)
    for number in np.unique(cells[cells > 0])[:10]:
        middle = np.array(ndimage.center_of_mass(cells == number))
        for place in np.argwhere(cells == number)[::7]:
            way = middle - place
            if np.hypot(*way) < 0.5:
                continue
            cosines = [np.dot(way, step) / np.hypot(*step) for step in DIRECTIONS]
            assert cosines[got[tuple(place)] - 1] == pytest.approx(max(cosines))


def test_a_ring_of_directions_ends() -> None:
    """Pixels that lead around in a circle come to an end, and are one object."""
    labels = np.array([[1, 1, 7], [3, 0, 7], [3, 5, 5]])
    assert to_instances(labels, method="directions", fill_holes=False).max() == 1


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: distance_levels(np.zeros((3, 4), int), n_levels=0), "bad-value"),
        (lambda: distance_levels(np.zeros((3, 4))), "not-integer"),
        (lambda: centre_directions(np.zeros((3, 4, 5), int)), "bad-dimensions"),
        (lambda: to_instances(np.ones((3, 4, 5), int), method="directions"), "bad-dimensions"),
        (lambda: to_instances(np.full((3, 4), 9), method="directions"), "unknown-label"),
    ],
)
def test_refusals(call, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert caught.value.reason == reason


def test_every_target_names_a_method() -> None:
    assert {target.method for target in TARGETS.values()} <= set(METHODS)

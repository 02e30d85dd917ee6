"""Instance maps against SciPy, scikit-image, brute force and shapes whose answer is known."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from medseg import Refused
from medseg.instances import object_table, relabel, to_instances
from medseg.metrics import ap

CLASSES = ("components", "watershed")  # methods that read labels as classes; for fields see test_fields.py


@dataclass
class Predicted:
    labels: Any
    probabilities: Any = None


def discs(shape: tuple[int, ...], *balls: tuple[tuple[float, ...], float]) -> np.ndarray:
    """A mask of balls, each (centre, radius)."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.any([np.linalg.norm(grid - centre, axis=-1) <= radius for centre, radius in balls], axis=0)


def in_scan_order(instances: np.ndarray) -> bool:
    first = [int(np.flatnonzero(instances.ravel() == i)[0]) for i in range(1, instances.max(initial=0) + 1)]
    return first == sorted(first)


@pytest.mark.parametrize("method", CLASSES)
@pytest.mark.parametrize("shape", [(9, 14), (4, 6, 7), (1, 12), (1, 1)])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.6, 1.0])
def test_what_holds_for_every_result(method: str, shape: tuple[int, ...], density: float) -> None:
    rng = np.random.default_rng(len(shape))
    labels = np.where(rng.random(shape) < density, rng.integers(1, 4, shape), 0).astype(np.uint8)
    before = labels.copy()
    got = to_instances(labels, method=method, fill_holes=False)
    assert got.dtype == np.int32
    assert got.shape == shape
    assert np.array_equal(labels, before)
    assert np.array_equal(got > 0, labels > 0)
    assert in_scan_order(got)
    assert set(np.unique(got)) - {0} == set(range(1, got.max(initial=0) + 1))
    for i in range(1, got.max(initial=0) + 1):
        assert len(np.unique(labels[got == i])) == 1


@pytest.mark.parametrize("shape", [(12, 17), (5, 6, 7)])
@pytest.mark.parametrize("seed", range(5))
def test_components_are_scipys(shape: tuple[int, ...], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, shape)
    got = to_instances(labels, method="components", fill_holes=False)
    expected = np.zeros(shape, int)
    for value in (1, 2):
        part, _ = ndimage.label(labels == value)
        expected[part > 0] = part[part > 0] + expected.max()
    pairs = set(zip(got.ravel().tolist(), expected.ravel().tolist()))
    assert len(pairs) == got.max() + 1 == expected.max() + 1


@pytest.mark.parametrize("radius", [4, 8, 20])
def test_touching_discs_are_divided_at_any_scale(radius: int) -> None:
    a, b = (1.2 * radius, 1.5 * radius), (1.2 * radius, 3.2 * radius)
    mask = discs((int(2.5 * radius), int(4.8 * radius)), (a, radius), (b, radius))
    assert to_instances(mask, method="components").max() == 1
    got = to_instances(mask)
    assert got.max() == 2
    # every pixel goes to the nearer centre, but for the line between the two
    grid = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), axis=-1)
    difference = np.linalg.norm(grid - a, axis=-1) - np.linalg.norm(grid - b, axis=-1)
    sure = mask & (np.abs(difference) > 2)
    assert np.array_equal(got[sure], np.where(difference < 0, 1, 2)[sure])


def test_unequal_discs_are_divided() -> None:
    mask = discs((60, 70), ((30, 24), 20), ((30, 51), 8))
    assert to_instances(mask).max() == 2


@pytest.mark.parametrize("angle", [0, 20, 45, 70])
@pytest.mark.parametrize(("length", "width"), [(60, 5), (40, 9), (80, 16)])
def test_long_cells_stay_whole(angle: int, length: int, width: int) -> None:
    y, x = np.mgrid[-50:51, -55:56]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = c * x + s * y, -s * x + c * y
    mask = np.hypot(np.maximum(np.abs(along) - length / 2 + width / 2, 0), across) <= width / 2
    assert to_instances(mask).max() == 1
    ellipse = (along / (length / 2)) ** 2 + (across / (width / 2)) ** 2 <= 1
    assert to_instances(ellipse).max() == to_instances(ellipse, method="components").max()


def test_touching_balls_in_3d_and_anisotropic_voxels() -> None:
    mask = discs((22, 26, 44), ((11, 13, 13), 9), ((11, 13, 29), 9))
    assert to_instances(mask, method="components").max() == 1
    assert to_instances(mask).max() == 2
    # every third plane of the same volume: voxels are three times as deep as wide
    assert to_instances(mask[::3], spacing=(3, 1, 1)).max() == 2
    assert to_instances(mask.transpose(2, 1, 0)[:, :, ::3], spacing=(1, 1, 3)).max() == 2


def test_spacing_sets_what_is_narrow() -> None:
    # two parts along y, joined by a neck of 7 of 11 columns; wide pixels make the parts' height the limit
    mask = np.zeros((23, 15), bool)
    mask[1:11, 2:13] = mask[12:22, 2:13] = True
    mask[11, 4:11] = True
    assert to_instances(mask, spacing=(1, 1)).max() == 2
    assert to_instances(mask, spacing=(1, 10)).max() == 1
    assert np.array_equal(to_instances(mask, spacing=(0.5, 0.5)), to_instances(mask))


def test_neck_is_a_fraction_of_the_width() -> None:
    a, b = ((20, 18), 15), ((20, 42), 15)  # the chord where they meet is 0.6 of the diameter
    mask = discs((40, 60), a, b)
    assert [int(to_instances(mask, neck=neck).max()) for neck in (0, 0.45, 0.75, 0.9)] == [1, 1, 2, 2]


def test_classes_never_merge() -> None:
    labels = np.zeros((5, 8), np.int64)
    labels[1:4, 1:4], labels[1:4, 4:7] = 1, 2**40
    for method in CLASSES:
        got = to_instances(labels, method=method)
        assert got[2, 2] != got[2, 5]
        assert got.max() == 2


@pytest.mark.parametrize("method", CLASSES)
def test_holes_are_filled_but_gaps_are_not(method: str) -> None:
    mask = discs((40, 60), ((20, 20), 15))
    mask[20, 20] = mask[14:16, 22] = False
    got = to_instances(mask, method=method)
    assert np.array_equal(got > 0, ndimage.binary_fill_holes(mask))
    assert got.max() == 1
    assert np.array_equal(to_instances(mask, method=method, fill_holes=False) > 0, mask)


def test_holes_are_filled_as_scipy_fills_each_object() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mask = ndimage.binary_opening(rng.random((30, 41)) < 0.7)
        objects, n = ndimage.label(mask)
        expected = mask.copy()
        for i in range(1, n + 1):
            filled = ndimage.binary_fill_holes(objects == i, structure=np.ones((3, 3)))
            holes, _ = ndimage.label(filled & (objects != i), structure=np.ones((3, 3)))
            # a hole with another object in it is no hole
            for h in range(1, holes.max() + 1):
                if not mask[holes == h].any():
                    expected[holes == h] = True
        got = to_instances(mask, method="components")
        assert np.array_equal(got > 0, expected)
        assert got.max() == n


def test_an_enclosed_object_survives() -> None:
    labels = np.zeros((11, 13), int)
    labels[1:10, 1:12] = 1
    labels[3:8, 3:10] = 0
    labels[5, 6] = 2
    for method in CLASSES:
        got = to_instances(labels, method=method)
        assert got[5, 6] not in (0, got[1, 1])
        assert got[4, 5] == 0
    # without the small object, what is left around it is a hole
    assert (to_instances(labels, method="components", min_size=2)[1:10, 1:12] == 1).all()


def test_a_hole_open_to_the_edge_is_no_hole() -> None:
    labels = np.ones((4, 6), int)
    labels[0, 3] = 0
    assert to_instances(labels)[0, 3] == 0


def test_the_gap_among_touching_discs_is_no_hole() -> None:
    radius = 15
    centres = [(20, 20), (20, 50), (20 + 15 * math.sqrt(3), 35)]
    mask = discs((70, 72), *((c, radius + 0.5) for c in centres))
    assert (ndimage.binary_fill_holes(mask) & ~mask).any()
    got = to_instances(mask)
    assert got.max() == 3
    assert np.array_equal(got > 0, mask)


def test_pinholes_do_not_break_a_disc() -> None:
    for seed in range(5):
        disc = discs((50, 60), ((25, 28), 20))
        mask = disc & (np.random.default_rng(seed).random(disc.shape) > 0.01)
        assert to_instances(mask, min_size=2, fill_holes=False).max() > 1
        got = to_instances(mask, min_size=2)
        assert got.max() == 1
        assert (got > 0)[ndimage.binary_erosion(disc, np.ones((3, 3)), iterations=2)].all()


@pytest.mark.parametrize("min_size", [0, 1, 2, 4, 5, 100])
def test_small_objects_are_removed(min_size: int) -> None:
    labels = np.array([[1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1]])
    got = to_instances(labels, min_size=min_size)
    assert np.bincount(got.ravel())[1:].tolist() == [n for n in (1, 2, 4) if n >= min_size]


@pytest.mark.parametrize("method", CLASSES)
def test_empty_full_and_one_pixel(method: str) -> None:
    for shape in [(5, 8), (2, 5, 3), (0, 4)]:
        assert to_instances(np.zeros(shape, bool), method=method).tolist() == np.zeros(shape).tolist()
        assert (to_instances(np.ones(shape, np.uint16), method=method) == 1).all()
    one = np.zeros((5, 8), np.uint8)
    one[4, 7] = 3
    assert to_instances(one, method=method).tolist() == (one > 0).astype(int).tolist()


def test_predictions_and_channels() -> None:
    labels = np.zeros((6, 9), np.int16)
    labels[1:3, 1:4] = 1
    expected = to_instances(labels)
    assert np.array_equal(to_instances(Predicted(labels)), expected)
    assert to_instances(Predicted(labels[None])).shape == (1, 6, 9)  # a volume of one plane
    assert np.array_equal(to_instances(Predicted(labels[None], np.zeros((2, 6, 9)))), expected)
    assert to_instances(Predicted(labels[None], np.zeros((2, 1, 6, 9)))).shape == (1, 6, 9)
    assert to_instances(labels[None]).shape == (1, 6, 9)
    assert to_instances(labels[None, None]).shape == (1, 6, 9)


def test_a_tensor_is_taken_with_its_channel() -> None:
    torch = pytest.importorskip("torch")
    labels = torch.zeros((1, 6, 9), dtype=torch.uint8)
    labels[0, 1:3, 1:4] = 1
    assert to_instances(Predicted(labels)).tolist() == labels[0].tolist()
    assert to_instances(labels).tolist() == labels[0].tolist()


def test_threshold_takes_probabilities() -> None:
    probabilities = np.array(
        [[[0.4, 0.1, 0.9, 0.35]], [[0.3, 0.2, 0.05, 0.6]], [[0.3, 0.7, 0.05, 0.05]]], dtype=np.float32
    )
    prediction = Predicted(probabilities.argmax(0), probabilities)
    # classes from left to right: 0 (but 1 or 2 together 0.6), 2, 0, 1
    assert to_instances(prediction).tolist() == [[0, 1, 0, 2]]
    assert to_instances(prediction, threshold=0.5).tolist() == [[1, 2, 0, 3]]
    assert to_instances(prediction, threshold=0.8).tolist() == [[0, 1, 0, 0]]
    single = Predicted(probabilities[0] > 0.5, probabilities[:1])
    assert to_instances(single, threshold=0.4).tolist() == [[1, 0, 2, 0]]


@pytest.mark.parametrize(
    ("prediction", "options", "reason"),
    [
        (np.zeros((3, 4), int), {"method": "watershet"}, "unknown-method"),
        (np.zeros((3, 4)), {}, "not-integer"),
        (np.full((3, 4), -1), {}, "negative-label"),
        (np.zeros(4, int), {}, "bad-dimensions"),
        (np.zeros((2, 3, 4, 5), int), {}, "bad-dimensions"),
        (np.zeros((3, 4), int), {"threshold": 0.5}, "no-probabilities"),
        (Predicted(np.zeros((3, 4), int), np.zeros((2, 3, 4))), {"threshold": 1.0}, "bad-option"),
        (np.zeros((3, 4), int), {"neck": 1.5}, "bad-option"),
        (np.zeros((3, 4), int), {"min_size": -1}, "bad-option"),
        (np.zeros((3, 4), int), {"spacing": (1, 1, 1)}, "bad-spacing"),
        (np.zeros((3, 4), int), {"spacing": (1, 0)}, "bad-spacing"),
    ],
)
def test_refusals(prediction: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        to_instances(prediction, **options)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_relabel_is_consecutive_in_scan_order(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for shape in [(7, 9), (3, 4, 5), (0, 3), (4,)]:
        ids = rng.choice(np.arange(np.iinfo(dtype).max - 9, np.iinfo(dtype).max, dtype=dtype), shape)
        ids[rng.random(shape) < 0.3] = 0
        got = relabel(ids)
        seen: dict[int, int] = {0: 0}
        expected = [seen.setdefault(int(i), len(seen)) for i in ids.ravel()]
        assert got.ravel().tolist() == expected
        assert (got.dtype, got.shape) == (np.int32, shape)
    with pytest.raises(Refused):
        relabel(np.zeros((2, 2)))


def test_object_table_is_what_a_loop_measures() -> None:
    instances = np.random.default_rng(0).integers(0, 4, (4, 6, 9)) * 2**40
    spacing = (5.0, 0.5, 0.25)
    rows = object_table(instances, spacing=spacing, unit="mm")
    assert {row["id"] for row in rows} == {2**40, 2 * 2**40, 3 * 2**40}
    for row in rows:
        where = np.argwhere(instances == row["id"])
        volume = len(where) * 5 * 0.5 * 0.25
        assert row["volume_mm3"] == pytest.approx(volume)
        assert math.pi / 6 * row["equivalent_diameter_mm"] ** 3 == pytest.approx(volume)
        for i, axis in enumerate("zyx"):
            assert row[f"centroid_{axis}_mm"] == pytest.approx(where[:, i].mean() * spacing[i])
            assert row[f"{axis}_start_px"] == where[:, i].min()
            assert row[f"{axis}_stop_px"] == where[:, i].max() + 1
    flat = object_table(instances[0])
    assert list(flat[0]) == [
        "id",
        "area_px",
        "centroid_y_px",
        "centroid_x_px",
        "equivalent_diameter_px",
        "y_start_px",
        "y_stop_px",
        "x_start_px",
        "x_stop_px",
    ]
    assert flat[0]["area_px"] == (instances[0] == flat[0]["id"]).sum()
    assert object_table(np.zeros((3, 4), int)) == []


@pytest.mark.parametrize("options", [{"unit": "mm"}, {"spacing": (1, 1)}, {"spacing": (1,), "unit": "mm"}])
def test_object_table_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        object_table(np.ones((3, 4), int), **options)


def test_many_objects_take_no_pass_each() -> None:
    tile = np.zeros((12, 10), bool)
    tile[2:9, 1:8] = True
    mask = np.tile(tile, (60, 70))
    got = to_instances(mask)
    assert got.max() == 60 * 70
    assert np.array_equal(got, relabel(measure.label(mask)))


def test_nuclei_are_divided_far_better_than_by_components(shared_data: Path) -> None:
    from skimage import io as skimage_io

    folder = shared_data / "dsb2018"
    with open(folder / "index.csv") as file:
        names = [row["id"] for row in csv.DictReader(file) if row["kind"] == "fluorescence"]
    values: dict[str, list[float]] = {method: [] for method in CLASSES}
    for name in names[::40]:
        reference = skimage_io.imread(folder / "labels" / f"{name}.png")
        for method in CLASSES:
            got = to_instances(reference > 0, method=method)
            values[method].append(float(np.mean(list(ap(got, reference).values()))))
    means = {method: float(np.mean(v)) for method, v in values.items()}
    assert means["watershed"] > means["components"] + 0.05
    assert means["watershed"] > 0.88


def test_a_border_class_parts_objects_and_goes_back_to_them(rng: np.random.Generator) -> None:
    """Interior and border of touching discs give the discs back; a rim without interior stays an object."""
    from medseg.targets import interior_border

    y, x = np.mgrid[:60, :90]
    reference = np.zeros((60, 90), int)
    for i, (row, column) in enumerate([(20, 20), (20, 41), (38, 31), (30, 70)], start=1):
        reference[((y - row) ** 2 + (x - column) ** 2 <= 110) & (reference == 0)] = i
    reference[55, 80:82] = 5  # two pixels: all border
    labels = interior_border(reference)
    assert set(np.unique(labels)) == {0, 1, 2}
    found = to_instances(labels, border=2, method="components")
    assert np.array_equal(found > 0, reference > 0)
    assert ap(found, reference, thresholds=(0.9,))[0.9] == 1.0
    assert to_instances(np.zeros((4, 5), int), border=2).max() == 0
    assert np.array_equal(to_instances(np.full((4, 5), 2), border=2), np.ones((4, 5)))

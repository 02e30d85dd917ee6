"""Distances of surfaces and volumes against all pairs of pixels, SciPy, MONAI and numbers by hand."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy import ndimage

import medseg
from medseg import Refused
from medseg.evaluation import DEFAULT_METRICS
from medseg.jobs import evaluate_files
from medseg.metrics import (
    METRICS,
    Scores,
    assd_mm,
    dice,
    hd95_mm,
    nsd,
    score_arrays,
    scoring,
    surface_distances,
    surfaces,
    volume_error_ml,
    volume_ml,
)

Mask = np.ndarray
NAN = math.nan
SPACINGS = {2: (0.7, 2.5), 3: (5.0, 0.79, 0.31)}


def ellipsoid(shape: tuple[int, ...], centre: Any, radii: Any) -> Mask:
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii)) <= 1


def masks(ndim: int) -> dict[str, tuple[Mask, Mask]]:
    """Pairs of masks that are both not empty."""
    shape = (17, 26) if ndim == 2 else (7, 12, 17)
    rng = np.random.default_rng(ndim)
    middle = tuple(n / 2 for n in shape)
    one, other, corner = (np.zeros(shape, bool) for _ in range(3))
    one[(0,) * ndim], other[(-1,) * ndim] = True, True
    corner[(slice(0, 3),) * ndim] = True
    ball = ellipsoid(shape, middle, np.array(shape) / 3)
    blobs = [ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) > 0.05 for _ in range(2)]
    thin = np.zeros(shape, bool)
    thin[shape[0] // 2] = True
    return {
        "noise": (rng.random(shape) < 0.5, rng.random(shape) < 0.3),
        "blobs": (blobs[0], blobs[1]),
        "identical": (ball, ball.copy()),
        "moved": (ball, np.roll(ball, 2, axis=-1)),
        "inside": (ball, ellipsoid(shape, middle, np.array(shape) / 6)),
        "one pixel each, corners apart": (one, other),
        "one pixel in all": (one, np.ones(shape, bool)),
        "a pixel far away": (ball | other, ball),
        "touching the borders": (corner, np.roll(corner, 1, axis=0)),
        "disjoint": (corner, corner[(slice(None, None, -1),) * ndim].copy()),
        "a plane": (thin, ball),
        "full": (np.ones(shape, bool), ball),
    }


CASES = [pytest.param(*pair, id=f"{n}D {name}") for n in (2, 3) for name, pair in masks(n).items()]


def border(mask: Mask) -> Mask:
    """The mask minus its erosion, what is outside of the map counting as another thing."""
    return mask & ~ndimage.binary_erosion(mask)


def all_pairs(a: Mask, b: Mask, spacing: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each border pixel to the other mask's, by the matrix of all distances."""
    first, second = (np.argwhere(border(mask)) * np.array(spacing) for mask in (a, b))
    matrix = np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1))
    return matrix.min(1), matrix.min(0)


# the distances


@pytest.mark.parametrize(("prediction", "reference"), CASES)
def test_distances_are_those_of_all_pairs(prediction: Mask, reference: Mask) -> None:
    spacing = SPACINGS[prediction.ndim]
    found = surface_distances(prediction, reference, spacing=spacing)
    there, back = all_pairs(prediction, reference, spacing)
    assert found.to_reference[1] == pytest.approx(there, abs=1e-12)
    assert found.to_prediction[1] == pytest.approx(back, abs=1e-12)
    sizes = np.array(spacing) * prediction.shape
    assert found.diagonal == pytest.approx(np.linalg.norm(sizes))
    assert max(there.max(), back.max()) < found.diagonal


@pytest.mark.parametrize("near", [0, 1e9], ids=["far", "near"])
@pytest.mark.parametrize("voxels", [0, 10**9], ids=["tree", "transform"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_way_to_the_nearest_gives_the_same(
    ndim: int, voxels: int, near: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen by size and distance is a matter of time alone."""
    ways = []
    transformed = surfaces._transformed

    def seen(*args: Any) -> np.ndarray:
        ways.append("transform")
        return transformed(*args)

    monkeypatch.setattr(surfaces, "_transformed", seen)
    monkeypatch.setattr(surfaces, "_VOXELS_A_PLACE", voxels if near else 0)
    monkeypatch.setattr(surfaces, "_VOXELS_A_FAR_PLACE", voxels)
    monkeypatch.setattr(surfaces, "_NEAR", near)
    for prediction, reference in masks(ndim).values():
        found = surface_distances(prediction, reference, spacing=SPACINGS[ndim])
        there, back = all_pairs(prediction, reference, SPACINGS[ndim])
        assert found.to_reference[1] == pytest.approx(there, abs=1e-12)
        assert found.to_prediction[1] == pytest.approx(back, abs=1e-12)
    assert len(ways) == (0 if not voxels else 2 * len(masks(ndim)))


@pytest.mark.parametrize(("prediction", "reference"), CASES)
def test_metrics_are_their_formulas(prediction: Mask, reference: Mask) -> None:
    spacing = SPACINGS[prediction.ndim]
    there, back = all_pairs(prediction, reference, spacing)
    both = np.concatenate([there, back])
    known = surface_distances(prediction, reference, spacing=spacing)
    for options in ({"spacing": spacing}, {"distances": known}):
        larger = max(np.percentile(there, 95), np.percentile(back, 95))
        assert hd95_mm(prediction, reference, **options)[1] == pytest.approx(larger, abs=1e-12)
        assert assd_mm(prediction, reference, **options)[1] == pytest.approx(both.mean(), abs=1e-12)
        for tolerance in (0, 0.5, 1, 3):
            share = nsd(prediction, reference, tolerance_mm=tolerance, **options)[1]
            assert share == np.mean(both <= tolerance + 1e-6)


@pytest.mark.parametrize(("prediction", "reference"), CASES)
def test_metrics_are_monais(prediction: Mask, reference: Mask) -> None:
    spacing = SPACINGS[prediction.ndim]
    pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    theirs = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    assert hd95_mm(prediction, reference, spacing=spacing)[1] == pytest.approx(theirs.item(), rel=1e-5)
    theirs = compute_average_surface_distance(*pair, include_background=True, symmetric=True, spacing=spacing)
    assert assd_mm(prediction, reference, spacing=spacing)[1] == pytest.approx(theirs.item(), rel=1e-5)
    for tolerance in (0.5, 1.0, 3.0):
        theirs = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=spacing)
        mine = nsd(prediction, reference, spacing=spacing, tolerance_mm=tolerance)
        assert mine[1] == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize(("prediction", "reference"), CASES)
def test_the_percentile_of_pooled_distances_follows_from_the_same(prediction: Mask, reference: Mask) -> None:
    """Programs that pool both directions first, such as MedPy, are reached from `surface_distances`."""
    spacing = SPACINGS[prediction.ndim]
    directed = []
    for a, b in ((prediction, reference), (reference, prediction)):
        directed.append(ndimage.distance_transform_edt(~border(b), sampling=spacing)[border(a)])
    pooled = np.percentile(np.hstack(directed), 95)
    there, back = surface_distances(prediction, reference, spacing=spacing).of(1)
    assert np.percentile(np.hstack([there, back]), 95) == pytest.approx(pooled, abs=1e-12)


def test_pooled_and_directed_percentiles_differ() -> None:
    """A far pixel in 20 is under the 95th percentile of both directions together, not of its own."""
    prediction, reference = np.zeros((2, 1, 40), int)
    reference[0, ::2] = 1  # 20 pixels
    prediction[0, :38:2] = 1  # 19 of them
    there, back = surface_distances(reference, prediction, spacing=(1, 1)).of(1)
    assert hd95_mm(reference, prediction, spacing=(1, 1))[1] == np.percentile(there, 95) == pytest.approx(0.1)
    assert np.percentile(np.hstack([there, back]), 95) == 0


@pytest.mark.parametrize("ndim", [2, 3])
def test_it_is_symmetric_and_knows_its_axes(ndim: int) -> None:
    prediction, reference = masks(ndim)["blobs"]
    spacing = SPACINGS[ndim]
    for metric in (hd95_mm, assd_mm, nsd):
        value = metric(prediction, reference, spacing=spacing)[1]
        assert metric(reference, prediction, spacing=spacing)[1] == pytest.approx(value)
        turned = metric(prediction.T, reference.T, spacing=spacing[::-1])[1]
        assert turned == pytest.approx(value)
        assert metric(prediction.T, reference.T, spacing=spacing)[1] != pytest.approx(value)
        doubled = metric(prediction, reference, spacing=np.array(spacing) * 2)[1]
        if metric is nsd:
            assert nsd(prediction, reference, spacing=np.array(spacing) * 2, tolerance_mm=2)[1] == value
        else:
            assert doubled == pytest.approx(2 * value)


def test_numbers_worked_out_by_hand() -> None:
    """Cubes of 3 x 3 x 3 that are two slices of 5 mm apart."""
    prediction, reference = np.zeros((2, 9, 6, 5), int)
    reference[1:4, 1:4, 1:4] = prediction[3:6, 1:4, 1:4] = 4
    sized = {"spacing": (5, 2, 1)}
    # each cube has 26 surface pixels; the 9 of the outer side are 10 mm from the other's nearest side. of
    # the next slice, 8 around the hole are 5 mm away; of the shared slice the middle is inside of neither,
    # and all 9 are at the surface of both
    there, back = surface_distances(prediction, reference, **sized).of(4)
    assert sorted(there) == sorted(back) == [0] * 9 + [5] * 8 + [10] * 9
    assert hd95_mm(prediction, reference, **sized) == {4: 10}
    assert assd_mm(prediction, reference, **sized) == {4: pytest.approx((8 * 5 + 9 * 10) / 26)}
    assert nsd(prediction, reference, tolerance_mm=5, **sized) == {4: 17 / 26}
    assert nsd(prediction, reference, **sized) == {4: 9 / 26}
    assert volume_ml(prediction, reference, **sized) == {4: 27 * 10 / 1000}


# classes


def maps(ndim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Label maps of touching classes 1, 2, 7 and 200; 5 is in the first only, 6 in the second only."""
    rng = np.random.default_rng(7)
    shape = (8, 13, 18)[-ndim:]
    both = []
    for lone in (5, 6):
        noise = [ndimage.gaussian_filter(rng.standard_normal(shape), 2) for _ in range(5)]
        label = np.array([0, 1, 2, 7, 200])[np.argmax(noise, axis=0)]
        label[(slice(2, 4),) * ndim] = lone
        both.append(label.astype(np.uint8))
    return both[0], both[1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_each_class_is_scored_as_its_mask(ndim: int) -> None:
    prediction, reference = maps(ndim)
    spacing = SPACINGS[ndim]
    for metric in (hd95_mm, assd_mm, nsd):
        scored = metric(prediction, reference, spacing=spacing)
        assert list(scored) == [1, 2, 5, 6, 7, 200]
        for value in (1, 2, 7, 200):
            alone = metric(prediction == value, reference == value, spacing=spacing)
            assert scored[value] == pytest.approx(alone[1], abs=1e-12)
        chosen = metric(prediction, reference, spacing=spacing, classes=[200, 9, 1])
        assert list(chosen) == [200, 9, 1]
        assert chosen[200] == scored[200]
        assert math.isnan(chosen[9])
    ground = hd95_mm(prediction, reference, spacing=spacing, classes=[0])
    assert ground[0] == pytest.approx(hd95_mm(prediction == 0, reference == 0, spacing=spacing)[1])


@pytest.mark.parametrize("layout", ["C", "F", "view", "read-only", "int64", "uint64"])
def test_how_the_maps_lie_in_memory_does_not_matter(layout: str) -> None:
    prediction, reference = maps()
    expected = hd95_mm(prediction, reference, spacing=SPACINGS[3])
    if layout in ("C", "F"):
        other = np.asarray(prediction, order=layout)
    elif layout == "view":
        other = np.repeat(prediction, 2, axis=1)[:, ::2]
    else:
        other = prediction.astype(layout if layout.endswith("64") else prediction.dtype)
        other.setflags(write=False)
    assert hd95_mm(other, reference, spacing=SPACINGS[3]) == expected
    assert dice(other, reference) == dice(prediction, reference)
    reference = np.asarray(reference, order="F" if layout == "F" else "C")
    assert hd95_mm(other, reference, spacing=SPACINGS[3]) == expected
    assert dice(other, reference) == dice(prediction, reference)


def test_large_values_need_no_table() -> None:
    prediction, reference = np.zeros((2, 3, 5), np.uint64)
    prediction[1, 1] = reference[1, 2] = 2**63
    assert assd_mm(prediction, reference, spacing=(1, 0.5)) == {2**63: 0.5}


# nothing to measure


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5)])
def test_a_class_in_one_map_is_a_failure_and_in_neither_is_nothing(shape: tuple[int, ...]) -> None:
    empty, full = np.zeros(shape, int), np.ones(shape, int)
    spacing = (0.5, 3.0, 2.0)[: len(shape)]
    diagonal = pytest.approx(np.linalg.norm(np.array(spacing) * shape))
    for pair in ((empty, full), (full, empty)):
        assert hd95_mm(*pair, spacing=spacing) == {1: diagonal}
        assert assd_mm(*pair, spacing=spacing) == {1: diagonal}
        assert nsd(*pair, spacing=spacing, tolerance_mm=1e9) == {1: 0.0}
    for metric in (hd95_mm, assd_mm, nsd):
        assert metric(empty, empty, spacing=spacing) == {}
        assert math.isnan(metric(empty, empty, spacing=spacing, classes=[3])[3])


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 3, 4)])
def test_maps_without_pixels(shape: tuple[int, ...]) -> None:
    nothing = np.zeros(shape, int)
    assert hd95_mm(nothing, nothing, spacing=(1,) * len(shape)) == {}
    assert math.isnan(nsd(nothing, nothing, spacing=(1,) * len(shape), classes=[1])[1])


def test_a_failed_case_worsens_every_mean() -> None:
    """Better not to predict would be the advice of a mean that leaves failures out."""
    reference = np.zeros((6, 9, 12), int)
    reference[1:5, 2:7, 3:9] = 1
    bad = np.zeros_like(reference)
    bad[5, 8, 11] = 1
    sized: dict[str, Any] = {
        "spacing": (3, 1, 1),
        "metrics": list(DEFAULT_METRICS["volumes"]),
    }
    good = score_arrays(reference, reference, case="good", **sized)
    for name in ("hd95_mm", "assd_mm", "nsd"):
        sign = 1 if METRICS[name].higher_is_better else -1
        means = [
            Scores.join([good, score_arrays(worse, reference, case="bad", **sized)]).mean(name) * sign
            for worse in (reference, bad, np.zeros_like(reference))
        ]
        assert means[0] > means[1] >= means[2]
        assert name == "nsd" or means[1] > means[2]


def test_cases_without_the_class_are_counted() -> None:
    empty, full = np.zeros((2, 3, 4), int), np.ones((2, 3, 4), int)
    sized: dict[str, Any] = {"spacing": (1, 1, 2), "classes": {"a": 1, "b": 2}, "metrics": ["nsd", "hd95_mm"]}
    scores = Scores.join(
        score_arrays(p, r, case=str(i), **sized) for i, (p, r) in enumerate([(full, full), (empty, full)])
    )
    rows = {(row.metric, row.label): row for row in scores.summary()}
    assert (rows["nsd", "a"].n, rows["nsd", "a"].absent, rows["nsd", "a"].mean) == (2, 0, 0.5)
    assert (rows["nsd", "b"].n, rows["nsd", "b"].absent) == (0, 2)
    assert rows["hd95_mm", "a"].max == pytest.approx(math.hypot(2, 3, 8))
    header, *lines = str(scores).splitlines()
    at = header.split().index("absent")
    assert [line.split()[at] for line in lines] == ["0", "2", "0"] * 2


# volumes


def test_volumes_and_their_errors() -> None:
    prediction, reference = maps()
    voxel = math.prod(SPACINGS[3]) / 1000
    sized: dict[str, Any] = {"spacing": SPACINGS[3]}
    found, error = volume_ml(prediction, reference, **sized), volume_error_ml(prediction, reference, **sized)
    for value in (1, 2, 5, 6, 7, 200):
        counts = (prediction == value).sum(), (reference == value).sum()
        assert found[value] == pytest.approx(counts[0] * voxel)
        assert error[value] == pytest.approx((float(counts[0]) - float(counts[1])) * voxel)
    assert found[6] == 0
    assert error[6] < 0 < error[5]
    assert volume_ml(prediction, reference, classes=[9], **sized) == {9: 0}
    assert math.isnan(volume_error_ml(prediction, reference, classes=[9], **sized)[9])


def test_errors_of_two_signs_do_not_cancel() -> None:
    reference = np.array([[[1, 1, 1, 2, 0, 0]]])
    prediction = np.array([[[1, 2, 2, 2, 0, 0]]])
    scores = score_arrays(
        prediction, reference, metrics=["volume_ml", "volume_error_ml"], spacing=(10, 10, 10),
        classes={"a": 1, "b": 2, "c": 3},
    )  # fmt: skip
    assert scores.value("", "volume_error_ml", "a") == -2
    assert scores.value("", "volume_error_ml", "b") == 2
    assert math.isnan(scores.value("", "volume_error_ml", "c"))
    assert scores.value("", "volume_error_ml") == scores.value("", "volume_error_ml", "absolute") == 2
    assert scores.value("", "volume_ml") == scores.value("", "volume_ml", "all") == 4
    assert scores.labels("volume_ml") == ("a", "b", "c", "all")
    nothing = score_arrays(reference * 0, reference * 0, metrics=["volume_ml"], spacing=(1, 1, 1))
    assert nothing.value("", "volume_ml") == 0
    assert scores.worst("volume_ml") == [""]
    for name, metric in (("all", "volume_ml"), ("absolute", "volume_error_ml"), ("mean", "hd95_mm")):
        with pytest.raises(Refused, match=f"named '{name}'"):
            score_arrays(
                prediction, reference, metrics=[metric], spacing=(1, 1, 1), classes={name: 1, "b": 2}
            )


# what is shared, and what is refused


def test_surfaces_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["classes"])
        return surface_distances(*args, **kwargs)

    monkeypatch.setattr(scoring, "surface_distances", counted)
    prediction, reference = maps()
    names = ["dice", "hd95_mm", "assd_mm", "nsd", "volume_ml", "volume_error_ml"]
    scores = score_arrays(prediction, reference, metrics=names, spacing=SPACINGS[3])
    assert len(calls) == 1
    for name in names[1:4]:
        expected = METRICS[name].function(prediction, reference, spacing=SPACINGS[3])
        assert [scores.value("", name, str(k)) for k in expected] == list(expected.values())
    assert scores.labels("nsd") == ("1", "2", "5", "6", "7", "200", "mean")
    score_arrays(prediction, reference, metrics=["dice", "volume_ml"], spacing=SPACINGS[3])
    assert len(calls) == 1


def test_units_and_directions() -> None:
    prediction, reference = maps()
    names = ["hd95_mm", "assd_mm", "nsd", "volume_ml", "volume_error_ml"]
    sized: dict[str, Any] = {"spacing": SPACINGS[3], "metrics": names}
    scores = score_arrays(prediction, reference, **sized)
    assert {row.metric: row.unit for row in scores} == dict(zip(names, ("mm", "mm", "at 1 mm", "ml", "ml")))
    assert [METRICS[name].higher_is_better for name in names] == [False, False, True, None, False]
    assert [METRICS[name].is_physical for name in (*names, "dice", "ap")] == [True] * 5 + [False] * 2
    looser = score_arrays(prediction, reference, case="b", tolerance_mm=2.5, **sized)
    assert next(row.unit for row in looser if row.metric == "nsd") == "at 2.5 mm"
    assert looser.mean("nsd") > scores.mean("nsd")
    with pytest.raises(Refused, match="nsd has two units"):
        Scores.join([scores, looser])


@pytest.mark.parametrize("error", [-9e-6, 9e-6])
def test_a_spacing_that_was_rounded_changes_no_agreement(error: float) -> None:
    """1.000001 mm is more than 1 mm, and no reason to call a border that is one voxel off wrong."""
    reference = np.zeros((9, 10), int)
    reference[2:7, 2:6] = 1
    moved = np.roll(reference, 1, axis=1)
    assert nsd(moved, reference, spacing=(1, 1 + error)) == {1: 1.0}
    assert nsd(moved, reference, spacing=(1, 1.001))[1] < 1


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda a, b: hd95_mm(a, b), "no-spacing"),
        (lambda a, b: assd_mm(a, b), "no-spacing"),
        (lambda a, b: nsd(a, b), "no-spacing"),
        (lambda a, b: volume_ml(a, b), "no-spacing"),
        (lambda a, b: volume_error_ml(a, b), "no-spacing"),
        (lambda a, b: score_arrays(a, b, metrics=["dice", "nsd"]), "no-spacing"),
        (lambda a, b: hd95_mm(a, b, spacing=(1, 1)), "bad-spacing"),
        (lambda a, b: hd95_mm(a, b, spacing=(1, 0, 1)), "bad-spacing"),
        (lambda a, b: volume_ml(a, b, spacing=(1, 1, NAN)), "bad-spacing"),
        (lambda a, b: nsd(a, b, spacing=(1, 1, 1), tolerance_mm=-1), "bad-argument"),
        (lambda a, b: nsd(a, b, spacing=(1, 1, 1), tolerance_mm=NAN), "bad-argument"),
        (lambda a, b: volume_ml(a[0], b[0], spacing=(1, 1)), "bad-dimensions"),
        (lambda a, b: volume_error_ml(a[0], b[0], spacing=(1, 1)), "bad-dimensions"),
        (lambda a, b: hd95_mm(a, b[1:], spacing=(1, 1, 1)), "shape-mismatch"),
        (lambda a, b: hd95_mm(a * 0.5, b, spacing=(1, 1, 1)), "not-integer"),
    ],
)
def test_refusals(call: Any, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        call(*maps())
    assert caught.value.reason == reason


# files and grids


def placed(label: np.ndarray, affine: np.ndarray, unit: str = "mm") -> MetaTensor:
    return MetaTensor(torch.from_numpy(label[None]), affine=affine, meta={"spacing_unit": unit})


def oblique(spacing: Any, angle: float = 0.3) -> np.ndarray:
    """An affine of turned axes, the first of them backwards."""
    affine = np.eye(4)
    c, s = math.cos(angle), math.sin(angle)
    affine[:3, :3] = np.array([[-c, s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = (31.0, -12.5, 7.0)
    return affine


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_volumes_in_files_are_scored_in_mm(tmp_path: Path, suffix: str) -> None:
    prediction, reference = maps()
    affine = oblique(SPACINGS[3])
    files = [
        medseg.write(placed(a, affine), tmp_path / f"{name}/case{suffix}")
        for name, a in (("found", prediction), ("truth", reference))
    ]
    names = DEFAULT_METRICS["volumes"]
    expected = score_arrays(prediction, reference, case="case", metrics=names, spacing=SPACINGS[3])
    by_folder, result = evaluate_files(tmp_path / "found", tmp_path / "truth")
    assert result.exit_code == 0
    by_image = medseg.evaluate(placed(prediction, affine), files[1], metrics=None, case="case")
    for scores in (medseg.evaluate(*files, metrics=None, case="case"), by_folder, by_image):
        assert scores.metrics == names
        for one, other in zip(scores, expected):
            assert (one.metric, one.label, one.unit) == (other.metric, other.label, other.unit)
            assert one.value == pytest.approx(other.value, rel=1e-5)
    looser, _ = evaluate_files(tmp_path / "found", tmp_path / "truth", tolerance_mm=3)
    assert next(row.unit for row in looser if row.metric == "nsd") == "at 3 mm"
    assert looser.value("case", "nsd") > by_folder.value("case", "nsd")


def test_micrometres_become_millimetres(tmp_path: Path) -> None:
    prediction, reference = maps()
    affine = medseg.io.raster_affine((2.0, 0.5, 0.25))
    files = [
        medseg.write(placed(a, affine, "um"), tmp_path / f"{name}.ome.tif")
        for name, a in (("found", prediction), ("truth", reference))
    ]
    mm = hd95_mm(prediction, reference, spacing=(0.002, 0.0005, 0.00025))
    scores = medseg.evaluate(*files, metrics=["hd95_mm", "volume_ml"])
    assert scores.value("", "hd95_mm", "1") == pytest.approx(mm[1], rel=1e-5)
    assert scores.value("", "volume_ml", "1") == pytest.approx((prediction == 1).sum() * 0.25e-12, rel=1e-5)
    # the same grid in two units is one grid, and another is another
    scaled = affine.copy()
    scaled[:3] /= 1000
    same = medseg.evaluate(files[0], placed(reference, scaled), metrics=["hd95_mm"])
    assert same.value("", "hd95_mm", "1") == pytest.approx(mm[1], rel=1e-5)
    with pytest.raises(Refused) as caught:
        medseg.evaluate(files[0], placed(reference, affine, "mm"))
    assert caught.value.reason == "different-grids"


def test_pixels_are_not_called_millimetres(tmp_path: Path) -> None:
    prediction, reference = maps()
    plain = np.eye(4)
    for source in (prediction, placed(prediction, plain, "pixel"), MetaTensor(prediction[None])):
        scores = medseg.evaluate(source, reference, metrics=None)
        assert scores.metrics == DEFAULT_METRICS["semantic"]
        for name in ("hd95_mm", "nsd", "volume_ml"):
            with pytest.raises(Refused) as caught:
                medseg.evaluate(source, reference, metrics=["dice", name])
            assert caught.value.reason == "no-spacing"
        given = medseg.evaluate(source, reference, metrics=None, spacing=SPACINGS[3])
        assert given.metrics == DEFAULT_METRICS["volumes"]
    for name, a in (("found", prediction), ("truth", reference)):
        medseg.write(a, tmp_path / name / "case.tif")
    scores, result = evaluate_files(tmp_path / "found", tmp_path / "truth", metrics=["hd95_mm"])
    assert [failure.reason for failure in result.failed] == ["no-spacing"]
    scores, _ = evaluate_files(tmp_path / "found", tmp_path / "truth")
    assert scores.metrics == DEFAULT_METRICS["semantic"]


def test_images_keep_their_metrics_and_may_have_distances() -> None:
    prediction, reference = maps(2)
    affine = medseg.io.raster_affine((0.7, 2.5))
    pair = placed(prediction, affine), placed(reference, affine)
    assert medseg.evaluate(*pair, metrics=None).metrics == DEFAULT_METRICS["semantic"]
    scores = medseg.evaluate(*pair, metrics=["hd95_mm"])
    assert scores.value("", "hd95_mm", "7") == hd95_mm(prediction, reference, spacing=(0.7, 2.5))[7]
    with pytest.raises(Refused) as caught:
        medseg.evaluate(*pair, metrics=["volume_ml"])
    assert caught.value.reason == "bad-dimensions"


def test_axes_that_are_not_at_right_angles() -> None:
    """As of a gantry that was tilted: the product of the spacings is not the volume of a voxel."""
    prediction, reference = maps()
    affine = oblique(SPACINGS[3])
    affine[:3, 2] += 0.2 * affine[:3, 1]
    pair = placed(prediction, affine), placed(reference, affine)
    with pytest.raises(Refused, match="not at right angles") as caught:
        medseg.evaluate(*pair, metrics=["hd95_mm"])
    assert caught.value.reason == "no-spacing"
    assert medseg.evaluate(*pair, metrics=None).metrics == DEFAULT_METRICS["semantic"]
    assert medseg.evaluate(*pair, metrics=["hd95_mm"], spacing=SPACINGS[3]).mean("hd95_mm") > 0


def test_the_spacing_that_a_data_set_gives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prediction, reference = maps()
    for name, a in (("images", reference), ("labels", reference), ("found", prediction)):
        for case in "ab":
            medseg.write(a, tmp_path / f"{name}/{case}.tif")
    text = """kind = "semantic"
classes = { a = 1, b = 2, c = 5, d = 6, e = 7, f = 200 }
spacing = [5000.0, 790.0, 310.0]
unit = "um"

[files]
image = "images/{case}.tif"
label = "labels/{case}.tif"
"""
    (tmp_path / "dataset.toml").write_text(text)
    scores, result = evaluate_files(tmp_path / "found", tmp_path)
    assert result.exit_code == 0
    expected = hd95_mm(prediction, reference, spacing=SPACINGS[3])
    assert scores.value("b", "hd95_mm", "e") == pytest.approx(expected[7])

    # one of two volumes without a spacing: told, and not taken for 1 mm
    for name, a in (("found", prediction), ("labels", reference)):
        medseg.write(placed(a, medseg.io.raster_affine(SPACINGS[3])), tmp_path / f"{name}/a.tif")
    (tmp_path / "dataset.toml").unlink()
    with caplog.at_level(logging.WARNING):
        scores, _ = evaluate_files(tmp_path / "found", tmp_path / "labels")
    assert "1 of 2 cases have no spacing" in caplog.text
    assert next(row.n for row in scores.summary() if row.metric == "hd95_mm" and row.label == "mean") == 1


# real volumes


def test_real_hippocampi(shared_data: Path) -> None:
    folder = shared_data / "Task04_Hippocampus/labelsTr"
    paths = sorted(p for p in folder.glob("*.nii.gz") if not p.name.startswith("."))[:3]
    if not paths:
        pytest.skip(f"no label in {folder}")
    for path in paths:
        itself = medseg.evaluate(path, path, metrics=None)
        assert (itself.mean("hd95_mm"), itself.mean("assd_mm"), itself.mean("nsd")) == (0, 0, 1)
        assert 0.5 < itself.value("", "volume_ml") < 8  # both parts of one hippocampus
        label = medseg.io.read_label(path)
        moved = MetaTensor(torch.roll(label.as_tensor(), 1, dims=2), meta=label.meta)
        scores = medseg.evaluate(moved, path, metrics=None)
        assert scores.value("", "hd95_mm") == pytest.approx(1, rel=1e-4)  # one voxel of 1 mm
        assert scores.value("", "nsd") == 1
        assert scores.value("", "volume_error_ml") == 0


def test_a_real_spleen(shared_data: Path) -> None:
    paths = [p for p in sorted((shared_data / "spleen_ct_crop").rglob("*.nii*")) if "seg" in p.name]
    if not paths:
        pytest.skip("no mask of the spleen")
    label = medseg.io.read_label(paths[0])
    mask = np.asarray(label[0]) > 0
    smaller = ndimage.binary_erosion(mask)
    spacing = np.linalg.norm(np.asarray(label.affine)[:3, :3], axis=0)
    found = MetaTensor(torch.from_numpy(smaller[None].astype(np.uint8)), meta=label.meta)
    truth = MetaTensor(torch.from_numpy(mask[None].astype(np.uint8)), meta=label.meta)
    scores = medseg.evaluate(found, truth, metrics=None)
    pair = [torch.from_numpy(m)[None, None] for m in (smaller, mask)]
    theirs = compute_hausdorff_distance(
        *pair, include_background=True, percentile=95, spacing=spacing.tolist()
    )
    assert scores.value("", "hd95_mm") == pytest.approx(theirs.item(), rel=1e-5)
    lost = (mask.sum() - smaller.sum()) * spacing.prod() / 1000
    assert scores.value("", "volume_error_ml", "1") == pytest.approx(-lost)
    assert scores.value("", "dice", "1") == dice(smaller, mask)[1]

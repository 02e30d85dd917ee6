"""Metrics against brute force, SciPy's assignment and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from medseg import Refused
from medseg.metrics import (
    METRICS,
    Contingency,
    ap,
    auc,
    contingency,
    count_error,
    dice,
    iou,
    match,
    pixel_error,
    seg,
    sensitivity,
    specificity,
)

SHAPES = [(7, 11), (3, 5, 4), (1, 1), (1, 9), (6, 1, 8)]


def blobs(rng: np.random.Generator, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Touching regions: each pixel goes to its nearest of n random points; a part is background."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points = rng.uniform(0, shape, size=(n, len(shape)))
    nearest = np.linalg.norm(grid[..., None, :] - points, axis=-1).argmin(-1) + 1
    return np.where(rng.random(n + 1)[nearest] < 0.8, nearest, 0)


def pairs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair of maps that overlap in a disorderly way."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[seed % len(SHAPES)]
    reference = blobs(rng, shape, int(rng.integers(1, 9)))
    if rng.random() < 0.5:
        prediction = np.roll(reference, 1, axis=int(rng.integers(len(shape))))
        prediction = np.where(rng.random(shape) < 0.9, prediction, rng.integers(0, 4, shape))
    else:
        prediction = blobs(rng, shape, int(rng.integers(1, 9)))
    return prediction, reference


def dense_ious(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """IoU of all objects by all objects, by masks."""
    predicted = [prediction == i for i in np.unique(prediction) if i]
    referenced = [reference == i for i in np.unique(reference) if i]
    ious = np.zeros((len(predicted), len(referenced)))
    for i, a in enumerate(predicted):
        for j, b in enumerate(referenced):
            ious[i, j] = (a & b).sum() / (a | b).sum()
    return ious


def assigned(ious: np.ndarray, threshold: float) -> tuple[int, float]:
    """Number of matches and sum of their IoU, by SciPy's dense assignment with the definition's costs."""
    n = max(min(ious.shape), 1)
    rows, columns = linear_sum_assignment(-((ious >= threshold) * (1 + ious / (2 * n))))
    chosen = ious[rows, columns]
    return int((chosen >= threshold).sum()), float(chosen[chosen >= threshold].sum())


@pytest.mark.parametrize("seed", range(60))
def test_contingency_is_the_brute_force_count(seed: int) -> None:
    prediction, reference = pairs(seed)
    table = contingency(prediction, reference)
    counted = {}
    for p, r in zip(prediction.ravel().tolist(), reference.ravel().tolist()):
        counted[p, r] = counted.get((p, r), 0) + 1
    got = dict(
        zip(
            zip(
                table.prediction_ids[table.rows].tolist(),
                table.reference_ids[table.columns].tolist(),
            ),
            table.intersections.tolist(),
        )
    )
    assert got == {pair: n for pair, n in counted.items() if 0 not in pair}
    assert table.n_common_background == counted.get((0, 0), 0)
    assert dict(zip(table.prediction_ids.tolist(), table.prediction_sizes.tolist())) == {
        i: int((prediction == i).sum()) for i in set(prediction.ravel().tolist()) - {0}
    }
    assert dict(zip(table.reference_ids.tolist(), table.reference_sizes.tolist())) == {
        i: int((reference == i).sum()) for i in set(reference.ravel().tolist()) - {0}
    }


@pytest.mark.parametrize("seed", range(60))
def test_classes_are_the_set_formulas(seed: int) -> None:
    prediction, reference = pairs(seed)
    values = range(12)
    got_iou = iou(prediction, reference, classes=values)
    got_dice = dice(prediction, reference, classes=values)
    for value in values:
        a = {tuple(i) for i in np.argwhere(prediction == value)}
        b = {tuple(i) for i in np.argwhere(reference == value)}
        if not a | b:
            assert math.isnan(got_iou[value])
            assert math.isnan(got_dice[value])
            continue
        assert got_iou[value] == len(a & b) / len(a | b)
        assert got_dice[value] == 2 * len(a & b) / (len(a) + len(b))
    assert pixel_error(prediction, reference) == pytest.approx(np.mean(prediction != reference), abs=1e-15)
    assert set(iou(prediction, reference)) == set(np.unique([prediction, reference]).tolist()) - {0}


@pytest.mark.parametrize("threshold", [0.05, 0.2, 1 / 3, 0.5, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(40))
def test_objects_are_the_dense_assignment(seed: int, threshold: float) -> None:
    prediction, reference = pairs(seed)
    ious = dense_ious(prediction, reference)
    tp, total = assigned(ious, threshold)
    fp, fn = ious.shape[0] - tp, ious.shape[1] - tp
    expected = tp / (tp + fp + fn) if tp + fp + fn else 1.0
    assert ap(prediction, reference, thresholds=[threshold]) == {threshold: expected}
    found = match(prediction, reference, threshold=threshold)
    assert len(found) == tp
    assert sum(pair.iou for pair in found) == pytest.approx(total)
    assert len({pair.prediction for pair in found}) == len({pair.reference for pair in found}) == tp
    assert [pair.reference for pair in found] == sorted(pair.reference for pair in found)
    for pair in found:
        a, b = prediction == pair.prediction, reference == pair.reference
        assert pair.iou == (a & b).sum() / (a | b).sum() >= threshold


@pytest.mark.parametrize("seed", range(40))
def test_random_weights_with_ties_are_assigned_best(seed: int) -> None:
    # any sparse bipartite graph, not only those that come from maps
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    ious = np.where(rng.random(shape) < 0.4, rng.choice([0.3, 0.5, 0.5000001, 0.9], shape), 0)
    rows, columns = np.nonzero(ious)

    table = Contingency(
        prediction_ids=np.arange(1, shape[0] + 1),
        reference_ids=np.arange(1, shape[1] + 1),
        prediction_sizes=np.ones(shape[0], int),
        reference_sizes=np.ones(shape[1], int),
        rows=rows,
        columns=columns,
        intersections=np.ones(len(rows), int),
        n_pixels=1000,
    )
    table.__dict__["ious"] = ious[rows, columns]  # in the place of the cached property
    found = match(np.zeros((1, 1), int), np.zeros((1, 1), int), threshold=0.25, table=table)
    tp, total = assigned(ious, 0.25)
    assert (len(found), sum(pair.iou for pair in found)) == (tp, pytest.approx(total))


@pytest.mark.parametrize("seed", range(60))
def test_seg_is_the_double_loop(seed: int) -> None:
    prediction, reference = pairs(seed)
    values = []
    for r in np.unique(reference[reference > 0]):
        best = 0.0
        for p in np.unique(prediction[prediction > 0]):
            a, b = prediction == p, reference == r
            if (a & b).sum() > 0.5 * b.sum():
                best = (a & b).sum() / (a | b).sum()
        values.append(best)
    expected = np.mean(values) if values else math.nan
    assert seg(prediction, reference) == pytest.approx(expected, nan_ok=True)
    n = len(np.unique(prediction[prediction > 0])) - len(np.unique(reference[reference > 0]))
    assert count_error(prediction, reference) == n


def test_an_object_cut_in_exact_halves_is_found_once() -> None:
    reference = np.ones((2, 6), int)
    prediction = np.repeat([[1, 2]], 2, axis=0).repeat(3, axis=1)
    assert dense_ious(prediction, reference).ravel().tolist() == [0.5, 0.5]
    assert ap(prediction, reference, thresholds=(0.5, 0.6)) == {0.5: 0.5, 0.6: 0.0}
    assert seg(prediction, reference) == 0.0  # exactly half is not more than half


def test_more_pairs_come_before_larger_iou() -> None:
    # P1 overlaps R1 best, but P2 overlaps only R1: matching P1 to R2 gives two pairs
    reference = np.array([[1] * 10 + [2] * 4])
    prediction = np.array([[5] * 4 + [4] * 6 + [4] * 2 + [0] * 2])
    found = match(prediction, reference, threshold=0.1)
    assert [(p.prediction, p.reference) for p in found] == [(5, 1), (4, 2)]


def test_numbers_worked_out_by_hand() -> None:
    reference = np.array([[1, 1, 1, 1, 0, 0, 2, 2]])
    prediction = np.array([[3, 3, 3, 0, 0, 9, 0, 7]])
    # IoU: (3, 1) 3/4, (7, 2) 1/2; 9 is a false positive
    assert ap(prediction, reference, thresholds=(0.5, 0.75, 0.8)) == {0.5: 2 / 3, 0.75: 1 / 4, 0.8: 0.0}
    assert seg(prediction, reference) == 0.375  # 7 covers exactly half of 2, which is not enough
    assert count_error(prediction, reference) == 1.0
    labels, truth = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]])
    assert iou(labels, truth) == {1: 0.5, 2: 0.5}
    assert dice(labels, truth) == {1: 2 / 3, 2: 2 / 3}
    assert iou(labels, truth, classes=[0]) == {0: 1.0}
    assert pixel_error(labels, truth) == 0.25
    assert pixel_error(labels > 0, truth > 0) == 0.0


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5), (0, 3)])
def test_empty_maps(shape: tuple[int, ...]) -> None:
    empty, full = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    assert ap(empty, empty) == dict.fromkeys((0.5, 0.6, 0.7, 0.8, 0.9), 1.0)
    assert math.isnan(seg(empty, empty))
    assert math.isnan(seg(full, empty))
    assert count_error(empty, empty) == 0
    assert iou(empty, empty) == dice(empty, empty) == {}
    assert math.isnan(iou(empty, empty, classes=[1])[1])
    assert match(empty, empty) == []
    if not full.size:
        assert math.isnan(pixel_error(empty, empty))
        return
    assert ap(full, empty)[0.5] == ap(empty, full)[0.5] == 0.0
    assert seg(empty, full) == 0.0
    assert iou(full, empty) == dice(empty, full) == {1: 0.0}
    assert pixel_error(full, empty) == 1.0
    assert pixel_error(full, full) == 0.0


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_and_types_do_not_matter(dtype: type) -> None:
    prediction, reference = pairs(1)
    expected = [seg(prediction, reference), *ap(prediction, reference, thresholds=(0.2, 0.5)).values()]
    ids = np.unique(np.concatenate([[0], np.geomspace(1, min(2**40, np.iinfo(dtype).max), 16)]).astype(dtype))
    ids = np.concatenate([[0], np.random.default_rng(0).permutation(ids[1:])]).astype(dtype)
    assert len(ids) > max(prediction.max(), reference.max())
    got = [
        seg(ids[prediction], reference),
        *ap(ids[prediction], reference.astype(dtype), thresholds=(0.2, 0.5)).values(),
    ]
    assert got == pytest.approx(expected)


def test_unsigned_ids_beyond_int64_stay_apart() -> None:
    ids = np.array([[2**64 - 1, 2**64 - 2, 0]], dtype=np.uint64)
    assert ap(ids, np.array([[1, 2, 0]]), thresholds=[1.0]) == {1.0: 1.0}


def test_views_are_read_in_their_own_order() -> None:
    prediction, reference = pairs(5)
    assert iou(np.asfortranarray(prediction), reference) == iou(prediction, reference)
    assert iou(prediction.T, reference.T) == iou(prediction, reference)


def test_ten_thousand_objects_need_no_dense_matrix() -> None:
    import tracemalloc

    reference = np.arange(1, 10_001).reshape(100, 100).repeat(4, axis=0).repeat(4, axis=1)
    prediction = np.roll(reference, 1, axis=1)
    tracemalloc.start()
    values = ap(prediction, reference, thresholds=(0.1, 0.5, 0.6))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a shift by one of four columns: IoU 12 / 20 with itself and 4 / 28 with its neighbour
    assert values[0.5] == values[0.6] == 1.0
    assert values[0.1] == 1.0
    assert peak < 100e6  # dense float64 would be 800e6


@pytest.mark.parametrize(
    ("prediction", "reference", "reason"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), "shape-mismatch"),
        (np.zeros((3, 4), int), np.zeros((1, 3, 4), int), "shape-mismatch"),
        (np.zeros((3, 4), np.float32), np.zeros((3, 4), int), "not-integer"),
        (np.zeros((3, 4), int), np.zeros((3, 4), complex), "not-integer"),
        (np.full((3, 4), -1), np.zeros((3, 4), int), "negative-label"),
        (np.zeros((3, 4), int), np.full((3, 4), -1), "negative-label"),
        (np.zeros(4, int), np.zeros(4, int), "bad-dimensions"),
        (np.zeros((1, 2, 3, 4), int), np.zeros((1, 2, 3, 4), int), "bad-dimensions"),
    ],
)
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_refuses(name: str, prediction: np.ndarray, reference: np.ndarray, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        METRICS[name].function(prediction, reference)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("function", [ap, seg, count_error, match])
def test_a_mask_is_no_instance_map(function: object) -> None:
    for pair in [
        (np.ones((2, 3), bool), np.ones((2, 3), int)),
        (np.ones((2, 3), int), np.ones((2, 3), bool)),
    ]:
        with pytest.raises(Refused, match="to_instances"):
            function(*pair)  # type: ignore[operator]


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, math.nan])
def test_thresholds_out_of_range(threshold: float) -> None:
    with pytest.raises(Refused, match="above 0 and at most 1"):
        ap(np.ones((2, 2), int), np.ones((2, 2), int), thresholds=[threshold])


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert name == name.lower()
        assert metric.kind in ("classes", "instances")
        assert metric.summary
        assert "\n" not in metric.summary
        assert set(metric.needs) <= {"classes", "table", "spacing", "distances", "tolerance_mm"}


def test_real_nuclei_score_as_the_masks_say(shared_data: object) -> None:
    from pathlib import Path

    from skimage import io as skimage_io

    folder = Path(str(shared_data)) / "dsb2018" / "labels"
    path = sorted(folder.glob("*.png"))[0]
    reference = skimage_io.imread(path)
    prediction = ndimage.label(reference > 0)[0]
    ious = dense_ious(prediction, reference)
    for threshold, value in ap(prediction, reference).items():
        tp = assigned(ious, threshold)[0]
        assert value == tp / (sum(ious.shape) - tp)


# found and left out


@pytest.mark.parametrize("seed", range(20))
def test_sensitivity_and_specificity_by_masks(seed: int) -> None:
    prediction, reference = pairs(seed)
    classes = [1, 2, 3, 99]
    found, left = (f(prediction, reference, classes=classes) for f in (sensitivity, specificity))
    for value in classes:
        p, r = prediction == value, reference == value
        if r.any():
            assert found[value] == pytest.approx((p & r).sum() / r.sum())
        else:
            assert math.isnan(found[value])
        if r.all():
            assert math.isnan(left[value])
        else:
            assert left[value] == pytest.approx((~p & ~r).sum() / (~r).sum())


@pytest.mark.parametrize("seed", range(5))
def test_auc_by_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.random((5, 9)) < 0.3
    values = np.round(rng.random((5, 9)) + 0.4 * reference, 1)  # with ties
    inside, outside = values[reference][:, None], values[~reference][None]
    expected = ((inside > outside) + 0.5 * (inside == outside)).mean()
    assert auc(values, reference) == pytest.approx(expected)
    assert auc(np.exp(values), reference * 255) == pytest.approx(expected)
    assert auc(-values, reference) == pytest.approx(1 - expected)


def test_auc_of_one_sided_references_and_refusals() -> None:
    assert math.isnan(auc(np.ones((2, 3)), np.zeros((2, 3))))
    assert math.isnan(auc(np.ones((2, 3)), np.ones((2, 3))))
    assert auc(np.ones((2, 3)), np.eye(2, 3)) == 0.5
    with pytest.raises(Refused) as caught:
        auc(np.ones((2, 3)), np.ones((3, 2)))
    assert caught.value.reason == "shape-mismatch"
    with pytest.raises(Refused) as caught:
        auc(np.array([[np.nan, 1.0]]), np.array([[0, 1]]))
    assert caught.value.reason == "non-finite"

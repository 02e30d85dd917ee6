"""Metrics of instance maps against plain loops over pixels, pairs of pixels and pairs of objects.

All of them on the same maps: random ones, and those on which formulas go wrong.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from skimage import metrics as skimage_metrics
from skimage.segmentation import relabel_sequential

from medseg import Refused
from medseg.metrics import (
    METRICS,
    Contingency,
    adapted_rand,
    ap,
    contingency,
    count_error,
    match,
    pq,
    rand,
    score_arrays,
    seg,
    v_rand,
    vi,
    warping_error,
)

Pair = tuple[np.ndarray, np.ndarray]


def squares() -> np.ndarray:
    """Four objects that touch, in a frame of background; rows != columns."""
    instances = np.zeros((6, 9), np.int64)
    instances[1:5, 1:8] = np.array([[1, 2], [3, 4]]).repeat(2, axis=0).repeat([4, 3], axis=1)
    return instances


def adversarial() -> dict[str, Pair]:
    four = squares()
    empty, all_one = np.zeros_like(four), np.ones_like(four)
    alone = np.zeros((4, 7), int)
    alone[::2, ::2] = np.arange(1, 9).reshape(2, 4)
    halves = np.repeat([[1, 2]], 3, axis=0).repeat(2, axis=1)
    volume = np.zeros((3, 4, 6), int)
    volume[:, 1:, :3], volume[1, :2, 3:], volume[0, 0, 0] = 1, 2, 3
    shuffled = np.array([0, 7, 2**40, 5, 2**33])[four]
    return {
        "equal": (four, four),
        "empty prediction": (empty, four),
        "empty reference": (four, empty),
        "both empty": (empty, empty),
        "one object over all": (all_one, four),
        "one object over all as reference": (four, all_one),
        "one object over all in both": (all_one, 5 * all_one),
        "merged": ((four > 0).astype(int), four),
        "split": (four, (four > 0).astype(int)),
        "moved by one": (np.roll(four, 1, axis=1), four),
        "ids not contiguous": (shuffled, four),
        "ids beyond 2^53": (
            np.array([0, 2**53, 2**53 + 1, 2**63 - 1, 2**62])[four],
            np.roll(four, 1, axis=0),
        ),
        "unsigned ids beyond int64": (
            np.array([0, 2**64 - 1, 2**64 - 2, 2**63, 1], np.uint64)[four],
            np.roll(four, 1, axis=0),
        ),
        "halves of exactly one half": (halves, np.ones_like(halves)),
        "one of each pixel": (
            np.arange(1, 25).reshape(4, 6),
            halves.repeat(4, axis=0)[:4].repeat(2, axis=1)[:, :6],
        ),
        "single pixels": (alone, alone),
        "single pixels against nothing": (np.zeros_like(alone), alone),
        "single pixels, some moved": (np.where(alone > 4, np.roll(alone, 1, axis=1), alone), alone),
        "an object in two parts": (np.where(alone > 0, 1, 0), alone),
        "one pixel": (np.array([[3]]), np.array([[5]])),
        "one pixel missed": (np.array([[0]]), np.array([[5]])),
        "one row": (np.array([[0, 1, 1, 2, 2, 0, 0]]), np.array([[1, 1, 1, 2, 0, 0, 3]])),
        "volume": (np.roll(volume, 1, axis=2), volume),
        "volume, merged": ((volume > 0).astype(int), volume),
        "no pixel": (np.zeros((0, 4), int), np.zeros((0, 4), int)),
    }


def random_pairs(n: int = 40) -> Iterator[Pair]:
    shapes = [(5, 8), (7, 4), (1, 13), (2, 3, 5), (4, 1, 6)]
    for seed in range(n):
        rng = np.random.default_rng(seed)
        shape = shapes[seed % len(shapes)]
        reference = rng.integers(0, rng.integers(1, 6) + 1, shape)
        reference = np.sort(reference, axis=-1) if seed % 3 else reference  # runs, or noise
        prediction = rng.integers(0, rng.integers(1, 6) + 1, shape)
        prediction = np.where(rng.random(shape) < rng.choice([0, 0.5, 0.9, 0.98]), reference, prediction)
        yield prediction, reference


CASES = {**adversarial(), **{f"random {i}": pair for i, pair in enumerate(random_pairs())}}
cases = pytest.mark.parametrize(("prediction", "reference"), CASES.values(), ids=CASES.keys())


def listed(prediction: np.ndarray, reference: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(prediction.ravel().tolist(), reference.ravel().tolist()))


def fraction(part: int, whole: int) -> float:
    return float(Fraction(part, whole)) if whole else math.nan


@cases
def test_rand_is_the_loop_over_all_pairs_of_pixels(prediction: np.ndarray, reference: np.ndarray) -> None:
    pairs = list(itertools.combinations(listed(prediction, reference), 2))
    differing = sum((a[0] == b[0]) != (a[1] == b[1]) for a, b in pairs)
    assert rand(prediction, reference) == pytest.approx(fraction(differing, len(pairs)), abs=0, nan_ok=True)
    assert rand(reference, prediction) == pytest.approx(rand(prediction, reference), abs=0, nan_ok=True)


@cases
def test_adapted_rand_is_the_loop_over_pairs_in_objects(
    prediction: np.ndarray, reference: np.ndarray
) -> None:
    objects = [pair for pair in listed(prediction, reference) if pair[1]]
    true = found = both = 0
    for (p, r), (q, s) in itertools.combinations(objects, 2):
        in_one_found = p == q and p != 0
        true, found, both = true + (r == s), found + in_one_found, both + (in_one_found and r == s)
    if true + found == 0:
        expected = math.nan
    elif both == 0:
        expected = 1.0
    else:
        precision, recall = Fraction(both, found), Fraction(both, true)
        expected = float(1 - 2 * precision * recall / (precision + recall))
    assert adapted_rand(prediction, reference) == pytest.approx(expected, abs=0, nan_ok=True)


@cases
def test_v_rand_is_the_loop_over_pairs_with_itself(prediction: np.ndarray, reference: np.ndarray) -> None:
    objects = [pair for pair in listed(prediction, reference) if pair[1]]
    objects = [(p or -k, r) for k, (p, r) in enumerate(objects, start=1)]  # each 0 is an object of its own
    n = len(objects)
    pairs = list(itertools.product(objects, repeat=2))
    both = sum(a == b for a, b in pairs)
    found, true = sum(a[0] == b[0] for a, b in pairs), sum(a[1] == b[1] for a, b in pairs)
    got = v_rand(prediction, reference)
    assert got["split"] == pytest.approx(fraction(both, true), abs=0, nan_ok=True)
    assert got["merge"] == pytest.approx(fraction(both, found), abs=0, nan_ok=True)
    # the paper's formula, with probabilities
    score = both / n**2 / (0.5 * found / n**2 + 0.5 * true / n**2) if n else math.nan
    assert got["v_rand"] == pytest.approx(score, nan_ok=True)


def entropy(values: list[object]) -> float:
    n = len(values)
    return -sum(c / n * math.log2(c / n) for c in Counter(values).values())


@cases
def test_vi_is_the_difference_of_entropies(prediction: np.ndarray, reference: np.ndarray) -> None:
    pixels = listed(prediction, reference)
    got = vi(prediction, reference)
    if not pixels:
        assert all(map(math.isnan, got.values()))
        return
    of_both = entropy(pixels)  # type: ignore[arg-type]
    split, merge = of_both - entropy([r for _, r in pixels]), of_both - entropy([p for p, _ in pixels])
    assert got == pytest.approx({"vi": split + merge, "split": split, "merge": merge}, abs=1e-12)
    assert min(got.values()) >= 0
    assert got["vi"] <= math.log2(len(pixels)) + 1e-12
    other = vi(reference, prediction)
    assert (other["split"], other["merge"]) == pytest.approx((got["merge"], got["split"]), abs=1e-12)


@cases
def test_scikit_image_agrees_where_its_conventions_do(prediction: np.ndarray, reference: np.ndarray) -> None:
    if not prediction.size:
        return
    p, r = (np.unique(m, return_inverse=True)[1].reshape(m.shape) for m in (prediction, reference))
    expected = skimage_metrics.variation_of_information(r, p)
    got = vi(prediction, reference)
    assert (got["split"], got["merge"]) == pytest.approx(tuple(expected), abs=1e-12)
    # there a 0 of the prediction is one object: numbers of their own make them ours
    ours = relabel_sequential(np.where(prediction == 0, 0, p + 1))[0]
    ours[prediction == 0] = ours.max() + 1 + np.arange(np.count_nonzero(prediction == 0))
    truth = np.where(reference == 0, 0, r + 1)
    if not math.isnan(adapted_rand(prediction, reference)):
        with np.errstate(invalid="ignore", divide="ignore"):
            error = skimage_metrics.adapted_rand_error(truth, ours)[0]
        assert adapted_rand(prediction, reference) == pytest.approx(error)


def overlaps(prediction: np.ndarray, reference: np.ndarray) -> dict[tuple[int, int], Fraction]:
    """IoU of every pair of objects that overlaps, exact, from sets of pixels."""
    found, true = ({}, {})  # type: ignore[var-annotated]
    for k, (p, r) in enumerate(listed(prediction, reference)):
        found.setdefault(p, set()).add(k)
        true.setdefault(r, set()).add(k)
    return {
        (p, r): Fraction(len(a & b), len(a | b))
        for (p, a), (r, b) in itertools.product(found.items(), true.items())
        if p and r and a & b
    }


def n_objects(instances: np.ndarray) -> int:
    return len(set(instances.ravel().tolist()) - {0})


@cases
def test_pq_is_the_greedy_matching(prediction: np.ndarray, reference: np.ndarray) -> None:
    ious = overlaps(prediction, reference)
    taken: set[tuple[str, int]] = set()
    matched = []
    for (p, r), iou in sorted(ious.items(), key=lambda item: -item[1]):
        if iou > Fraction(1, 2) and not {("p", p), ("r", r)} & taken:
            taken |= {("p", p), ("r", r)}
            matched.append(iou)
    tp = len(matched)
    fp, fn = n_objects(prediction) - tp, n_objects(reference) - tp
    got = pq(prediction, reference)
    if tp + fp + fn == 0:
        assert all(map(math.isnan, got.values()))
        return
    assert got["pq"] == pytest.approx(float(sum(matched) / (tp + Fraction(fp + fn, 2))))
    assert got["rq"] == pytest.approx(tp / (tp + fp / 2 + fn / 2))
    if not tp:
        assert math.isnan(got["sq"])
        return
    assert got["sq"] == pytest.approx(float(sum(matched) / tp))
    assert got["pq"] == pytest.approx(got["sq"] * got["rq"])


def best_matching(ious: dict[tuple[int, int], Fraction], threshold: Fraction) -> tuple[int, Fraction]:
    """Most pairs, then the largest sum of IoU, of all matchings there are."""
    edges = [(p, r, iou) for (p, r), iou in ious.items() if iou >= threshold]

    def of(rest: list[tuple[int, int, Fraction]]) -> tuple[int, Fraction]:
        if not rest:
            return 0, Fraction(0)
        (p, r, iou), others = rest[0], rest[1:]
        n, total = of([e for e in others if e[0] != p and e[1] != r])
        if all(e[0] != p and e[1] != r for e in others):
            return n + 1, total + iou  # it is in no one's way
        return max((n + 1, total + iou), of(others))

    return of(edges)


@pytest.mark.parametrize("threshold", [0.125, 0.25, 0.5, 0.75, 1.0])
@cases
def test_ap_is_the_best_of_all_matchings(
    prediction: np.ndarray, reference: np.ndarray, threshold: float
) -> None:
    tp, total = best_matching(overlaps(prediction, reference), Fraction(threshold))
    all_objects = n_objects(prediction) + n_objects(reference)
    expected = tp / (all_objects - tp) if all_objects else 1.0
    assert ap(prediction, reference, thresholds=[threshold]) == {threshold: expected}
    found = match(prediction, reference, threshold=threshold)
    assert (len(found), sum(pair.iou for pair in found)) == (tp, pytest.approx(float(total)))


@cases
def test_seg_and_count_are_the_loops(prediction: np.ndarray, reference: np.ndarray) -> None:
    pixels = listed(prediction, reference)
    values = []
    for r in sorted({r for _, r in pixels} - {0}):
        inside = Counter(p for p, s in pixels if s == r)
        covering = [p for p, n in inside.items() if p and 2 * n > sum(inside.values())]
        values.append(overlaps(prediction, reference)[covering[0], r] if covering else Fraction(0))
    expected = float(sum(values) / len(values)) if values else math.nan
    assert seg(prediction, reference) == pytest.approx(expected, nan_ok=True)
    assert count_error(prediction, reference) == n_objects(prediction) - n_objects(reference)


def flattened(name: str, prediction: np.ndarray, reference: np.ndarray) -> dict[object, float]:
    value = METRICS[name].function(prediction, reference)
    return dict(value) if isinstance(value, dict) else {name: float(value)}  # type: ignore[arg-type]


OBJECT_METRICS = [name for name, metric in METRICS.items() if metric.kind == "instances"]


@pytest.mark.parametrize("name", OBJECT_METRICS)
@cases
def test_other_numbers_change_nothing(name: str, prediction: np.ndarray, reference: np.ndarray) -> None:
    expected = flattened(name, prediction, reference)
    rng = np.random.default_rng(0)

    def renumbered(instances: np.ndarray, top: int, dtype: type) -> np.ndarray:
        ids, places = np.unique(instances, return_inverse=True)
        step = top // (len(ids) + 1)
        new = np.array([k * step + 1 for k in rng.permutation(len(ids)).tolist()], dtype)
        return np.where(ids == 0, np.zeros(1, dtype), new)[places].reshape(instances.shape)

    for top, dtype in ((200, np.uint8), (2**60, np.int64), (2**64 - 1, np.uint64)):
        got = flattened(name, renumbered(prediction, top, dtype), renumbered(reference, top, np.uint64))
        assert got == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("name", OBJECT_METRICS)
@cases
def test_a_table_that_is_known_gives_the_same(
    name: str, prediction: np.ndarray, reference: np.ndarray
) -> None:
    if "table" not in METRICS[name].needs:
        return
    function = METRICS[name].function
    value = function(np.zeros((1, 1), int), np.zeros((1, 1), int), table=contingency(prediction, reference))
    expected = flattened(name, prediction, reference)
    got = dict(value) if isinstance(value, dict) else {name: value}
    assert got == pytest.approx(expected, nan_ok=True, abs=0)


@pytest.mark.parametrize("name", OBJECT_METRICS)
def test_a_perfect_result_has_the_best_value(name: str) -> None:
    reference = np.pad(squares(), 3).repeat(3, axis=0).repeat(2, axis=1)
    scores = score_arrays(reference.astype(np.uint16) * 3, reference, metrics=[name])
    assert scores.mean(name) == (1 if METRICS[name].higher_is_better else 0)
    worse = score_arrays((reference > 1).astype(int), reference, metrics=[name])
    assert abs(worse.mean(name) - scores.mean(name)) > 0


@cases
def test_the_table_with_the_background_counts_every_pixel(
    prediction: np.ndarray, reference: np.ndarray
) -> None:
    table = contingency(prediction, reference).including_background
    ids = zip(table.prediction_ids[table.rows].tolist(), table.reference_ids[table.columns].tolist())
    assert dict(zip(ids, table.intersections.tolist())) == Counter(listed(prediction, reference))
    for ids_of, sizes, instances in (
        (table.prediction_ids, table.prediction_sizes, prediction),
        (table.reference_ids, table.reference_sizes, reference),
    ):
        assert dict(zip(ids_of.tolist(), sizes.tolist())) == Counter(instances.ravel().tolist())
    assert table.n_common_background == 0


def test_counts_of_pairs_beyond_64_bits_are_exact() -> None:
    # 10^10 pixels: a split into halves of an object that is everything but a background of one pixel
    half = 5 * 10**9
    table = Contingency(
        prediction_ids=np.array([1, 2]),
        reference_ids=np.array([1]),
        prediction_sizes=np.array([half, half - 1]),
        reference_sizes=np.array([2 * half - 1]),
        rows=np.array([0, 1]),
        columns=np.array([0, 0]),
        intersections=np.array([half, half - 1]),
        n_pixels=2 * half,
    )
    none = np.zeros((1, 1), int)
    n, parts = 2 * half, (half, half - 1)
    wrong = 2 * parts[0] * parts[1]  # ordered pairs across the cut
    assert n * n > 2**63
    assert rand(none, none, table=table) == wrong / (n * (n - 1))
    both, true = sum(k * (k - 1) for k in parts), (n - 1) * (n - 2)
    assert adapted_rand(none, none, table=table) == float(1 - Fraction(2 * both, both + true))
    squared = sum(k * k for k in parts)
    assert v_rand(none, none, table=table)["split"] == squared / (n - 1) ** 2
    assert v_rand(none, none, table=table)["merge"] == 1.0
    assert vi(none, none, table=table)["split"] == pytest.approx(1.0, abs=1e-9)
    assert vi(none, none, table=table)["merge"] == 0.0


def test_numbers_worked_out_by_hand() -> None:
    reference = np.array([[1, 1, 1, 1, 0, 0, 2, 2]])
    prediction = np.array([[3, 3, 3, 0, 0, 9, 9, 9]])
    # IoU: (3, 1) 3/4, (9, 2) 2/3
    assert pq(prediction, reference) == pytest.approx({"pq": 17 / 24, "sq": 17 / 24, "rq": 1.0})
    # of the 7 pairs in reference objects, 6 + 1, prediction has 3 + 1, all of them right
    assert adapted_rand(prediction, reference) == pytest.approx(1 - 8 / 11)
    # 16 + 4 of the reference; 9 + 1 + 4 of the prediction and of both
    assert v_rand(prediction, reference) == pytest.approx({"v_rand": 28 / 34, "split": 14 / 20, "merge": 1})
    # 28 pairs; apart: 3 with the fourth pixel, and 9 with the other background; joined: that fourth and fifth
    assert rand(prediction, reference) == pytest.approx((3 + 1 + 1 + 2) / 28)
    # a bit for each of two halves, half of the pixels
    assert vi(np.array([[1, 2, 3, 3]]), np.array([[1, 1, 3, 3]])) == {"vi": 0.5, "split": 0.5, "merge": 0.0}
    assert vi(np.array([[1, 1, 3, 3]]), np.array([[1, 2, 3, 3]])) == {"vi": 0.5, "split": 0.0, "merge": 0.5}


def test_the_value_of_a_metric_with_parts_is_its_own() -> None:
    prediction, reference = np.roll(squares(), 1, axis=1), squares()
    scores = score_arrays(prediction, reference, metrics=["vi", "pq", "v_rand", "seg"], case="a")
    assert scores.labels("vi") == ("objects", "split", "merge")
    assert scores.labels("pq") == ("objects", "sq", "rq")
    assert scores.labels("v_rand") == ("objects", "split", "merge")
    for name, function in (("vi", vi), ("pq", pq), ("v_rand", v_rand)):
        values = function(prediction, reference)
        assert (
            scores.value("a", name) == scores.mean(name) == scores.value("a", name, "objects") == values[name]
        )
        for part in set(values) - {name}:
            assert scores.value("a", name, part) == values[part]
    assert {row.unit for row in scores if row.metric == "vi"} == {"bits"}


@pytest.mark.parametrize("name", [n for n in OBJECT_METRICS if n != "warping_error"])
def test_masks_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="to_instances"):
        METRICS[name].function(np.ones((2, 3), bool), np.ones((2, 3), int))


def test_the_warping_error_takes_masks() -> None:
    mask = squares() > 0
    assert warping_error(mask, mask) == 0.0
    assert warping_error(mask, squares()) > 0  # the four are apart

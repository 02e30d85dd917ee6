"""Scores: statistics against NumPy, files that read back exactly, dispatch by metric name."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from medseg import Refused
from medseg.metrics import (
    METRICS,
    Metric,
    Score,
    Scores,
    ap,
    count_error,
    counted,
    dice,
    iou,
    score_arrays,
    score_tables,
    seg,
)

NAN = math.nan


def example() -> Scores:
    return Scores(
        [
            Score("a", "dice", "liver", 0.9),
            Score("a", "dice", "spleen", NAN),
            Score("a", "dice", "mean", 0.9),
            Score("b", "dice", "liver", 0.1 + 0.2),
            Score("b", "dice", "spleen", 0.6),
            Score("b", "dice", "mean", 0.45),
            Score('ç, "quoted"\nline', "dice", "liver", NAN),
            Score('ç, "quoted"\nline', "dice", "spleen", NAN),
            Score('ç, "quoted"\nline', "dice", "mean", NAN),
            Score("a", "count_error", "objects", 2, "objects"),
            Score("b", "count_error", "objects", -5, "objects"),
        ]
    )


def test_means_leave_out_nan() -> None:
    scores = example()
    assert scores.mean("dice") == pytest.approx((0.9 + 0.45) / 2)
    assert scores.mean("dice", "liver") == pytest.approx((0.9 + 0.3) / 2)
    assert scores.mean("dice", "spleen") == 0.6
    assert scores.mean("count_error") == -1.5
    assert math.isnan(Scores([Score("a", "dice", "1", NAN)]).mean("dice"))
    # without rows called mean, each case's labels are averaged first, so that cases weigh the same
    rows = [Score("a", "dice", "1", 0.2), Score("a", "dice", "2", 0.4), Score("b", "dice", "1", 0.9)]
    assert Scores(rows).mean("dice") == pytest.approx((0.3 + 0.9) / 2)


def test_summary_is_numpys() -> None:
    rows = {(row.metric, row.label): row for row in example().summary()}
    liver = np.array([0.9, 0.1 + 0.2])
    assert rows["dice", "liver"][2:9] == pytest.approx(
        (liver.mean(), liver.std(ddof=1), np.median(liver), liver.min(), liver.max(), 2, 1)
    )
    assert rows["dice", "liver"].unit == ""
    assert rows["count_error", "objects"].unit == "objects"
    assert rows["dice", "spleen"].n == 1
    assert math.isnan(rows["dice", "spleen"].std)
    assert list(rows) == [
        ("dice", "liver"),
        ("dice", "spleen"),
        ("dice", "mean"),
        ("count_error", "objects"),
    ]


def test_worst_first_and_nan_last() -> None:
    scores = example()
    assert scores.worst("dice") == ["b", "a", 'ç, "quoted"\nline']
    assert scores.worst("dice", "spleen")[0] == "b"
    assert scores.worst("count_error") == ["b", "a"]  # five missing are worse than two too many
    errors = Scores([Score("x", "pixel_error", "all", 0.1), Score("y", "pixel_error", "all", 0.3)])
    assert errors.worst("pixel_error") == ["y", "x"]


def test_values_cases_and_metrics() -> None:
    scores = example()
    assert scores.cases == ("a", "b", 'ç, "quoted"\nline')
    assert scores.metrics == ("dice", "count_error")
    assert scores.labels("dice") == ("liver", "spleen", "mean")
    assert scores.value("b", "dice", "spleen") == 0.6
    assert scores.value("b", "dice") == 0.45
    assert scores.value("a", "count_error") == 2.0
    assert len(scores) == 11
    assert next(iter(scores)) == Score("a", "dice", "liver", 0.9)


@pytest.mark.parametrize("suffix", [".json", ".csv", ".CSV"])
def test_files_read_back_exactly(tmp_path: Path, suffix: str, rng: np.random.Generator) -> None:
    values = [*rng.random(50), *rng.normal(size=20) * 1e-300, 1 / 3, 5e-324, -0.0, 1e300, NAN]
    many = Scores(Score(str(i), "dice", "001", v) for i, v in enumerate(values))
    for scores in (example(), many, Scores()):
        path = scores.save(tmp_path / f"scores{suffix}")
        assert path == tmp_path / f"scores{suffix}"
        read = Scores.load(path)
        assert read == scores
        assert [repr(row.value) for row in read] == [repr(row.value) for row in scores]
        assert os.listdir(tmp_path) == [path.name]


def test_json_is_strict_and_csv_is_plain(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(example().save(tmp_path / "s.json").read_text("utf-8"), parse_constant=refuse)
    assert content["scores"][1] == {
        "case": "a",
        "metric": "dice",
        "label": "spleen",
        "value": None,
        "unit": "",
    }
    with open(example().save(tmp_path / "s.csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["case", "metric", "label", "value", "unit"]
    assert rows[2] == ["a", "dice", "spleen", "", ""]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = example().save(tmp_path / "s.json")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Refused, match="disk full"):
        Scores().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.json"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.json", "{"),
        ("s.json", "[1, 2]"),
        ("s.json", '{"format": "other", "scores": []}'),
        ("s.json", '{"format": "medseg-scores-1", "scores": [{"case": "a"}]}'),
        ("s.csv", "case,metric\na,b\n"),
        ("s.csv", "case,metric,label,value,unit\na,dice,1,high,\n"),
        ("s.csv", "case,metric,label,value,unit\na,dice,1\n"),
        ("s.csv", "case,metric,label,value,unit\na,dice,1,0.5,,more\n"),
        ("s.csv", ""),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused) as refusal:
        Scores.load(tmp_path / name)
    assert refusal.value.reason == "not-scores"


def test_refusals(tmp_path: Path) -> None:
    scores = example()
    (tmp_path / "file").touch()
    for call, reason in [
        (lambda: scores.mean("dise"), "unknown-metric"),
        (lambda: scores.mean("dice", "livr"), "unknown-label"),
        (lambda: scores.value("c", "dice"), "unknown-case"),
        (lambda: scores.value('ç, "quoted"\nline', "count_error"), "no-score"),
        (lambda: scores.save(tmp_path / "s.xlsx"), "unknown-suffix"),
        (lambda: scores.save(tmp_path / "file" / "s.json"), "unwritable"),
        (lambda: Scores.load(tmp_path / "no.json"), "not-found"),
        (lambda: Scores.join([scores, scores]), "duplicate-score"),
        (lambda: Scores([Score("a", "d", "1", 1, "mm"), Score("b", "d", "1", 1, "px")]), "mixed-units"),
        (lambda: Score("a", "dice", "1", math.inf), "infinite-score"),
        (lambda: Scores([Score("a", "other", "1", 1)]).worst("other"), "unknown-metric"),
    ]:
        with pytest.raises(Refused) as refusal:
            call()
        assert refusal.value.reason == reason


def test_join_and_equality() -> None:
    scores = example()
    parts = [Scores(row for row in scores if row.case == case) for case in scores.cases]
    joined = Scores.join(parts)
    assert set(joined) == set(scores)
    assert joined.summary()[0][2:] == scores.summary()[0][2:]
    assert Scores.join([]) == Scores()
    assert Score("a", "dice", "1", NAN) == Score("a", "dice", "1", float("nan"))
    assert Score("a", "dice", "1", NAN) != Score("a", "dice", "1", 0)
    assert pickle.loads(pickle.dumps(scores)) == scores


def test_text_is_an_aligned_table() -> None:
    lines = str(example()).splitlines()
    assert lines[0].split() == [
        "metric",
        "label",
        "mean",
        "std",
        "median",
        "min",
        "max",
        "n",
        "absent",
        "unit",
    ]
    assert lines[1].split() == ["dice", "liver", "0.6000", "0.4243", "0.6000", "0.3000", "0.9000", "2", "1"]
    assert lines[2].split() == ["dice", "spleen", "0.6000", "-", "0.6000", "0.6000", "0.6000", "1", "2"]
    assert {line.index("0.") for line in lines[1:4]} == {lines[1].index("0.6000")}


LABELS = np.array([[0, 1, 1, 2, 2, 2, 0], [0, 1, 1, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0]], np.uint8)
TRUTH = np.array([[0, 1, 1, 1, 2, 2, 0], [0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0]], np.uint8)


def test_scores_of_label_maps_are_those_of_the_functions() -> None:
    classes = {"background": 0, "liver": 1, "spleen": 2, "lung": 3}
    scores = score_arrays(LABELS, TRUTH, case="x", metrics=["dice", "iou", "pixel_error"], classes=classes)
    assert scores.cases == ("x",)
    assert scores.labels("dice") == ("liver", "spleen", "lung", "mean")
    for name, function in (("dice", dice), ("iou", iou)):
        values = function(LABELS, TRUTH)
        assert scores.value("x", name, "liver") == values[1]
        assert scores.value("x", name, "spleen") == values[2]
        assert math.isnan(scores.value("x", name, "lung"))
        assert scores.value("x", name, "mean") == pytest.approx((values[1] + values[2]) / 2)
    assert scores.value("x", "pixel_error", "all") == (LABELS != TRUTH).mean()
    assert score_arrays(LABELS, TRUTH).labels("iou") == ("1", "2", "mean")
    assert score_arrays(LABELS > 0, TRUTH > 0, classes={"organ": 1}).labels("dice") == ("organ", "mean")
    assert math.isnan(score_arrays(LABELS * 0, TRUTH * 0).mean("dice"))


def test_scores_of_instance_maps_are_those_of_the_functions() -> None:
    scores = score_arrays(LABELS, TRUTH, metrics=["ap", "seg", "count_error"])
    values = ap(LABELS, TRUTH)
    assert scores.labels("ap") == ("0.50", "0.60", "0.70", "0.80", "0.90", "mean")
    assert [scores.value("", "ap", f"{t:.2f}") for t in values] == list(values.values())
    assert (
        scores.value("", "ap", "mean") == scores.mean("ap") == pytest.approx(np.mean(list(values.values())))
    )
    assert scores.value("", "seg", "objects") == seg(LABELS, TRUTH)
    assert scores.value("", "count_error", "objects") == count_error(LABELS, TRUTH)
    assert {row.unit for row in scores if row.metric == "count_error"} == {"objects"}


def test_pixels_of_all_images_together_are_those_of_one_large_image(rng: np.random.Generator) -> None:
    pairs = []
    for shape in ((4, 9), (7, 5), (2, 3, 6)):
        reference = rng.integers(0, 5, shape)
        prediction = np.where(rng.random(shape) < 0.5, reference, rng.integers(0, 4, shape))
        reference[rng.random(shape) < 0.2] = 255
        pairs.append((prediction, reference))
    classes = {"car": 1, "sky": 2, "road": 3, "boat": 4, "train": 9}
    names = ("pixel_accuracy", "iou", "dice", "sensitivity", "specificity", "pixel_error")
    tables = [counted(p, r, ignore=[255]) for p, r in pairs]
    together = score_tables(tables, metrics=names, classes=classes)
    assert together.cases == ("together",)
    p = np.concatenate([a[b != 255] for a, b in pairs])
    r = np.concatenate([b[b != 255] for a, b in pairs])
    iou = [np.sum((p == c) & (r == c)) / np.sum((p == c) | (r == c)) for c in range(5)]
    for name, value in classes.items():
        expected = iou[value] if value < 5 else np.nan
        assert together.value("together", "iou", name) == pytest.approx(expected, nan_ok=True)
    assert together.value("together", "iou", "mean") == pytest.approx(np.mean(iou[1:]))
    assert together.value("together", "pixel_accuracy", "mean_iou") == pytest.approx(np.mean(iou))
    assert together.value("together", "pixel_accuracy", "all") == pytest.approx(np.mean(p == r))
    large = score_arrays(p[None], r[None], metrics=names, classes=classes, case="together")
    assert str(together) == str(large)
    # the mean over images is another number
    apart = [score_arrays(*pair, metrics=["iou"], ignore=[255]).mean("iou") for pair in pairs]
    assert np.mean(apart) != pytest.approx(np.mean(iou[1:]), abs=1e-4)


def test_nothing_together_and_what_cannot_be(rng: np.random.Generator) -> None:
    assert np.isnan(score_tables([]).value("together", "pixel_accuracy", "all"))
    void = counted(np.ones((3, 4), int), np.full((3, 4), 255), ignore=[255])
    assert np.isnan(score_tables([void], classes={"car": 1}).value("together", "iou", "car"))
    for name in ("hd95_mm", "volume_ml", "ap"):
        with pytest.raises(Refused, match="of one image") as refusal:
            score_tables([void], metrics=[name])
        assert refusal.value.reason == "mixed-kinds"
    with pytest.raises(Refused, match="no class"):
        score_tables([counted(np.full((1, 2), 7), np.zeros((1, 2), int))], classes={"car": 1})


def test_a_metric_of_ones_own_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def volume_error(prediction: np.ndarray, reference: np.ndarray, *, spacing: tuple[float, ...]) -> float:
        return (int((prediction > 0).sum()) - int((reference > 0).sum())) * math.prod(spacing)

    metric = Metric(volume_error, "classes", False, "mm2", "difference of areas", needs=("spacing",))
    monkeypatch.setitem(METRICS, "area_error", metric)
    scores = score_arrays(LABELS, TRUTH, metrics=["area_error", "iou"], spacing=(2, 0.25))
    assert scores.value("", "area_error", "all") == -0.5
    assert scores.rows[0].unit == "mm2"


@pytest.mark.parametrize(
    ("options", "reason", "words"),
    [
        ({"metrics": ["dise"]}, "unknown-metric", "did you mean 'dice'"),
        ({"metrics": ["dice", "ap"]}, "mixed-kinds", "Scores.join"),
        ({"classes": {"liver": 1}}, "unknown-class", "got 2"),
        ({"classes": {"liver": 1, "spleen": 1}}, "duplicate-class", "same value"),
        ({"classes": {"mean": 1, "spleen": 2}}, "reserved-name", "mean"),
        ({"spacing": (1.0,)}, "bad-spacing", "2 numbers"),
        ({"spacing": (1.0, -1.0)}, "bad-spacing", "above 0"),
    ],
)
def test_score_arrays_refuses(options: dict[str, object], reason: str, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        score_arrays(LABELS, TRUTH, **options)  # type: ignore[arg-type]
    assert refusal.value.reason == reason
    assert words.lower() in str(refusal.value).lower()


def test_score_arrays_refuses_masks_for_objects() -> None:
    with pytest.raises(Refused, match="to_instances"):
        score_arrays(LABELS > 0, TRUTH, metrics=["seg"])

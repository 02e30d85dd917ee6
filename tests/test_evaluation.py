"""Scores of results wherever they lie, and the refusals of what cannot be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medseg
from medseg import Plan, Prediction, Refused, evaluate
from medseg.evaluation import DEFAULT_METRICS
from medseg.io import raster_affine
from medseg.metrics import METRICS

SPACING = (0.5, 0.25)


@pytest.fixture
def reference() -> np.ndarray:
    label = np.zeros((20, 33), np.uint8)
    label[2:8, 2:8] = 1  # 36 pixels
    label[10:18, 10:20] = 2  # 80
    label[2:8, 20:28] = 3  # 48
    return label


@pytest.fixture
def found(reference: np.ndarray) -> np.ndarray:
    label = reference.copy()
    label[2:8, 2:5] = 0  # half of the first is missed
    label[reference == 3] = 0  # and the third wholly
    return label


def placed(label: np.ndarray, spacing: Any = SPACING, origin: Any = (0, 0)) -> MetaTensor:
    affine = raster_affine(spacing)
    affine[:2, 3] = origin
    return MetaTensor(torch.from_numpy(label[None]), affine=affine, meta={"spacing_unit": "um"})


# by hand: 18 of 36, all of 80, none of 48
DICE = {"1": 2 * 18 / (18 + 36), "2": 1.0, "3": 0.0}
IOU = {"1": 0.5, "2": 1.0, "3": 0.0}
MASK_IOU = 98 / 164


def test_every_kind_of_source_gives_the_same(
    tmp_path: Path, reference: np.ndarray, found: np.ndarray
) -> None:
    png = [medseg.write(a, tmp_path / f"{n}.png") for n, a in (("found", found), ("reference", reference))]
    tif = [medseg.write(placed(a), tmp_path / f"{n}.tif") for n, a in (("f", found), ("r", reference))]
    plan = Plan().with_values({"target.classes": ("0", "1", "2", "3"), "target.values": (0, 1, 2, 3)})
    prediction = Prediction(found, None, np.asarray(placed(found).affine), "um", plan)
    sources: list[tuple[Any, Any]] = [
        (found, reference),
        (found.tolist(), reference.astype(np.int64)),
        (torch.from_numpy(found), torch.from_numpy(reference)),
        (placed(found), placed(reference)),
        (png[0], png[1]),
        (str(tif[0]), tif[1]),
        (tif[0], reference),
        (found, tif[1]),
        (tif[0], png[1]),
        (prediction, tif[1]),
        (prediction, png[1]),
        (prediction, reference),
    ]
    for prediction_like, reference_like in sources:
        scores = evaluate(prediction_like, reference_like)
        for label in DICE:
            assert scores.value("", "dice", label) == pytest.approx(DICE[label])
            assert scores.value("", "iou", label) == pytest.approx(IOU[label])
        assert scores.mean("iou") == pytest.approx(0.5)


def test_metrics_of_classes_and_objects_together(reference: np.ndarray, found: np.ndarray) -> None:
    scores = evaluate(found, reference, metrics=("ap", "dice", "seg", "iou", "count_error"), case="a")
    assert scores.cases == ("a",)
    # one object of three at every threshold, and at 0.5 an overlap of just one half
    assert scores.mean("ap", "0.90") == pytest.approx(1 / 4)
    assert scores.mean("count_error") == -1
    assert scores.mean("iou", "foreground") == pytest.approx(MASK_IOU)
    assert scores.mean("dice", "foreground") == pytest.approx(2 * 98 / (98 + 164))
    assert set(scores.metrics) == {"ap", "dice", "seg", "iou", "count_error"}


@pytest.mark.parametrize("kind", DEFAULT_METRICS)
def test_default_metrics_exist_and_are_one_for_equal_maps(kind: str, reference: np.ndarray) -> None:
    if kind == "volumes":
        reference = np.stack([reference] * 4)
    scores = evaluate(
        reference, reference, metrics=DEFAULT_METRICS[kind], spacing=(3, 2, 1)[-reference.ndim :]
    )
    assert scores.metrics == DEFAULT_METRICS[kind]
    for name in DEFAULT_METRICS[kind]:
        best = {True: 1, False: 0, None: (reference > 0).sum() * 6 / 1000}
        assert scores.mean(name) == best[METRICS[name].higher_is_better]


def test_a_prediction_of_objects(reference: np.ndarray, found: np.ndarray) -> None:
    plan = Plan().with_values({"target.kind": "instances", "target.name": "foreground"})
    prediction = Prediction((found > 0).astype(np.uint8), None, np.eye(4), "pixel", plan)
    # the reference holds numbers of objects, not classes
    assert evaluate(prediction, reference).mean("iou") == pytest.approx(MASK_IOU)
    both = evaluate(prediction, reference, metrics=("ap", "iou"))
    assert both.mean("iou") == pytest.approx(MASK_IOU)
    assert both.mean("ap", "0.90") == pytest.approx(1 / 4)


def test_a_prediction_brings_its_class_names(reference: np.ndarray, found: np.ndarray) -> None:
    values = {
        "target.classes": ("ground", "liver", "spleen", "tumour", "rare"),
        "target.values": (0, 1, 2, 3, 9),
    }
    prediction = Prediction(found, None, np.eye(4), "pixel", Plan().with_values(values))
    scores = evaluate(prediction, reference)
    assert scores.value("", "iou", "liver") == 0.5
    assert scores.value("", "iou", "tumour") == 0.0
    assert np.isnan(scores.value("", "iou", "rare"))  # absent in both: says nothing
    named = evaluate(prediction, reference, classes={"a": 1, "b": 2, "c": 3})
    assert set(named.labels("iou")) >= {"a", "b", "c"}


def test_one_mask_file_an_object(tmp_path: Path, reference: np.ndarray, found: np.ndarray) -> None:
    paths = [medseg.write((reference == k).astype(np.uint8) * 255, tmp_path / f"{k}.png") for k in (1, 2, 3)]
    for several in (paths, tuple(map(str, paths))):
        scores = evaluate(found, several, metrics=("ap", "iou"))
        assert scores.mean("ap", "0.90") == pytest.approx(1 / 4)
        assert scores.mean("iou") == pytest.approx(MASK_IOU)


def test_empty_maps(reference: np.ndarray) -> None:
    nothing = np.zeros_like(reference)
    assert evaluate(nothing, reference, metrics=("ap", "iou")).mean("iou") == 0
    assert evaluate(nothing, reference, metrics=("ap",)).mean("ap", "0.50") == 0
    assert len(evaluate(nothing, nothing, metrics=("ap", "dice"))) > 0
    assert evaluate(np.ones((1, 1), int), np.ones((1, 1), int)).mean("dice") == 1


@pytest.mark.parametrize(
    ("spacing", "origin"),
    [((0.5, 0.26), (0, 0)), ((0.25, 0.5), (0, 0)), ((0.5, 0.25), (0, 3)), ((0.5, 0.25), (0.5, 0))],
    ids=["spacing", "turned", "far away", "a pixel away"],
)
def test_different_grids_are_refused(reference: np.ndarray, spacing: Any, origin: Any) -> None:
    plan = Plan().with_values({"target.classes": ("0", "1", "2", "3"), "target.values": (0, 1, 2, 3)})
    grid = np.asarray(placed(reference, spacing, origin).affine)
    prediction = Prediction(reference, None, grid, "um", plan)
    other = Prediction(reference, None, np.asarray(placed(reference).affine), "um", plan)
    with pytest.raises(Refused, match="of case 7") as caught:
        evaluate(prediction, other, case="case 7")
    assert caught.value.reason == "different-grids"
    nearly = grid * (1 + 1e-7)  # files round
    assert evaluate(prediction, Prediction(reference, None, nearly, "um", plan)).mean("iou") == 1
    unknown = Prediction(reference, None, np.eye(4), "pixel", plan)
    assert evaluate(prediction, unknown).mean("iou") == 1


def test_different_grids_of_files(tmp_path: Path, reference: np.ndarray) -> None:
    one = medseg.write(placed(reference), tmp_path / "a.tif")
    other = medseg.write(placed(reference, (0.5, 0.3)), tmp_path / "b.tif")
    with pytest.raises(Refused) as caught:
        evaluate(one, other)
    assert caught.value.reason == "different-grids"


def test_refusals(tmp_path: Path, reference: np.ndarray) -> None:
    for prediction, metrics, reason in (
        (reference[:-1], ("dice",), "shape-mismatch"),
        (reference.T, ("ap",), "shape-mismatch"),
        (reference * 0.5, ("dice",), "not-integer"),
        (reference, ("dise",), "unknown-metric"),
        (tmp_path / "none.png", ("dice",), "not-found"),
        ([], ("dice",), "no-files"),
    ):
        with pytest.raises(Refused) as caught:
            evaluate(prediction, reference, metrics=metrics)
        assert caught.value.reason == reason
    with pytest.raises(Refused, match="Did you mean 'dice'"):
        evaluate(reference, reference, metrics=("dise",))

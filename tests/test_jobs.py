"""Whole jobs on files, from made data to the page, against what the files then hold."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import medseg
from medseg.batch import Failure
from medseg.bundle import Bundle, load_bundle, save_bundle
from medseg.demo import demo_plan, make_demo_data
from medseg.inference import Prediction
from medseg.jobs import evaluate_files, list_images, predict_files, report, score_unseen
from medseg.jobs.manifest import Manifest
from medseg.jobs.predicting import _suffix
from medseg.metrics import Scores
from medseg.networks import build_network
from medseg.plan import Plan
from medseg.training import Run, fit, open_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Bundle]:
    """The demo's data and plan with fewer images and few steps."""
    root = tmp_path_factory.mktemp("demo")
    data = make_demo_data(root / "data", train=4, test=2)
    plan = demo_plan(data).with_values(
        {"train.steps": 12, "train.patch": (64, 64), "network.channels": (4, 8), "train.workers": 0}
    )
    bundle = fit(plan, data, root / "run")
    return open_run(root / "run"), bundle


@pytest.fixture(scope="module")
def scored(trained: tuple[Run, Bundle]) -> tuple[Run, Scores, list[tuple[str, Failure | None]]]:
    run, bundle = trained
    calls: list[tuple[str, Failure | None]] = []
    scores = score_unseen(run, bundle, on_case=lambda name, failure: calls.append((name, failure)))
    return run, scores, calls


def make_bundle(path: Path, **values: object) -> Bundle:
    plan = Plan(name=path.name).with_values({"network.channels": (2, 4), **values})
    return load_bundle(save_bundle(path, plan, build_network(plan), card=""), device="cpu")


def make_image(path: Path, shape: tuple[int, int] = (30, 44)) -> Path:
    image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return medseg.write(image, path)


# from data to page


def test_unseen_cases_are_segmented_and_scored(
    scored: tuple[Run, Scores, list[tuple[str, Failure | None]]],
) -> None:
    run, scores, calls = scored
    assert [case.name for case in run.split.test] == ["test_0", "test_1"]
    assert calls == [("test_0", None), ("test_1", None)]
    assert scores.cases == ("test_0", "test_1")
    folder = run.path / "unseen"
    assert sorted(p.name for p in folder.iterdir()) == [
        "objects.csv",
        "predictions.json",
        "scores.json",
        "test_0.tif",
        "test_1.tif",
    ]
    assert Scores.load(folder / "scores.json").rows == scores.rows
    manifest = Manifest.load(folder)
    assert manifest.kind == "instances"
    rows = list(csv.DictReader((folder / "objects.csv").open(encoding="utf-8")))
    for case, entry in zip(run.split.test, manifest.cases):
        found = tifffile.imread(folder / entry.prediction)
        truth = tifffile.imread(case.label)  # type: ignore[arg-type]
        assert found.shape == truth.shape == (520, 696)
        # the numbers of objects in map, manifest, table and scores are one number
        n = len(np.unique(found[found > 0]))
        assert entry.objects == n
        sizes = sorted(int(row["area_px"]) for row in rows if row["case"] == case.name)
        assert sizes == sorted(np.unique(found[found > 0], return_counts=True)[1].tolist())
        error = n - len(np.unique(truth[truth > 0]))
        assert scores.value(case.name, "count_error") == error
        overlap = 2 * ((found > 0) & (truth > 0)).sum() / ((found > 0).sum() + (truth > 0).sum())
        assert scores.value(case.name, "dice") == pytest.approx(overlap)
        assert entry.reference == (str(case.label),)


def test_the_page_of_a_run(
    scored: tuple[Run, Scores, list[tuple[str, Failure | None]]], tmp_path: Path
) -> None:
    run, scores, _ = scored
    page = report(run.path, tmp_path / "page.html").read_text("utf-8")
    worst = scores.worst("ap")
    assert page.index(worst[0]) < page.index(worst[1])
    assert "2 tested" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_scores_from_files_are_those_of_the_run(
    scored: tuple[Run, Scores, list[tuple[str, Failure | None]]],
) -> None:
    run, scores, _ = scored
    for references in (Path(run.source), Path(run.source).parent / "labels"):
        again, result = evaluate_files(run.path / "unseen", references)
        assert result.exit_code == 0
        assert again.rows == scores.rows


def test_a_case_that_cannot_be_scored_is_told(trained: tuple[Run, Bundle], tmp_path: Path) -> None:
    run, bundle = trained
    broken = tmp_path / "broken.tif"
    broken.write_text("x")
    first, second = run.split.test
    split = replace(run.split, test=(replace(first, label=broken), second))
    told: list[tuple[str, str | None]] = []
    scores = score_unseen(
        replace(run, path=tmp_path, split=split),
        bundle,
        on_case=lambda name, failure: told.append((name, failure and failure.reason)),
    )
    assert told == [("test_0", None), ("test_1", None), ("test_0", "unreadable")]
    assert scores.cases == ("test_1",)


def test_nothing_that_could_be_segmented_is_refused(trained: tuple[Run, Bundle], tmp_path: Path) -> None:
    run, bundle = trained
    gone = tuple(replace(case, image=tmp_path / "gone.tif") for case in run.split.test)
    with pytest.raises(medseg.Refused, match="none of the 2 unseen cases") as error:
        score_unseen(replace(run, path=tmp_path, split=replace(run.split, test=gone)), bundle)
    assert error.value.reason == "nothing-done"
    assert not (tmp_path / "unseen").exists()


# predictions


def test_names_of_cases_may_differ_from_those_of_files(tmp_path: Path) -> None:
    """In many data sets every image has one name, and its folder is the case."""
    images = {name: make_image(tmp_path / name / "image.png") for name in ("p1", "p2")}
    result = predict_files(make_bundle(tmp_path / "model"), images, tmp_path / "out")
    assert list(result.done) == ["p1", "p2"]
    assert [c.prediction for c in Manifest.load(tmp_path / "out").cases] == ["p1.png", "p2.png"]
    assert (tmp_path / "out/p2.png").is_file()
    with pytest.raises(medseg.Refused) as error:
        list_images(list(images.values()))
    assert error.value.reason == "duplicate-case"


def test_an_image_named_twice_is_one(tmp_path: Path) -> None:
    image = make_image(tmp_path / "images/a.png")
    assert list_images([image, image.parent, image.parent / "." / "a.png"]) == {"a": image}


def test_predictions_are_added_to(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model", **{"target.kind": "instances", "target.name": "foreground"})
    out = tmp_path / "out"
    for name in ("a", "b"):
        predict_files(bundle, [make_image(tmp_path / f"{name}.png")], out)
    rows = list(csv.DictReader((out / "objects.csv").open(encoding="utf-8")))
    predict_files(bundle, [tmp_path / "a.png"], out)
    again = list(csv.DictReader((out / "objects.csv").open(encoding="utf-8")))
    assert sorted(map(str, rows)) == sorted(map(str, again))
    assert {c.case for c in Manifest.load(out).cases} == {"a", "b"}
    (out / "b.png").unlink()  # taken away by hand: it is no longer listed
    predict_files(bundle, [tmp_path / "a.png"], out)
    assert {c.case for c in Manifest.load(out).cases} == {"a"}


def test_a_stop_in_the_middle_loses_nothing_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = make_bundle(tmp_path / "model"), tmp_path / "out"
    predict_files(bundle, [make_image(tmp_path / "a.png")], out)
    before = (out / "predictions.json").read_bytes()

    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.jobs.predicting.predict", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_files(bundle, [make_image(tmp_path / "b.png")], out)
    assert (out / "predictions.json").read_bytes() == before


@pytest.mark.parametrize(
    ("image", "unit", "objects", "ndim", "expected"),
    [
        ("a.png", "pixel", 65535, 2, ".png"),
        ("a.png", "pixel", 65536, 2, ".tif"),  # PNG has 16 bits
        ("a.jpg", "pixel", 3, 2, ".png"),
        ("a.bmp", "pixel", 0, 2, ".png"),
        ("a.tif", "pixel", 3, 2, ".tif"),
        ("a.ome.tif", "um", 3, 2, ".tif"),
        ("a.png", "um", 3, 2, ".tif"),  # PNG has no pixel size
        ("a.png", "pixel", 3, 3, ".tif"),
        ("a.nii.gz", "mm", 70000, 3, ".nii.gz"),
        ("A.NRRD", "mm", 3, 3, ".nrrd"),
        ("a.mhd", "mm", 3, 3, ".mha"),
    ],
)
def test_the_format_holds_the_map(
    tmp_path: Path, image: str, unit: str, objects: int, ndim: int, expected: str
) -> None:
    result = np.zeros((2, 3, 4)[-ndim:], np.int64)
    result.flat[-1] = objects
    affine = np.diag([0.5, 0.25, 2.0, 1.0])[:, [1, 0, 2, 3]] if unit == "um" else np.eye(4)
    prediction = Prediction(result, None, affine, unit, Plan())
    suffix = _suffix(Path(image), prediction, result)
    assert suffix == expected
    path = prediction.write(result, tmp_path / f"map{suffix}")
    assert np.array_equal(medseg.io.read_label(path)[0], result)


# scores


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    """As many programs write masks; the prediction says 1 and the truth 255, or both say 255."""
    truth = np.zeros((20, 30), np.uint8)
    truth[4:10, 5:15] = 255
    found = truth.copy()
    found[4:10, 5:10] = 0
    medseg.write(truth, tmp_path / "truth/a.png")
    medseg.write(found, tmp_path / "found/a.png")
    scores, result = evaluate_files(tmp_path / "found", tmp_path / "truth")
    assert result.exit_code == 0
    assert scores.mean("dice") == pytest.approx(2 * 30 / (30 + 60))


def test_two_files_that_are_named_belong_together(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[4:10, 5:15] = 1
    found = medseg.write(mask, tmp_path / "mine.png")
    truth = medseg.write(mask, tmp_path / "theirs.tif")
    scores, _ = evaluate_files(found, truth, metrics=["dice"])
    assert scores.cases == ("mine",)
    for name, path in (("p", found), ("r", truth)):
        (tmp_path / name).mkdir()
        path.rename(tmp_path / name / path.name)
    with pytest.raises(medseg.Refused, match="equal names"):  # two folders pair by name alone
        evaluate_files(tmp_path / "p", tmp_path / "r")


def test_objects_are_told_from_classes(tmp_path: Path) -> None:
    """By what the data set says, else by the number of values in any of several maps."""
    few, many = np.zeros((20, 30), np.uint8), np.arange(600).reshape(20, 30).astype(np.uint16) // 20
    few[3:5, 3:9] = 1
    for folder in ("found", "truth"):
        medseg.write(few, tmp_path / folder / "a.png")
        medseg.write(many, tmp_path / folder / "b.png")
    scores, _ = evaluate_files(tmp_path / "found", tmp_path / "truth")
    assert "ap" in scores.metrics
    make_image(tmp_path / "set/images/a.png", (20, 30))
    medseg.write(few, tmp_path / "set/labels/a.png")
    files = '[files]\nimage = "images/{case}.png"\nlabel = "labels/{case}.png"\n'
    for kind, metric in (("instances", "ap"), ("semantic", "pixel_error")):
        (tmp_path / "set/dataset.toml").write_text(f'name = "set"\nkind = "{kind}"\n{files}')
        scores, _ = evaluate_files(tmp_path / "found/a.png", tmp_path / "set")
        assert metric in scores.metrics


# pages


def test_the_page_of_predictions_without_references(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    predict_files(bundle, [make_image(tmp_path / "a.png"), make_image(tmp_path / "b.png")], tmp_path / "out")
    page = report(tmp_path / "out", tmp_path / "page.html").read_text("utf-8")
    assert "Predictions of model" in page
    assert "a" in page
    assert page.count("data:image") >= 2


def test_the_page_takes_scores_that_lie_beside(tmp_path: Path) -> None:
    """Scores of a case that is no longer among the predictions are passed over in the pictures."""
    bundle, out = make_bundle(tmp_path / "model"), tmp_path / "out"
    predict_files(bundle, [make_image(tmp_path / "images/a.png"), make_image(tmp_path / "images/b.png")], out)
    scores, _ = evaluate_files(out, out)
    scores.save(out / "scores.json")
    (out / "b.png").unlink()
    predict_files(bundle, [tmp_path / "images/a.png"], out)
    page = report(out, tmp_path / "page.html").read_text("utf-8")
    assert "dice" in page


def test_a_volume_is_shown_by_its_telling_plane(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model", **{"input.spatial_dims": 3, "train.patch": (8, 8, 8)})
    volume = medseg.write(
        np.random.default_rng(0).integers(0, 9, (6, 20, 31), dtype=np.uint8), tmp_path / "v.tif"
    )
    predict_files(bundle, [volume], tmp_path / "out")
    assert tifffile.imread(tmp_path / "out/v.tif").shape == (6, 20, 31)
    assert "of 6" in report(tmp_path / "out", tmp_path / "page.html").read_text("utf-8")


def test_the_manifest_reads_back(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model")
    image = make_image(tmp_path / "a.png")
    predict_files(bundle, [image], tmp_path / "out", references={"a": image})
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == {"foreground": 1}
    assert manifest.cases[0].reference == (str(image),)
    assert json.loads((tmp_path / "out/predictions.json").read_text("utf-8"))["format"] == 1
    before = (tmp_path / "out/predictions.json").read_text("utf-8")
    manifest.save()
    assert (tmp_path / "out/predictions.json").read_text("utf-8") == before


# real images


def test_real_nuclei(shared_data: Path, tmp_path: Path) -> None:
    """RGBA where grey was meant: segmented at their own sizes."""
    images = sorted((shared_data / "dsb2018/images").glob("*.png"))[:3]
    bundle = make_bundle(tmp_path / "model", **{"target.kind": "instances", "target.name": "foreground"})
    result = predict_files(bundle, images, tmp_path / "out")
    for name in result.done:
        truth = medseg.io.read_label(shared_data / f"dsb2018/labels/{name}.png")
        assert medseg.io.read_label(tmp_path / f"out/{name}.png").shape == truth.shape
    assert {f.reason for f in result.failed} <= {"channel-mismatch"}
    assert result.done
    scores, scoring = evaluate_files(tmp_path / "out", shared_data / "dsb2018/labels")
    assert scoring.exit_code == 0
    assert set(scores.cases) == set(result.done)

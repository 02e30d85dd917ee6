"""Data sets whose spacing, groups and tags stand in a CSV file or in the TOML, and what follows from them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medseg
from medseg import Case, Dataset, Refused, load_dataset
from medseg.bundle import save_bundle
from medseg.dataset import read_case
from medseg.io import raster_affine, with_spacing
from medseg.jobs import evaluate_files, list_images, predict_files, score_unseen
from medseg.jobs.manifest import Manifest
from medseg.metrics import METRICS
from medseg.networks import build_network
from medseg.planning import make_plan
from medseg.training import fit, open_run

TOML = """
kind = "semantic"
classes = { head = 255 }
unit = "mm"

[files]
image = "{case}.png"
label = "{case}_Annotation.png"
group = "{group}_*HC"

[csv]
file = "sizes.csv"
case = "filename"
spacing = "pixel size(mm)"
tags = { hc_mm = "head circumference (mm)" }
"""
SIZES = {"010_HC": 0.1, "010_2HC": 0.12, "012_HC": 0.2, "300_HC": 0.4}


def heads(folder: Path, toml: str = TOML, rows: dict[str, str] | None = None) -> Path:
    """Four images of three exams in the layout of HC18: RGB masks of 255, sizes in a CSV."""
    rng = np.random.default_rng(0)
    for name in SIZES:
        y, x = np.indices((40, 60))
        mask = ((y - 20) / 11) ** 2 + ((x - 28) / 17) ** 2 <= 1
        image = np.where(mask, 160, 60) + rng.integers(0, 40, mask.shape)
        medseg.write(image.astype(np.uint8), folder / f"{name}.png")
        colours = np.repeat(mask[None].astype(np.uint8) * 255, 3, axis=0)
        medseg.write(MetaTensor(colours), folder / f"{name}_Annotation.png")
    lines = rows or {f"{name}.png": str(size) for name, size in SIZES.items()}
    text = ["\ufefffilename,pixel size(mm),head circumference (mm)"]
    text += [f"{name}, {size} ,{i}.5" for i, (name, size) in enumerate(lines.items())]
    (folder / "sizes.csv").write_text("\r\n".join(text) + "\r\n", encoding="utf-8")
    (folder / "dataset.toml").write_text(toml, encoding="utf-8")
    return folder


def refused(folder: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        load_dataset(folder)
    return caught.value


# the rows


def test_sizes_groups_and_tags(tmp_path: Path) -> None:
    dataset = load_dataset(heads(tmp_path))
    assert [c.name for c in dataset] == ["010_2HC", "010_HC", "012_HC", "300_HC"]
    assert dataset.groups == ("010", "012", "300")
    for case in dataset:
        assert case.spacing == (SIZES[case.name],) * 2
        assert case.spacing_unit == "mm"
        assert case.tags == {"hc_mm": f"{list(SIZES).index(case.name)}.5"}
    assert np.unique(medseg.io.read_label(dataset.cases[0].label)).tolist() == [0, 255]
    for fold in range(3):
        split = dataset.split(fold=fold, folds=3)
        assert len({c.group for c in split.val} & {c.group for c in split.train}) == 0


@pytest.mark.parametrize("how", ["{0}", "{0}.png", "some/{0}.png"])
def test_how_a_row_names_its_case(tmp_path: Path, how: str) -> None:
    toml = TOML.replace('"{case}', '"some/{case}') if "/" in how else TOML
    folder = heads(tmp_path / "some", rows={how.format(n): str(s) for n, s in SIZES.items()})
    target = folder.parent if "/" in how else folder
    if target != folder:
        for name in ("sizes.csv", "dataset.toml"):
            (folder / name).rename(target / name)
        (target / "dataset.toml").write_text(toml)
    assert {c.name: c.spacing for c in load_dataset(target)} == {n: (s, s) for n, s in SIZES.items()}


def test_rows_of_other_images_do_not_matter_and_columns_may_say_more(tmp_path: Path) -> None:
    toml = TOML.replace('group = "{group}_*HC"\n', "").replace(
        'spacing = "pixel size(mm)"',
        'spacing = ["high", "wide"]\ngroup = "exam"\nsite = "clinic"\nsplit = "part"',
    )
    heads(tmp_path, toml.replace('tags = { hc_mm = "head circumference (mm)" }', ""))
    rows = [[n, 0.3, 0.2, n[:3], "oslo", "test" if n[:3] == "012" else ""] for n in (*SIZES, "999_HC")]
    with (tmp_path / "sizes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "high", "wide", "exam", "clinic", "part"], *rows])
    dataset = load_dataset(tmp_path)
    assert len(dataset) == 4
    for case in dataset:
        assert (case.spacing, case.group, case.site) == ((0.3, 0.2), case.name[:3], "oslo")
        assert case.split == ("test" if case.group == "012" else None)


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    sizes = {f"{name}.png": str(size) for name, size in SIZES.items()}
    wrong = {
        "case-without-row": {k: v for k, v in sizes.items() if k != "012_HC.png"},
        "duplicate-case": sizes | {"012_HC": "0.1"},
    }
    for reason, rows in wrong.items():
        assert refused(heads(tmp_path / reason, rows=rows)).reason == reason
    for i, size in enumerate(("0", "-1", "", "nan", "inf", "0;5", "wide")):
        error = refused(heads(tmp_path / f"size{i}", rows=sizes | {"010_HC.png": size}))
        assert error.reason == "bad-spacing"
        assert "010_HC" in str(error)
    error = refused(heads(tmp_path / "column", TOML.replace("pixel size(mm)", "pixel size (mm)")))
    assert error.reason == "unknown-column"
    assert "Did you mean 'pixel size(mm)'" in str(error)
    assert refused(heads(tmp_path / "file", TOML.replace("sizes.csv", "size.csv"))).reason == "not-found"
    assert refused(heads(tmp_path / "key", TOML.replace("spacing =", "spacings ="))).reason == "unknown-key"
    assert refused(heads(tmp_path / "unit", TOML.replace('unit = "mm"', ""))).reason == "bad-value"
    for name, text in {
        "empty": "",
        "twice": "filename,a,a\n",
        "uneven": "filename,pixel size(mm),head circumference (mm)\nx,1\n",
        "quotes": 'filename,pixel size(mm),head circumference (mm)\n"x"y,1,2\n',
    }.items():
        (heads(tmp_path / name) / "sizes.csv").write_text(text)
        assert refused(tmp_path / name).reason == "bad-csv"
    (heads(tmp_path / "bytes") / "sizes.csv").write_bytes(b"filename,\xff\n")
    assert refused(tmp_path / "bytes").reason == "bad-csv"


# where the files lie


def test_a_description_says_where_its_files_lie(tmp_path: Path) -> None:
    heads(tmp_path / "data")
    (tmp_path / "data/dataset.toml").rename(tmp_path / "heads.toml")
    (tmp_path / "heads.toml").write_text('root = "data"\n' + TOML)
    dataset = load_dataset(tmp_path / "heads.toml")
    assert dataset.root == tmp_path / "data"
    assert dataset.cases[0].image.is_file()
    (tmp_path / "data").rename(tmp_path / "moved")
    assert refused(tmp_path / "heads.toml").reason == "not-found"
    assert len(load_dataset(tmp_path / "heads.toml", root=tmp_path / "moved")) == 4


# what a spacing does


def test_one_spacing_for_all_but_those_that_have_their_own(tmp_path: Path) -> None:
    cases = (
        Case("a", tmp_path / "a.png", None, group="a"),
        Case("b", tmp_path / "b.png", None, group="b", spacing=(1.0, 3.0), spacing_unit="um"),
    )
    dataset = Dataset("x", cases, tmp_path, "by hand", spacing=(0.5, 0.25), spacing_unit="mm")
    assert [(c.spacing, c.spacing_unit) for c in dataset] == [((0.5, 0.25), "mm"), ((1.0, 3.0), "um")]


def test_a_listed_case_has_its_spacing(tmp_path: Path) -> None:
    medseg.write(np.zeros((5, 7), np.uint8), tmp_path / "a.png")
    text = '[[cases]]\nimage = "a.png"\nspacing = [0.5, 0.25]\n'
    (tmp_path / "d.toml").write_text('unit = "um"\n' + text)
    case = load_dataset(tmp_path / "d.toml").cases[0]
    image = read_case(case)
    assert image.meta["spacing_unit"] == "um"
    assert np.allclose(image.affine, raster_affine((0.5, 0.25)))
    (tmp_path / "d.toml").write_text(text)
    assert refused(tmp_path / "d.toml").reason == "bad-value"


def test_another_spacing_keeps_directions_values_and_the_first_pixel() -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0.0, 2.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 0.0, 5.0]]) @ np.eye(3)
    affine[:3, 3] = (10.0, 20.0, 30.0)
    image = MetaTensor(np.arange(24.0).reshape(1, 2, 3, 4), affine=affine, meta={"spacing_unit": "mm"})
    same = with_spacing(image, (1.5, 4.0, 5.0), "mm")
    assert np.allclose(same.affine[:3, :3], [[0, 4, 0], [-1.5, 0, 0], [0, 0, 5]])
    assert np.allclose(same.affine[:3, 3], affine[:3, 3])
    assert np.array_equal(same, image)
    assert np.allclose(with_spacing(image, (1, 1, 1), "um").affine[:3, 3], [1e4, 2e4, 3e4])
    assert np.array_equal(image.affine, affine)
    for spacing, unit in (((1, 1), "mm"), ((1, 1, 0), "mm"), ((1, 1, np.nan), "mm"), ((1, 1, 1), "inch")):
        with pytest.raises(Refused) as caught:
            with_spacing(image, spacing, unit)
        assert caught.value.reason in ("bad-spacing", "bad-unit")


def test_the_spacing_reaches_plan_maps_tables_and_scores(tmp_path: Path) -> None:
    folder = heads(tmp_path / "data")
    dataset = load_dataset(folder)
    plan = make_plan(dataset)
    assert plan.input.spacing_unit == "mm"
    assert plan.input.spacing == pytest.approx((0.16, 0.16))  # the median of 0.1, 0.12, 0.2 and 0.4
    assert plan.target.values == (0, 255)

    case = next(c for c in dataset if c.name == "300_HC")
    plan = plan.with_values({"network.channels": (2, 4)})
    bundle = medseg.load_bundle(save_bundle(tmp_path / "b", plan, build_network(plan), card=""))
    found = medseg.predict(bundle, case)
    assert found.unit == "mm"
    assert np.allclose(found.affine, raster_affine((0.4, 0.4)))
    assert medseg.predict(bundle, case.image).unit == "pixel"
    assert np.array_equal(medseg.predict(bundle, case.image).labels, found.labels)

    assert list_images([folder]) == {c.name: c for c in dataset}
    for given in ([folder], [folder / "dataset.toml"], {c.name: c for c in dataset}):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        predict_files(bundle, given, out)
        saved = medseg.read(out / "300_HC.tif")
        assert np.allclose(np.linalg.norm(saved.affine[:3, :2], axis=0), 400)  # TIFF is in micrometres
        listed = Manifest.load(out).cases
        assert [c.reference for c in listed] == [(str(c.label.resolve()),) for c in dataset]
        scores, _ = evaluate_files(out, folder)
        assert scores.cases == tuple(c.name for c in dataset)

    own = {"target.kind": "instances", "target.name": "foreground", "predict.method": "components"}
    objects = plan.with_values(own | {"target.values": (0, 1)})
    network = build_network(objects)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([-100.0, 100.0]))  # the whole image is one object
    of_objects = medseg.load_bundle(save_bundle(tmp_path / "o", objects, network, card=""))
    predict_files(of_objects, [folder], tmp_path / "objects")
    with (tmp_path / "objects/objects.csv").open(newline="") as file:
        areas = {row["case"]: float(row["area_mm2"]) for row in csv.DictReader(file)}
    assert areas == pytest.approx({name: 40 * 60 * size**2 for name, size in SIZES.items()})


def test_a_score_has_the_spacing_of_the_prediction_where_the_reference_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got = []

    def spy(prediction: np.ndarray, reference: np.ndarray, *, spacing: tuple[float, ...]) -> float:
        got.append(spacing)
        return 0.0

    spied = replace(METRICS["pixel_error"], function=spy, needs=("spacing",))
    monkeypatch.setitem(METRICS, "pixel_error", spied)
    mask = np.zeros((4, 6), np.uint8)
    reference = medseg.write(mask, tmp_path / "r.png")
    image = MetaTensor(mask[None], affine=raster_affine((0.5, 0.25)), meta={"spacing_unit": "um"})
    prediction = medseg.write(image, tmp_path / "p.tif")
    medseg.evaluate(prediction, reference, metrics=["pixel_error"])
    medseg.evaluate(reference, prediction, metrics=["pixel_error"])
    assert [tuple(map(float, s)) for s in got] == [pytest.approx((0.0005, 0.00025))] * 2  # in mm


def test_a_run_finds_the_files_of_its_data_set_again(tmp_path: Path) -> None:
    heads(tmp_path / "data")
    (tmp_path / "data/dataset.toml").rename(tmp_path / "heads.toml")
    dataset = load_dataset(tmp_path / "heads.toml", root=tmp_path / "data")
    small = {"network.channels": (2, 4), "train.steps": 2, "train.workers": 0, "train.patch": (16, 16)}
    plan = make_plan(dataset).with_values(small)
    bundle = fit(plan, dataset, tmp_path / "run")
    assert json.loads((tmp_path / "run/split.json").read_text())["root"] == str(tmp_path / "data")
    run = open_run(tmp_path / "run")
    assert {c.image.parent for c in run.split.train} == {tmp_path / "data"}
    scores = score_unseen(run, bundle)
    assert len(scores.cases) == len(run.split.test)
    assert np.allclose(
        np.linalg.norm(medseg.read(run.path / f"unseen/{scores.cases[0]}.tif").affine[:3, :2], axis=0),
        1000 * SIZES[scores.cases[0]],
    )


# the real ones


def described(name: str, shared_data: Path) -> Dataset:
    if not (shared_data / name).is_dir():
        pytest.skip(f"the data set {name} is absent from {shared_data}")
    file = Path(__file__).parents[1] / f"docs/how-to/{name}.toml"
    return load_dataset(file, root=shared_data / name)


def test_hc18(shared_data: Path) -> None:
    dataset = described("hc18", shared_data)
    masks = list((shared_data / "hc18").glob("*_Annotation.png"))
    assert len(dataset) == len(masks) > 100
    assert len(dataset.groups) == len({path.name.split("_")[0] for path in masks}) < len(dataset)
    assert all(0.05 < c.spacing[0] == c.spacing[1] < 0.4 for c in dataset)  # table 1 of the paper
    split = dataset.split(folds=5, test_fraction=0.15)
    exams = [{c.name.split("_")[0] for c in part} for part in (split.train, split.val, split.test)]
    assert not exams[0] & exams[1]
    assert not exams[2] & (exams[0] | exams[1])
    image = read_case(dataset.cases[0])
    assert image.shape[0] == 1
    assert set(np.unique(medseg.io.read_label(dataset.cases[0].label))) == {0, 255}


def test_circumferences_of_the_masks_of_hc18(shared_data: Path) -> None:
    """Against the circumferences that its authors publish: the drawn line is 1.4 pixels outside of them."""
    from medseg.measure import ellipse

    off = []
    for case in described("hc18", shared_data).cases[::6]:
        mask = np.asarray(medseg.io.read_label(case.label)[0])
        assert case.spacing is not None
        found = ellipse(mask, spacing=case.spacing).grown(-1.4 * case.spacing[0]).circumference
        off.append(found - float(case.tags["hc_mm"]))
    assert np.abs(off).mean() < 0.1
    assert np.abs(off).max() < 0.5


def test_chasedb1(shared_data: Path) -> None:
    dataset = described("chasedb1", shared_data)
    assert (len(dataset), len(dataset.groups)) == (28, 14)
    split = dataset.split(folds=5)
    assert [c.name for c in split.test] == ["11L", "11R", "12L", "12R", "13L", "13R", "14L", "14R"]
    assert (len(split.train), len(split.val)) == (16, 4)
    assert read_case(dataset.cases[0]).shape == (3, 960, 999)
    assert set(np.unique(medseg.io.read_label(dataset.cases[0].label))) == {0, 1}

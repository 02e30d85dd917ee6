"""Each pipeline from end to end with ``quick=True`` on small made data, through its command line."""

from __future__ import annotations

import csv
import importlib.util
import json
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import medseg
from medseg.bundle import save_bundle
from medseg.cli.script import run_script
from medseg.dataset import load_dataset
from medseg.errors import Refused
from medseg.metrics import Scores, score_arrays
from medseg.networks import build_network
from medseg.phantoms import cells, em_membranes
from medseg.training import open_run

FOLDER = Path(__file__).parents[1] / "pipelines"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def script(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def nuclei(folder: Path, *, n: int) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        image, instances = cells((96, 120), n=9 + i, rng=rng, diameter=14)
        medseg.write(np.round(image * 255).astype(np.uint8), folder / f"images/cell_{i}.png")
        medseg.write(instances.astype(np.uint16), folder / f"labels/cell_{i}.png")
    return folder


def stack(folder: Path, shape: tuple[int, int, int]) -> Path:
    image, label = em_membranes(shape, rng=np.random.default_rng(0))
    medseg.write(image, folder / "train-volume.tif")
    medseg.write(label, folder / "train-labels.tif")
    return folder


@pytest.fixture(scope="module")
def nuclei_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a trial of the training on nuclei leaves; its exit code was 0."""
    folder = tmp_path_factory.mktemp("nuclei")
    data = nuclei(folder / "data", n=7)
    words = [str(data), "-o", str(folder / "out"), "--quick"]
    assert run_script(script("train_nuclei").main, words) == 0
    return folder / "out"


# what all scripts have


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_missing_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(FOLDER / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(file, run_name="__main__")
    assert ended.value.code == 0
    assert f"Usage: {name}.py" in capsys.readouterr().out

    bundle = ["--bundle", "x"] if name.startswith(("segment_", "radiology_batch", "radiology_pacs")) else []
    words = [str(tmp_path / "nowhere"), "-o", str(tmp_path / "out"), *bundle]
    assert run_script(script(name).main, words) == 1
    told = capsys.readouterr().err
    assert told.startswith("medseg: no ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert run_script(script(name).main, [*words, "--quik"]) == 1
    assert "--quick" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_say_what_they_are_and_hold_no_loop_over_batches(name: str) -> None:
    module, source = script(name), (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for word in ("Command::", f"python pipelines/{name}.py", "Time:", "umbers:"):
        assert word in str(module.__doc__)
    for word in ("backward(", "optimizer.step", "DataLoader", "except"):
        assert word not in source


# segment_cells


def test_segment_cells(nuclei_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    for name in ("a", "b", "c"):
        image, _ = cells((80, 104), n=8, rng=rng, diameter=14)
        medseg.write(np.round(image * 255).astype(np.uint8), tmp_path / f"in/{name}.png")
    medseg.write(np.full((50, 70), 7, np.uint8), tmp_path / "in/empty.png")
    whole = (tmp_path / "in/b.png").read_bytes()
    (tmp_path / "in/b.png").write_bytes(whole[: len(whole) // 2])
    words = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--bundle", str(nuclei_run / "run")]
    assert run_script(script("segment_cells").main, words) == 2
    told = capsys.readouterr().err
    assert "1 of 4 cases failed" in told
    assert "b.png" in told

    rows, objects = table(tmp_path / "out/counts.csv"), table(tmp_path / "out/objects.csv")
    assert [row["case"] for row in rows] == ["a", "c", "empty"]
    for row in rows:
        found = np.asarray(medseg.io.read_label(tmp_path / f"out/{row['case']}.png")[0])
        assert found.shape == medseg.read(tmp_path / f"in/{row['case']}.png").shape[1:]
        areas = np.unique(found[found > 0], return_counts=True)[1]
        assert int(row["count"]) == len(areas)
        assert sum(o["case"] == row["case"] for o in objects) == len(areas)
        if len(areas):
            assert float(row["mean_area_px"]) == pytest.approx(areas.mean(), rel=1e-5)
            assert float(row["median_area_px"]) == pytest.approx(np.median(areas), rel=1e-5)
        else:
            assert row["mean_area_px"] == row["median_area_px"] == ""
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert all(f">{name}<" in page for name in ("a", "c", "empty"))


def test_counts_are_in_the_unit_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "objects.csv").write_text(
        "case,id,area_px,area_um2\nplain,1,30,\nplain,2,50,\nscaled,1,,2.5\nscaled,2,,1.5\nscaled,3,,0.5\n"
    )
    from medseg.jobs.manifest import Manifest, Predicted

    found = (
        Predicted("plain", "", "", (), 2),
        Predicted("scaled", "", "", (), 3),
        Predicted("none", "", "", (), 0),
    )
    Manifest(tmp_path, "instances", {}, "m", found, {}).save()
    rows = table(script("segment_cells").write_counts(tmp_path))
    assert rows == [
        dict(zip(rows[0], ("plain", "2", "40", "40", "", ""))),
        dict(zip(rows[0], ("scaled", "3", "", "", "1.5", "1.5"))),
        dict(zip(rows[0], ("none", "0", "", "", "", ""))),
    ]
    assert list(rows[0])[2:] == ["mean_area_px", "median_area_px", "mean_area_um2", "median_area_um2"]


def test_segment_cells_takes_some_images_quickly_and_refuses_models_of_classes(
    nuclei_run: Path, tmp_path: Path
) -> None:
    main = script("segment_cells").main
    for i in range(5):
        medseg.write(np.full((40, 50), i, np.uint8), tmp_path / f"in/{i}.png")
    result = main(tmp_path / "in", tmp_path / "out", bundle=str(nuclei_run / "run"), quick=True)
    assert list(result.done) == ["0", "1", "2"]
    plan = medseg.Plan().with_values({"network.channels": (2, 4)})
    of_classes = save_bundle(tmp_path / "bundle", plan, build_network(plan), card="")
    with pytest.raises(medseg.Refused) as refused:
        main(tmp_path / "in", tmp_path / "other", bundle=str(of_classes))
    assert refused.value.reason == "not-instances"
    assert not (tmp_path / "other").exists()


def test_no_page_where_no_image_could_be_segmented(nuclei_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"no picture")
    words = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--bundle", str(nuclei_run / "run")]
    assert run_script(script("segment_cells").main, words) == 1
    assert not (tmp_path / "out/report.html").exists()


# train_nuclei


def test_train_nuclei(nuclei_run: Path) -> None:
    run = open_run(nuclei_run / "run")
    assert run.finished
    assert run.plan.target.name == "interior-border"
    assert len(run.split.test) == 1
    scores = Scores.load(run.path / "unseen/scores.json")
    assert scores.cases == tuple(case.name for case in run.split.test)
    assert "ap" in scores.metrics
    assert scores.mean("dice") > 0.5  # thirty steps give about 0.9
    for case in run.split.test:
        found = medseg.io.read_label(run.path / f"unseen/{case.name}.png")
        assert found.shape == medseg.read(case.image).shape
    page = (nuclei_run / "report.html").read_text(encoding="utf-8")
    assert f">{run.split.test[0].name}<" in page


def test_train_nuclei_refuses_masks(tmp_path: Path) -> None:
    for i in range(3):
        medseg.write(np.zeros((33, 33), np.uint8), tmp_path / f"images/{i}.png")
        medseg.write(np.pad(np.full((9, 9), 255, np.uint8), 12), tmp_path / f"labels/{i}.png")
    with pytest.raises(medseg.Refused) as refused:
        script("train_nuclei").main(tmp_path, tmp_path / "out")
    assert refused.value.reason == "not-instances"


# ablate_nuclei


def test_ablate_nuclei(tmp_path: Path) -> None:
    data = nuclei(tmp_path / "data", n=7)
    names = sorted(path.stem for path in (data / "images").iterdir())
    rows = "".join(f"{name},{'stained' if i % 2 else 'fluorescence'}\n" for i, name in enumerate(names))
    (data / "index.csv").write_text("id,kind\n" + rows)
    words = [str(data), "-o", str(tmp_path / "out"), "--quick"]
    module = script("ablate_nuclei")
    assert run_script(module.main, words) == 0
    table = (tmp_path / "out/table.md").read_text()
    for name in [*module.SYSTEMS, module.WITHOUT_MIRROR]:
        assert table.count(f"| {name} |") == 2
    assert run_script(module.main, words) == 0, "runs that are finished are not trained again"
    assert (tmp_path / "out/table.md").read_text() == table


def test_the_table_has_means_and_deviations_over_seeds() -> None:
    module = script("ablate_nuclei")

    def run(value: float) -> Scores:
        return Scores.join(
            [
                score_arrays(np.eye(4, dtype=int), np.eye(4, dtype=int) * (value > 0), case=c, metrics=["ap"])
                for c in ("a", "b")
            ]
        )

    table = module.as_table({"one": [run(1), run(0), run(1)]}, {"kind": ["a"]})
    assert "| one | 0.667 ± 0.577 |" in table


# train_isbi2012


# compare_networks


def test_compare_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = script("compare_networks")
    assert set(module.ORDER) == set(module.IDEAS) | set(module.VARIANTS)
    some = ["FCN-32s", "FCN-16s", module.BASELINE]
    data, out = nuclei(tmp_path / "data", n=6), tmp_path / "out"
    words = [str(data), "-o", str(out), "--quick", "--only"]
    assert run_script(module.main, [*words, "FCN-16"]) == 1
    assert "unknown system 'FCN-16'. Did you mean 'FCN-16s'?" in capsys.readouterr().err
    words.append(f"FCN-16s, {module.BASELINE}")  # and what FCN-16s begins with
    assert run_script(module.main, words) == 0
    rows = (out / "table.md").read_text().splitlines()[2:]
    ours = [*some, "U-Net with CRF", "U-Net without mirrored context", "U-Net without overlap"]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [n for n in module.ORDER if n in ours]
    page = (out / "comparison.html").read_text()
    assert all(name in page for name in ours)
    assert page.count("<figure>") % (len(ours) + 1) == 0
    steps = [line.split(" | ")[6] for line in rows]
    assert steps[:2] == ["1.5", "3"], "FCN-16s goes on where FCN-32s ends"
    again = (out / "table.md").read_text()
    assert run_script(module.main, words) == 0
    assert (out / "table.md").read_text() == again, "what is there is not made again"


def test_compare_networks_on_label_maps_and_not_on_volumes(tmp_path: Path) -> None:
    module = script("compare_networks")
    rng = np.random.default_rng(0)
    for i in range(4):
        image, instances = cells((64, 80), n=6, rng=rng, diameter=12)
        medseg.write(np.round(image * 255).astype(np.uint8), tmp_path / f"images/{i}.png")
        medseg.write((instances > 0).astype(np.uint8), tmp_path / f"labels/{i}.png")
    plans = module.plans_of(medseg.load_dataset(tmp_path))
    assert set(plans) == set(module.IDEAS) - {"U-Net without border weights"}
    assert not any(plan.target.border_weights for plan in plans.values())
    assert plans["U-Net as in the paper"].network.padding == "valid"
    assert plans["FCN-8s"].network.channels == (16, 32, 64, 128, 128, 1024)
    with pytest.raises(Refused, match="volumes"):
        module.plans_of(medseg.load_dataset(organs(tmp_path / "organs", n=3)))


def test_train_isbi2012(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = stack(tmp_path / "isbi", (6, 96, 128))
    words = [str(data), "-o", str(tmp_path / "out"), "--quick"]
    assert run_script(script("train_isbi2012").main, words) == 0
    told = capsys.readouterr().out
    run = open_run(tmp_path / "out/run")
    assert [[c.name for c in part] for part in (run.split.train, run.split.val, run.split.test)] == [
        ["00", "01", "02", "03"],
        ["04"],
        ["05"],
    ]
    found = np.asarray(medseg.io.read_label(run.path / "unseen/05.png")[0])
    truth = np.asarray(medseg.io.read_label(data / "train-labels.tif")[0, 5])
    assert found.shape == (96, 128)
    assert set(np.unique(found)) == {0, 255}
    scores = Scores.load(run.path / "unseen/scores.json")
    assert scores.value("05", "pixel_error") == pytest.approx((found != truth).mean())
    assert {"dice", "pixel_error", "ap"} <= set(scores.metrics)
    assert scores.mean("dice") > 0.4  # 0 where all is membrane; forty steps give about 0.75
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for metric in ("dice", "pixel_error", "ap"):
        assert metric in told
        assert metric in page
    weights = (run.path / "bundle/weights.safetensors").read_bytes()
    assert run_script(script("train_isbi2012").main, words) == 0  # what is finished stays as it is
    assert (run.path / "bundle/weights.safetensors").read_bytes() == weights
    assert Scores.load(run.path / "unseen/scores.json") == scores


def test_train_isbi2012_tells_of_a_broken_slice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, label = em_membranes((9, 48, 60), rng=np.random.default_rng(0))
    for z, (a, b) in enumerate(zip(image, label)):
        medseg.write(a, tmp_path / f"in/train/image/{z}.png")
        medseg.write(b, tmp_path / f"in/train/label/{z}.png")
    broken = tmp_path / "in/train/image/8.png"
    broken.write_bytes(broken.read_bytes()[:200])
    words = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--quick"]
    assert run_script(script("train_isbi2012").main, words) == 2
    assert "8.png" in capsys.readouterr().err
    assert Scores.load(tmp_path / "out/run/unseen/scores.json").cases == ("7",)
    assert (tmp_path / "out/report.html").is_file()


@pytest.fixture(scope="module")
def isbi() -> types.ModuleType:
    return script("train_isbi2012")


def test_the_challenge_is_split_into_blocks(isbi: types.ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 512, 512), dtype=np.uint8)
    medseg.write(image, tmp_path / "in/train-volume.tif")
    medseg.write(np.where(image > 60, 255, 0).astype(np.uint8), tmp_path / "in/train-labels.tif")
    slices = isbi.find_slices(tmp_path / "in", tmp_path / "data")
    assert len(slices) == 30
    for z, name in ((0, "00"), (29, "29")):
        np.testing.assert_array_equal(np.asarray(medseg.read(slices[name][0])[0]), image[z])
    dataset = load_dataset(isbi.describe(slices, tmp_path / "data/dataset.toml"))
    split = dataset.split()
    assert [len(part) for part in (split.train, split.val, split.test)] == [20, 5, 5]
    order = [case.name for part in (split.train, split.val, split.test) for case in part]
    assert order == list(slices)
    assert dataset.classes == {"cell": 255}


@pytest.mark.parametrize(
    "folders", [("train/image", "train/label"), ("image", "label"), ("images", "labels")]
)
def test_slices_as_files_keep_the_order_of_their_numbers(
    isbi: types.ModuleType, tmp_path: Path, folders: tuple[str, str]
) -> None:
    for z in (0, 1, 2, 10, 11):
        for folder in folders:
            medseg.write(np.full((4, 5), z, np.uint8), tmp_path / f"in/{folder}/{z}.png")
    slices = isbi.find_slices(tmp_path / "in", tmp_path / "data")
    assert list(slices) == ["0", "1", "2", "10", "11"]
    split = load_dataset(isbi.describe(slices, tmp_path / "data/dataset.toml")).split()
    assert [c.name for c in split.test] == ["11"]
    (tmp_path / "in" / folders[1] / "2.png").unlink()
    with pytest.raises(medseg.Refused) as refused:
        isbi.find_slices(tmp_path / "in", tmp_path / "data")
    assert refused.value.reason == "image-without-label"


def test_volumes_of_different_shapes_are_refused(isbi: types.ModuleType, tmp_path: Path) -> None:
    medseg.write(np.zeros((6, 8, 9), np.uint8), tmp_path / "train-volume.tif")
    medseg.write(np.zeros((5, 8, 9), np.uint8), tmp_path / "train-labels.tif")
    with pytest.raises(medseg.Refused) as refused:
        isbi.find_slices(tmp_path, tmp_path / "data")
    assert refused.value.reason == "shape-mismatch"


def test_the_plan_is_the_papers(isbi: types.ModuleType) -> None:
    plan = isbi.membrane_plan((512, 512))
    network = build_network(plan)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(31.03e6, rel=1e-3)
    assert plan.train.patch == (700, 700)
    assert network.output_size(plan.train.patch) == (516, 516)
    assert (plan.train.momentum, plan.train.batch_size, plan.network.dropout) == (0.99, 1, 0.5)
    assert plan.predict.flips


def test_cells_are_the_parts_between_membranes(isbi: types.ModuleType, tmp_path: Path) -> None:
    label = np.array([[255, 0, 255, 255], [255, 0, 0, 255], [0, 255, 0, 0]], np.uint8)
    medseg.write(label, tmp_path / "a.png")
    # a corner joins no cells: the membrane is there, one pixel wide
    np.testing.assert_array_equal(isbi.cells(tmp_path / "a.png"), [[1, 0, 2, 2], [1, 0, 0, 2], [0, 3, 0, 0]])


# train_fetal_head


def heads(folder: Path, *, n: int, line: float = 0.0) -> Path:
    """Ellipses of known circumference whose masks reach ``line`` pixels beyond what was measured."""
    rng = np.random.default_rng(0)
    rows = [("filename", "size", "hc")]
    for i in range(n):
        size, a, b = 0.1 + 0.05 * i, 40 + 2 * i, 30 + i
        y, x = np.indices((100, 130))
        mask = ((y - 50) / (b + line)) ** 2 + ((x - 60 - i) / (a + line)) ** 2 <= 1
        image = np.where(mask, 150, 50) + rng.integers(0, 40, mask.shape)
        medseg.write(image.astype(np.uint8), folder / f"{i:03d}_HC.png")
        medseg.write(mask.astype(np.uint8) * 255, folder / f"{i:03d}_HC_Annotation.png")
        rows.append((f"{i:03d}_HC.png", f"{size}", f"{medseg.measure.perimeter(a, b) * size:.3f}"))
    with (folder / "sizes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    text = (FOLDER.parent / "docs/how-to/hc18.toml").read_text(encoding="utf-8")
    for real, made in (
        ("pixel_size_and_HC.csv", "sizes.csv"),
        ("pixel size(mm)", "size"),
        ("head circumference (mm)", "hc"),
        ('root = "hc18"', f'root = "{folder.as_posix()}"'),
    ):
        assert text.count(f'"{real}"') == 1 or real.startswith("root")
        text = text.replace(real, made)
    (folder / "heads.toml").write_text(text, encoding="utf-8")
    return folder / "heads.toml"


def test_train_fetal_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = heads(tmp_path / "data", n=9, line=1.5)
    words = [str(toml), "-o", str(tmp_path / "out"), "--quick"]
    assert run_script(script("train_fetal_head").main, words) == 0
    assert "hc_error" in capsys.readouterr().out
    run = open_run(tmp_path / "out/run")
    scores = Scores.load(run.path / "unseen/scores.json")
    rows = table(run.path / "unseen/circumferences.csv")
    assert [row["case"] for row in rows] == [case.name for case in run.split.test]
    for row, case in zip(rows, run.split.test):
        assert row["measured_mm"] == f"{float(case.tags['hc_mm']):.2f}"
        assert scores.value(case.name, "hc_difference") == pytest.approx(
            float(row["hc_mm"]) - float(row["measured_mm"]), abs=0.011
        )
        assert scores.value(case.name, "hc_error") == abs(scores.value(case.name, "hc_difference"))
    assert scores.mean("dice") > 0.6  # forty steps give about 0.9
    assert "hc_error" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_circumferences_of_references_are_what_was_measured(tmp_path: Path) -> None:
    module = script("train_fetal_head")
    dataset = load_dataset(heads(tmp_path, n=4, line=1.5))
    module.check_dataset(dataset)
    line = module.width_of_line(dataset.cases)
    assert line == pytest.approx(1.5, abs=0.15)
    for case in dataset:
        found = module.head_ellipse(case.label, case, line=line)
        assert found.circumference == pytest.approx(float(case.tags["hc_mm"]), rel=0.005)
    empty = medseg.write(np.zeros((100, 130), np.uint8), tmp_path / "none.png")
    assert np.isnan(module.head_ellipse(empty, dataset.cases[0], line=line).circumference)


@pytest.mark.parametrize(
    ("real", "made", "reason"),
    [
        ('unit = "mm"', 'unit = "um"', "bad-spacing"),
        ("hc_mm =", "circumference =", "missing-key"),
        ('"hc" }', '"filename" }', "missing-key"),
    ],
)
def test_train_fetal_head_needs_sizes_and_measures(tmp_path: Path, real: str, made: str, reason: str) -> None:
    toml = heads(tmp_path, n=3)
    text = toml.read_text(encoding="utf-8")
    assert real in text
    toml.write_text(text.replace(real, made), encoding="utf-8")
    with pytest.raises(medseg.Refused) as refused:
        script("train_fetal_head").main(toml, tmp_path / "out")
    assert refused.value.reason == reason
    assert not (tmp_path / "out").exists()


# train_hippocampus, segment_organs


def organs(folder: Path, *, n: int) -> Path:
    """Two organs in volumes of turned axes whose voxels are not cubes, as a Decathlon folder."""
    import json

    import nibabel

    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -1.5, 20], [-1.0, 0.1, 0, 5], [0.1, 1.0, 0, 3], [0, 0, 0, 1]])
    names = []
    for i in range(n):
        shape = (18 + i % 3, 22, 14)
        x, y, z = np.indices(shape)
        label = np.zeros(shape, np.uint8)
        label[(x - 6) ** 2 + (y - 8) ** 2 + (1.5 * (z - 6)) ** 2 < 20] = 1
        label[(x - 12) ** 2 + (y - 14) ** 2 + (1.5 * (z - 7)) ** 2 < 20] = 2
        image = np.choose(label, (20, 120, 220)) + rng.normal(0, 10, shape)
        for sub, array in (("imagesTr", image.astype(np.int16)), ("labelsTr", label)):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / sub / f"case_{i:02d}.nii.gz")
        names.append({"image": f"./imagesTr/case_{i:02d}.nii.gz", "label": f"./labelsTr/case_{i:02d}.nii.gz"})
    about = {
        "name": "Organs",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "numTraining": n,
        "numTest": 0,
        "training": names,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def test_train_hippocampus_and_segment_organs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel

    data = organs(tmp_path / "data", n=8)
    words = [str(data), "-o", str(tmp_path / "out"), "--quick"]
    assert run_script(script("train_hippocampus").main, words) == 0
    assert "nsd" in capsys.readouterr().out
    plan = open_run(tmp_path / "out/run").plan
    assert (plan.input.orientation, plan.input.resample, plan.predict.mirror) == ("RAS", True, 0)
    assert plan.input.spacing == pytest.approx((1.5, 1.005, 1.005), abs=1e-3)  # x, y, z in the patient
    words = [str(data / "imagesTr"), "-o", str(tmp_path / "maps"), "--bundle", str(tmp_path / "out/run")]
    assert run_script(script("segment_organs").main, [*words, "--quick", "--max-ram", "4"]) == 0
    rows = table(tmp_path / "maps/volumes_ml.csv")
    assert [row["case"] for row in rows] == ["case_00", "case_01"]
    for row in rows:
        made = nibabel.load(tmp_path / f"maps/{row['case']}.nii.gz")
        given = nibabel.load(data / f"imagesTr/{row['case']}.nii.gz")
        assert made.shape == given.shape
        assert np.allclose(made.affine, given.affine, atol=1e-4)
        ml = abs(np.linalg.det(made.affine[:3, :3])) / 1000
        for value, name in ((1, "liver"), (2, "spleen")):
            expected = (np.asarray(made.dataobj) == value).sum() * ml
            assert float(row[f"{name}_ml"]) == pytest.approx(expected, rel=0.01)
    assert (tmp_path / "maps/report.html").is_file()


def test_segment_organs_needs_a_model_of_organs(tmp_path: Path) -> None:
    medseg.write(np.zeros((8, 9), np.uint8), tmp_path / "data/a.png")
    with pytest.raises(medseg.Refused, match="does not give the classes of volumes"):
        script("segment_organs").main(tmp_path / "data", tmp_path / "out", bundle="nuclei")


# radiology_batch


def test_radiology_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from made_studies import bad_study, study, threshold_bundle

    study(tmp_path / "in/a", 1, lift=160)
    bad_study(tmp_path / "in/b", 2, "a slice is missing")
    words = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--memory", "2", "--quick"]
    words += ["--bundle", str(threshold_bundle(tmp_path / "model"))]
    assert run_script(script("radiology_batch").main, words) == 2
    assert "missing-slices" in capsys.readouterr().err
    [row] = table(tmp_path / "out/volumes_ml.csv")
    found = tmp_path / "out" / row["study"]
    assert sorted(p.name for p in found.iterdir()) == ["measurements.json", "report.html", "segmentation.dcm"]
    told = json.loads((found / "measurements.json").read_text())["structures"]
    assert [float(row[f"{s['name']}_ml"]) for s in told] == pytest.approx([s["volume_ml"] for s in told])
    assert min(s["volume_ml"] for s in told) > 0

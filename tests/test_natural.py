"""Natural images: PASCAL VOC, Cityscapes and CamVid, made here in their layouts, whole and broken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medseg
from medseg import Refused
from medseg.cli.run import run
from medseg.dataset import list_dataset, load_dataset, read_case_label
from medseg.dataset.colours import read_legend
from medseg.jobs import check_dataset, evaluate_files, list_images, predict_files
from medseg.jobs.manifest import Manifest
from medseg.metrics import Scores

SHAPE = (24, 36)
SMALL = {"network.channels": (2, 4), "train.steps": 2, "train.workers": 0, "train.patch": (24, 32)}


def scene(i: int) -> np.ndarray:
    """A label map of values 0, 1 and 15 with a rim of 255, rows != columns."""
    label = np.zeros(SHAPE, np.uint8)
    label[4:12, 3 + i : 15 + i] = 255
    label[5:11, 4 + i : 14 + i] = 1
    label[15:21, 20 : 30 + i % 3] = 15
    return label


def picture(i: int, label: np.ndarray) -> Image.Image:
    rng = np.random.default_rng(i)
    rgb = np.stack([label % 200, 255 - label % 90, label * 3 % 250], -1).astype(float)
    return Image.fromarray(np.clip(rgb + rng.normal(0, 5, rgb.shape), 0, 255).astype(np.uint8))


def save_palette(label: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held = Image.fromarray(label, "P")
    held.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    held.save(path)


def make_voc(root: Path) -> Path:
    for i in range(6):
        label = scene(i)
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        picture(i, label).save(root / f"JPEGImages/2007_00000{i}.jpg", quality=95)
        if i < 5:  # one image is not segmented, as most of VOC's
            save_palette(label, root / f"SegmentationClass/2007_00000{i}.png")
            save_palette(np.where(label == 255, 255, (label > 0) * 1).astype(np.uint8),
                         root / f"SegmentationObject/2007_00000{i}.png")  # fmt: skip
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000000\n2007_000001\n2007_000002\n")
    (lists / "val.txt").write_text("2007_000003\n2007_000004\n")
    (lists / "trainval.txt").write_text("".join(f"2007_00000{i}\n" for i in range(5)))
    return root


def test_pascal_voc_is_recognised_with_its_splits(tmp_path: Path) -> None:
    dataset = load_dataset(make_voc(tmp_path / "VOC2012"))
    assert dataset.layout == "PASCAL VOC"
    assert dataset.kind == "semantic"
    assert dataset.classes is not None
    assert len(dataset.classes) == 20
    assert (dataset.classes["aeroplane"], dataset.classes["person"], dataset.classes["tvmonitor"]) == (
        1,
        15,
        20,
    )
    assert dataset.ignore == (255,)
    assert [c.name[-1] for c in dataset] == list("01234")
    split = dataset.split()
    assert [c.name[-1] for c in split.train] == list("012")
    assert [c.name[-1] for c in split.val] == list("34")
    assert split.test == ()
    with pytest.raises(Refused, match=r"declares splits.*0 of 5 groups.*split\.test_fraction=0"):
        dataset.split(test_fraction=0.15)
    assert np.array_equal(read_case_label(dataset.cases[3])[0], scene(3))


def test_pascal_voc_trains_predicts_and_scores(tmp_path: Path) -> None:
    dataset = load_dataset(make_voc(tmp_path / "VOC2012"))
    plan = medseg.make_plan(dataset).with_values(SMALL)
    assert plan.split.test_fraction == 0  # train.txt and val.txt leave nothing over for a test
    assert "declares" in plan.reasons["split.test_fraction"]
    assert plan.input.channels == 3
    assert plan.target.values == tuple(range(21))
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    prediction = medseg.predict(bundle, dataset.cases[4])
    assert prediction.labels.shape == SHAPE
    assert prediction.labels.max() <= 20
    result = predict_files(bundle, {c.name: c for c in dataset.cases[3:]}, tmp_path / "out")
    assert not result.failed
    assert Manifest.load(tmp_path / "out").ignore == (255,)
    scores, scored = evaluate_files(tmp_path / "out", tmp_path / "VOC2012", metrics=("pixel_error", "iou"))
    assert not scored.failed
    maps = [np.asarray(medseg.io.read_label(tmp_path / f"out/{c.name}.png")[0]) for c in dataset.cases[3:]]
    p = np.concatenate([found[scene(i) != 255] for i, found in zip((3, 4), maps)])
    r = np.concatenate([scene(i)[scene(i) != 255] for i in (3, 4)])
    iou = [np.mean((p == c)[(p == c) | (r == c)] & (r == c)[(p == c) | (r == c)]) for c in {*p, *r}]
    scores_file = tmp_path / "scores.json"
    words = [
        "evaluate",
        str(tmp_path / "out"),
        str(tmp_path / "VOC2012"),
        "-o",
        str(scores_file),
        "--together",
    ]
    assert run(words, debug=False) == 0
    papers = Scores.load(scores_file)
    assert papers.cases == ("together",)
    assert papers.value("together", "pixel_accuracy", "mean_iou") == pytest.approx(np.mean(iou))
    assert papers.value("together", "pixel_accuracy", "all") == pytest.approx(np.mean(p == r))
    assert run([*words, "--metrics", "hd95_mm"], debug=False) == 1
    (tmp_path / "truth").mkdir()
    save_palette(scene(4), tmp_path / "truth/2007_000004.png")
    (tmp_path / "found").mkdir()
    (tmp_path / "out/2007_000004.png").rename(tmp_path / "found/2007_000004.png")
    # results of others have the names of the classes from the data set
    others, _ = evaluate_files(tmp_path / "found", tmp_path / "VOC2012", metrics=("iou",))
    assert others.value("2007_000004", "iou", "person") == scores.value("2007_000004", "iou", "person")
    plain, _ = evaluate_files(tmp_path / "found", tmp_path / "truth", metrics=("iou",), ignore=(255,))
    assert plain.value("2007_000004", "iou", "15") == scores.value("2007_000004", "iou", "person")
    known = scene(4) != 255
    wrong = np.mean(prediction.labels[known] != scene(4)[known])
    assert scores.value("2007_000004", "pixel_error", "all") == pytest.approx(wrong)


def test_the_objects_of_pascal_voc_as_the_page_says(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC2012")
    page = Path(__file__).parents[1] / "docs/reference/datasets.md"
    text = page.read_text().split("### PASCAL VOC")[1].split("```toml\n")[1].split("```")[0]
    (root / "dataset.toml").write_text(text)
    dataset = load_dataset(root)
    assert [c.name[-1] for c in dataset] == list("01234")  # the sixth image is not segmented
    assert [c.name[-1] for c in dataset.split().val] == list("34")
    plan = medseg.make_plan(dataset)
    assert (plan.target.kind, plan.target.ignore) == ("instances", (255,))
    lists = root / "ImageSets/Segmentation"
    # DeepLab's lists name files
    (lists / "train.txt").write_text(
        "".join(f"/JPEGImages/2007_00000{i}.jpg /x/2007_00000{i}.png\n" for i in range(3))
    )
    assert [c.name[-1] for c in load_dataset(root).split().train] == list("012")
    for wrong, reason in (
        (text.replace("true", "1"), "bad-value"),
        (text.replace("val.txt", "valid.txt"), "not-found"),
        (text.replace("only_labelled = true", ""), "image-without-label"),
        (text.replace("val.txt", "all.txt"), "unknown-case"),
    ):
        (lists / "all.txt").write_text("2007_000005\n")
        (root / "dataset.toml").write_text(wrong)
        with pytest.raises(Refused) as refusal:
            load_dataset(root)
        assert refusal.value.reason == reason
    for path in (root / "SegmentationObject").iterdir():
        path.unlink()
    (root / "dataset.toml").write_text(text)
    with pytest.raises(Refused, match="no label"):
        load_dataset(root)


def test_a_check_knows_the_ignored_value(tmp_path: Path) -> None:
    report = check_dataset(make_voc(tmp_path / "VOC2012"))
    assert not report.of("error")
    share = np.mean([np.mean(scene(i) == 255) for i in range(5)])
    assert report.facts["ignored"] == f"value 255: {share:.1%} of an image"
    save_palette(np.full(SHAPE, 255, np.uint8), tmp_path / "VOC2012/SegmentationClass/2007_000001.png")
    label = scene(2)
    label[0, 0] = 33
    save_palette(label, tmp_path / "VOC2012/SegmentationClass/2007_000002.png")
    found = {(f.case, f.reason) for f in check_dataset(tmp_path / "VOC2012").findings}
    assert ("2007_000001", "all-ignored") in found
    assert ("2007_000002", "unknown-label-value") in found


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("ImageSets/Segmentation/train.txt", "2007_000000\n2007_000099\n", "not-found"),
        ("ImageSets/Segmentation/train.txt", "2007_000000\n2007_000005\n", "image-without-label"),
        ("ImageSets/Segmentation/train.txt", "2007_000000\n2007_000003\n", "group-in-two-splits"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncar\n", "bad-csv"),
    ],
)
def test_a_broken_voc_is_refused_and_listed(tmp_path: Path, file: str, text: str, reason: str) -> None:
    root = make_voc(tmp_path / "VOC2012")
    (root / file).write_text(text)
    with pytest.raises(Refused) as refusal:
        load_dataset(root)
    assert refusal.value.reason == reason
    if reason != "bad-csv":
        assert reason in {f.reason for f in list_dataset(root)[1]}


def test_a_voc_without_lists_and_one_with_its_own_classes(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC2012")
    for path in (root / "ImageSets/Segmentation").iterdir():
        path.unlink()
    assert len(load_dataset(root)) == 5
    assert {c.split for c in load_dataset(root)} == {None}
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:9,8,7::\n")
    for i, path in enumerate(sorted((root / "SegmentationClass").iterdir())):
        mask = np.zeros((*SHAPE, 3), np.uint8)
        mask[3:9, 5 + i : 20 + i] = 9, 8, 7
        Image.fromarray(mask).save(path)
    dataset = load_dataset(root)
    assert dataset.classes == {"cat": 1}
    assert dataset.ignore == ()
    label = np.asarray(read_case_label(dataset.cases[0])[0])
    assert sorted(np.unique(label)) == [0, 1]
    assert label.sum() == 6 * 15
    assert not check_dataset(root).of("error")


# --- Cityscapes


def make_cityscapes(root: Path, kind: str = "labelIds") -> Path:
    for split, city, first, n in (("train", "aachen", 0, 3), ("val", "ulm", 5, 2), ("test", "bonn", 9, 1)):
        for i in range(n):
            name = f"{city}_{i // 2:06}_{i:06}"
            label = scene(first + i)
            coded = np.select([label == 255, label == 1, label == 15], [3, 26, 24], 7)
            if kind == "labelTrainIds":
                coded = np.select([label == 255, label == 1, label == 15], [255, 13, 11], 0)
            for folder in (f"leftImg8bit/{split}/{city}", f"gtFine/{split}/{city}"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            picture(first + i, label).save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
            if split != "test":
                stem = root / f"gtFine/{split}/{city}/{name}_gtFine"
                Image.fromarray(coded.astype(np.uint8)).save(f"{stem}_{kind}.png")
                Image.fromarray(np.zeros((*SHAPE, 4), np.uint8)).save(f"{stem}_color.png")
                Path(f"{stem}_polygons.json").write_text("{}")
    return root


def test_cityscapes_is_recognised_and_every_class_is_scored(tmp_path: Path) -> None:
    dataset = load_dataset(make_cityscapes(tmp_path / "cs"))
    assert dataset.layout == "Cityscapes"
    assert len(dataset) == 5
    assert dataset.classes is not None
    assert len(dataset.classes) == 19
    assert not set(dataset.classes.values()) & set(dataset.ignore)
    assert set(dataset.classes.values()) | set(dataset.ignore) == {*range(34), 255}
    split = dataset.split()
    assert {c.site for c in split.train} == {"aachen"}
    assert {c.site for c in split.val} == {"ulm"}
    assert [c.group for c in split.train] == ["aachen_000000", "aachen_000000", "aachen_000001"]
    plan = medseg.make_plan(dataset).with_values(SMALL)
    assert plan.target.classes[0] == "road"
    assert len(plan.target.classes) == len(plan.target.scored) == 19
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    prediction = medseg.predict(bundle, split.val[0])
    assert set(np.unique(prediction.labels)) <= set(plan.target.values)
    scores = medseg.evaluate(prediction, split.val[0], metrics=("iou",))
    assert "road" in scores.labels("iou")
    assert not check_dataset(dataset).of("error")
    # predictions are called after the files of the images, which say more than the names of the cases
    result = predict_files(bundle, list_images([tmp_path / "cs/leftImg8bit/val/ulm"]), tmp_path / "out")
    assert "ulm_000000_000000_leftImg8bit" in result.done
    found, scored = evaluate_files(tmp_path / "out", tmp_path / "cs", metrics=("iou",))
    assert not scored.failed
    assert found.value("ulm_000000_000000_leftImg8bit", "iou") == scores.value("", "iou")


def test_cityscapes_by_train_ids_is_the_same_data_set(tmp_path: Path) -> None:
    """0 is road there: taken for a background it would be in no score, and in no panoptic result."""
    other = load_dataset(make_cityscapes(tmp_path / "by_ids"))
    dataset = load_dataset(make_cityscapes(tmp_path / "cs", "labelTrainIds"))
    assert (dataset.classes, dataset.ignore) == (other.classes, other.ignore)
    for case, same in zip(dataset, other):
        ours, theirs = (np.asarray(read_case_label(c)[0]) for c in (case, same))
        void = np.isin(theirs, other.ignore)
        assert np.array_equal(np.isin(ours, dataset.ignore), void)
        assert np.array_equal(ours[~void], theirs[~void])
    plan = medseg.make_plan(dataset)
    assert plan.target == medseg.make_plan(other).target
    assert "road" in plan.target.scored
    assert "road = 7 in 5" in check_dataset(dataset).facts["labels"]


def test_a_broken_cityscapes(tmp_path: Path) -> None:
    root = make_cityscapes(tmp_path / "cs")
    (root / "gtFine/val/ulm/ulm_000000_000001_gtFine_labelIds.png").unlink()
    with pytest.raises(Refused, match="no label"):
        load_dataset(root)
    listing, findings = list_dataset(root)
    assert [f.case for f in findings] == ["ulm_000000_000001"]
    assert len(listing) == 5


# --- CamVid

COLOURS = "name, r, g, b\nCar,64,0,128\nRoad,128,64,128\nVoid,0,0,0\n"


def make_camvid(root: Path, table: str = COLOURS) -> Path:
    for split, first, n in (("train", 0, 3), ("val", 5, 2), ("test", 9, 1)):
        for i in range(n):
            name = f"{split}_{i:03}"
            label = scene(first + i)
            mask = np.zeros((*SHAPE, 3), np.uint8)
            mask[label == 0], mask[label == 15], mask[label == 1] = (128, 64, 128), (64, 0, 128), (64, 0, 128)
            for folder in (split, f"{split}_labels"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            picture(first + i, label).save(root / split / f"{name}.png")
            Image.fromarray(mask).save(root / f"{split}_labels/{name}_L.png")
    (root / "class_dict.csv").write_text(table)
    return root


def test_camvid_is_recognised_by_its_table_of_colours(tmp_path: Path) -> None:
    root = make_camvid(tmp_path / "camvid")
    dataset = load_dataset(root)
    assert dataset.classes == {"Car": 1, "Road": 2}
    assert dataset.ignore == (0,)
    split = dataset.split()
    assert (len(split.train), len(split.val), len(split.test)) == (3, 2, 1)
    label = np.asarray(read_case_label(split.train[1])[0])
    expected = np.select([scene(1) == 255, scene(1) == 0], [0, 2], 1)
    assert np.array_equal(label, expected)
    plan = medseg.make_plan(dataset).with_values(SMALL)
    assert plan.target.classes == ("Car", "Road")
    bundle = medseg.fit(plan, dataset, tmp_path / "run")
    predict_files(bundle, {c.name: c for c in split.test}, tmp_path / "out")
    scores, result = evaluate_files(tmp_path / "out", root, metrics=("pixel_error",))
    assert not result.failed
    found = medseg.predict(bundle, split.test[0]).labels
    truth = np.asarray(read_case_label(split.test[0])[0])
    assert scores.value("test_000", "pixel_error", "all") == pytest.approx(
        np.mean(found[truth > 0] != truth[truth > 0])
    )
    page = medseg.jobs.report(tmp_path / "out", tmp_path / "page.html")
    assert "Road" in page.read_text()
    assert not check_dataset(root).of("error")


def test_smoothed_edges_and_other_broken_colours(tmp_path: Path) -> None:
    root = make_camvid(tmp_path / "camvid")
    path = root / "train_labels/train_000_L.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[3, 4] = 65, 1, 127
    Image.fromarray(mask).save(path)
    with pytest.raises(Refused, match=r"\(65, 1, 127\)") as refusal:
        read_case_label(load_dataset(root).cases[1])
    assert refusal.value.reason == "unknown-colour"
    assert "unknown-colour" in {f.reason for f in check_dataset(root).of("error")}


@pytest.mark.parametrize(
    "table",
    ["name,r,g,b\nCar,64,0\n", "name,r,g,b\nCar,64,0,300\n", "Car,1,2,3\n", "name,r,g,b\nVoid,0,0,0\n",
     "name,r,g,b\nCar,1,2,3\nBus,1,2,3\n", "name,r,g,b\nCar,1,2,3\nCar,1,2,4\n", ""],
)  # fmt: skip
def test_a_table_of_colours_that_is_none(tmp_path: Path, table: str) -> None:
    with pytest.raises(Refused) as refusal:
        load_dataset(make_camvid(tmp_path / "camvid", table))
    assert refusal.value.reason == "bad-csv"


def test_a_legend_with_background_and_void(tmp_path: Path) -> None:
    path = tmp_path / "class_dict.csv"
    path.write_text("name,r,g,b\nBackground,0,0,0\nCar,1,2,3\nUnlabelled,9,9,9\nBus,4,5,6\n")
    legend = read_legend(path)
    assert legend.classes == {"Car": 1, "Bus": 2}
    assert legend.ignore == (255,)
    assert dict(legend.colours) == {(0, 0, 0): 0, (1, 2, 3): 1, (9, 9, 9): 255, (4, 5, 6): 2}


def test_colours_in_images_beside_labels_and_in_a_toml_file(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for i in range(3):
        label = scene(i)
        mask = np.zeros((*SHAPE, 3), np.uint8)
        mask[label == 15], mask[label == 255] = (255, 0, 0), (224, 224, 192)
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        picture(i, label).save(root / f"images/{i}.jpg")
        Image.fromarray(mask).quantize(4).save(root / f"masks/{i}.png")  # a palette that is no legend
    (root / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\nboat,255,0,0\nvoid,224,224,192\n")
    expected = np.select([scene(2) == 255, scene(2) == 15], [255, 1], 0)
    dataset = load_dataset(root)
    assert "class_dict.csv" in dataset.layout
    assert np.array_equal(read_case_label(dataset.cases[2])[0], expected)
    (root / "dataset.toml").write_text(
        "classes = { boat = 1 }\nignore = 255\n"
        'colours = { background = [0, 0, 0], boat = "#ff0000", ignore = "#e0e0c0" }\n'
        '[files]\nimage = "images/{case}.jpg"\nlabel = "masks/{case}.png"\n'
    )
    assert np.array_equal(read_case_label(load_dataset(root).cases[2])[0], expected)


def made_page_example(root: Path, number: int, labels: list[np.ndarray]) -> Path:
    """Write files of the layout of an example of the how-to page, and its description."""
    page = Path(__file__).parents[1] / "docs/how-to/describe-a-dataset.md"
    text = page.read_text().split("## Classes that ")[number].split("```toml\n")[1].split("```")[0]
    image, label = re.findall(r'^(?:image|label) = "(.*)"$', text, re.MULTILINE)
    for i, mask in enumerate(labels):
        for pattern, shown in ((image, picture(i, scene(i))), (label, Image.fromarray(mask))):
            path = root / pattern.format(case=f"0001TP_{i:06}", split=("train", "val")[i % 2])
            path.parent.mkdir(parents=True, exist_ok=True)
            shown.save(path)
    (root / "dataset.toml").write_text(text)
    return root


def test_several_colours_are_one_class_as_the_page_says(tmp_path: Path) -> None:
    colours = {1: [(64, 0, 128), (192, 128, 192)], 2: [(128, 64, 128), (128, 0, 192)], 255: [(0, 0, 0)]}
    masks, expected = [], []
    for i in range(3):
        rng = np.random.default_rng(i)
        value = np.select([scene(i) == 255, scene(i) == 15], [255, 1], 2)
        mask = np.zeros((*SHAPE, 3), np.uint8)
        for number, listed in colours.items():
            mask[value == number] = rng.choice(listed, int((value == number).sum()))
        masks.append(mask)
        expected.append(value)
    dataset = load_dataset(made_page_example(tmp_path / "CamVid", 1, masks))
    assert dataset.things == ("car",)
    for case, value in zip(dataset, expected):
        assert np.array_equal(read_case_label(case)[0], value)
    assert [f.reason for f in check_dataset(dataset).findings] == ["absent-class"]  # no building


def test_the_colours_of_camvid_as_its_own_file_says(tmp_path: Path) -> None:
    root = tmp_path / "CamVid"
    for i in range(3):
        mask = np.zeros((*SHAPE, 3), np.uint8)
        mask[scene(i) == 0], mask[scene(i) == 15] = (128, 64, 128), (64, 0, 128)
        for folder, ending, shown in (
            ("raw", "", picture(i, scene(i))),
            ("approved", "_L", Image.fromarray(mask)),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            shown.save(root / f"{folder}/0001TP_{i}{ending}.png")
    (root / "label_colors.txt").write_text(
        "64 0 128\t\tCar\n128 64 128\tRoad\n192 192 128\tColumn_Pole\n0 0 0\tVoid\n"
    )
    text = (
        'colours = "label_colors.txt"\nthings = ["Car"]\n[files]\n'
        'image = "raw/{case}.png"\nlabel = "approved/{case}_L.png"\n'
    )
    (root / "dataset.toml").write_text(text)
    dataset = load_dataset(root)
    assert (dataset.classes, dataset.ignore) == ({"Car": 1, "Road": 2, "Column_Pole": 3}, (0,))
    assert dataset.things == ("Car",)
    expected = np.select([scene(2) == 0, scene(2) == 15], [2, 1], 0)
    assert np.array_equal(read_case_label(dataset.cases[2])[0], expected)
    for wrong, reason in (
        (text.replace("label_colors", "colors"), "not-found"),
        ("ignore = 0\n" + text, "bad-value"),
        ("classes = { Car = 1 }\n" + text, "bad-value"),
    ):
        (root / "dataset.toml").write_text(wrong)
        with pytest.raises(Refused) as refusal:
            load_dataset(root)
        assert refusal.value.reason == reason
    (root / "dataset.toml").write_text(text)
    for line in ("64 0\tCar", "64 0 300 Car", "64 0 128"):
        (root / "label_colors.txt").write_text(line + "\n")
        with pytest.raises(Refused) as refusal:
            load_dataset(root)
        assert refusal.value.reason == "bad-csv"


def test_greys_that_count_from_zero_as_the_page_says(tmp_path: Path) -> None:
    masks = [
        np.select([scene(i) == 255, scene(i) == 15, scene(i) == 1], [11, 1, 2]).astype(np.uint8)
        for i in range(4)
    ]
    root = made_page_example(tmp_path / "segnet", 2, masks)
    dataset = load_dataset(root)
    plan = medseg.make_plan(dataset)
    assert plan.target.scored == {"sky": 1, "building": 2, "pole": 3}
    assert (len(dataset.split().train), len(dataset.split().val)) == (2, 2)
    assert plan.split.test_fraction == 0
    for case, mask in zip(sorted(dataset, key=lambda c: c.name), masks):
        assert np.array_equal(read_case_label(case)[0], np.where(mask == 11, 0, mask + 1))
    # without that no score would count the sky: the check tells of it, and not that it is absent
    text = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text(
        text.replace("{ sky = 1, building = 2, pole = 3 }", "{ sky = 0, building = 1, pole = 2 }")
        .replace("ignore = 0", "ignore = 11")
        .split("[colours]")[0]
    )
    report = check_dataset(root)
    assert [f.reason for f in report.findings] == ["class-zero"]
    assert 'colours = { "sky" = [0, 0, 0], ... }' in report.findings[0].fix
    assert "sky" not in report.facts["labels"]


@pytest.mark.parametrize("name", ["voc", "cityscapes", "camvid", "organs"])
def test_scenes_stay_upright_and_no_negatives(tmp_path: Path, name: str) -> None:
    if name == "organs":
        root = tmp_path
        for i in range(4):
            label = np.uint8(scene(i) == 15)
            for folder, shown in (("images", picture(i, scene(i))), ("labels", Image.fromarray(label))):
                (root / folder).mkdir(exist_ok=True)
                shown.save(root / f"{folder}/{i}.png")
    else:
        root = {"voc": make_voc, "cityscapes": make_cityscapes, "camvid": make_camvid}[name](tmp_path / name)
    augment = medseg.make_plan(root).augment
    found = (augment.rotate_degrees, augment.flip_axes, augment.invert_prob)
    assert found == ((180.0, (), 0.0) if name == "organs" else (10.0, (1,), 0.0))


def test_a_folder_above_a_known_layout_is_told(tmp_path: Path) -> None:
    make_voc(tmp_path / "VOCdevkit/VOC2012")
    with pytest.raises(
        Refused, match=r"[Nn]ame the folder '.*VOCdevkit.VOC2012', which is in a known layout"
    ):
        load_dataset(tmp_path / "VOCdevkit")


def test_void_that_nobody_declared_is_told(tmp_path: Path) -> None:
    for i in range(3):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        picture(i, scene(i)).save(tmp_path / f"images/{i}.png")
        Image.fromarray(scene(i)).save(tmp_path / f"masks/{i}.png")
    (gap,) = check_dataset(tmp_path).findings
    assert gap.reason == "label-gap"
    assert "If 255 is void, write ignore = 255" in gap.fix


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('colours = { boat = ["#ff0000", [1, 2]] }', "bad-value"),
        ('colours = { boat = ["#ff0000", [255, 0, 0]] }', "bad-value"),  # twice
        ("ignore = -1", "bad-value"),
        ('ignore = "255"', "bad-value"),
        ("ignore = [1, 255]", "bad-value"),  # 1 is a class
        ("colours = { boat = [1, 2] }", "bad-value"),
        ('colours = { boat = "#gg0000" }', "bad-value"),
        ("colours = { plane = [1, 2, 3] }", "unknown-key"),
        ("colours = { boat = [0, 0, 0], background = [0, 0, 0] }", "bad-value"),
    ],
)
def test_a_description_of_colours_or_void_that_is_wrong(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a_mask.png").touch()
    (tmp_path / "dataset.toml").write_text(
        f'classes = {{ boat = 1 }}\n{line}\n[[cases]]\nimage = "a.png"\nlabel = "a_mask.png"\n'
    )
    with pytest.raises(Refused) as refusal:
        load_dataset(tmp_path)
    assert refusal.value.reason == reason


def test_nnunets_ignore_label(tmp_path: Path) -> None:
    for name in ("imagesTr/a_0000", "labelsTr/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "ignore": 2}, '
        '"file_ending": ".nii.gz"}'
    )
    dataset = load_dataset(tmp_path)
    assert dataset.classes == {"liver": 1}
    assert dataset.ignore == (2,)

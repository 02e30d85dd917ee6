"""Layouts, TOML files and splits, on trees of empty files: no pixel is read."""

from __future__ import annotations

from pathlib import Path

import pytest

import medseg
from medseg import Case, Dataset, Refused
from medseg.dataset.patterns import Pattern


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def toml(root: Path, text: str) -> Path:
    (root / "described.toml").write_text(text)
    return root / "described.toml"


def refusal(action: object, *args: object, **kwargs: object) -> Refused:
    with pytest.raises(Refused) as caught:
        action(*args, **kwargs)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return caught.value


def made(groups: int, cases: int = 1, splits: dict[str, str] | None = None) -> Dataset:
    splits = splits or {}
    listed = [
        Case(f"g{g}_{i}", Path(f"{g}_{i}.png"), Path("l.png"), f"g{g}", split=splits.get(f"g{g}"))
        for g in range(groups)
        for i in range(cases)
    ]
    return Dataset("made", tuple(listed), Path("."), "by hand")


def names(cases: tuple[Case, ...]) -> list[str]:
    return sorted(c.name for c in cases)


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr")]
)
def test_two_folders(tmp_path: Path, images: str, labels: str) -> None:
    tree(tmp_path, f"{images}/a10.png", f"{images}/a9.jpg", f"{labels}/a9.tif", f"{labels}/a10.nii.gz")
    tree(tmp_path, f"{images}/.hidden.png", f"{images}/Thumbs.db", "index.csv", ".git/config")
    dataset = medseg.load_dataset(tmp_path)
    assert [c.name for c in dataset] == ["a9", "a10"]
    assert dataset.cases[1].label == tmp_path / labels / "a10.nii.gz"
    assert dataset.cases[1].group == "a10"
    assert dataset.labelled
    assert dataset.layout == f"{images}/ and {labels}/"
    assert (dataset.classes, dataset.kind, dataset.source) == (None, None, tmp_path)


def test_classes_of_the_decathlon(tmp_path: Path) -> None:
    tree(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text('{"name": "liver", "labels": {"0": "background", "2": "tumour"}}')
    dataset = medseg.load_dataset(tmp_path)
    assert (dataset.name, dataset.classes, dataset.kind) == ("liver", {"tumour": 2}, "semantic")
    (tmp_path / "dataset.json").write_text('{"labels": ["liver"]}')
    assert refusal(medseg.load_dataset, tmp_path).reason == "bad-value"


@pytest.mark.parametrize(
    "ending", ["_mask", "_masks", "_label", "_labels", "_seg", "_Annotation", "_instances"]
)
def test_label_beside_image(tmp_path: Path, ending: str) -> None:
    tree(tmp_path, "a.jpg", f"a{ending}.png", "b_1.png", f"b_1{ending}.tif")
    dataset = medseg.load_dataset(tmp_path)
    assert [(c.name, c.image.name, c.label.name) for c in dataset] == [  # type: ignore[union-attr]
        ("a", "a.jpg", f"a{ending}.png"),
        ("b_1", "b_1.png", f"b_1{ending}.tif"),
    ]
    assert dataset.kind == ("instances" if ending == "_instances" else None)


def test_one_mask_an_object(tmp_path: Path) -> None:
    tree(tmp_path, "x/images/x.png", "x/masks/m10.png", "x/masks/m2.png", "y/images/y.png", "y/masks/m.png")
    dataset = medseg.load_dataset(tmp_path)
    assert dataset.kind == "instances"
    assert [c.name for c in dataset] == ["x", "y"]
    assert [p.name for p in dataset.cases[0].label] == ["m2.png", "m10.png"]  # type: ignore[union-attr]
    assert dataset.cases[1].label == (tmp_path / "y/masks/m.png",)
    (tmp_path / "y/masks/m.png").unlink()
    assert refusal(medseg.load_dataset, tmp_path).reason == "image-without-label"
    tree(tmp_path, "y/masks/m.png", "y/images/z.png")
    assert refusal(medseg.load_dataset, tmp_path).reason == "duplicate-case"


def test_images_alone_can_be_listed_but_not_split(tmp_path: Path) -> None:
    for root in (
        tree(tmp_path / "flat", "a.png", "b.png"),
        tree(tmp_path / "deep", "images/a.png", "images/b.png"),
    ):
        dataset = medseg.load_dataset(root)
        assert len(dataset) == 2
        assert not dataset.labelled
        assert refusal(dataset.split).reason == "no-labels"


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ([], "empty-folder", "is empty"),
        (["notes.txt"], "unknown-layout", "none of them an image"),
        (["ct/slices/a.png"], "unknown-layout", "images/ beside labels/"),
        (
            ["images/a.png", "images/b.png", "labels/a.png"],
            "image-without-label",
            "2 images and 1 labels; no label for 'b'",
        ),
        (["images/a.png", "labels/a.png", "labels/c.png"], "label-without-image", "no image for 'c'"),
        (["images/a.png", "images/a.tif", "labels/a.png"], "duplicate-case", "a.tif"),
        (["images/a.png", "labels/a.png", "masks/a.png"], "ambiguous-label", "labels/ and masks/"),
        (["images/notes.txt", "labels/a.png"], "empty-folder", "holds no image"),
        (["a.png", "a_mask.png", "b.png"], "image-without-label", "'b'"),
        (["a.png", "a_mask.png", "b_mask.png"], "label-without-image", "'b'"),
        (["a.png", "a_mask.png", "a_seg.png"], "ambiguous-label", "a_seg.png"),
        (
            [f"images/{i}.png" for i in range(9)] + ["labels/0.png"],
            "image-without-label",
            "'1', '2', '3' and 5 more",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, files: list[str], code: str, words: str) -> None:
    error = refusal(medseg.load_dataset, tree(tmp_path, *files))
    assert error.reason == code
    assert words in str(error)


def test_paths_and_names(tmp_path: Path) -> None:
    tree(tmp_path, "cells/images/a.png", "cells/labels/a.png", "a.png")
    assert refusal(medseg.load_dataset, tmp_path / "none").reason == "not-found"
    assert refusal(medseg.load_dataset, "none", root=tmp_path).reason == "not-found"
    assert refusal(medseg.load_dataset, tmp_path / "a.png").reason == "unknown-layout"
    assert len(medseg.load_dataset("cells", root=tmp_path)) == 1
    (tmp_path / "more.toml").write_text('[files]\nimage = "cells/images/{case}.png"')
    assert medseg.load_dataset("more", root=tmp_path).cases[0].image == tmp_path / "cells/images/a.png"
    (tmp_path / "cells/dataset.toml").write_text('name = "mine"\n[files]\nimage = "images/{case}.png"')
    assert medseg.load_dataset(tmp_path / "cells").name == "mine"


def test_paths_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "d/images/a.png", "d/labels/a.png")
    monkeypatch.chdir(tmp_path)
    assert medseg.load_dataset("d").cases[0].image == tmp_path / "d/images/a.png"


def test_patterns_join_images_labels_and_groups(tmp_path: Path) -> None:
    for stem in ("010_HC", "010_2HC", "011_HC"):
        tree(tmp_path, f"{stem}.png", f"{stem}_Annotation.png")
    path = toml(
        tmp_path,
        """
        name = "heads"
        kind = "semantic"
        classes = { head = 255 }
        spacing = [0.1, 0.2]
        unit = "mm"
        [files]
        image = "{case}.png"
        label = "{case}_Annotation.png"
        group = "{group}_*"
        [splits]
        test = ["010_2HC"]
        [tags.quality]
        poor = ["010"]
        good = ["011_HC"]
        """,
    )
    dataset = medseg.load_dataset(path)
    assert [(c.name, c.group, c.tags["quality"]) for c in dataset] == [
        ("010_2HC", "010", "poor"),
        ("010_HC", "010", "poor"),
        ("011_HC", "011", "good"),
    ]
    assert dataset.cases[1].label == tmp_path / "010_HC_Annotation.png"
    assert (dataset.name, dataset.kind, dataset.classes) == ("heads", "semantic", {"head": 255})
    assert (dataset.spacing, dataset.spacing_unit) == ((0.1, 0.2), "mm")
    assert [c.split for c in dataset] == ["test", None, None]


def test_placeholders_fill_the_fields_of_a_case(tmp_path: Path) -> None:
    for where in ("train/oslo/red", "test/bergen/blue"):
        tree(tmp_path, f"{where}/p1/image-{where[:2]}.png", f"labels/{where[:2]}_a.tif")
    path = toml(
        tmp_path,
        '[files]\nimage = "{split}/{site}/{stain}/{group}/image-{case}.png"\nlabel = "labels/{case}_*.tif"',
    )
    error = refusal(medseg.load_dataset, path)  # both have a patient called p1
    assert error.reason == "group-in-two-splits"
    (tmp_path / "test/bergen/blue/p1").rename(tmp_path / "test/bergen/blue/p2")
    first, second = medseg.load_dataset(path).cases
    assert (first.name, first.site, first.group, first.split, first.tags) == (
        "te",
        "bergen",
        "p2",
        "test",
        {"stain": "blue"},
    )
    assert second.label == tmp_path / "labels/tr_a.tif"


def test_several_labels_need_brackets(tmp_path: Path) -> None:
    tree(tmp_path, "a/i/x.png", "a/m/2.png", "a/m/10.png", "a_b/i/x.png", "a_b/m/1.png")
    text = '[files]\nimage = "{case}/i/*.png"\nlabel = %s\n'
    assert refusal(medseg.load_dataset, toml(tmp_path, text % '"{case}/m/*.png"')).reason == "ambiguous-label"
    dataset = medseg.load_dataset(toml(tmp_path, text % '["{case}/m/*.png"]'))
    assert dataset.cases[0].label == (tmp_path / "a/m/2.png", tmp_path / "a/m/10.png")
    assert dataset.cases[1].label == (tmp_path / "a_b/m/1.png",)


def test_case_names_that_begin_alike_do_not_share_labels(tmp_path: Path) -> None:
    tree(tmp_path, "Image_01.jpg", "Image_01_x1.png", "Image.jpg", "Image_x1.png")
    dataset = medseg.load_dataset(
        toml(tmp_path, '[files]\nimage = "{case}.jpg"\nlabel = "{case}_x[0-9].png"')
    )
    assert {c.name: c.label for c in dataset} == {
        "Image": tmp_path / "Image_x1.png",
        "Image_01": tmp_path / "Image_01_x1.png",
    }


def test_a_list_of_cases(tmp_path: Path) -> None:
    tree(tmp_path, "data/a.png", "data/b.png", "data/m.png", "data/m1.png", "data/m2.png")
    path = toml(
        tmp_path,
        """
        [[cases]]
        image = "b.png"
        label = ["m2.png", "m1.png"]
        [[cases]]
        name = "first"
        image = "a.png"
        label = "m.png"
        group = "p"
        split = "val"
        site = "oslo"
        tags = { stain = "red" }
        """,
    )
    b, first = medseg.load_dataset(path, root=tmp_path / "data").cases
    data = tmp_path / "data"
    assert b == Case("b", data / "b.png", (data / "m2.png", data / "m1.png"), "b")
    assert first == Case("first", data / "a.png", data / "m.png", "p", "val", "oslo", {"stain": "red"})
    error = refusal(medseg.load_dataset, path)
    assert error.reason == "not-found"
    assert "5 of 5" in str(error)


FILES = '\n[files]\nimage = "{case}.png"\n'


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("a = ", "bad-toml", "at end"),
        ("", "missing-key", "no cases"),
        (FILES + '[[cases]]\nimage = "a.png"', "missing-key", "its cases twice"),
        ('nam = "x"' + FILES, "unknown-key", "Did you mean 'name'?"),
        (FILES + 'lable = "x"', "unknown-key", "Did you mean 'label'?"),
        ('[[cases]]\nimage = "a.png"\ngruop = "x"', "unknown-key", "Did you mean 'group'?"),
        (FILES + '[splits]\nvalid = ["a"]', "unknown-key", "Did you mean 'val'?"),
        ("name = 3" + FILES, "bad-value", "got 3"),
        ('kind = "instance"' + FILES, "bad-value", '"instances" or "semantic"'),
        ("classes = { a = 1, b = 1 }" + FILES, "bad-value", "different whole numbers"),
        ("classes = { a = true }" + FILES, "bad-value", "whole numbers"),
        ("spacing = [1, 2]" + FILES, "bad-value", '"um" or "mm"'),
        ('spacing = [1, -2]\nunit = "mm"' + FILES, "bad-value", "positive"),
        ('unit = "mm"' + FILES, "bad-value", "a spacing beside it"),
        ('[files]\nimage = "*.png"', "bad-value", "{case}"),
        ('[files]\nimage = "/{case}.png"', "bad-value", "no pattern"),
        ('[files]\nimage = "{Case}.png"', "bad-value", "no pattern"),
        ('[files]\nimage = "{case}.tif"', "empty-folder", "{case}.tif"),
        (FILES + 'label = "{case}_{x}.png"', "bad-value", "{case}.png"),
        (FILES + 'label = "{case}_mask.png"', "image-without-label", "'a', 'b'. Add 'NAME_mask.png'"),
        (FILES + 'group = "{group}_*"', "bad-value", "does not match case 'a'"),
        (FILES + 'group = "*"', "bad-value", "{group}"),
        (FILES + '[splits]\ntest = ["c"]', "unknown-case", "'c'"),
        (FILES + '[splits]\ntest = ["a"]\nval = ["a"]', "group-in-two-splits", "'a'"),
        (FILES + '[tags.q]\ngood = ["a"]\npoor = ["a"]', "bad-value", "one value"),
        ('[[cases]]\nimage = "a.png"\nsplit = "training"', "bad-value", "training"),
        ('[[cases]]\nimage = "a.png"\n[[cases]]\nimage = "a.png"', "duplicate-case", "'a'"),
        (
            '[[cases]]\nimage = "a.png"\nlabel = "b.png"\n[[cases]]\nimage = "b.png"',
            "image-without-label",
            "'b'",
        ),
        ("cases = []", "bad-value", "[[cases]]"),
    ],
)
def test_a_description_is_read_strictly(tmp_path: Path, text: str, code: str, words: str) -> None:
    tree(tmp_path, "a.png", "b.png")
    error = refusal(medseg.load_dataset, toml(tmp_path, text))
    assert error.reason == code, str(error)
    assert words in str(error)


def test_pattern_language() -> None:
    assert Pattern("**/{case}.png").fields("a/b/c.png") == {"case": "c"}
    assert Pattern("**/{case}.png").fields("c.png") == {"case": "c"}
    assert Pattern("{case}/{case}.png").fields("a/b.png") is None
    assert Pattern("{group}[LR]").fields("Image_01L") == {"group": "Image_01"}
    assert Pattern("{group}[!LR]").fields("Image_01L") is None
    assert Pattern("a.{case}").fields("axb") is None
    assert Pattern("?{case}").fields("ab") == {"case": "b"}


@pytest.mark.parametrize(("groups", "folds"), [(2, 2), (3, 5), (5, 5), (13, 5), (100, 4)])
def test_every_group_is_validated_once_and_never_parted(groups: int, folds: int) -> None:
    dataset = made(groups, cases=3)
    seen: list[str] = []
    for fold in range(min(folds, groups)):
        split = dataset.split(fold=fold, folds=folds)
        assert split.train
        assert split.val
        assert not split.test
        assert not {c.group for c in split.train} & {c.group for c in split.val}
        assert names(split.train + split.val) == names(dataset.cases)
        seen += names(split.val)
    assert sorted(seen) == names(dataset.cases)


def test_folds_are_of_one_size() -> None:
    sizes = [len(made(101).split(fold=f).val) for f in range(5)]
    assert sorted(sizes) == [20, 20, 20, 20, 21]


@pytest.mark.parametrize("groups", [3, 4, 30])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.9])
def test_the_test_set_is_that_of_every_fold(groups: int, fraction: float) -> None:
    splits = [made(groups, cases=2).split(fold=f, folds=2, test_fraction=fraction) for f in range(2)]
    assert splits[0].test == splits[1].test
    for split in splits:
        assert split.train
        assert split.val
        sets = [{c.group for c in part} for part in (split.train, split.val, split.test)]
        assert sum(map(len, sets)) == len(set.union(*sets)) == groups
    assert len({c.group for c in splits[0].test}) == min(max(1, round(groups * fraction)), groups - 2)


def test_the_order_of_files_changes_nothing_and_the_seed_does() -> None:
    dataset = made(20, cases=2)
    turned = Dataset("made", dataset.cases[::-1], Path("."), "by hand")
    assert names(dataset.split(test_fraction=0.2).val) == names(turned.split(test_fraction=0.2).val)
    assert names(dataset.split().val) != names(dataset.split(seed=1).val)


def test_a_new_case_moves_few_others() -> None:
    before, after = made(100), made(101)
    for fold in range(5):
        old = {c.name for c in before.split(fold=fold, test_fraction=0.2).val}
        new = {c.name for c in after.split(fold=fold, test_fraction=0.2).val}
        assert len(old - new) <= 3


def test_declared_splits_are_obeyed() -> None:
    dataset = made(12, cases=2, splits={"g1": "test", "g2": "val", "g3": "train", "g4": "test"})
    split = dataset.split(test_fraction=0.5)
    assert names(split.test) == ["g1_0", "g1_1", "g4_0", "g4_1"]
    assert names(split.val) == ["g2_0", "g2_1"]
    assert len(split.train) == 18
    assert refusal(dataset.split, fold=1).reason == "bad-value"
    only_test = made(12, splits={"g1": "test", "g2": "train"})
    drawn = [c.name for f in range(5) for c in only_test.split(fold=f).val]
    assert len(drawn) == 11  # all but the test case, the declared training case among them
    assert "g1_0" not in drawn


def test_a_split_on_some_cases_of_a_group_holds_for_all() -> None:
    cases = [Case(f"a{i}", Path(f"{i}"), Path("l"), "a", split="test" if i else None) for i in range(2)]
    cases += [Case(n, Path(n), Path("l"), n) for n in "bcd"]
    assert names(Dataset("d", tuple(cases), Path("."), "by hand").split().test) == ["a0", "a1"]


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    assert refusal(made(1, cases=9).split).reason == "too-few-groups"
    assert refusal(made(2).split, test_fraction=0.1).reason == "too-few-groups"
    assert refusal(made(3).split, fold=3).reason == "too-few-groups"
    assert refusal(made(2, splits={"g0": "val", "g1": "test"}).split).reason == "too-few-groups"
    for wrong in ({"folds": 1}, {"fold": 5}, {"fold": -1}, {"test_fraction": 1.0}, {"test_fraction": -0.1}):
        assert refusal(made(9).split, **wrong).reason == "bad-value"


def test_datasets_made_by_hand_are_checked() -> None:
    one = Case("a", Path("a"), Path("l"), "g", split="train")
    for other, code in [
        (Case("a", Path("b"), Path("l"), "h"), "duplicate-case"),
        (Case("b", Path("b"), Path("l"), "g", split="test"), "group-in-two-splits"),
        (Case("b", Path("b"), None, "h"), "image-without-label"),
    ]:
        assert refusal(Dataset, "d", (one, other), Path("."), "by hand").reason == code


def test_thousands_of_files_and_no_pixel(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{part}/c{i}.png" for part in ("images", "labels") for i in range(1000)))
    assert len(medseg.load_dataset(tmp_path)) == 1000  # the files are empty: opening one would be refused


REAL = {
    "hc18": ('{case}.png"\nlabel = "{case}_Annotation.png"\ngroup = "{group}_*', 156, 130),
    "chasedb1": ('{case}.jpg"\nlabel = "{case}_1stHO.png"\ngroup = "{group}[LR]', 28, 14),
    "brain_tumour_nrrd": ('{case}_image.nrrd"\nlabel = "{case}_label.nrrd', 2, 2),
    "dsb2018_raw_layout": ('{case}/images/*.png"\nlabel = ["{case}/masks/*.png"]\n#', 11, 11),
}


@pytest.mark.parametrize("name", REAL)
def test_real_datasets_in_three_lines(tmp_path: Path, shared_data: Path, name: str) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is absent")
    text, cases, groups = REAL[name]
    dataset = medseg.load_dataset(toml(tmp_path, f'[files]\nimage = "{text}"'), root=shared_data / name)
    assert (len(dataset), len(dataset.groups)) == (cases, groups)
    assert dataset.labelled


@pytest.mark.parametrize(
    ("name", "cases", "kind"),
    [("dsb2018", 590, None), ("dsb2018_raw_layout", 11, "instances"), ("hc18", 156, None)],
)
def test_real_layouts(shared_data: Path, name: str, cases: int, kind: str | None) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is absent")
    dataset = medseg.load_dataset(shared_data / name)
    assert (len(dataset), dataset.kind, dataset.labelled) == (cases, kind, True)

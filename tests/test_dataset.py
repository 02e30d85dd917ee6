"""Layouts, TOML files and splits, on trees of empty files: no pixel is read but where channels are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import MetaTensor

import medseg
from medseg import Case, Dataset, Refused
from medseg.dataset import list_dataset, read_case
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


# the Decathlon and nnU-Net

DECATHLON: dict[str, Any] = {
    "name": "Liver",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "tumour"},
    "numTraining": 2,
    "training": [{"image": f"./imagesTr/a_{i}.nii.gz", "label": f"./labelsTr/a_{i}.nii.gz"} for i in (10, 9)],
    "test": ["./imagesTs/a_11.nii.gz"],
}
NNUNET: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "oedema": 1, "core": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def described(root: Path, table: dict[str, Any], *names: str, **changes: Any) -> Path:
    tree(root, *(f"{name}.nii.gz" for name in names))
    (root / "dataset.json").write_text(
        json.dumps({k: v for k, v in (table | changes).items() if v is not None})
    )
    return root


def decathlon(root: Path, *more: str, **changes: Any) -> Path:
    names = ("imagesTr/a_9", "imagesTr/a_10", "labelsTr/a_9", "labelsTr/a_10", "imagesTs/a_11")
    return described(root, DECATHLON, *names, *more, **changes)


def nnunet(root: Path, *more: str, **changes: Any) -> Path:
    names = ("imagesTr/b_2_0000", "imagesTr/b_2_0001", "imagesTr/b_10_0000", "imagesTr/b_10_0001")
    return described(root, NNUNET, *names, "labelsTr/b_2", "labelsTr/b_10", *more, **changes)


def test_the_decathlon_where_it_lies(tmp_path: Path) -> None:
    tree(tmp_path, "imagesTr/._a_9.nii.gz", "labelsTr/._a_9.nii.gz", "._dataset.json")
    dataset = medseg.load_dataset(decathlon(tmp_path))
    assert (dataset.name, dataset.kind, dataset.channels) == ("Liver", "semantic", ("CT",))
    assert dataset.classes == {"liver": 1, "tumour": 2}
    found = {c.name: (c.image, c.label, c.group) for c in dataset}
    image, label = tmp_path / "imagesTr/a_9.nii.gz", tmp_path / "labelsTr/a_9.nii.gz"
    assert found["a_9"] == (image, label, "a_9")
    assert list(found) == ["a_9", "a_10"]


def test_images_to_predict_are_listed_when_their_folder_is_named(tmp_path: Path) -> None:
    images = medseg.load_dataset(decathlon(tmp_path / "d") / "imagesTs")
    assert ([c.name for c in images], images.labelled, images.channels) == (["a_11"], False, ("CT",))
    nnunet(tmp_path / "n", "imagesTs/c_0000", "imagesTs/c_0001")
    (case,) = medseg.load_dataset(tmp_path / "n/imagesTs")
    assert case.images == tuple(tmp_path / f"n/imagesTs/c_000{i}.nii.gz" for i in (0, 1))
    assert case.path == case.images[0]
    assert case.labels == ()
    assert medseg.jobs.list_images([tmp_path / "n/imagesTs"]) == {"c": case}


def test_what_the_list_of_the_decathlon_and_its_folder_do_not_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = decathlon(tmp_path, "imagesTr/more", "labelsTr/more")
    with caplog.at_level(logging.WARNING, "medseg"):
        assert names(medseg.load_dataset(root).cases) == ["a_10", "a_9"]
    assert "'more'" in caplog.text
    tree(root, "imagesTr/alone.nii.gz")
    error = refusal(medseg.load_dataset, root)
    assert (error.reason, "Add 'labelsTr/alone.nii.gz'" in str(error)) == ("image-without-label", True)
    (root / "imagesTr/alone.nii.gz").unlink()
    (root / "imagesTr/a_9.nii.gz").unlink()
    error = refusal(medseg.load_dataset, root)
    assert (error.reason, "'a_9'" in str(error)) == ("not-found", True)
    (root / "labelsTr/a_10.nii.gz").unlink()
    listing, findings = list_dataset(root)
    assert [(f.severity, f.reason, f.case) for f in findings] == [
        ("error", "not-found", "a_9"),
        ("warning", "unlisted-case", ""),
        ("warning", "count-differs", ""),
        ("error", "image-without-label", "a_10"),
    ]
    assert "imagesTr/a_9.nii.gz" in findings[0].sentence
    assert [(c.name, c.label) for c in listing] == [("a_10", None)]


def test_training_images_without_any_label_are_refused(tmp_path: Path) -> None:
    error = refusal(medseg.load_dataset, tree(tmp_path, "imagesTr/a_118.nii.gz"))
    assert error.reason == "image-without-label"
    assert str(error).endswith("Add 'labelsTr/a_118.nii.gz', or move the image elsewhere.")


def test_nnunet_where_it_lies(tmp_path: Path) -> None:
    dataset = medseg.load_dataset(nnunet(tmp_path / "nnUNet_raw/Dataset007_Brain"))
    assert (dataset.name, dataset.kind, dataset.channels) == ("Dataset007_Brain", "semantic", ("T1", "FLAIR"))
    assert dataset.classes == {"oedema": 1, "core": 3}
    assert [c.name for c in dataset] == ["b_2", "b_10"]
    assert [p.name for p in dataset.cases[1].images] == ["b_10_0000.nii.gz", "b_10_0001.nii.gz"]
    assert dataset.cases[1].label == dataset.root / "labelsTr/b_10.nii.gz"
    assert "one file a channel" in dataset.layout
    # the first version lists CASE.nii.gz, and its files are CASE_0000.nii.gz
    old = {"name": "Old", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}}
    entry = {"image": "./imagesTr/c.nii.gz", "label": "./labelsTr/c.nii.gz"}
    described(tmp_path / "v1", old, "imagesTr/c_0000", "labelsTr/c", training=[entry])
    assert medseg.load_dataset(tmp_path / "v1").cases[0].image == tmp_path / "v1/imagesTr/c_0000.nii.gz"
    # the second may list files by case
    files = {"z": {"images": ["raw/p.nii.gz", "raw/q.nii.gz"], "label": "raw/l.nii.gz"}}
    described(tmp_path / "v2", NNUNET, "raw/p", "raw/q", "raw/l", "imagesTr/._x", dataset=files)
    (case,) = medseg.load_dataset(tmp_path / "v2").cases
    assert (case.name, [p.name for p in case.images]) == ("z", ["p.nii.gz", "q.nii.gz"])


@pytest.mark.parametrize(
    ("more", "changes", "code", "words"),
    [
        (["imagesTr/c_0001", "labelsTr/c"], {}, "missing-channel", "0 (T1): 'imagesTr/c_0000.nii.gz'"),
        (["imagesTr/b_2_0002"], {}, "unknown-channel", "'b_2': the image has channel 2"),
        (["imagesTr/c", "labelsTr/c"], {}, "missing-channel", "'c_0000.nii.gz'"),
        (["labelsTr/c"], {}, "label-without-image", "'c'"),
        (["imagesTr/c_0000", "imagesTr/c_0001"], {}, "image-without-label", "'labelsTr/c.nii.gz'"),
        ([], {"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "overlapping-classes", "'whole'"),
        ([], {"labels": {"background": 0, "a": 1, "b": 1}}, "bad-value", "twice"),
        ([], {"labels": {"background": 0, "a": -1}}, "bad-value", "'a': -1"),
        ([], {"labels": {}}, "bad-value", "labels {}"),
        ([], {"file_ending": "nii.gz"}, "bad-value", "Did you mean '.nii.gz'?"),
        ([], {"channel_names": {"1": "T1"}}, "bad-value", "numbered 1"),
        ([], {"channel_names": {"0": 1}}, "bad-value", "channels"),
        ([], {"numTraining": "2"}, "bad-value", "numTraining"),
        ([], {"training": [{"image": 3}]}, "bad-value", "{'image': 3}"),
    ],
)
def test_what_is_wrong_with_an_nnunet_folder(
    tmp_path: Path, more: list[str], changes: dict[str, Any], code: str, words: str
) -> None:
    error = refusal(medseg.load_dataset, nnunet(tmp_path, *more, **changes))
    assert error.reason == code, str(error)
    assert words in str(error)


def test_what_an_nnunet_folder_tells_and_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(nnunet(tmp_path, numTraining=3), "imagesTr/b_2.png")
    with caplog.at_level(logging.WARNING, "medseg"):
        assert len(medseg.load_dataset(root)) == 2
    assert "numTraining = 3, and there are 2 images" in caplog.text
    assert "'b_2.png'" in caplog.text
    reasons = [f.reason for f in list_dataset(root)[1]]
    assert reasons == ["other-ending", "count-differs"]


# several files as the channels of one image


def write_channels(
    root: Path, case: str, shape: tuple[int, ...], folder: str = "imagesTr"
) -> list[np.ndarray]:
    rng = np.random.default_rng(len(case))
    affine = np.array([[0.0, -1.5, 0, 7], [0.8, 0, 0, -3], [0, 0, 4, 1], [0, 0, 0, 1]])
    parts = [rng.integers(0, 900, shape).astype(np.int16) + 1000 * i for i in range(2)]
    for i, part in enumerate(parts):
        medseg.write(MetaTensor(part[None], affine=affine), root / folder / f"{case}_000{i}.nii.gz")
    label = MetaTensor((parts[0] > 450).astype(np.uint8)[None], affine=affine)
    if folder == "imagesTr":
        medseg.write(label, root / f"labelsTr/{case}.nii.gz")
    return parts


def test_files_become_channels_all_the_way(tmp_path: Path) -> None:
    from medseg.bundle import load_bundle, save_bundle
    from medseg.jobs import predict_files
    from medseg.jobs.manifest import Manifest
    from medseg.networks import build_network
    from medseg.planning import take_fingerprint

    root = tmp_path / "raw"
    parts = write_channels(root, "a", (13, 17, 8))
    write_channels(root, "b", (12, 18, 9))
    write_channels(root, "test", (14, 11, 8), "imagesTs")
    described(root, NNUNET, labels={"background": 0, "bright": 1})
    dataset = medseg.load_dataset(root)
    image = read_case(dataset.cases[0])
    assert tuple(image.shape) == (2, 13, 17, 8)
    assert np.array_equal(np.asarray(image), np.stack(parts))
    assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), [0.8, 1.5, 4])
    assert take_fingerprint(dataset).channels == 2

    plan = medseg.Plan(name="two").with_values(
        {"input.channels": 2, "input.spatial_dims": 3, "network.channels": (2, 4), "train.patch": (8, 8, 8)}
    )
    bundle = load_bundle(save_bundle(tmp_path / "two", plan, build_network(plan), card=""), device="cpu")
    case = dataset.cases[0]
    alone = medseg.predict(bundle, case).labels
    assert np.array_equal(alone, medseg.predict(bundle, image).labels)
    result = predict_files(bundle, [root / "imagesTs"], tmp_path / "out")
    assert list(result.done) == ["test"]
    (shown,) = Manifest.load(tmp_path / "out").cases
    assert shown.image == tuple(str(root / f"imagesTs/test_000{i}.nii.gz") for i in (0, 1))
    assert medseg.read(shown.image).shape == (2, 14, 11, 8)


def test_channels_must_share_a_grid(tmp_path: Path) -> None:
    for name, shape in (("a", (20, 30)), ("b", (20, 31))):
        medseg.write(np.zeros(shape, np.uint8), tmp_path / f"{name}.png")
    error = refusal(medseg.read, (tmp_path / "a.png", tmp_path / "b.png"))
    assert error.reason == "shape-mismatch"
    assert refusal(medseg.read, ()).reason == "no-files"


def test_channels_in_a_toml_file(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{p}/{p}_{kind}.png" for p in ("p1", "p2") for kind in ("t2", "t1", "mask")))
    text = 'channels = ["T1", "T2"]\n[files]\nimage = ["{case}/*_t1.png", "{case}/*_t2.png"]\n%s'
    path = toml(tmp_path, text % 'label = "{case}/*_mask.png"')
    dataset = medseg.load_dataset(path)
    assert dataset.channels == ("T1", "T2")
    assert [[p.name for p in c.images] for c in dataset] == [
        ["p1_t1.png", "p1_t2.png"],
        ["p2_t1.png", "p2_t2.png"],
    ]
    assert [c.labels for c in dataset] == [(tmp_path / f"{p}/{p}_mask.png",) for p in ("p1", "p2")]
    (tmp_path / "p2/p2_t2.png").unlink()
    error = refusal(medseg.load_dataset, path)
    assert (error.reason, "case 'p2'" in str(error)) == ("missing-channel", True)
    tree(tmp_path, "p2/p2_t2.png", "p2/x_t2.png")
    assert refusal(medseg.load_dataset, path).reason == "unknown-channel"
    listed = '[[cases]]\nname = "p"\nimage = ["p1/p1_t2.png", "p1/p1_t1.png"]'
    (case,) = medseg.load_dataset(toml(tmp_path, listed))
    assert [p.name for p in case.images] == ["p1_t2.png", "p1_t1.png"]
    assert refusal(medseg.load_dataset, toml(tmp_path, "[[cases]]\nimage = []")).reason == "bad-value"


# BIDS


def test_bids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for subject in ("sub-2", "sub-10"):
        anat = f"{subject}/ses-a/anat/{subject}_ses-a"
        tree(tmp_path, f"{anat}_T2w.nii.gz", f"{anat}_T1w.nii.gz", f"{anat}_T2w.json")
        tree(
            tmp_path,
            f"derivatives/labels/{anat}_T2w_seg-manual.nii.gz",
            f"{subject}/func/{subject}_bold.nii.gz",
        )
    with caplog.at_level(logging.WARNING, "medseg"):
        dataset = medseg.load_dataset(tree(tmp_path, "dataset_description.json"))
    assert [(c.name, c.group) for c in dataset] == [
        ("sub-2_ses-a_T2w", "sub-2"),
        ("sub-10_ses-a_T2w", "sub-10"),
    ]
    assert dataset.cases[0].labels[0].name == "sub-2_ses-a_T2w_seg-manual.nii.gz"
    assert (dataset.layout, dataset.labelled) == ("BIDS", True)
    assert "4 images are not used" in caplog.text
    tree(tmp_path, "sub-3/anat/sub-3_T2w.nii.gz")
    error = refusal(medseg.load_dataset, tmp_path)
    assert error.reason == "image-without-label"
    assert "'sub-3_T2w_seg-manual.nii.gz'" in str(error)


def test_labels_of_bids_by_entities_and_beside_the_image(tmp_path: Path) -> None:
    for subject in ("sub-1", "sub-2"):
        tree(
            tmp_path / "a",
            f"{subject}/anat/{subject}_acq-x_T1w.nii",
            f"derivatives/p/{subject}/anat/{subject}",
        )
        tree(tmp_path / "a", f"derivatives/p/{subject}/anat/{subject}_acq-x_space-orig_desc-cord_dseg.nii")
        tree(tmp_path / "b", f"{subject}/{subject}_T1w.nii", f"{subject}/{subject}_T1w_label-SC_mask.nii")
    assert [c.labels[0].name for c in medseg.load_dataset(tmp_path / "a")] == [
        f"sub-{i}_acq-x_space-orig_desc-cord_dseg.nii" for i in (1, 2)
    ]
    assert [c.labels[0].name for c in medseg.load_dataset(tmp_path / "b")] == [
        f"sub-{i}_T1w_label-SC_mask.nii" for i in (1, 2)
    ]
    # of two kinds that every image has none is chosen
    for subject in ("sub-1", "sub-2"):
        tree(tmp_path / "b", f"{subject}/{subject}_T1w_label-GM_mask.nii")
    assert refusal(medseg.load_dataset, tmp_path / "b").reason == "ambiguous-label"
    tree(tmp_path / "a", "derivatives/p/sub-9/anat/sub-9_dseg.nii")
    assert refusal(medseg.load_dataset, tmp_path / "a").reason == "label-without-image"
    assert not medseg.load_dataset(tree(tmp_path / "c", "sub-1/anat/sub-1_T1w.nii")).labelled
    assert refusal(medseg.load_dataset, tree(tmp_path / "d", "sub-1/notes.txt")).reason == "empty-folder"


# labels beside images


def test_the_kind_of_label_that_every_image_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ["t2.nii.gz", "t2_seg-manual.nii.gz", "t2s.nii.gz", "t2s_seg.nii.gz", "t2s_gmseg_manual.nii.gz"]
    with caplog.at_level(logging.WARNING, "medseg"):
        dataset = medseg.load_dataset(tree(tmp_path, *files))
    assert {c.name: c.labels[0].name for c in dataset} == {"t2": files[1], "t2s": files[3]}
    assert "'t2s_gmseg_manual.nii.gz'" in caplog.text
    tree(tmp_path, "t2_gmseg_manual.nii.gz")
    assert refusal(medseg.load_dataset, tmp_path).reason == "ambiguous-label"
    # without an image of that name it is an image itself
    assert len(medseg.load_dataset(tree(tmp_path / "other", "t2_gmseg.nii.gz", "t1.nii.gz"))) == 2


def test_images_may_say_so(tmp_path: Path) -> None:
    tree(tmp_path, "b1_image.nrrd", "b1_label.nrrd", "b2_image.nrrd", "b2_label.nrrd")
    dataset = medseg.load_dataset(tmp_path)
    assert {c.name: (c.path.name, c.labels[0].name) for c in dataset} == {
        "b1": ("b1_image.nrrd", "b1_label.nrrd"),
        "b2": ("b2_image.nrrd", "b2_label.nrrd"),
    }


def test_a_listing_goes_on_where_loading_stops(tmp_path: Path) -> None:
    root = tree(tmp_path, "images/a.png", "images/b.png", "images/a.tif", "labels/a.png", "labels/c.png")
    listing, findings = list_dataset(root)
    assert [(f.reason, f.case) for f in findings] == [
        ("duplicate-case", "a"),
        ("image-without-label", "b"),
        ("label-without-image", "c"),
    ]
    assert findings[1].fix == "Add 'labels/b.png', or move the image elsewhere."
    assert [(c.name, bool(c.labels)) for c in listing] == [("a", True), ("b", False)]
    text = '[files]\nimage = "images/{case}.png"\nlabel = "labels/{case}.png"\n'
    found = list_dataset(toml(root, text + '[splits]\ntest = ["a"]\nval = ["a"]'))[1]
    assert [f.reason for f in found] == ["image-without-label", "label-without-image", "group-in-two-splits"]
    assert refusal(list_dataset, tmp_path / "none").reason == "not-found"


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


def test_of_one_fold_nothing_validates() -> None:
    split = made(1, cases=9).split(folds=1)
    assert (len(split.train), split.val, split.test) == (9, (), ())
    split = made(9).split(folds=1, test_fraction=0.2)
    assert (split.val, len(split.test)) == ((), 2)


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    assert refusal(made(1, cases=9).split).reason == "too-few-groups"
    assert refusal(made(2).split, test_fraction=0.1).reason == "too-few-groups"
    assert refusal(made(3).split, fold=3).reason == "too-few-groups"
    assert refusal(made(2, splits={"g0": "val", "g1": "test"}).split).reason == "too-few-groups"
    for wrong in ({"folds": 0}, {"fold": 5}, {"fold": -1}, {"test_fraction": 1.0}, {"test_fraction": -0.1}):
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
    [
        ("Task04_Hippocampus", 200, "semantic"),
        ("brain_tumour_nrrd", 2, None),
        ("dsb2018", 590, None),
        ("dsb2018_raw_layout", 11, "instances"),
        ("hc18", 156, None),
        ("spinal_cord_mr", 2, None),
        ("spleen_ct_crop", 1, None),
    ],
)
def test_real_layouts(shared_data: Path, name: str, cases: int, kind: str | None) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is absent")
    dataset = medseg.load_dataset(shared_data / name)
    assert (len(dataset), dataset.kind, dataset.labelled) == (cases, kind, True)

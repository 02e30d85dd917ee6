"""Every defect is planted in a sound data set, and is what the check finds there; nothing else is."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

import medseg
from medseg import Case, Dataset, Refused
from medseg.cli import main
from medseg.jobs import CheckReport, check_dataset
from medseg.jobs.comparing import patient_of

SHAPE = (9, 14, 11)
TURN = np.deg2rad(12)
# oblique, anisotropic, the second axis to the left
AFFINE = np.array(
    [[np.cos(TURN), -np.sin(TURN), 0, 30], [np.sin(TURN), np.cos(TURN), 0, -8], [0, 0, 1, 5], [0, 0, 0, 1]]
)
AFFINE = AFFINE @ np.diag([0.7, 0.9, 3.0, 1.0])
LABELS = {"0": "background", "1": "left", "2": "right"}
Found = list[tuple[str, str, str]]


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write with nibabel, as other programs do: `medseg.write` would refuse half of these."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def image_of(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(number).normal(100, 20, shape).astype(np.float32)


def label_of(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[1 : 3 + number, 2:5, 1:3] = 1
    label[5:8, 7:9, 1:3] = 2
    return label


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four cases, c1 to c4, in the layout of the Decathlon."""
    for number in range(1, 5):
        save(tmp_path / f"imagesTr/c{number}.nii.gz", image_of(number))
        save(tmp_path / f"labelsTr/c{number}.nii.gz", label_of(number))
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "ears", "labels": LABELS}))
    return tmp_path


def found(report: CheckReport) -> Found:
    return [(f.severity, f.reason, f.case) for f in report.findings]


def changed(value: Callable[[np.ndarray], Any], of: str = "labelsTr/c2") -> Callable[[Path], None]:
    """Return what changes the voxels of one file."""

    def change(root: Path) -> None:
        number = int(of[-1])
        array = label_of(number).astype(float) if of.startswith("labels") else image_of(number)
        result = value(array)
        save(root / f"{of}.nii.gz", array if result is None else result)

    return change


def put(value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[0, 0, 0] = value
        array[0, 1, 0] = value

    return change


def moved(by: list[float], of: str = "labelsTr/c2") -> Callable[[Path], None]:
    affine = AFFINE.copy()
    affine[:3, 3] += by
    return lambda root: save(root / f"{of}.nii.gz", label_of(int(of[-1])), affine) and None


def torn(root: Path) -> None:
    file = root / "imagesTr/c2.nii.gz"
    file.write_bytes(file.read_bytes()[:300])


def sized(factor: float) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        affine = AFFINE @ np.diag([factor, factor, factor, 1])
        save(root / "imagesTr/c2.nii.gz", image_of(2), affine)
        save(root / "labelsTr/c2.nii.gz", label_of(2), affine)

    return change


def reshaped(shape: tuple[int, ...]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        save(root / "imagesTr/c2.nii.gz", image_of(2, shape))
        save(root / "labelsTr/c2.nii.gz", np.ones(shape, np.uint8))

    return change


def copied(source: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        # another file with the same voxels: the time in the gzip header differs, say
        text = gzip.decompress((root / f"{source}.nii.gz").read_bytes())
        (root / f"{target}.nii.gz").write_bytes(gzip.compress(text, compresslevel=1, mtime=7))

    return change


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def error(reason: str, case: str = "c2") -> tuple[str, str, str]:
    return ("error", reason, case)


def warning(reason: str, case: str = "c2") -> tuple[str, str, str]:
    return ("warning", reason, case)


DEFECTS: dict[str, tuple[Callable[[Path], object], Found, str]] = {
    "no label": (
        lambda r: (r / "labelsTr/c2.nii.gz").unlink(),
        [error("image-without-label")],
        "Add 'labelsTr/c2.nii.gz'",
    ),
    "no image": (
        lambda r: (r / "imagesTr/c2.nii.gz").unlink(),
        [error("label-without-image")],
        "the label 'labelsTr/c2.nii.gz' has no image",
    ),
    "shape": (
        changed(lambda a: a[:, :-1]),
        [error("shape-mismatch")],
        "got 9 x 13 x 11, expected 9 x 14 x 11. Pair each image",
    ),
    "axes in another order": (
        changed(lambda a: a.transpose(1, 0, 2)),
        [error("shape-mismatch")],
        "The axes are in another order",
    ),
    "elsewhere": (moved([0, 3.0, 4.0]), [error("affine-mismatch")], "up to 5 mm apart (7.1 voxels)"),
    "a little elsewhere": (moved([0.02, 0, 0]), [warning("affine-mismatch")], "up to 0.02 mm apart"),
    "rounded": (moved([0.001, 0, 0]), [], ""),
    "unknown value": (
        changed(put(5)),
        [error("unknown-label-value")],
        "no class has: 5 (2 voxels), expected 0, 1, 2",
    ),
    "not whole": (changed(put(0.5)), [error("not-whole-numbers")], "2 of them"),
    "negative": (changed(put(-1)), [error("negative-label")], "-1"),
    "NaN in the image": (changed(put(np.nan), "imagesTr/c2"), [error("non-finite")], "2 of 1386"),
    "infinity in the image": (changed(put(np.inf), "imagesTr/c2"), [error("non-finite")], "inf"),
    "NaN in the label": (changed(put(np.nan)), [error("non-finite")], "labelsTr/c2.nii.gz"),
    "torn": (torn, [error("unreadable")], "imagesTr/c2.nii.gz"),
    "nothing in it": (
        lambda r: (r / "labelsTr/c2.nii.gz").write_bytes(b""),
        [error("empty-file")],
        "zero bytes",
    ),
    "empty label": (changed(np.zeros_like), [warning("empty-label")], "is 0 everywhere"),
    "constant image": (changed(np.ones_like, "imagesTr/c2"), [warning("constant-image")], "one value: 1."),
    "two constant images are no copies": (
        both(changed(np.ones_like, "imagesTr/c2"), changed(np.ones_like, "imagesTr/c3")),
        [warning("constant-image"), warning("constant-image", "c3")],
        "",
    ),
    "same image": (
        both(copied("imagesTr/c2", "imagesTr/c4"), copied("labelsTr/c2", "labelsTr/c4")),
        [error("duplicate-image", "c4")],
        "the image is that of 'c2'. The two may come into training and validation.",
    ),
    "same image, two labels": (
        copied("imagesTr/c2", "imagesTr/c4"),
        [error("duplicate-image", "c4")],
        "the image is that of 'c2', with another label.",
    ),
    "same label": (
        copied("labelsTr/c2", "labelsTr/c4"),
        [error("duplicate-label", "c4")],
        "the label is that of 'c2', voxel by voxel",
    ),
    "two empty labels are no copies": (
        both(changed(np.zeros_like), changed(np.zeros_like, "labelsTr/c3")),
        [
            warning("rare-class", ""),
            warning("rare-class", ""),
            warning("empty-label"),
            warning("empty-label", "c3"),
        ],
        "class 'left' (1) occurs in 2 of 4 labels ('c1', 'c4')",
    ),
    "2D among 3D": (
        reshaped((14, 11)),
        [error("mixed-dimensions", "")],
        "3D in 3 cases, 2D in 1 case ('c2')",
    ),
    "another number of channels": (
        changed(lambda a: np.stack([a, a * 2], axis=-1), "imagesTr/c2"),
        [error("mixed-channels", "")],
        "1 in 3 cases, 2 in 1 case ('c2')",
    ),
    "wrong unit": (sized(0.1 / 1.01), [warning("spacing-outlier")], "likely a wrong unit"),
    "smaller pixels": (sized(0.11), [], ""),
    "one slice": (reshaped((9, 14, 1)), [warning("one-slice")], "9 x 14 x 1 voxels"),
    "another orientation": (
        both(
            lambda r: save(r / "imagesTr/c2.nii.gz", image_of(2), AFFINE @ np.diag([-1, 1, 1, 1])),
            lambda r: save(r / "labelsTr/c2.nii.gz", label_of(2), AFFINE @ np.diag([-1, 1, 1, 1])),
        ),
        [("note", "mixed-orientations", "")],
        "RAS in 3 cases, LAS in 1 case ('c2')",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_every_defect_is_found_and_nothing_else(root: Path, name: str) -> None:
    change, expected, words = DEFECTS[name]
    change(root)
    report = check_dataset(root)
    assert found(report) == expected, str(report)
    assert words in str(report)
    assert str(root) not in str(report)
    assert report.exit_code == (2 if any(severity == "error" for severity, *_ in expected) else 0)
    assert all(f.fix for f in report.findings if f.severity == "error")


def test_a_sound_data_set(root: Path) -> None:
    seen: list[Any] = []
    report = check_dataset(
        root, on_case=lambda *a: seen.append(a), progress=lambda done, of: seen.append((done, of))
    )
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.summary == "No defect in 4 cases."
    assert seen == [item for i in range(1, 5) for item in ((f"c{i}", ()), (i, 4))]
    assert str(report).splitlines()[:5] == [
        "ears: 4 cases, 4 groups; imagesTr/ and labelsTr/ with dataset.json",
        "  images   4 x 3D, 1 channel, 9 x 14 x 11 voxels",
        "  spacing  0.7 x 0.9 x 3 mm",
        "  axes     RAS",
        "  labels   classes in 4 label maps: left = 1 in 4, right = 2 in 4",
    ]
    with pytest.raises(FrozenInstanceError):
        report.cases = 5  # type: ignore[misc]


def test_it_goes_on_after_each_defect(root: Path) -> None:
    """All at once: none hides another, errors come first, in the order of the cases."""
    torn(root)
    changed(put(7), "labelsTr/c1")(root)
    changed(put(np.nan), "imagesTr/c3")(root)
    changed(lambda a: a[:-1], "labelsTr/c3")(root)
    (root / "labelsTr/c4.nii.gz").unlink()
    save(root / "labelsTr/c9.nii.gz", label_of(1))
    report = check_dataset(root)
    assert found(report) == [
        error("unknown-label-value", "c1"),
        error("unreadable", "c2"),
        error("non-finite", "c3"),
        error("shape-mismatch", "c3"),
        error("image-without-label", "c4"),
        error("label-without-image", "c9"),
    ]
    assert report.defective == ("c1", "c2", "c3", "c4", "c9")
    assert report.summary.startswith("6 errors (1 unknown-label-value, 1 unreadable")


def test_classes(root: Path) -> None:
    (root / "dataset.json").write_text(
        json.dumps({"name": "e", "labels": {**LABELS, "3": "none", "4": "one"}})
    )
    changed(put(4))(root)
    report = check_dataset(root)
    assert found(report) == [warning("absent-class", ""), warning("rare-class", "")]
    assert "class 'none' (3) occurs in none of 4 labels" in str(report)
    assert "class 'one' (4) occurs in 1 of 4 labels ('c2')" in str(report)
    # where nobody declares classes, numbers that are left out are told
    (root / "dataset.json").unlink()
    assert found(check_dataset(root)) == [warning("label-gap", ""), warning("rare-class", "")]
    assert "the labels hold 1, 2, 4, and not 3." in str(check_dataset(root))


def test_instance_maps_may_have_gaps_and_many_values(tmp_path: Path) -> None:
    for number in range(3):
        values = np.zeros((20, 30), np.uint16)
        values[::2, ::2] = np.arange(150).reshape(10, 15) * (number + 1)
        medseg.write(values, tmp_path / f"labels/{number}.png")
        medseg.write(
            (image_of(number, (20, 30)).clip(0, 255)).astype(np.uint8), tmp_path / f"images/{number}.png"
        )
    report = check_dataset(tmp_path)
    assert report.findings == ()
    assert report.facts["labels"] == "instance maps, 149 to 149 objects an image"


def test_several_files_as_channels(root: Path) -> None:
    for number in range(1, 5):
        (root / f"imagesTr/c{number}.nii.gz").rename(root / f"imagesTr/c{number}_0000.nii.gz")
        save(root / f"imagesTr/c{number}_0001.nii.gz", image_of(10 + number))
    labels = {"background": 0, "left": 1, "right": 2}
    table = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": 4,
    }
    (root / "dataset.json").write_text(json.dumps(table))
    report = check_dataset(root)
    assert report.findings == ()
    assert "2 channels (T1, T2)" in report.facts["images"]
    (root / "imagesTr/c1_0001.nii.gz").unlink()
    save(root / "imagesTr/c2_0001.nii.gz", image_of(12), AFFINE @ np.diag([1, 1, 1.1, 1]))
    save(root / "imagesTr/c3_0001.nii.gz", np.full(SHAPE, 3.0, np.float32))
    report = check_dataset(root)
    assert found(report) == [
        error("channel-mismatch", ""),
        error("missing-channel", "c1"),
        error("affine-mismatch", "c2"),
        warning("constant-image", "c3"),
    ]
    assert "lacks channel 1 (T2): 'imagesTr/c1_0001.nii.gz'" in str(report)
    assert "'imagesTr/c3_0001.nii.gz' holds one value: 3" in str(report)


def test_patients(root: Path) -> None:
    (root / "dataset.toml").write_text(
        """
        kind = "semantic"
        classes = { left = 1, right = 2 }
        files = { image = "imagesTr/{case}.nii.gz", label = "labelsTr/{case}.nii.gz" }
        splits = { train = ["c1"], test = ["c1", "c2"] }
        """
    )
    assert found(check_dataset(root)) == [error("group-in-two-splits", "c1")]
    # copies in one group do no harm to a split
    (root / "dataset.toml").write_text(
        'files = { image = "imagesTr/{case}.nii.gz", label = "labelsTr/{case}.nii.gz", group = "{group}?" }'
    )
    both(copied("imagesTr/c2", "imagesTr/c4"), copied("labelsTr/c2", "labelsTr/c4"))(root)
    assert found(check_dataset(root)) == [warning("too-few-groups", ""), warning("duplicate-image", "c4")]


def test_names_that_begin_alike(tmp_path: Path) -> None:
    for number, name in enumerate(("010_HC", "010_2HC", "011_HC")):
        medseg.write(image_of(number, (20, 30)).clip(0, 255).astype(np.uint8), tmp_path / f"{name}.png")
        label = np.zeros((20, 30), np.uint8)
        label[2 : 9 + number, 3:8] = 255
        medseg.write(label, tmp_path / f"{name}_Annotation.png")
    report = check_dataset(tmp_path)
    assert found(report) == [warning("maybe-one-patient", "")]
    line = report.findings[0].fix.split("dataset.toml: ")[1].removesuffix(".")
    (tmp_path / "dataset.toml").write_text(line)  # what it says to write is what helps
    assert medseg.load_dataset(tmp_path).groups == ("010", "011")
    assert found(check_dataset(tmp_path)) == [warning("too-few-groups", "")]
    names = ("Image_01L", "a1b", "8b77", "hippocampus_001", "img_1_2", "x")
    assert [patient_of(name) for name in names] == ["Image_01", None, None, None, "img_1", None]


@pytest.mark.parametrize("suffix", [".bmp", ".png"])
def test_unknown_labels_are_guessed_at(tmp_path: Path, suffix: str) -> None:
    for number, name in enumerate(("Image_01L", "Image_01R", "Image_02L")):
        for turn, ending in enumerate(("", "_1stHO", "_2ndHO")):
            values = image_of(number + 5 * turn, (20, 30)).clip(0, 255).astype(np.uint8)
            values = (values > 100).astype(np.uint8) if ending else values
            Image.fromarray(values).save(tmp_path / f"{name}{ending}{'.png' if ending else suffix}")
    report = check_dataset(tmp_path)
    assert found(report) == [warning("no-labels", "")]
    advice, line = report.findings[0].fix.removesuffix(".").split("dataset.toml: ")
    if suffix == ".png":  # the pattern of images would take the second observer's labels, too
        assert "are labels, move those in '_2ndHO' elsewhere and write" in advice
        for file in tmp_path.glob("*_2ndHO.png"):
            file.unlink()
    (tmp_path / "dataset.toml").write_text(line)
    dataset = medseg.load_dataset(tmp_path)
    assert [c.labels[0].name for c in dataset] == [f"Image_{n}_1stHO.png" for n in ("01L", "01R", "02L")]


def test_pixel_sizes_of_a_description_take_the_place_of_the_files(root: Path) -> None:
    text = 'unit = "mm"\nspacing = [0.7, 0.9, 3.0]\n'
    text += 'files = { image = "imagesTr/{case}.nii.gz", label = "labelsTr/{case}.nii.gz" }'
    sized(0.01)(root)
    (root / "dataset.toml").write_text(text)
    assert check_dataset(root).findings == ()
    (root / "dataset.toml").write_text(text.replace(", 3.0]", "]"))
    assert found(check_dataset(root))[0] == error("bad-spacing", "c1")


def test_a_data_set_made_by_hand(root: Path) -> None:
    cases = [Case(n, root / f"imagesTr/{n}.nii.gz", root / f"labelsTr/{n}.nii.gz", n) for n in ("c1", "c2")]
    report = check_dataset(Dataset("by hand", tuple(cases), root, "by hand"))
    assert found(report) == [warning("too-few-groups", "")]
    assert "there are 2 groups, 'c1', 'c2': training, validation and test need one each." in str(report)
    missing = Case("c3", root / "none.nii.gz", root / "labelsTr/c3.nii.gz", "c3")
    report = check_dataset(Dataset("by hand", (*cases, missing), root, "by hand"))
    assert found(report) == [error("not-found", "c3")]


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(root)]) == 0
    assert capsys.readouterr().out.endswith("No defect in 4 cases.\n")
    (root / "labelsTr/c2.nii.gz").unlink()
    assert main(["check", str(root)]) == 2
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("error")]
    assert line == (
        "error    c2  the image 'imagesTr/c2.nii.gz' has no label. "
        "Add 'labelsTr/c2.nii.gz', or move the image elsewhere. [image-without-label]"
    )
    assert out.endswith("1 error (1 image-without-label). Defective: 1 of 4 cases.\n")
    assert main(["check", str(root / "none")]) == 1
    with pytest.raises(Refused, match="no such dataset"):
        check_dataset(root / "none")


def test_one_case_is_in_memory_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    shape = (60, 70, 80)
    for number in range(6):
        save(tmp_path / f"images/{number}.nii", image_of(number, shape))
        save(tmp_path / f"labels/{number}.nii", label_of(number, shape))
    one = np.prod(shape) * 4
    check_dataset(tmp_path)  # imports and caches
    tracemalloc.start()
    check_dataset(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print("PEAK", peak / one)
    assert peak < 5.5 * one, peak / one


REAL = {
    "Task04_Hippocampus": (200, set()),
    "hippocampus_bad_cases": (1, {"image-without-label"}),
    "spleen_ct_crop": (1, {"too-few-groups"}),
    "spinal_cord_mr": (2, {"unused-label", "mixed-orientations", "too-few-groups"}),
    "brain_tumour_nrrd": (2, {"too-few-groups"}),
    "hc18": (156, {"maybe-one-patient"}),
    "dsb2018_raw_layout": (11, set()),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data(shared_data: Path, name: str) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is absent")
    report = check_dataset(shared_data / name)
    assert (report.cases, {f.reason for f in report.findings}) == REAL[name]

"""Segmentations of other software on the grid of an image; results without a patient."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from dicom_small import FRAME_OF_REFERENCE, SHAPE, STUDY, labels, write_single_frames  # noqa: E402
from test_dicom_results import (  # noqa: E402
    ALGORITHM,
    NUMBERED,
    SEGMENTS,
    by_simpleitk,
    errors_of,
    in_volume,
    read_one,
    writers,
)

import medseg  # noqa: E402
from medseg import Refused  # noqa: E402
from medseg.cli import main  # noqa: E402
from medseg.io.dicom import DicomVolume, read_report, read_segmentation, share_results, write_segmentation  # noqa: E402

DATA = Path(os.environ.get("MEDSEG_DATA", Path(__file__).parents[2] / "shared/data"))
THEIRS = DATA / "dicom_seg_dcmqi/segmentations"
KEY = b"a secret of the department"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DicomVolume:
    return read_one(write_single_frames(tmp_path_factory.mktemp("plain")))


# ---------------------------------------------------------------- of other software


@pytest.mark.parametrize(
    ("image", "file", "truth"),
    [
        ("ct-3slice", "liver.dcm", {1: ("liver_seg.nrrd", 1)}),
        (
            "ct-3slice",
            "partial_overlaps.dcm",
            {n: (f"partial_overlaps-{k}.nrrd", n) for n, k in ((1, 1), (2, 2), (3, 3), (4, 1), (5, 1))},
        ),
        ("24x38x3/image", "sparse-labelmap-noppv.dcm", {1: ("sparse_labelmap_noppv_seg.nrrd", 1)}),
        ("24x38x3/image", "sparse-labelmap-ppv5.dcm", {1: ("sparse_labelmap_ppv5_seg.nrrd", 1)}),
    ],
)
def test_segmentations_of_dcmqi_are_what_dcmqi_says(image: str, file: str, truth: dict[int, Any]) -> None:
    if not THEIRS.is_dir():
        pytest.skip(f"no {THEIRS}: set MEDSEG_DATA")
    volume = read_one(THEIRS / image)
    read = read_segmentation(THEIRS / file, volume)
    assert [s.value for s in read.segments] == sorted(truth)
    masks = {}
    for number, (name, value) in truth.items():
        array, affine = by_simpleitk(THEIRS / name)
        masks[number] = in_volume(volume, (array == value).astype(np.uint8), affine) > 0
        assert masks[number].any()
        assert np.array_equal(read.mask(number), masks[number])
    pairs = [(a, b) for a in sorted(masks) for b in sorted(masks) if a < b]
    shared = {(a, b): int((masks[a] & masks[b]).sum()) for a, b in pairs}
    assert {(o.first, o.second): o.voxels for o in read.overlaps} == {p: n for p, n in shared.items() if n}
    if read.overlaps:
        with pytest.raises(Refused) as error:
            _ = read.labels
        assert error.value.reason == "overlapping-segments"
    else:
        assert np.array_equal(read.labels, masks[1])


def test_names_and_codes_are_read() -> None:
    if not THEIRS.is_dir():
        pytest.skip(f"no {THEIRS}: set MEDSEG_DATA")
    read = read_segmentation(THEIRS / "partial_overlaps.dcm", read_one(THEIRS / "ct-3slice"))
    assert [(s.name, str(s.code.code)) for s in read.segments[:2]] == [
        ("GREEN", "SCT:85756007:Tissue"),
        ("ORANGE", "SCT:51114001:Artery"),
    ]


def by_highdicom(plain: DicomVolume, path: Path, kind: str, **options: Any) -> Path:
    """Write a segmentation by highdicom alone, its planes in reverse, turned, and of part of the image."""
    sources = [pydicom.dcmread(frame.instance.path) for frame in plain.frames]
    affine = np.diag([-1.0, -1, 1, 1]) @ np.asarray(plain.image.affine, np.float64)
    map_ = labels()[2:, 1:, 1:]  # of part of the image
    origin = affine @ [2, 1, 1, 1]
    own = affine[:, [2, 1, 0, 3]].copy()
    own[:, 3] = origin
    array = np.array([0, 1, 2, 0, 3], np.uint8)[map_].transpose(2, 1, 0)
    made = highdicom.Volume(
        array, own, coordinate_system="PATIENT", frame_of_reference_uid=FRAME_OF_REFERENCE
    )
    made = made.flip_spatial([0, 1])
    if kind == "FRACTIONAL":
        made = made.with_array((made.array == 1).astype(np.float32) * 0.6)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "x", highdicom.sr.CodedConcept("123109", "DCM", "Manual Processing"), "1"
    )
    code = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = [
        highdicom.seg.SegmentDescription(n, f"s{n}", code, code, "AUTOMATIC", algorithm)
        for n in range(1, 2 if kind == "FRACTIONAL" else 4)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = highdicom.seg.Segmentation(
            sources, made, kind, described, "1.2.3.1", 1, "1.2.3.2", 1, "m", "m", "1", "1", **options
        )
        seg.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_flipped_planes_of_part_of_the_image_find_their_place(
    plain: DicomVolume, kind: str, tmp_path: Path
) -> None:
    path = by_highdicom(plain, tmp_path / "s.dcm", kind)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:, 1:, 1:] = NUMBERED[2:, 1:, 1:]
    assert np.array_equal(read_segmentation(path, plain).labels, expected)


def test_fractions_need_a_threshold(plain: DicomVolume, tmp_path: Path) -> None:
    path = by_highdicom(plain, tmp_path / "f.dcm", "FRACTIONAL")
    with pytest.raises(Refused) as error:
        read_segmentation(path, plain)
    assert error.value.reason == "fractional"
    expected = labels() == 1
    assert np.array_equal(read_segmentation(path, plain, threshold=0.5).mask(1), expected)
    assert not read_segmentation(path, plain, threshold=0.7).mask(1).any()
    binary = write_segmentation(tmp_path / "b.dcm", plain, labels(), SEGMENTS, algorithm=ALGORITHM)
    with pytest.raises(Refused) as error:
        read_segmentation(binary, plain, threshold=0.5)
    assert error.value.reason == "fractional"


def test_what_lies_elsewhere_is_refused(plain: DicomVolume, tmp_path: Path) -> None:
    whole = write_segmentation(tmp_path / "s.dcm", plain, labels(), SEGMENTS, algorithm=ALGORITHM)

    def reason(change: Any) -> str:
        dataset = pydicom.dcmread(whole)
        change(dataset)
        pydicom.dcmwrite(tmp_path / "x.dcm", dataset)
        with pytest.raises(Refused) as error:
            read_segmentation(tmp_path / "x.dcm", plain)
        assert "Müller" not in str(error.value)
        return error.value.reason

    def moved(millimetres: float) -> Any:
        def change(d: Any) -> None:
            for frame in d.PerFrameFunctionalGroupsSequence:
                place = frame.PlanePositionSequence[0]
                place.ImagePositionPatient = [float(x) + millimetres for x in place.ImagePositionPatient]

        return change

    def measures(d: Any) -> Any:
        return d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]

    assert reason(moved(0.2)) == "off-grid"
    assert reason(moved(5000.0)) == "off-grid"
    assert reason(lambda d: setattr(measures(d), "PixelSpacing", ["0.7", "0.9"])) == "off-grid"
    assert reason(lambda d: setattr(measures(d), "PixelSpacing", ["1.8", "1.4"])) == "off-grid"
    assert reason(lambda d: delattr(measures(d), "PixelSpacing")) == "truncated"
    assert reason(lambda d: setattr(d, "PixelData", d.PixelData[: len(d.PixelData) // 2])) == "truncated"
    assert reason(lambda d: setattr(d, "NumberOfFrames", 2)) == "truncated"
    assert reason(lambda d: delattr(d, "PixelData")) == "truncated"
    assert reason(lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3")) == "another-frame-of-reference"
    assert reason(lambda d: setattr(d, "StudyInstanceUID", f"{STUDY}.5")) == "another-study"
    assert reason(lambda d: d.SegmentSequence.pop()) == "unknown-label-value"
    assert reason(lambda d: setattr(d, "SegmentationType", "GUESS")) == "not-a-segmentation"


def test_what_is_no_segmentation_is_refused(plain: DicomVolume, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no DICOM" * 99)
    (tmp_path / "empty").write_bytes(b"")
    for path, reason in (
        (tmp_path / "nothing", "not-found"),
        (tmp_path / "text", "not-a-segmentation"),
        (tmp_path / "empty", "not-a-segmentation"),
        (plain.frames[0].instance.path, "not-a-segmentation"),
    ):
        with pytest.raises(Refused) as error:
            read_segmentation(path, plain)
        assert error.value.reason == reason, path


# ---------------------------------------------------------------- without a patient


def results(plain: DicomVolume, folder: Path) -> Path:
    for name, write in writers(plain, folder):
        write(folder / name)
    medseg.write(labels(), folder / "labels.nii.gz", like=plain.image)
    (folder / "report.html").write_text("Müller")
    return folder


def test_shared_results_tell_no_patient_and_agree_with_each_other(plain: DicomVolume, tmp_path: Path) -> None:
    folder = results(plain, tmp_path / "a")
    written, left_out = share_results(folder, tmp_path / "b", key=KEY)
    assert [p.name for p in left_out] == ["report.html"]
    assert sorted(p.name for p in written) == sorted(p.name for p in folder.iterdir() if p.suffix != ".html")
    words = (
        "Müller",
        "Änne",
        "PID-77123",
        "ACC-9921",
        "House",
        "19510203",
        "20190304",
        "101530",
        "abdomen",
        "ACME",
    )
    originals = set()
    for path in folder.glob("*.dcm"):
        for element in pydicom.dcmread(path).iterall():
            if element.VR == "UI" and not str(element.value).startswith("1.2.840.10008."):
                originals.update([str(element.value)] if element.VM == 1 else map(str, element.value))
    for path in written:
        data = path.read_bytes()
        assert not [w for w in words if w.encode() in data or w.encode("latin-1") in data], path.name
        assert not [uid for uid in originals if uid.encode() + b"\0" in data or uid.encode() + b" " in data]
        if path.suffix == ".dcm":
            shared = pydicom.dcmread(path)
            assert (shared.PatientIdentityRemoved, shared.PatientBirthDate) == ("YES", "")
            assert [c.CodeValue for c in shared.DeidentificationMethodCodeSequence] == ["113100", "113109"]
            kept = ["sr.dcm", "map.dcm"]
            assert path.name in kept or errors_of(path) == []
    named = {
        name: pydicom.dcmread(tmp_path / "b" / name) for name in ("seg.dcm", "sr.dcm", "rt.dcm", "s.dcm")
    }
    assert len({d.StudyInstanceUID for d in named.values()}) == 1
    assert len({d.PatientID for d in named.values()}) == 1
    assert len({d.FrameOfReferenceUID for d in (named["seg.dcm"], named["rt.dcm"])}) == 1
    assert named["s.dcm"].SOPInstanceUID.encode() in (tmp_path / "b/sr.dcm").read_bytes()
    assert [row[0] for row in read_report(tmp_path / "b/sr.dcm")] == ["liver", "kidney_left", "odd"]
    before = pydicom.dcmread(folder / "seg.dcm").PixelData
    assert named["seg.dcm"].PixelData == before
    assert errors_of(tmp_path / "b/sr.dcm") == []


def test_a_night_is_shared_by_one_command(plain: DicomVolume, tmp_path: Path) -> None:
    for study in "xy":
        results(plain, tmp_path / "night" / study)
    words = ["share", str(tmp_path / "night"), "-o", str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert main(words) == 0
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    shared = sorted((tmp_path / "out").iterdir())
    assert len(shared) == 2
    assert {p.name for p in shared}.isdisjoint({"x", "y"})
    assert not list((tmp_path / "out").rglob("*.html"))
    first = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert main(words) == 0  # the key is kept, so that nothing changes
    assert {p: p.read_bytes() for p in first} == first
    assert main(["share", str(tmp_path), "-o", str(tmp_path / "o"), "--key", str(tmp_path / "key")]) == 1
    assert main(["share", str(tmp_path / "no"), "-o", str(tmp_path / "o"), "--key", "key"]) == 1


def test_sharing_is_repeatable_and_needs_its_key(plain: DicomVolume, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_segmentation(folder / "seg.dcm", plain, labels(), SEGMENTS, algorithm=ALGORITHM)
    share_results(folder, tmp_path / "b", key=KEY)
    share_results(folder, tmp_path / "c", key=KEY)
    share_results(folder, tmp_path / "d", key=KEY + b"!")
    first, second, other = ((tmp_path / f / "seg.dcm").read_bytes() for f in "bcd")
    assert first == second != other
    for key, target, reason in ((b"short", "e", "bad-key"), (KEY, "a", "same-folder")):
        with pytest.raises(Refused) as error:
            share_results(folder, tmp_path / target, key=key)
        assert error.value.reason == reason


def test_objects_of_others_are_not_called_safe(plain: DicomVolume, tmp_path: Path) -> None:
    folder = write_single_frames(tmp_path / "a")
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(".dcm"))
    with pytest.raises(Refused) as error:
        share_results(folder, tmp_path / "b", key=KEY)
    assert error.value.reason == "not-our-result"
    assert not list((tmp_path / "b").glob("*")) if (tmp_path / "b").exists() else True

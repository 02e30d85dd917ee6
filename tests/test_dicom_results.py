"""Results in DICOM, opened by software that is not ours: every voxel and millimetre is the same."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from dicom_small import (  # noqa: E402
    SERIES,
    SHAPE,
    affine_lps,
    labels,
    values,
    write_enhanced,
    write_single_frames,
)

from medseg import Refused  # noqa: E402
from medseg.io.dicom import (  # noqa: E402
    Algorithm,
    DicomVolume,
    Segment,
    choose_series,
    find_series,
    measure_segments,
    read_contours,
    read_report,
    read_segmentation,
    read_series,
    result_uid,
    write_report,
    write_rtstruct,
    write_segmentation,
    write_slicer,
)
from medseg.io.dicom.codes import structure_named  # noqa: E402
from medseg.io.dicom.model import MAYBE_INCOMPLETE  # noqa: E402
from medseg.io.dicom.outlines import filled, outlines  # noqa: E402

DATA = Path(os.environ.get("MEDSEG_DATA", Path(__file__).parents[2] / "shared/data"))
SEGMENTS = [
    Segment(n, name, structure_named(name)) for n, name in ((1, "liver"), (2, "kidney_left"), (4, "odd"))
]
ALGORITHM = Algorithm("organs", "0.1.0", "ab" * 32, "cd" * 32)
NUMBERED = np.array([0, 1, 2, 0, 3], np.uint8)[labels()]  # segment numbers for the values of the labels


def read_one(folder: Path) -> DicomVolume:
    return read_series(choose_series(find_series([folder])))


@pytest.fixture(scope="module", params=["oblique", "sagittal", "enhanced"])
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DicomVolume:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "enhanced":
        return read_one(write_enhanced(folder))
    return read_one(
        write_single_frames(folder, affine_lps((12, -7, 20) if request.param == "oblique" else (4, 86, 90)))
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DicomVolume:
    return read_one(write_single_frames(tmp_path_factory.mktemp("plain")))


def lps(volume: DicomVolume) -> npt.NDArray[np.float64]:
    return np.diag([-1.0, -1, 1, 1]) @ np.asarray(volume.image.affine, np.float64)


def in_volume(volume: DicomVolume, array: npt.NDArray[Any], affine: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Put the values of another grid, none of which may be lost, at their places in the volume's."""
    index = np.argwhere(array > 0)
    there = (np.linalg.inv(lps(volume)) @ affine @ np.column_stack([index, np.ones(len(index))]).T)[:3].T
    assert np.abs(there - there.round()).max(initial=0) < 1e-3
    found = np.zeros(volume.image.shape[1:], array.dtype)
    found[tuple(there.round().astype(int).T)] = array[tuple(index.T)]
    return found


def by_simpleitk(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, affine


def program(name: str) -> str:
    """Return the path of a program of dcmqi or dicom3tools, or skip."""
    found = shutil.which(name) or shutil.which(str(Path(sys.executable).with_name(name)))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def errors_of(path: Path) -> list[str]:
    run = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True, timeout=60)
    return [line for line in run.stderr.splitlines() if line.startswith("Error")]


# ---------------------------------------------------------------- segmentations


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_segmentation_is_the_same_to_highdicom_dcmqi_and_dciodvfy(
    volume: DicomVolume, kind: Any, tmp_path: Path
) -> None:
    path = write_segmentation(
        tmp_path / "a" / "seg.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM, kind=kind
    )
    theirs = highdicom.seg.segread(path).get_volume(combine_segments=True)
    affine = theirs.affine[:, [2, 1, 0, 3]]  # of (column, row, plane)
    assert np.array_equal(in_volume(volume, theirs.array.transpose(2, 1, 0), affine), NUMBERED)
    errors = errors_of(path)
    if kind == "labelmap":  # a class that is younger than this edition of dciodvfy
        errors = [e for e in errors if "SegmentNumber not mono" not in e and "Object Not found" not in e]
    assert errors == []
    run = [program("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", tmp_path, "-t", "nrrd"]
    subprocess.run(run, check=True, capture_output=True, timeout=60)
    found = np.zeros(SHAPE, np.uint8)
    for file in tmp_path.glob("*.nrrd"):
        array, affine = by_simpleitk(file)
        number = int(file.stem.split("-")[-1])
        found += in_volume(volume, array.astype(np.uint8), affine) * (
            1 if array.max() > 1 or kind == "labelmap" else number
        )
    assert np.array_equal(found, NUMBERED)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_what_a_segmentation_says_of_itself(plain: DicomVolume, kind: Any, tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "seg.dcm", plain, labels(), SEGMENTS, algorithm=ALGORITHM, kind=kind)
    seg = pydicom.dcmread(path)
    assert seg.preamble == bytes(128)
    assert (seg.PatientName, seg.PatientID, seg.AccessionNumber) == ("Müller^Änne", "PID-77123", "ACC-9921")
    assert (seg.ContentDate, seg.ContentTime, seg.SeriesNumber) == ("20190304", "101530.25", 4901)
    assert "InstanceCreationDate" not in seg
    assert datetime.date.today().strftime("%Y%m%d").encode() not in path.read_bytes()
    items = [s for s in seg.SegmentSequence if s.SegmentNumber]
    assert [s.SegmentLabel for s in items] == ["liver", "kidney_left", "odd"]
    assert [s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in items] == [
        "10200004",
        "64033007",
        "odd",
    ]
    modifier = items[1].SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Left"
    assert {s.SegmentAlgorithmType for s in items} == {"AUTOMATIC"}
    made = items[0].SegmentationAlgorithmIdentificationSequence[0]
    assert made.AlgorithmName == "organs"
    assert "ab" * 32 in made.AlgorithmParameters
    assert len({s.TrackingUID for s in items}) == 3
    colour = highdicom.color.CIELabColor.from_rgb(*SEGMENTS[0].colour).value
    assert tuple(items[0].RecommendedDisplayCIELabValue) == tuple(colour)
    assert [e.Manufacturer for e in seg.ContributingEquipmentSequence] == ["ACME Scanners", "medseg"]
    # each frame names the image that it lies on
    positions = {f"{SERIES}.{k + 1}": affine_lps()[:3] @ [0, 0, k, 1] for k in range(SHAPE[2])}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        there = [float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient]
        assert np.allclose(there, positions[source.ReferencedSOPInstanceUID], atol=1e-5)
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[2]


def test_frames_of_an_enhanced_source_are_named_by_number(tmp_path: Path) -> None:
    volume = read_one(write_enhanced(tmp_path / "source"))
    path = write_segmentation(tmp_path / "seg.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM)
    affine = affine_lps((-80, 15, 5))
    for frame in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        plane = SHAPE[2] - int(source.ReferencedFrameNumber)  # reversed in the file
        there = [float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient]
        assert np.allclose(there, affine[:3] @ [0, 0, plane, 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_mask_without_a_voxel_is_whole_and_small(plain: DicomVolume, kind: Any, tmp_path: Path) -> None:
    path = write_segmentation(
        tmp_path / "e.dcm", plain, labels() * 0, SEGMENTS, algorithm=ALGORITHM, kind=kind
    )
    held = read_segmentation(path, plain)
    assert not held.labels.any()
    assert len(held.segments) == 3
    assert path.stat().st_size < 20_000
    assert not highdicom.seg.segread(path).get_volume(combine_segments=True).array.any()
    assert kind == "labelmap" or errors_of(path) == []


def awkward() -> list[str]:
    """Return a kind of series for each geometry, and the enhanced ones."""
    from dicom_series import KINDS

    right = {name: made for name, made in KINDS.items() if made.expect == "right" and made.series is None}
    first = {id(made.geometry): name for name, made in reversed(right.items())}
    return sorted({*first.values(), *(name for name in right if name.startswith("enhanced"))})


@pytest.mark.parametrize("name", awkward())
def test_awkward_series_give_results_at_their_place(name: str, tmp_path: Path) -> None:
    from dicom_series import KINDS

    KINDS[name].make(tmp_path / "source")
    volume = read_one(tmp_path / "source")
    map_ = np.zeros(volume.image.shape[1:], np.uint8)
    some = map_[1:6, 2:11]  # few enough outlines to be quick
    some[np.random.default_rng(0).random(some.shape) < 0.5] = 4
    path = write_segmentation(tmp_path / "s.dcm", volume, map_, SEGMENTS, algorithm=ALGORITHM)
    theirs = highdicom.seg.segread(path).get_volume(segment_numbers=[3], combine_segments=True)
    held = in_volume(volume, theirs.array.transpose(2, 1, 0), theirs.affine[:, [2, 1, 0, 3]])
    assert np.array_equal(held > 0, map_ > 0)
    array, affine = by_simpleitk(write_slicer(tmp_path / "s.seg.nrrd", volume, map_, SEGMENTS))
    assert np.array_equal(in_volume(volume, array, affine), map_)
    write_rtstruct(tmp_path / "rt.dcm", volume, map_, SEGMENTS, algorithm=ALGORITHM)
    assert np.array_equal(read_contours(tmp_path / "rt.dcm", volume)[2][2], map_ > 0)


# ---------------------------------------------------------------- the same bytes


def writers(volume: DicomVolume, folder: Path) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    def report(path: Path) -> Path:
        seg = write_segmentation(folder / "s.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM)
        measured = measure_segments(volume, labels(), SEGMENTS)
        return write_report(path, volume, seg, measured, algorithm=ALGORITHM)

    made = {"algorithm": ALGORITHM}
    yield "seg.dcm", lambda p: write_segmentation(p, volume, labels(), SEGMENTS, **made)
    yield "map.dcm", lambda p: write_segmentation(p, volume, labels(), SEGMENTS, kind="labelmap", **made)
    yield "rt.dcm", lambda p: write_rtstruct(p, volume, labels(), SEGMENTS, **made)
    yield "sr.dcm", report
    yield "s.seg.nrrd", lambda p: write_slicer(p, volume, labels(), SEGMENTS)


def test_made_twice_every_result_has_the_same_bytes(plain: DicomVolume, tmp_path: Path) -> None:
    names, uids = [], []
    for name, write in writers(plain, tmp_path):
        first, second = write(tmp_path / "1" / name), write(tmp_path / "2" / name)
        assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest(), (
            name
        )
        names.append(name)
        if name.endswith(".dcm"):
            found = pydicom.dcmread(first)
            uids += [found.SOPInstanceUID, found.SeriesInstanceUID]
            assert all(pydicom.uid.UID(uid).is_valid for uid in uids)
    assert len(set(uids)) == len(uids) == 8
    assert sorted(os.listdir(tmp_path / "1")) == sorted(names)  # nothing is left beside


def test_nothing_of_the_clock_is_in_a_result(
    plain: DicomVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime(2091, 7, 6, 5, 4, 3)

    before = {name: write(tmp_path / "1" / name).read_bytes() for name, write in writers(plain, tmp_path)}
    monkeypatch.setattr(datetime, "datetime", Later)
    for name, write in writers(plain, tmp_path):
        assert write(tmp_path / "2" / name).read_bytes() == before[name], name


def test_uids_follow_from_series_model_settings_and_frames(plain: DicomVolume, tmp_path: Path) -> None:
    from dataclasses import replace

    def uid(volume: DicomVolume, algorithm: Algorithm) -> str:
        made = write_segmentation(tmp_path / "s.dcm", volume, labels(), SEGMENTS, algorithm=algorithm)
        return str(pydicom.dcmread(made, stop_before_pixels=True).SOPInstanceUID)

    shorter = replace(plain.frames[0].instance, sop_instance_uid=f"{SERIES}.77")
    grown = replace(plain, frames=(replace(plain.frames[0], instance=shorter), *plain.frames[1:]))
    all_ = [
        uid(plain, ALGORITHM),
        uid(plain, replace(ALGORITHM, weights_sha256="12" * 32)),
        uid(plain, replace(ALGORITHM, plan_sha256="12" * 32)),
        uid(plain, replace(ALGORITHM, version="0.2.0")),
        uid(plain, replace(ALGORITHM, settings="flips")),
        uid(grown, ALGORITHM),
    ]
    assert len(set(all_)) == 6
    assert result_uid("1", "2", "3", "4") == result_uid("1", "2", "3", "4") != result_uid("1", "2", "34", "")


# ---------------------------------------------------------------- reports


def test_a_source_that_may_be_incomplete_is_said_where_it_is_conformant(
    volume: DicomVolume, tmp_path: Path
) -> None:
    from dataclasses import replace

    maybe = replace(volume, series=replace(volume.series, notes=(*volume.series.notes, MAYBE_INCOMPLETE)))
    long = replace(ALGORITHM, name="a model of many organs with a name that is far too long for a list")
    for algorithm in (ALGORITHM, long):
        given = {"algorithm": algorithm}
        seg = write_segmentation(tmp_path / "s.dcm", maybe, labels(), SEGMENTS, **given)
        measured = measure_segments(maybe, labels(), SEGMENTS)
        report = write_report(tmp_path / "sr.dcm", maybe, seg, measured, **given)
        contours = write_rtstruct(tmp_path / "rt.dcm", maybe, labels(), SEGMENTS, **given)
        for path in (seg, report, contours):
            said = str(pydicom.dcmread(path).SeriesDescription)
            assert said.endswith(", source may be incomplete")
            assert len(said) <= 64
            assert errors_of(path) == []
        assert pydicom.dcmread(seg).ContentDescription.endswith(", source may be incomplete")
        assert "source may be incomplete" in pydicom.dcmread(contours).StructureSetDescription
        items = {i.ConceptNameCodeSequence[0].CodeValue: i for i in pydicom.dcmread(report).ContentSequence}
        comment = items["121106"]
        assert comment.TextValue == MAYBE_INCOMPLETE.text
        assert [row[0] for row in read_report(report)] == ["liver", "kidney_left", "odd"]
        run = [program("tid1500reader"), "--inputDICOM", report, "--outputMetadata", tmp_path / "m.json"]
        subprocess.run(run, check=True, capture_output=True, timeout=60)
        assert len(json.loads((tmp_path / "m.json").read_text())["Measurements"]) == 3


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_report_is_the_same_to_dcmqi_and_dciodvfy(volume: DicomVolume, kind: Any, tmp_path: Path) -> None:
    seg = write_segmentation(tmp_path / "seg.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM, kind=kind)
    measured = measure_segments(volume, labels(), SEGMENTS)
    path = write_report(tmp_path / "sr.dcm", volume, seg, measured, algorithm=ALGORITHM)
    # by hand, from what was made
    voxel = 0.7 * 0.9 * 2.5 / 1000
    expected = [
        (n, (labels() == v).sum() * voxel, values()[labels() == v]) for n, v in ((1, 1), (2, 2), (3, 4))
    ]
    run = [program("tid1500reader"), "--inputDICOM", path, "--outputMetadata", tmp_path / "m.json"]
    subprocess.run(run, check=True, capture_output=True, timeout=60)
    read = json.loads((tmp_path / "m.json").read_text())
    uid = str(pydicom.dcmread(seg, stop_before_pixels=True).SOPInstanceUID)
    assert len(read["Measurements"]) == 3
    for (number, millilitres, inside), group in zip(expected, read["Measurements"]):
        assert group["ReferencedSegment"] == number
        assert group["segmentationSOPInstanceUID"] == uid
        assert group["SourceSeriesForImageSegmentation"] == SERIES
        found = {
            i["quantity"]["CodeValue"]: (float(i["value"]), i["units"]["CodeValue"])
            for i in group["measurementItems"]
        }
        assert found["118565006"] == (pytest.approx(millilitres, rel=1e-6), "mL")
        if len(inside):
            assert found["112031"] == (pytest.approx(inside.mean(), rel=1e-5), "[hnsf'U]")
        else:
            assert list(found) == ["118565006"]
    report = pydicom.dcmread(path)
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    errors = errors_of(path)
    if kind == "labelmap":  # it takes the younger class for no segmentation
        errors = [e for e in errors if "that is not segmentation" not in e]
    assert errors == []


def test_an_mr_report_has_no_hounsfield_units(tmp_path: Path) -> None:
    volume = read_one(write_single_frames(tmp_path / "s", Modality="MR"))
    seg = write_segmentation(tmp_path / "seg.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM)
    measured = measure_segments(volume, labels(), SEGMENTS)
    path = write_report(tmp_path / "sr.dcm", volume, seg, measured, algorithm=ALGORITHM)
    assert b"hnsf" not in path.read_bytes()
    assert b"MR signal intensity" in path.read_bytes()


# ---------------------------------------------------------------- contours


def test_outlines_hold_exactly_their_mask() -> None:
    from skimage.measure import points_in_poly

    rng = np.random.default_rng(5)
    for share in (0.02, 0.3, 0.5, 0.7, 0.98):
        for shape in ((1, 1), (1, 9), (13, 7), (6, 17)):
            mask = rng.random(shape) < share
            polygons = outlines(mask)
            points = np.argwhere(np.ones(shape, bool))
            inside = np.zeros(len(points), bool)
            for polygon in polygons:  # scikit-image's own test of points, even-odd over all
                inside ^= points_in_poly(points, polygon)
            assert np.array_equal(inside.reshape(shape), mask)
            assert np.array_equal(filled(polygons, shape), mask)
            areas = [
                (p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1)).sum() / 2 for p in polygons
            ]
            assert sum(areas) == pytest.approx(mask.sum())
            for polygon in polygons:  # corners only: no point lies between its neighbours
                before = polygon - np.roll(polygon, 1, axis=0)
                after = np.roll(polygon, -1, axis=0) - polygon
                assert np.all((before[:, 0] == 0) != (after[:, 0] == 0))


def test_contours_are_the_same_to_scikit_image_and_dciodvfy(volume: DicomVolume, tmp_path: Path) -> None:
    from skimage.measure import points_in_poly

    path = write_rtstruct(tmp_path / "rt.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM)
    assert errors_of(path) == []
    rt = pydicom.dcmread(path)
    assert [r.ROIName for r in rt.StructureSetROISequence] == ["liver", "kidney_left", "odd"]
    inverse = np.linalg.inv(lps(volume))
    points = np.argwhere(np.ones(SHAPE[:2], bool))
    uids = {str(frame.instance.sop_instance_uid) for frame in volume.frames}
    for region, described, value in zip(rt.ROIContourSequence, rt.StructureSetROISequence, (1, 2, 4)):
        found = np.zeros(SHAPE, bool)
        for contour in region.get("ContourSequence") or []:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert all(len(str(x)) <= 16 for x in contour.ContourData)
            assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in uids
            data = np.array([float(x) for x in contour.ContourData]).reshape(-1, 3)
            index = data @ inverse[:3, :3].T + inverse[:3, 3]
            plane = round(index[0, 2])
            assert np.abs(index[:, 2] - plane).max() < 1e-5
            found[:, :, plane] ^= points_in_poly(points, index[:, :2]).reshape(SHAPE[:2])
        assert np.array_equal(found, labels() == value)
        assert float(described.ROIVolume) == pytest.approx((labels() == value).sum() * 0.7 * 0.9 * 2.5 / 1000)
    assert np.array_equal(read_contours(path, volume)[0][2], labels() == 1)


# ---------------------------------------------------------------- 3D Slicer


def test_slicers_file_is_the_same_to_slicerio_simpleitk_and_pynrrd(
    volume: DicomVolume, tmp_path: Path
) -> None:
    slicerio = pytest.importorskip("slicerio")
    nrrd = pytest.importorskip("nrrd")
    path = write_slicer(tmp_path / "s.seg.nrrd", volume, labels(), SEGMENTS)
    array, affine = by_simpleitk(path)
    assert np.array_equal(in_volume(volume, array, affine), labels())
    read = slicerio.read_segmentation(str(path))
    assert np.array_equal(in_volume(volume, read["voxels"], read["ijkToLPS"]), labels())
    assert [s["name"] for s in read["segments"]] == ["liver", "kidney_left", "odd"]
    assert [s["labelValue"] for s in read["segments"]] == [1, 2, 4]
    assert read["segments"][0]["terminology"]["type"] == ["SCT", "10200004", "Liver"]
    assert read["segments"][1]["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert read["segments"][0]["color"] == pytest.approx([c / 255 for c in SEGMENTS[0].colour], abs=1e-5)
    voxels, header = nrrd.read(str(path))
    assert np.array_equal(voxels, labels())
    assert header["space"] == "left-posterior-superior"
    assert header["Segment0_Extent"] == "3 12 4 20 1 4"
    assert not any(word in path.read_bytes().split(b"\n\n")[0] for word in (b"PID", b"2019", b"ller"))


# ---------------------------------------------------------------- texts of the source


def test_texts_of_the_source_are_cleaned_and_stay_out_of_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    changes = {
        "PatientName": "O'Hara-<script>^Zoë=\x1b[31m^^^^^^^",
        "PatientID": "ID\r\n=cmd|'/c calc'!A1",
        "PatientSex": "FEMALE",
        "StudyDate": "2019.03.04",
        "SeriesDate": "yesterday",
        "StudyDescription": "x" * 300,
        "SeriesNumber": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, at values that break rules
        folder = write_single_frames(tmp_path / "s", **changes)
    file = folder / os.listdir(folder)[0]
    file.write_bytes(b"MZ" + b"\x90" * 126 + file.read_bytes()[128:])
    caplog.clear()
    volume = read_one(folder)
    path = write_segmentation(tmp_path / "seg.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM)
    seg = pydicom.dcmread(path)
    assert seg.preamble == bytes(128)
    assert seg.PatientID == "ID =cmd|'/c calc'!A1"  # as it was, but for the line end: a PACS compares it
    assert str(seg.PatientName).startswith("O'Hara-<script>^Zoë")
    assert all(c.isprintable() for c in str(seg.PatientName))
    assert (seg.PatientSex, seg.StudyDate, seg.ContentDate) == ("", "", "19000101")
    assert len(seg.StudyDescription) == 64
    measured = measure_segments(volume, labels(), SEGMENTS)
    write_report(tmp_path / "sr.dcm", volume, path, measured, algorithm=ALGORITHM)
    write_rtstruct(tmp_path / "rt.dcm", volume, labels(), SEGMENTS, algorithm=ALGORITHM)
    told = caplog.text + "".join(capfd.readouterr())
    assert not any(word in told for word in ("Hara", "calc", "yesterday"))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m[:, :, :-1], "shape-mismatch"),
        (lambda m: m.transpose(1, 0, 2), "shape-mismatch"),
        (lambda m: m + 2, "unknown-label-value"),
        (lambda m: m.astype(np.float32), "not-integer"),
        (lambda m: m.astype(np.int8) - 1, "unknown-label-value"),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_leave_nothing(
    plain: DicomVolume, change: Any, reason: str, tmp_path: Path
) -> None:
    for name, write in (
        ("a.dcm", write_segmentation),
        ("b.dcm", write_rtstruct),
        ("c.seg.nrrd", write_slicer),
    ):
        options = {} if name.endswith("nrrd") else {"algorithm": ALGORITHM}
        with pytest.raises(Refused) as error:
            write(tmp_path / "new" / name, plain, change(labels()), SEGMENTS, **options)  # type: ignore[operator]
        assert error.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_read_back_right_does_not_appear(
    plain: DicomVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pydicom.dcmwrite

    def spoiled(path: Path, dataset: Any, **options: Any) -> None:
        if "PixelData" in dataset:
            dataset.PixelData = bytes(len(dataset.PixelData))
        else:
            dataset.ROIContourSequence[0].ContourSequence[0].ContourData[0] += 5
        whole(path, dataset, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", spoiled)
    for write in (write_segmentation, write_rtstruct):
        with pytest.raises(Refused) as error:
            write(tmp_path / "x.dcm", plain, labels(), SEGMENTS, algorithm=ALGORITHM)  # type: ignore[operator]
        assert error.value.reason == "not-read-back"
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_where_a_new_one_fails(plain: DicomVolume, tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(b"older")
    with pytest.raises(Refused):
        write_segmentation(path, plain, labels() + 2, SEGMENTS, algorithm=ALGORITHM)
    assert path.read_bytes() == b"older"


# ---------------------------------------------------------------- OHIF's parser


@pytest.fixture(scope="module")
def ohif() -> Callable[[Path, list[Path]], dict[str, Any]]:
    """Return OHIF's parser, bundled once; packages lie in MEDSEG_NPM, or beside its script."""
    node = program("node")
    here = Path(__file__).parent / "ohif"
    packages = Path(os.environ.get("MEDSEG_NPM", here))
    wanted = json.loads((here / "package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        there = packages / "node_modules" / name / "package.json"
        if not there.is_file() or json.loads(there.read_text())["version"] != version:
            pytest.skip(f"{name} {version} is not in {packages}: npm install --prefix tests/ohif")
    bundled = (
        packages
        / "node_modules/.medseg"
        / f"parse-{hashlib.sha256((here / 'parse.js').read_bytes()).hexdigest()[:12]}.cjs"
    )
    if not bundled.is_file():
        esbuild = [packages / "node_modules/.bin/esbuild", here / "parse.js", "--bundle", "--platform=node"]
        environment = {**os.environ, "NODE_PATH": str(packages / "node_modules")}
        subprocess.run(
            [*esbuild, "--format=cjs", f"--outfile={bundled}", "--log-level=error"],
            check=True,
            env=environment,
        )

    def parse(path: Path, sources: list[Path]) -> dict[str, Any]:
        run = subprocess.run([node, bundled, path, *sources], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)  # type: ignore[no-any-return]

    return parse


@pytest.mark.parametrize("kind", ["binary", "labelmap", "empty"])
def test_a_segmentation_is_the_same_to_ohif(ohif: Any, plain: DicomVolume, kind: Any, tmp_path: Path) -> None:
    import base64

    map_ = labels() * (kind != "empty")
    form = "binary" if kind == "empty" else kind
    path = write_segmentation(tmp_path / "seg.dcm", plain, map_, SEGMENTS, algorithm=ALGORITHM, kind=form)
    read = ohif(path, [frame.instance.path for frame in plain.frames])
    assert not read["overlapping"]
    assert [(s["number"], s["label"]) for s in read["segments"] if s["number"]] == [
        (1, "liver"),
        (2, "kidney_left"),
        (3, "odd"),
    ]
    (planes,) = read["groups"]
    found = np.stack(
        [
            np.frombuffer(base64.b64decode(planes[f.instance.sop_instance_uid]), "<u2")
            .reshape(SHAPE[1], SHAPE[0])
            .T
            for f in plain.frames
        ],
        axis=2,
    )
    assert np.array_equal(found, NUMBERED * (kind != "empty"))

"""Every awkward series is read right or refused with its reason; real series, too."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dicom_series import (
    DEFLATED,
    EXPLICIT,
    KINDS,
    OBLIQUE,
    Kind,
    hu,
    judge,
    plane,
    report,
    save,
    stack,
    write,
)
from monai.transforms import LoadImaged

import medseg
from medseg.cli import main
from medseg.io import DicomReader, SeriesRules
from medseg.io.dicom import Series, choose_series, find_series, read_series
from medseg.io.dicom.headers import read_header


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_awkward_series(tmp_path: Path, kind: Kind) -> None:
    folder = tmp_path / "s"
    kind.make(folder)
    if kind.expect != "right":
        with pytest.raises(medseg.Refused) as refused:
            medseg.read(folder, series=kind.series)
        assert refused.value.reason == kind.expect, refused.value
        if kind.expect != "is-a-folder":  # which names what the caller gave
            assert not any(s in str(refused.value) for s in ("SECRET", "DOE", "1.2.826", str(tmp_path)))
        return
    volume = read_series(choose_series(find_series(folder), kind.series))
    affine = np.asarray(volume.image.affine)
    assert judge(volume.image.numpy()[0], affine, kind.geometry, kind.tolerance) == ""
    assert {note.code for note in volume.notes} == set(kind.notes)
    # every plane says where it came from
    for frame in volume.frames:
        assert frame.instance in volume.series.instances
        assert 1 <= frame.number <= frame.instance.frames
    assert len({(f.instance.sop_instance_uid, f.number) for f in volume.frames}) == kind.geometry.planes


def test_the_judge_sees_what_is_wrong() -> None:
    points = np.stack([OBLIQUE.points(OBLIQUE.position(k)) for k in range(OBLIQUE.planes)])
    values = hu(points).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = OBLIQUE.axes[:, 0] * 0.7, OBLIQUE.axes[:, 1] * 0.9
    affine[:3, 2], affine[:3, 3] = OBLIQUE.axes[:, 2] * 2.5, OBLIQUE.origin
    affine = np.diag([-1, -1, 1, 1]) @ affine
    assert judge(values, affine, OBLIQUE, 1e-6) == ""
    assert "HU" in judge(values[:, :, ::-1], affine, OBLIQUE, 1.0)
    assert "HU" in judge(values + 2, affine, OBLIQUE, 1.0)
    shifted = affine.copy()
    shifted[0, 3] += 0.1
    assert "HU" in judge(values, shifted, OBLIQUE, 1.0)
    assert "shape" in judge(values[:, :, 1:], affine, OBLIQUE, 1.0)


def test_frames_tell_where_planes_came_from(tmp_path: Path) -> None:
    KINDS["enhanced-in-two-objects"].make(tmp_path / "s")
    volume = read_series(choose_series(find_series(tmp_path / "s")))
    ends = [f.instance.sop_instance_uid.endswith(".5") for f in volume.frames]
    assert [f.number for f in volume.frames] == [2, 2, 1, 3, 3, 4, 4, 5, 1]
    assert ends == [True, False, True, False, True, False, True, True, False]


# ---------------------------------------------------------------- doors


def test_monai_reads_the_same(tmp_path: Path) -> None:
    save(tmp_path / "s", stack())
    loaded = LoadImaged(["image"], reader=DicomReader())({"image": str(tmp_path / "s")})["image"]
    image = medseg.read(tmp_path / "s")
    assert loaded.shape == image.shape == (1, 18, 26, 9)
    assert np.array_equal(loaded.numpy(), image.numpy())
    assert np.allclose(loaded.affine, image.affine)
    assert image.meta["spacing_unit"] == "mm"
    assert "DOE" not in str(image.meta) + str(loaded.meta)


def test_files_and_one_file_are_read(tmp_path: Path) -> None:
    save(tmp_path / "s", stack(), names="IM{}")
    whole = medseg.read(tmp_path / "s")
    listed = medseg.read(sorted((tmp_path / "s").iterdir(), reverse=True))
    assert np.array_equal(whole.numpy(), listed.numpy())
    KINDS["enhanced-scrambled"].make(tmp_path / "e")
    (file,) = (tmp_path / "e").iterdir()
    assert np.array_equal(whole.numpy(), medseg.read(file).numpy())


def test_reading_the_same_folder_twice_gives_the_same(tmp_path: Path) -> None:
    KINDS["slope-differs"].make(tmp_path / "a")
    first, second = medseg.read(tmp_path / "a"), medseg.read(tmp_path / "a")
    assert first.numpy().tobytes() == second.numpy().tobytes()
    assert first.numpy().dtype == np.float32


def test_info_lists_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS["two-series"].make(tmp_path / "s" / "deeper")
    write(report(), tmp_path / "s" / "dose.dcm")
    assert main(["info", str(tmp_path / "s")]) == 0
    said = capsys.readouterr().out
    assert "series 1         CT, 9 images, oblique" not in said  # 20 degrees of turn are still axial
    assert "series 1         CT, 9 images" in said
    assert "series 2         CT, 9 images, axial" in said
    assert "18 x 26 x 9, 0.7 x 0.9 x 2.5 mm" in said
    assert "ABDOMEN" in said
    assert "1 not-an-image" in said
    assert "DOE" not in said


def test_info_tells_why_a_series_is_no_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS["slice-missing"].make(tmp_path / "s")
    assert main(["info", str(tmp_path / "s")]) == 0
    assert "no volume        missing-slices: slices are missing" in capsys.readouterr().out


# ---------------------------------------------------------------- choosing


def series(number: int, **facts: Any) -> Series:
    return Series("1", f"1.{number}", facts.pop("modality", "CT"), (), number=number, **facts)


CHOICES = (
    series(1, orientation="axial", thickness_mm=1.0, description="Thorax 1.0 B70f", image_type=("ORIGINAL",)),
    series(2, orientation="axial", thickness_mm=5.0, description="Abdomen 5.0", image_type=("ORIGINAL",)),
    series(3, orientation="coronal", thickness_mm=3.0, description="ABDOMEN cor", image_type=("DERIVED",)),
    series(4, modality="MR", orientation="axial", description="t2_tse"),
    series(5, no_volume="localizer", description="Topogram"),
)


@pytest.mark.parametrize(
    ("rules", "number"),
    [
        ("modality=mr", 4),
        ("modality=CT,orientation=axial,thickness_mm=:2", 1),
        ("thickness_mm=4:", 2),
        ("thickness_mm=2.5:3", 3),
        ("description=^abdomen,exclude_image_type=DERIVED|MIP", 2),
        ("description=tse$", 4),
        ("1.3", 3),
        ("2", 2),
        (4, 4),
        (SeriesRules(orientation="coronal"), 3),
        ("number=5", 5),  # reading it says what is wrong
    ],
)
def test_rules_choose(rules: Any, number: int) -> None:
    assert choose_series(CHOICES, rules).number == number


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (None, "several-series"),
        ("modality=CT", "several-series"),
        ("thickness_mm=9:", "no-series"),
        ("modality=PT", "no-series"),
        ("99", "no-series"),
        ("modalty=CT", "bad-rule"),
        ("CT", "bad-rule"),
        ("thickness_mm=3", "bad-rule"),
        ("thickness_mm=3:1", "bad-rule"),
        ("thickness_mm=thin:", "bad-rule"),
        ("orientation=axia", "bad-rule"),
        ("description=(", "bad-rule"),
        ("number=first", "bad-rule"),
        ("", "bad-rule"),
    ],
)
def test_rules_that_do_not_choose(rules: Any, reason: str) -> None:
    with pytest.raises(medseg.Refused) as refused:
        choose_series(CHOICES, rules)
    assert refused.value.reason == reason
    assert "Thorax" not in str(refused.value)


def test_rules_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('modality = "CT"\nthickness_mm = [0.5, 2]\nexclude_image_type = ["DERIVED"]\n')
    assert SeriesRules.from_toml(path) == SeriesRules(
        modality="CT", thickness_mm=(0.5, 2.0), exclude_image_type=("DERIVED",)
    )
    path.write_text("modality = [")
    with pytest.raises(medseg.Refused, match="no TOML"):
        SeriesRules.from_toml(path)


# ---------------------------------------------------------------- hostile files


def reason(path: Path) -> str:
    with pytest.raises(medseg.Refused) as refused:
        read_header(path)
    return refused.value.reason


def test_a_deflate_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = write(plane(0), tmp_path / "bomb.dcm", DEFLATED)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    data = path.read_bytes()
    path.write_bytes(data[: 144 + struct.unpack("<I", data[140:144])[0]] + zeros)
    assert reason(path) == "deflated"


@pytest.mark.parametrize(
    "body",
    [
        # a private sequence without end has to be parsed: long items, elements without number, empty items
        b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff"
        + (b"\xfe\xff\x00\xe0\xf4\xff\0\0\x09\x00\x20\x10OB\0\0\xe8\xff\0\0" + bytes(65512)) * 200,
        b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        + b"\x09\x00\x20\x10SH\0\0" * 400_000,
        b"\x09\x00\x10\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" * 310_000,
        # groups of frames of a known length
        b"\x00\x52\x30\x92SQ\0\0" + struct.pack("<I", 8 * 200_000) + b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000,
    ],
    ids=["bytes", "elements", "items", "frames"],
)
def test_a_header_without_end_is_left(tmp_path: Path, body: bytes) -> None:
    path = write(plane(0), tmp_path / "long.dcm")
    data = path.read_bytes()
    start = 144 + struct.unpack("<I", data[140:144])[0]
    path.write_bytes(data[:start] + body)
    assert reason(path) == "oversized-header"


def test_a_long_private_value_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "long.dcm"
    write(plane(0), path)
    data = path.read_bytes()
    start = 144 + struct.unpack("<I", data[140:144])[0]
    value = b"\x07\x00\x10\x10OB\0\0" + struct.pack("<I", 2**26) + bytes(2**26)
    path.write_bytes(data[:start] + value + data[start:])
    assert read_header(path).sop_instance_uid == plane(0).SOPInstanceUID


@pytest.mark.parametrize("depth", [20, 5000])
def test_sequences_within_sequences(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.dcm"
    write(plane(0), path)
    data = path.read_bytes()
    start = 144 + struct.unpack("<I", data[140:144])[0]
    nested = b"\x07\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    nested += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth
    path.write_bytes(data[:start] + nested + data[start:])
    if depth == 20:
        assert read_header(path).series_uid == plane(0).SeriesInstanceUID
    else:
        assert reason(path) == "unreadable"


def test_any_file_cut_anywhere_is_refused_or_skipped(tmp_path: Path) -> None:
    save(tmp_path / "s", stack())
    victim = tmp_path / "s" / "003.dcm"
    data = victim.read_bytes()
    for size in [*range(0, len(data) - 2, 61), len(data) - 2]:
        victim.write_bytes(data[:size])
        with pytest.raises(medseg.Refused) as refused:
            medseg.read(tmp_path / "s")
        assert refused.value.reason in ("truncated", "damaged-file", "missing-slices"), size


def test_random_damage_never_passes_unseen(tmp_path: Path, rng: np.random.Generator) -> None:
    """Bytes of the header are overwritten: right, or refused; nothing else is raised."""
    save(tmp_path / "s", stack())
    victim = tmp_path / "s" / "003.dcm"
    data = victim.read_bytes()
    pixels = data.index(b"\xe0\x7f\x10\x00")
    refusals = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(128, pixels, 4):
            damaged[place] = int(rng.integers(256))
        victim.write_bytes(bytes(damaged))
        try:
            volume = read_series(choose_series(find_series(tmp_path / "s")))
        except medseg.Refused:
            refusals += 1
            continue
        if volume.image.shape[-1] == 9:
            wrong = judge(volume.image.numpy()[0], np.asarray(volume.image.affine), OBLIQUE, 300)
            assert "mm" not in wrong
            assert "HU" not in wrong
    assert refusals > 10


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "s", stack())
    (tmp_path / "s" / "back").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_series(tmp_path).series) == 1


# ---------------------------------------------------------------- real data


def test_liver_of_a_real_ct(shared_data: Path) -> None:
    folder = shared_data / "ct_abdomen_dicom"
    image = medseg.read(folder / "series")
    labels = nibabel.load(folder / "example_seg_dicom.nii.gz")
    where = np.argwhere(np.asarray(labels.dataobj) == 5)
    index = nibabel.affines.apply_affine(np.linalg.inv(image.affine.numpy()) @ labels.affine, where)
    assert np.abs(index - np.round(index)).max() < 1e-3
    values = image.numpy()[0][tuple(np.round(index).astype(int).T)]
    assert abs(values.mean() - 89) < 1
    assert abs(values.std() - 22) < 1


@pytest.mark.parametrize(
    ("folder", "truth"),
    [
        ("anatomical/001", "anatomical/001_ground_truth.nii.gz"),
        ("anatomical/001_implicit", "anatomical/001_implicit_ground_truth.nii.gz"),
        ("generic/compressed_j2k/001", "generic/compressed_j2k/001_ground_truth.nii.gz"),
    ],
)
def test_real_series_with_a_truth(shared_data: Path, folder: str, truth: str) -> None:
    image = medseg.read(shared_data / "dicom_awkward" / folder)
    nifti = nibabel.load(shared_data / "dicom_awkward" / truth)
    expected = np.asarray(nifti.dataobj)
    index = np.stack(np.meshgrid(*map(np.arange, image.shape[1:]), indexing="ij"), -1).reshape(-1, 3)
    there = nibabel.affines.apply_affine(np.linalg.inv(nifti.affine) @ image.affine.numpy(), index)
    assert np.abs(there - np.round(there)).max() < 0.01
    assert np.array_equal(expected[tuple(np.round(there).astype(int).T)], image.numpy()[0].ravel())


@pytest.mark.parametrize("number", ["001", "002"])
def test_real_gaps_are_refused(shared_data: Path, number: str) -> None:
    with pytest.raises(medseg.Refused) as refused:
        medseg.read(shared_data / "dicom_awkward" / "failing" / "sliceincrement" / number)
    assert refused.value.reason == "missing-slices"


def test_real_study_beside_segmentations(shared_data: Path) -> None:
    import SimpleITK as sitk

    folder = shared_data / "dicom_seg_dcmqi" / "segmentations"
    found = find_series(folder)
    assert [s.frames for s in found.series] == [3] * 5
    assert {s.reason for s in found.skipped} == {"not-dicom", "not-an-image"}
    classic = medseg.read(folder / "24x38x3" / "image")
    enhanced = medseg.read(folder / "24x38x3" / "multiframe")
    assert np.array_equal(classic.numpy(), enhanced.numpy())
    assert np.allclose(classic.affine, enhanced.affine)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "ct-3slice")))
    theirs = reader.Execute()
    mine = medseg.read(folder / "ct-3slice")
    assert np.array_equal(sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), mine.numpy()[0])
    corner = np.diag([-1, -1, 1, 1]) @ mine.affine.numpy() @ [511, 511, 2, 1]
    assert np.allclose(theirs.TransformIndexToPhysicalPoint((511, 511, 2)), corner[:3])


def test_plain_syntax_is_what_is_written(tmp_path: Path) -> None:
    assert read_header(write(plane(0), tmp_path / "a")).transfer_syntax_uid == EXPLICIT

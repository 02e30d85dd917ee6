"""Volumes: every voxel at its place in the patient, and what is refused because nobody could tell where."""

from __future__ import annotations

import gzip
import itertools
import logging
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged

import medseg
from medseg import Refused
from medseg.cli import main
from medseg.io import image_info, lazy, open_lazy, read_label, reader_for
from medseg.io.pixels import farthest
from medseg.io.stored import refuse_larger_than_memory
from medseg.plan import InputPlan
from medseg.transforms.intensity import normalisation

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
SPACING = (0.7, 0.9, 2.5)
SHAPE = (6, 5, 4)
# the 24 turns and their mirror images: which axis comes where, and which are gone through backwards
ORDERS = [(p, f) for p in itertools.permutations(range(3)) for f in itertools.product((1, -1), repeat=3)]
LPS = np.array([-1.0, -1.0, 1.0])


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    """A rotation by angles about x, y and z."""
    out = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        one = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        one[i, i], one[i, j], one[j, i], one[j, j] = c, -s, s, c
        out = one @ out
    return out


def affine_of(degrees: tuple[float, float, float] = (12, -7, 20), spacing: Any = SPACING) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turned(degrees) * spacing
    affine[:3, 3] = (-31.5, 12.25, 104.0)
    return affine


def phantom(dtype: str = "uint8") -> np.ndarray:
    """Nine voxels have the labels 1 to 9, three of them at corners."""
    array = np.zeros(SHAPE, dtype)
    rng = np.random.default_rng(3)
    inner = rng.choice(np.arange(1, array.size - 1), 6, replace=False)
    for label, index in enumerate([0, array.size - 1, SHAPE[2] - 1, *inner], start=1):
        array.flat[index] = label
    return array


def reordered(
    array: np.ndarray, affine: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same body with its axes stored in another order, some of them backwards."""
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs)):
        step[old, new] = sign
        step[old, 3] = 0 if sign > 0 else array.shape[old] - 1
    return array.transpose(order)[tuple(slice(None, None, s) for s in signs)], affine @ step


def places(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World coordinates of the labels 1 to 9, in their order."""
    indices = [np.argwhere(array == label) for label in range(1, 10)]
    assert all(len(i) == 1 for i in indices)
    return np.array([(affine @ [*i[0], 1])[:3] for i in indices])


def itk_places(path: Path) -> np.ndarray:
    """The same as SimpleITK sees them, turned from its LPS."""
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    found = [np.argwhere(array == label)[0][::-1].tolist() for label in range(1, 10)]
    return np.array([image.TransformIndexToPhysicalPoint(i) for i in found]) * LPS


def volume(array: np.ndarray, affine: np.ndarray, **meta: Any) -> MetaTensor:
    return MetaTensor(
        torch.as_tensor(np.ascontiguousarray(array)), affine=affine, meta={"spacing_unit": "mm", **meta}
    )


def reason(action: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(Refused) as caught:
        action(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def forms(
    path: Path, sform: np.ndarray | None, qform: np.ndarray | None, codes: tuple[int, int], **fields: Any
) -> Path:
    """A NIfTI file with these forms, and other fields of its header as they are given."""
    image = nibabel.Nifti1Image(phantom(), None)
    image.header.set_zooms(SPACING)
    if qform is not None:
        image.set_qform(qform, code=max(codes[1], 1))
    if sform is not None:
        image.set_sform(sform, code=max(codes[0], 1), update_affine=False)
    header = image.header
    header["sform_code"], header["qform_code"] = codes
    for name, value in fields.items():
        header[name] = value
    header["magic"], header["vox_offset"] = b"n+1", 352
    data = phantom().tobytes(order="F")
    path.write_bytes(header.binaryblock + bytes(4) + data)
    return path


# every order of axes


def test_there_are_48_orders() -> None:
    directions = {reordered(phantom(), np.eye(4), p, f)[1][:3, :3].tobytes() for p, f in ORDERS}
    assert len(directions) == 48


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -7, 20)], ids=["straight", "oblique"])
def test_every_voxel_is_at_its_place_in_all_48_orders(
    tmp_path: Path, suffix: str, degrees: tuple[float, float, float]
) -> None:
    expected = places(phantom(), affine_of(degrees))
    for order, signs in ORDERS:
        array, affine = reordered(phantom(), affine_of(degrees), order, signs)
        path = medseg.write(volume(array[None], affine), tmp_path / f"a{suffix}")
        ours = medseg.read(path)
        np.testing.assert_array_equal(ours[0].numpy(), array)
        np.testing.assert_allclose(places(ours[0].numpy(), ours.affine.numpy()), expected, atol=1e-4)
        np.testing.assert_allclose(itk_places(path), expected, atol=2e-3)
        with open_lazy(path) as held:
            np.testing.assert_allclose(places(held[:][0], held.affine), expected, atol=1e-4)
        if ".nii" in suffix:
            image = nibabel.load(path)
            for form in (image.affine, image.header.get_sform(), image.header.get_qform()):
                np.testing.assert_allclose(places(np.asarray(image.dataobj), form), expected, atol=2e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_other_libraries_in_all_48_orders(tmp_path: Path, suffix: str) -> None:
    expected = places(phantom(), affine_of())
    for order, signs in ORDERS:
        array, affine = reordered(phantom("int16"), affine_of(), order, signs)
        path = tmp_path / f"a{suffix}"
        if ".nii" in suffix:
            nibabel.save(nibabel.Nifti1Image(array, affine), path)
        else:
            image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            image.SetSpacing(spacing.tolist())
            image.SetOrigin((affine[:3, 3] * LPS).tolist())
            image.SetDirection((affine[:3, :3] / spacing * LPS[:, None]).ravel().tolist())
            SimpleITK.WriteImage(image, str(path))
        load = LoadImaged(["image"], reader=reader_for(path), dtype=None)
        for ours in (medseg.read(path), load({"image": path})["image"], read_label(path)):
            assert ours.shape == (1, *array.shape)
            np.testing.assert_allclose(places(ours[0].numpy(), ours.affine.numpy()), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_turns_near_half_a_turn_are_not_blurred_by_the_quaternion(tmp_path: Path, seed: int) -> None:
    """There the three numbers of 32 bits of a qform are coarse: up to a third of a voxel at 512 voxels."""
    rng = np.random.default_rng(seed)
    affine = affine_of(tuple(180 * np.eye(3)[seed % 3] + rng.normal(0, 0.02, 3)), (0.5, 0.6, 0.7))
    array = np.zeros((300, 2, 400), np.uint8)
    array[-1, -1, -1] = 1
    path = medseg.write(volume(array[None], affine), tmp_path / "a.nii")
    assert farthest(medseg.read(path).affine, affine, array.shape) < 1e-3
    image = SimpleITK.ReadImage(str(path))
    seen = np.array(image.TransformIndexToPhysicalPoint([299, 1, 399])) * LPS
    np.testing.assert_allclose(seen, (affine @ [299, 1, 399, 1])[:3], atol=0.02)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_shear_is_kept_and_tells_itself_to_nibabel(tmp_path: Path, suffix: str) -> None:
    affine = affine_of() @ np.array([[1, 0.2, 0, 0], [0, 1, 0.1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = medseg.write(volume(phantom()[None], affine), tmp_path / f"a{suffix}")
    image = nibabel.load(path)
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_allclose(
        places(np.asarray(image.dataobj), image.affine), places(phantom(), affine), atol=1e-4
    )
    np.testing.assert_allclose(medseg.read(path).affine, affine, atol=1e-5)
    for other in (".nrrd", ".mha"):
        assert reason(medseg.write, volume(phantom()[None], affine), tmp_path / f"b{other}") == (
            "affine-not-held"
        )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("dtype", "top"),
    [
        ("int64", 2**40),
        ("uint16", 65535),
        ("int16", 900),
        ("uint32", 2**32 - 1),
        ("float32", 7.0),
        ("float64", 0.1),
    ],
)
def test_values_of_every_type_come_back(tmp_path: Path, suffix: str, dtype: str, top: float) -> None:
    array, affine = reordered(phantom(dtype), affine_of(), (2, 0, 1), (1, -1, -1))
    array = array.copy()
    array[0, 0, 1] = top
    wide = {"uint16": "int32", "uint32": "int64"}.get(dtype, dtype)
    path = medseg.write(
        volume(array[None].astype(wide), affine, original_dtype=dtype), tmp_path / f"a{suffix}"
    )
    back = medseg.read(path)
    np.testing.assert_array_equal(back[0].numpy(), array)
    assert back.meta["original_dtype"] == dtype
    other = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T
    np.testing.assert_array_equal(other, array)
    if dtype != "float64":
        assert np.array_equal(read_label(path)[0].numpy(), array)


def test_a_very_long_axis_is_written_as_nifti_2(tmp_path: Path) -> None:
    array = np.arange(40000, dtype=np.int32).reshape(1, 40000, 1, 1)
    path = medseg.write(volume(array, affine_of()), tmp_path / "a.nii.gz")
    assert isinstance(nibabel.load(path), nibabel.Nifti2Image)
    assert torch.equal(medseg.read(path).as_tensor(), torch.as_tensor(array))
    np.testing.assert_allclose(medseg.read(path).affine, affine_of(), atol=1e-9)


def test_world_coordinates_of_itk_are_turned(tmp_path: Path) -> None:
    """A MetaTensor may say that its affine leads to LPS, as MONAI's ITKReader can be told to leave it."""
    lps = np.diag([*LPS, 1]) @ affine_of()
    path = medseg.write(volume(phantom()[None], lps, space="LPS"), tmp_path / "a.nii")
    np.testing.assert_allclose(medseg.read(path).affine, affine_of(), atol=1e-5)


# like


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_map_that_does_not_lie_on_the_grid_of_its_image_is_refused(tmp_path: Path, suffix: str) -> None:
    model = volume(phantom("int16")[None], affine_of())
    path = medseg.write(model, tmp_path / f"image{suffix}")
    labels = phantom()
    for like in (model, path):
        out = medseg.write(labels, tmp_path / f"label{suffix}", like=like)
        np.testing.assert_allclose(itk_places(out), places(labels, affine_of()), atol=1e-3)
        flipped, other = reordered(labels, affine_of(), (0, 1, 2), (-1, 1, 1))
        transposed, turned_affine = reordered(labels, affine_of(), (1, 0, 2), (1, 1, 1))
        shifted, thicker = affine_of(), affine_of(spacing=(0.7, 0.9, 2.51))
        shifted[:3, 3] += 0.01
        target = tmp_path / f"bad{suffix}"
        for image, why in [
            (volume(flipped[None], other), "affine-mismatch"),
            (volume(labels[None], shifted), "affine-mismatch"),
            (volume(labels[None], thicker), "affine-mismatch"),
            (volume(transposed[None], turned_affine), "shape-mismatch"),
            (labels[:-1], "shape-mismatch"),
            (volume(labels[None], affine_of(), spacing_unit="um"), "affine-mismatch"),
        ]:
            assert reason(medseg.write, image, target, like=like) == why
        assert not target.exists()


def test_like_reads_only_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [medseg.write(volume(phantom()[None], affine_of()), tmp_path / f"a{s}") for s in SUFFIXES]
    monkeypatch.setattr(lazy.LazyImage, "raw", lambda *a: pytest.fail("pixels were read"))
    for path in paths:
        assert medseg.io.writing._grid_of(path)[0] == SHAPE


# two geometries


def test_which_form_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    right, wrong = affine_of(), affine_of((0, 0, 0))
    for codes, sform, qform in [((1, 0), right, wrong), ((0, 1), wrong, right), ((2, 4), right, right)]:
        path = forms(tmp_path / "a.nii", sform, qform, codes)
        ours = medseg.read(path)
        np.testing.assert_allclose(ours.affine, right, atol=1e-4)
        np.testing.assert_allclose(nibabel.load(path).affine, right, atol=1e-4)
    assert not caplog.records
    assert image_info(path).geometry.startswith("sform (aligned) and qform (MNI), at most ")


def test_a_file_without_forms_is_read_as_by_nibabel_and_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = forms(tmp_path / "a.nii", None, None, (0, 0))
    with caplog.at_level(logging.WARNING, "medseg"):
        np.testing.assert_allclose(medseg.read(path).affine, nibabel.load(path).affine)
    assert "left and right are a guess" in caplog.text
    assert "not stated" in image_info(path).geometry
    assert image_info(path).orientation == "LAS"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("turned", lambda a: affine_of((12, -7, 22))),
        ("mirrored", lambda a: np.diag([-1, 1, 1, 1]) @ a),
        ("shifted", lambda a: a + np.array([[0, 0, 0, 0.2]] + [[0] * 4] * 3)),
        ("thicker", lambda a: a * [1, 1, 1.01, 1]),
        ("order", lambda a: a[:, [1, 0, 2, 3]]),
    ],
)
def test_two_forms_that_disagree_are_refused_and_both_are_named(
    tmp_path: Path, suffix: str, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = forms(tmp_path / "a.nii", change(affine_of()), affine_of(), (1, 1))
    if suffix == ".nii.gz":
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "a.nii.gz"
    for call in (medseg.read, read_label, open_lazy, image_info):
        with pytest.raises(Refused) as caught:
            call(path)
        assert caught.value.reason == "two-geometries"
    said = str(caught.value)
    assert said.count("voxels of") == 2
    assert "sform (scanner): " in said
    assert "qform (scanner): " in said or "pixdim: " in said
    assert "image.set_qform(None, 0) or image.set_sform(None, 0)" in said or "pixdim" in said
    apart = farthest(change(affine_of()), affine_of(), SHAPE)
    if "apart" in said:
        assert float(said.split("up to ")[1].split(" mm")[0]) == pytest.approx(apart, rel=0.01)


def test_the_fix_that_the_refusal_names_works(tmp_path: Path) -> None:
    path = forms(tmp_path / "a.nii", affine_of((0, 0, 40)), affine_of(), (1, 1))
    image = nibabel.load(path)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "b.nii")
    np.testing.assert_allclose(medseg.read(tmp_path / "b.nii").affine, affine_of(), atol=1e-4)
    image = nibabel.load(path)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "c.nii")
    np.testing.assert_allclose(medseg.read(tmp_path / "c.nii").affine, affine_of((0, 0, 40)), atol=1e-4)


def test_forms_that_differ_by_rounding_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(200):
        degrees = rng.uniform(-180, 180, 3) if k % 2 else 180 * np.eye(3)[k % 3] + rng.normal(0, 0.01, 3)
        affine = affine_of(tuple(degrees), (0.5, 0.5, 0.7))
        path = forms(tmp_path / "a.nii", affine, affine, (1, 1), dim=[3, 512, 512, 1, 1, 1, 1, 1])
        with path.open("ab") as file:
            file.truncate(352 + 512 * 512)
        np.testing.assert_allclose(open_lazy(path).affine, affine, atol=1e-3)


def test_units(tmp_path: Path) -> None:
    for code, unit, scale in [(0, "mm", 1), (2, "mm", 1), (1, "mm", 1000), (3, "um", 1), (10, "mm", 1)]:
        image = medseg.read(forms(tmp_path / "a.nii", affine_of(), None, (1, 0), xyzt_units=code))
        assert image.meta["spacing_unit"] == unit
        np.testing.assert_allclose(image.affine[:3], affine_of()[:3] * scale, rtol=1e-6)
    path = forms(tmp_path / "a.nii", affine_of(), None, (1, 0), xyzt_units=5)
    assert reason(medseg.read, path) == "bad-unit"


# headers and files that are not right: one line each


def nrrd(path: Path, fields: str, data: bytes = bytes(48)) -> Path:
    head = "NRRD0005\ntype: short\ndimension: 3\nsizes: 4 3 2\nendian: little\nencoding: raw\n"
    path.write_bytes(head.encode() + fields.encode() + b"\n" + data)
    return path


def meta(path: Path, fields: str, data: bytes = bytes(48)) -> Path:
    head = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_SHORT\n"
    path.write_bytes(head.encode() + fields.encode() + b"ElementDataFile = LOCAL\n" + data)
    return path


def packed(path: Path, data: bytes) -> Path:
    fields = f"CompressedData = True\nCompressedDataSize = {len(data)}\nElementSpacing = 1 1 1\n"
    return meta(path, fields + "TransformMatrix = 1 0 0 0 1 0 0 0 1\n", data)


def packed_nrrd(path: Path, data: bytes) -> None:
    nrrd(path, "space: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,3)\n", data)
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: gzip"))


FLAT = np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
MADE: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "zero.nii": ("no-spacing", "pixdim 0 x 0.9 x 2.5", lambda p: bad_pixdim(p, 0.0)),
    "negative.nii": ("no-spacing", "pixdim -1 x 0.9", lambda p: bad_pixdim(p, -1.0)),
    "nan.nii": ("no-spacing", "pixdim nan x 0.9", lambda p: bad_pixdim(p, np.nan)),
    "flat.nii": ("bad-affine", "cannot be inverted", lambda p: forms(p, FLAT, None, (1, 0))),
    "nansform.nii": ("bad-affine", "NaN", lambda p: forms(p, affine_of() * np.nan, None, (1, 0))),
    "quaternion.nii": (
        "bad-affine",
        "is no rotation",
        lambda p: forms(p, None, affine_of(), (0, 1), quatern_b=0.9, quatern_c=0.9),
    ),
    "sizes.nii": (
        "two-geometries",
        "pixdim: voxels of 0.7 x 0.9 x 2.5",
        lambda p: forms(p, affine_of(spacing=(1, 1, 1)), None, (1, 0)),
    ),
    "packed.nii": (
        "unreadable",
        "Rename it to 'packed.nii.gz'",
        lambda p: p.write_bytes(gzip.compress(forms(p, affine_of(), None, (1, 0)).read_bytes())),
    ),
    "plain.nii.gz": (
        "unreadable",
        "Rename it to 'plain.nii'",
        lambda p: forms(p, affine_of(), None, (1, 0)),
    ),
    "text.nii.gz": ("unreadable", "not compressed with gzip", lambda p: p.write_text("hello")),
    "cut.nii": (
        "unreadable",
        "is truncated",
        lambda p: p.write_bytes(forms(p, affine_of(), None, (1, 0)).read_bytes()[:-1]),
    ),
    "short.nii": (
        "unreadable",
        "ends within its header",
        lambda p: p.write_bytes(forms(p, affine_of(), None, (1, 0)).read_bytes()[:300]),
    ),
    "cut.nii.gz": ("unreadable", "end-of-stream", lambda p: cut_gzip(p, -20)),
    "head.nii.gz": ("unreadable", "", lambda p: cut_gzip(p, 60)),
    "spoilt.nii.gz": ("unreadable", "CRC check failed", lambda p: spoil_gzip(p)),
    "huge.nii": (
        "unreadable",
        "as its header says",
        lambda p: forms(p, affine_of(), None, (1, 0), dim=[4, 32767, 32767, 32767, 1, 1, 1, 1]),
    ),
    "huge.nii.gz": ("unreadable", "as its header says", lambda p: huge_gzip(p)),
    "dim.nii": (
        "unreadable",
        "damaged",
        lambda p: forms(p, affine_of(), None, (1, 0), dim=[3, -6, 5, 4, 1, 1, 1, 1]),
    ),
    "line.nii": (
        "too-few-dimensions",
        "1 axes",
        lambda p: forms(p, affine_of(), None, (1, 0), dim=[1, 120, 1, 1, 1, 1, 1, 1]),
    ),
    "none.nii": (
        "empty-image",
        "no pixels",
        lambda p: forms(p, affine_of(), None, (1, 0), dim=[3, 6, 0, 4, 1, 1, 1, 1]),
    ),
    "five.nii": (
        "too-many-dimensions",
        "5 axes",
        lambda p: forms(p, affine_of(), None, (1, 0), dim=[5, 6, 5, 1, 2, 2, 1, 1]),
    ),
    "complex.nii": (
        "pixel-type",
        "complex64",
        lambda p: nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.complex64), affine_of()), p),
    ),
    "bits.nii": (
        "pixel-type",
        "datatype 1",
        lambda p: forms(p, affine_of(), None, (1, 0), datatype=1),
    ),
    "half.nii": ("unreadable", "half of a pair", lambda p: half_of_a_pair(p)),
    "analyze.nii": ("unreadable", "which side is left", lambda p: analyze(p)),
    "pair.hdr": ("unknown-suffix", "half of a pair", lambda p: pair(p)),
    "pair.img": ("unknown-suffix", "half of a pair", lambda p: pair(p)),
    "missing.nrrd": ("no-spacing", "got no spacing", lambda p: nrrd(p, "")),
    "nan.nrrd": ("no-spacing", "1 x nan x 1", lambda p: nrrd(p, "spacings: 1 nan 1\n")),
    "zero.nrrd": ("no-spacing", "1 x 0 x 1", lambda p: nrrd(p, "spacings: 1 0 1\n")),
    "negative.nrrd": ("no-spacing", "1 x -2 x 1", lambda p: nrrd(p, "spacings: 1 -2 1\n")),
    "flat.nrrd": (
        "bad-affine",
        "cannot be inverted",
        lambda p: nrrd(p, "space: LPS\nspace directions: (1,0,0) (1,0,0) (0,0,3)\n"),
    ),
    "unit.nrrd": (
        "bad-unit",
        "furlong",
        lambda p: nrrd(
            p,
            "space: LPS\nspace directions: (1,0,0) (0,1,0) (0,0,3)\n"
            'space units: "furlong" "furlong" "furlong"\n',
        ),
    ),
    "cut.nrrd": ("unreadable", "truncated", lambda p: nrrd(p, "spacings: 1 1 1\n", bytes(47))),
    "text.nrrd": ("unreadable", "begin with NRRD", lambda p: p.write_text("hello")),
    "torn.nrrd": ("unreadable", "", lambda p: packed_nrrd(p, gzip.compress(bytes(48))[:-12])),
    "few.nrrd": ("unreadable", "", lambda p: packed_nrrd(p, gzip.compress(bytes(40)))),
    "spoilt.nrrd": (
        "unreadable",
        "",
        lambda p: packed_nrrd(p, gzip.compress(bytes(range(48)))[:-20] + bytes(20)),
    ),
    "missing.mha": ("no-spacing", "got no spacing", lambda p: meta(p, "")),
    "nan.mha": ("no-spacing", "1 x nan x 1", lambda p: meta(p, "ElementSpacing = 1 nan 1\n")),
    "zero.mha": ("no-spacing", "1 x 0 x 1", lambda p: meta(p, "ElementSpacing = 1 0 1\n")),
    "negative.mha": ("no-spacing", "1 x -2 x 1", lambda p: meta(p, "ElementSpacing = 1 -2 1\n")),
    "flat.mha": (
        "bad-affine",
        "cannot be inverted",
        lambda p: meta(p, "TransformMatrix = 1 0 0 1 0 0 0 0 1\nElementSpacing = 1 2 3\n"),
    ),
    "cut.mha": ("unreadable", "truncated", lambda p: meta(p, "ElementSpacing = 1 1 1\n", bytes(47))),
    "packed.mha": (
        "unreadable",
        "24 bytes of pixels of 48",
        lambda p: packed(p, zlib.compress(bytes(24))),
    ),
    "torn.mha": (
        "unreadable",
        "bytes of pixels of 48",
        lambda p: packed(p, zlib.compress(bytes(48))[:-6]),
    ),
    "alone.mhd": (
        "not-found",
        "alone.raw",
        lambda p: p.write_bytes(
            meta(p, "ElementSpacing = 1 1 1\n").read_bytes().replace(b"LOCAL\n", b"alone.raw\n")[:-48]
        ),
    ),
}


def bad_pixdim(path: Path, value: float) -> None:
    forms(path, affine_of(), None, (1, 0), pixdim=[1, value, 0.9, 2.5, 0, 0, 0, 0])


def cut_gzip(path: Path, n: int) -> None:
    plain = forms(path.with_name("plain~"), affine_of(), None, (1, 0))
    noise = np.random.default_rng(0).integers(0, 255, 120, dtype=np.uint8).tobytes()
    path.write_bytes(gzip.compress(plain.read_bytes()[:352] + noise)[:n])
    plain.unlink()


def spoil_gzip(path: Path) -> None:
    """One bit of a voxel, which only the checksum at the end tells: level 0 stores bytes as they are."""
    image = nibabel.Nifti1Image(np.ones((60, 50, 40), np.uint8), affine_of())
    content = bytearray(gzip.compress(image.to_bytes(), 0))
    content[-30] ^= 64
    path.write_bytes(bytes(content))


def huge_gzip(path: Path) -> None:
    plain = forms(
        path.with_name("plain~"), affine_of(), None, (1, 0), dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]
    )
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


def half_of_a_pair(path: Path) -> None:
    content = bytearray(forms(path, affine_of(), None, (1, 0)).read_bytes())
    content[344:348] = b"ni1\0"
    path.write_bytes(bytes(content))


def analyze(path: Path) -> None:
    content = bytearray(forms(path, affine_of(), None, (1, 0)).read_bytes())
    content[344:348] = bytes(4)
    path.write_bytes(bytes(content))


def pair(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(phantom(), affine_of()), path.with_suffix(".hdr"))


@pytest.mark.parametrize("name", MADE)
def test_what_is_wrong_with_a_file_is_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    why, said, make = MADE[name]
    monkeypatch.chdir(tmp_path)
    make(Path(name))
    for call in (medseg.read, read_label, image_info):
        assert reason(call, name) == why
    capfd.readouterr()
    assert main(["info", name]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert said in err
    assert name in err
    assert "Traceback" not in err


def test_more_than_memory_is_refused_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sparse file of the size that its header promises: only the check can refuse it."""
    dim = [3, 32767, 32767, 2000, 1, 1, 1, 1]
    path = forms(tmp_path / "a.nii", affine_of(), None, (1, 0), dim=dim, datatype=64, bitpix=64)
    with path.open("ab") as file:
        file.truncate(352 + 8 * 32767 * 32767 * 2000)
    with pytest.raises(Refused, match="is larger than memory") as caught:
        medseg.read(path)
    assert caught.value.reason == "larger-than-memory"
    with open_lazy(path) as image:  # in parts it can be read
        assert image.held_bytes == 0
        assert image[:, -3:, -5:, -1:].shape == (1, 3, 5, 1)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100}))
    assert reason(refuse_larger_than_memory, 101, "a.nii") == "larger-than-memory"
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        small = tmp_path / f"b{suffix}"
        image = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.int16))
        SimpleITK.WriteImage(image, str(small))
        with open_lazy(small) as held:
            assert reason(held.__getitem__, slice(None)) == "larger-than-memory"
        capfd.readouterr()
        assert main(["info", str(small)]) == 1
        out, err = capfd.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert "is larger than memory: got 2.4e-07 GB of pixels" in err


# values


def test_slope_and_intercept(tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.int16).reshape(SHAPE)
    image = nibabel.Nifti1Image(stored, affine_of())
    image.header.set_slope_inter(0.1, -3.5)
    for suffix in (".nii", ".nii.gz"):
        path = tmp_path / f"a{suffix}"
        nibabel.save(image, path)
        raw = bytearray((gzip.open if "gz" in suffix else open)(path, "rb").read())
        raw[352:] = stored.tobytes(order="F")  # nibabel divides as it writes
        path.write_bytes(gzip.compress(bytes(raw)) if "gz" in suffix else bytes(raw))
        expected = nibabel.load(path).get_fdata()
        ours = medseg.read(path)
        assert ours.dtype == torch.float32
        assert ours.meta["original_dtype"] == "int16"
        np.testing.assert_allclose(ours[0].numpy(), expected, rtol=1e-6, atol=1e-6)
        with open_lazy(path) as held:
            assert (held.stored_dtype, held.dtype) == (np.dtype("int16"), np.dtype("float32"))
            assert held.scale == pytest.approx((0.1, -3.5))
            np.testing.assert_array_equal(held[:], ours.numpy())
            np.testing.assert_array_equal(held[:, 1:3, ::2], ours.numpy()[:, 1:3, ::2])
            np.testing.assert_array_equal(held.raw([slice(0, n) for n in SHAPE])[0], stored)


def test_labels_behind_a_slope_are_whole_numbers(tmp_path: Path) -> None:
    """A slope of 0.1 is 0.10000000149 in the header."""
    path = forms(tmp_path / "a.nii", affine_of(), None, (1, 0), scl_slope=0.1, scl_inter=0)
    content = bytearray(path.read_bytes())
    content[352:] = (phantom() * 10).tobytes(order="F")
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(read_label(path)[0].numpy(), phantom())
    assert reason(
        read_label, forms(tmp_path / "b.nii", affine_of(), None, (1, 0), scl_slope=0.25, scl_inter=0)
    ) == ("not-whole-numbers")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("made", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4", "f8"])
def test_byte_orders_and_versions(tmp_path: Path, suffix: str, made: Any, order: str, dtype: str) -> None:
    array = (phantom() * 25).astype(order + dtype)
    header = made.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    nibabel.save(made(array, affine_of(), header=header), tmp_path / f"a{suffix}")
    assert nibabel.load(tmp_path / f"a{suffix}").header.endianness == order
    ours = medseg.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(ours[0].numpy(), phantom() * 25)
    np.testing.assert_allclose(ours.affine, affine_of(), atol=1e-5)
    with open_lazy(tmp_path / f"a{suffix}") as held:
        np.testing.assert_array_equal(held[:, 1:4, :, 2:], ours.numpy()[:, 1:4, :, 2:])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big", [False, True])
def test_metaimage_in_both_byte_orders_as_simpleitk_reads_it(tmp_path: Path, packed: bool, big: bool) -> None:
    values = np.arange(-10, 14, dtype=">i2" if big else "<i2").tobytes()
    data = zlib.compress(values) if packed else values
    fields = f"BinaryDataByteOrderMSB = {big}\nCompressedData = {packed}\nElementSpacing = 1 2 3\n"
    fields += f"CompressedDataSize = {len(data)}\n" if packed else ""
    path = meta(tmp_path / "a.mha", fields, data)
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).T
    np.testing.assert_array_equal(medseg.read(path)[0].numpy(), expected)
    assert expected[0, 0, 0] == -10


@pytest.mark.parametrize(
    ("written", "unit", "factor"), [("um", "um", 1), ("cm", "mm", 10), ("nm", "um", 1e-3)]
)
def test_units_that_itk_passes_over(tmp_path: Path, written: str, unit: str, factor: float) -> None:
    space = (
        "space: right-anterior-superior\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (5,6,7)\n"
    )
    files = [
        nrrd(tmp_path / "a.nrrd", space + f'space units: "{written}" "{written}" "{written}"\n'),
        meta(
            tmp_path / "a.mha",
            f"TransformMatrix = -1 0 0 0 -1 0 0 0 1\nOffset = -5 -6 7\nElementSpacing = 1 2 3\n"
            f"DistanceUnits = {written}\n",
        ),
    ]
    for path in files:
        image = medseg.read(path)
        assert image.meta["spacing_unit"] == unit
        expected = np.diag([1.0, 2, 3, 1])
        expected[:3, 3] = (5, 6, 7)
        np.testing.assert_allclose(image.affine[:3], expected[:3] * factor)


def test_a_world_without_a_name_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = nrrd(tmp_path / "a.nrrd", "spacings: 1 2 3\n")
    other = meta(tmp_path / "a.mha", "ElementSpacing = 1 2 3\n")
    for path in (plain, other):
        caplog.clear()
        medseg.read(path)
        assert "left and right are a guess" in caplog.text
        assert "left and right are a guess" in image_info(path).geometry


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_four_axes_are_channels_of_an_image_and_no_label(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 9, (3, *SHAPE)).astype(np.int16)
    path = medseg.write(volume(array, affine_of()), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(medseg.read(path).numpy(), array)
    with open_lazy(path) as held:
        np.testing.assert_array_equal(held[1:, 2:5, :, 1:3], array[1:, 2:5, :, 1:3])
    assert reason(read_label, path) == "several-channels"
    equal = medseg.write(volume(np.stack([phantom()] * 3), affine_of()), tmp_path / f"b{suffix}")
    assert reason(read_label, equal) == "several-channels"


def test_a_fourth_axis_of_one_is_none(tmp_path: Path) -> None:
    for shape in [(*SHAPE, 1), (*SHAPE, 1, 1)]:
        nibabel.save(nibabel.Nifti1Image(phantom().reshape(shape), affine_of()), tmp_path / "a.nii.gz")
        for image in (medseg.read(tmp_path / "a.nii.gz"), read_label(tmp_path / "a.nii.gz")):
            assert image.shape == (1, *SHAPE)
            np.testing.assert_array_equal(image[0].numpy(), phantom())
    vectors = np.stack([phantom(), 2 * phantom()], -1)[:, :, :, None]  # (x, y, z, 1, channel)
    nibabel.save(nibabel.Nifti1Image(vectors, affine_of()), tmp_path / "v.nii")
    np.testing.assert_array_equal(medseg.read(tmp_path / "v.nii")[1].numpy(), 2 * phantom())


def test_four_axes_of_itk(tmp_path: Path) -> None:
    series = np.stack([phantom(), 2 * phantom()])  # (t, x, y, z)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(series.transpose(0, 3, 2, 1)), isVector=False)
    assert image.GetDimension() == 4
    image.SetSpacing((0.7, 0.9, 2.5, 1.0))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    ours = medseg.read(tmp_path / "a.mha")
    np.testing.assert_array_equal(ours.numpy(), series)
    np.testing.assert_allclose(ours.affine, np.diag([-0.7, -0.9, 2.5, 1]))
    assert reason(read_label, tmp_path / "a.mha") == "several-channels"


def test_colours_of_nifti(tmp_path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    bytes_ = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(bytes_.view(kind)[..., 0], affine_of()), tmp_path / "a.nii.gz")
    ours = medseg.read(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ours.numpy(), np.moveaxis(bytes_, -1, 0))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 5, 4), (6, 1, 1)])
def test_one_slice_keeps_its_thickness(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(1, *shape)
    back = medseg.read(medseg.write(volume(array, affine_of()), tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(back.numpy(), array)
    np.testing.assert_allclose(np.linalg.norm(back.affine[:3, :3], axis=0), SPACING, rtol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_finite_is_counted_and_the_way_out_is_named(tmp_path: Path, suffix: str) -> None:
    array = phantom("float32")
    array[:, :, 3] = -np.inf
    array[2, 1, 3] = np.nan
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    said = "got 30 of 120, first -inf at (0, 0, 3) channel 0. Replace them"
    with pytest.raises(Refused) as caught:
        medseg.read(tmp_path / f"a{suffix}")
    assert said in str(caught.value)
    assert "-1024 in a CT" in str(caught.value)
    with open_lazy(tmp_path / f"a{suffix}") as held, pytest.raises(Refused) as caught:
        held.check_finite()
    assert said in str(caught.value)
    assert reason(read_label, tmp_path / f"a{suffix}") == "non-finite"
    info = image_info(tmp_path / f"a{suffix}")
    assert (info.finite, info.min) == (False, 0.0)


# parts


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_parts_are_those_of_the_whole(
    tmp_path: Path, suffix: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).integers(0, 999, (17, 23, 11)).astype(dtype)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing((0.5, 0.7, 3.0))
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    whole = medseg.read(tmp_path / f"a{suffix}")
    monkeypatch.setattr(lazy, "_BAND", 1000)
    with open_lazy(tmp_path / f"a{suffix}") as held:
        assert held.shape == tuple(whole.shape)
        assert held.ndim == 4
        assert str(held.stored_dtype) == dtype
        assert held.unit == "mm"
        assert held.held_bytes == (0 if suffix == ".nii" else array.nbytes)
        np.testing.assert_array_equal(held.affine, whole.affine)
        for key in [
            (slice(None),),
            (slice(None), slice(3, 9), slice(20, 23), slice(4, 5)),
            (slice(None), slice(None, None, 5), slice(2, None, 4), slice(None, None, 3)),
            (slice(None), slice(4, 4)),
        ]:
            part = held[key]
            np.testing.assert_array_equal(part, whole.numpy()[key])
            assert part.dtype == held.dtype == whole.numpy().dtype
        part = held[:, :1, :1, :1]
        part += 1  # what is given away is a copy
        np.testing.assert_array_equal(held[:], whole.numpy())
        assert sum(np.prod([s.stop - s.start for s in w]) for w in held.windows()) == array.size
        for how in (InputPlan(), InputPlan(normalise="zscore")):
            assert normalisation(held, how) == pytest.approx(normalisation(whole.numpy(), how), rel=1e-9)


def test_bands_go_with_the_file() -> None:
    """NIfTI has x fastest: a band is whole planes, one piece of the file."""
    image = lazy.LazyImage(
        Path("a.nii"),
        medseg.io.stored.Held((40, 30, 20), np.int16, lambda: (np.zeros((40, 30, 20), np.int16), None)),
        (None, 2, 1, 0),
        (0,),
        np.eye(4),
        "mm",
        "NIfTI",
    )
    bands = list(image._boxes(image.shape[1:], 20 * 30 * 8))
    assert [[s.stop - s.start for s in band] for band in bands] == [[20, 30, 8]] * 5


CHILD = """
import sys
import numpy as np
import medseg
from medseg.io import open_lazy
path, small = sys.argv[1:]
def kilobytes(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1])
with open_lazy(small) as image:
    image.check_finite()
    image[:]
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before = kilobytes("VmRSS")
with open_lazy(path) as image:
    image[:, 3:60, 20:30, 100:110]
    image[:, 0:50, 100:150, 0:50]
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_is_that_of_the_stored_type(tmp_path: Path, suffix: str) -> None:
    """At most 1.1 times the pixels as they are stored, and nothing of an uncompressed NIfTI."""
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1000, (160, 512, 512), dtype=np.int16)  # 84 MB that hardly compress
    for name, part in (("a", array), ("small", array[:3, :160, :160])):
        if ".nii" in suffix:
            image = nibabel.Nifti1Image(part.T, affine_of())
            with (
                gzip.open(tmp_path / f"{name}{suffix}", "wb", 1)
                if "gz" in suffix
                else (tmp_path / f"{name}{suffix}").open("wb") as file
            ):
                file.write(image.to_bytes())
        else:
            image = SimpleITK.GetImageFromArray(part)
            SimpleITK.WriteImage(image, str(tmp_path / f"{name}{suffix}"), True, 1)
    words = [sys.executable, "-c", CHILD, str(tmp_path / f"a{suffix}"), str(tmp_path / f"small{suffix}")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    taken = int(done.stdout) / array.nbytes
    assert taken < (0.1 if suffix == ".nii" else 1.1)


def test_info_of_an_oblique_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, affine = reordered(phantom("int16") - 2, affine_of((0, 0, 20)), (1, 2, 0), (-1, 1, 1))
    path = medseg.write(volume(array[None], affine), tmp_path / "a.nii")
    info = image_info(path)
    assert info.orientation == "PSR"
    assert info.oblique_degrees == pytest.approx(20, abs=1e-4)
    np.testing.assert_allclose(info.spacing, (0.9, 2.5, 0.7), rtol=1e-6)
    assert (info.min, info.max, info.n_distinct) == (-2, 7, 10)
    assert info.mean == pytest.approx((phantom().astype(float) - 2).mean())
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    for words in ("5 x 4 x 6, 1 channel, int16", "0.9 x 2.5 x 0.7 mm", "PSR (first voxel", "20 degrees"):
        assert words in said
    assert "sform (scanner) and qform (scanner), at most" in said
    straight = image_info(medseg.write(volume(phantom()[None], np.diag([2.0, 3, 4, 1])), tmp_path / "b.mha"))
    assert straight.oblique_degrees == 0


def test_channels_from_files_share_a_grid(tmp_path: Path) -> None:
    paths = []
    for name, shift in (("a", 0.0), ("b", 0.03), ("c", 0.04)):
        affine = affine_of()
        affine[0, 3] += shift
        paths.append(medseg.write(volume(phantom()[None], affine), tmp_path / f"{name}.nii.gz"))
    load = LoadImaged(["image"], reader=reader_for(paths[0]))
    assert load({"image": paths[:2]})["image"].shape == (2, *SHAPE)  # 0.03 mm of voxels of 0.7 mm
    assert reason(load, {"image": [paths[0], paths[2]]}) == "affine-mismatch"


# real files


def test_real_volumes(shared_data: Path) -> None:
    """Every file opens, whole and in parts, and lies where nibabel and SimpleITK put it."""
    folders = ("spinal_cord_mr", "spleen_ct_crop", "brain_tumour_nrrd", "hippocampus_bad_cases")
    paths = [
        p for f in folders for s in ("nii.gz", "nrrd") for p in sorted((shared_data / f).rglob(f"*.{s}"))
    ]
    paths += sorted((shared_data / "Task04_Hippocampus").rglob("*.nii.gz"))[::40]
    if not paths:
        pytest.skip("the volumes are absent")
    for path in paths:
        is_label = any(word in path.name for word in ("seg", "label")) or "labelsTr" in path.parts
        image = read_label(path) if is_label else medseg.read(path)
        itk = SimpleITK.ReadImage(str(path))
        np.testing.assert_array_equal(image[0].numpy(), SimpleITK.GetArrayViewFromImage(itk).T)
        last = [n - 1 for n in itk.GetSize()]
        corner = np.array(itk.TransformIndexToPhysicalPoint(last)) * LPS
        np.testing.assert_allclose((image.affine.numpy() @ [*last, 1])[:3], corner, atol=5e-3)
        if path.name.endswith(".nii.gz"):
            assert farthest(image.affine, nibabel.load(path).affine, last) < 1e-3
        with open_lazy(path) as held:
            part = (slice(None), slice(3, 20), slice(None, None, 3), slice(1, 7))
            np.testing.assert_array_equal(held[part], image.numpy()[part])
        info = image_info(path)
        assert info.geometry
        assert info.unit == "mm"
        assert info.finite

"""Awkward DICOM series, made: a phantom whose HU are known at every point of the patient, in many wrappings.

``KINDS`` names each with what must come of it: "right", or the reason of the refusal. `judge` looks at a
volume with nothing but its affine and the phantom's formula; no code of medseg is used here.

    python tests/dicom_series.py FOLDER          writes every kind into a folder of its own
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence

Array = npt.NDArray[Any]

CT, MR, PET = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
CAPTURE, REPORT = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.67"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4."
ROOT = "1.2.826.0.1.3680043.10.1."


def hu(points: Array) -> Array:
    """HU of the phantom at points (..., 3) of the patient, LPS mm: smooth, and different at every slice.

    >>> hu(np.zeros(3)).tolist()
    143.0
    """
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    return 200 * np.sin(x / 7) + 150 * np.cos(y / 9 + 0.3) + 4 * z - 0.3 + 0 * x  # type: ignore[no-any-return]


def turned(a: float, b: float, c: float) -> Array:
    """Rotation about x, then y, then z, in degrees: its columns are row, column and normal directions."""
    a, b, c = np.radians([a, b, c])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Geometry:
    """Where the planes of a series lie."""

    axes: Array = field(default_factory=lambda: turned(12, -7, 20))
    rows: int = 26
    columns: int = 18
    spacing: tuple[float, float] = (0.9, 0.7)
    step: float = 2.5
    planes: int = 9
    origin: tuple[float, float, float] = (-31.5, 17.25, -40.0)

    def position(self, k: float) -> Array:
        return np.array(self.origin) + k * self.step * self.axes[:, 2]

    def points(self, position: Array) -> Array:
        """Points of the pixels of one plane: (rows, columns, 3)."""
        r, c = np.mgrid[: self.rows, : self.columns]
        right = c[..., None] * self.spacing[1] * self.axes[:, 0]
        down = r[..., None] * self.spacing[0] * self.axes[:, 1]
        return position + right + down  # type: ignore[no-any-return]


OBLIQUE = Geometry()
AXIAL = Geometry(axes=np.eye(3))


def numbers(values: Sequence[float], digits: int = 10) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{v:.{digits}g}"[:16] for v in values]


def plane(k: float, g: Geometry = OBLIQUE, **changes: Any) -> Dataset:
    """One classic CT slice; ``changes`` are elements to set, None to delete."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{ROOT}3.{round(k * 1000) + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = ROOT + "1", ROOT + "2", ROOT + "4"
    ds.Modality, ds.SeriesDescription, ds.ImageType = "CT", "ABDOMEN", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID, ds.PatientName, ds.InstanceNumber = "SECRET", "DOE^JANE", round(k) + 1
    ds.ImagePositionPatient = numbers(g.position(k))
    ds.ImageOrientationPatient = numbers(g.axes[:, :2].T.ravel())
    ds.PixelSpacing, ds.SliceThickness = numbers(g.spacing), "2.5"
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = (
        g.rows,
        g.columns,
        1,
        "MONOCHROME2",
    )
    ds.ConvolutionKernel, ds.KVP = "B30f", "120"
    fill(ds, hu(g.points(g.position(k))))
    return changed(ds, **changes)


def changed(ds: Dataset, **changes: Any) -> Dataset:
    for name, value in changes.items():
        if value is None:
            if name in ds:
                delattr(ds, name)
        else:
            setattr(ds, name, value)
    return ds


def fill(
    ds: Dataset,
    values: Array,
    slope: float = 1,
    intercept: float = -1024,
    bits: tuple[int, int] = (16, 16),
    signed: bool = False,
) -> Dataset:
    """Store values as pixels of a data set."""
    ds.BitsAllocated, ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits[1] - 1, int(signed)
    ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
    stored = np.round((values - intercept) / slope).astype(np.int64)
    half, full = 2 ** (bits[1] - 1), 2 ** bits[1]
    assert stored.min() >= (-half if signed else 0)
    assert stored.max() < (half if signed else full)
    little = stored.astype(f"<{'i' if signed else 'u'}{bits[0] // 8}").tobytes()
    ds.PixelData = little + b"\0" * (len(little) % 2)
    ds["PixelData"].VR = "OW" if bits[0] > 8 else "OB"
    return ds


def again(ds: Dataset, values: Array | None = None, **options: Any) -> Dataset:
    """Store the phantom's values of a slice once more, in another way."""
    g = Geometry(rows=ds.Rows, columns=ds.Columns)
    if values is None:
        axes = np.array([float(v) for v in ds.ImageOrientationPatient]).reshape(2, 3).T
        g = replace(g, axes=axes, spacing=tuple(float(v) for v in ds.PixelSpacing))
        values = hu(g.points(np.array([float(v) for v in ds.ImagePositionPatient])))
    return fill(ds, values, **options)


def stack(g: Geometry = OBLIQUE, **changes: Any) -> list[Dataset]:
    return [plane(k, g, **changes) for k in range(g.planes)]


def save(folder: Path, slices: Sequence[Dataset], *, names: str = "{:03d}.dcm") -> None:
    """Write slices under shuffled names."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(5).permutation(len(slices))
    for name, i in enumerate(order):
        write(slices[i], folder / names.format(name))


def write(ds: Dataset, path: Path, syntax: str | None = None) -> Path:
    syntax = syntax or str(ds.file_meta.TransferSyntaxUID)
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax == BIG and "PixelData" in ds and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    compressed = syntax not in (IMPLICIT, EXPLICIT, BIG, DEFLATED)
    if compressed and "PixelData" in ds:
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    implicit = syntax == IMPLICIT
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=syntax != BIG, enforce_file_format=True)
    return path


# ---------------------------------------------------------------- what must come of it

Made = Callable[[Path], None]


@dataclass(frozen=True)
class Kind:
    """A series in a folder, and what must come of it."""

    name: str
    make: Made
    expect: str
    geometry: Geometry = OBLIQUE
    tolerance: float = 0.75
    notes: frozenset[str] = frozenset()
    series: str | None = None


KINDS: dict[str, Kind] = {}


def kind(expect: str = "right", **options: Any) -> Callable[[Made], Made]:
    def register(make: Made) -> Made:
        name = make.__name__.replace("_", "-")
        assert name not in KINDS
        notes = frozenset(options.pop("notes", ()))
        KINDS[name] = Kind(name, make, expect, notes=notes, **options)
        return make

    return register


def each(expect: str, table: dict[str, Callable[[], Sequence[Dataset]]], **options: Any) -> None:
    """Register kinds that are only a list of slices."""
    for name, slices in table.items():

        def make(folder: Path, slices: Callable[[], Sequence[Dataset]] = slices) -> None:
            save(folder, slices())

        make.__name__ = name
        kind(expect, **dict(options))(make)


def judge(values: Array, affine: Array, g: Geometry, tolerance: float) -> str:
    """Return "" where every voxel of (columns, rows, planes) has the HU of its place, else what is wrong.

    The affine goes to RAS+; the grid must have as many planes as were made, and its voxels must be theirs.
    """
    if values.shape != (g.columns, g.rows, g.planes):
        return f"shape {values.shape}"
    index = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1)
    world = (index @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
    wrong = np.abs(values - hu(world)).max()
    if wrong > tolerance:
        return f"{wrong:.3g} HU wrong"
    corners = np.array(
        [g.points(g.position(k))[r, c] for k in (0, g.planes - 1) for r in (0, -1) for c in (0, -1)]
    )
    there = world[[0, -1]][:, [0, -1]][:, :, [0, -1]].reshape(-1, 3)
    far = np.linalg.norm(corners[:, None] - there[None], axis=-1).min(axis=1).max()
    return "" if far < 0.1 else f"a corner is {far:.3g} mm away"


# ---------------------------------------------------------------- plain, and repaired

FAR = replace(OBLIQUE, axes=turned(80, 25, -50))

each(
    "right",
    {
        "oblique": stack,
        "instance_numbers_reversed": lambda: [plane(k, InstanceNumber=99 - k) for k in range(9)],
        "instance_numbers_random": lambda: [
            plane(k, InstanceNumber=n) for k, n in enumerate([7, 3, 9, 1, 5, 2, 8, 6, 4])
        ],
        "instance_numbers_missing": lambda: stack(InstanceNumber=None),
        "instance_numbers_all_equal": lambda: stack(InstanceNumber=1),
        "slice_locations_wrong": lambda: [plane(k, SliceLocation=str(-k * 7 % 5)) for k in range(9)],
        "gantry_tilt_tag_alone": lambda: stack(GantryDetectorTilt="15"),
        "thickness_other_than_step": lambda: stack(SliceThickness="5"),
        "thickness_missing": lambda: stack(SliceThickness=None),
        "slope_of_a_half": lambda: [again(ds, slope=0.5) for ds in stack()],
        "slope_differs": lambda: [again(ds, slope=0.5 + 0.01 * k) for k, ds in enumerate(stack())],
        "intercept_differs": lambda: [again(ds, intercept=-1024 - 8 * k) for k, ds in enumerate(stack())],
        "signed": lambda: [again(ds, signed=True, intercept=0) for ds in stack()],
        "signed_12_bits": lambda: [again(ds, signed=True, intercept=0, bits=(16, 12)) for ds in stack()],
        "unsigned_12_bits": lambda: [again(ds, bits=(16, 12)) for ds in stack()],
        "bits_32": lambda: [again(ds, bits=(32, 32)) for ds in stack()],
        "padding_tag": lambda: [
            changed(again(ds, signed=True, intercept=0), PixelPaddingValue=-2000) for ds in stack()
        ],
        "decimal_strings_too_long": lambda: [too_many_digits(k) for k in range(9)],
        "frames_told_as_one": lambda: stack(NumberOfFrames="1"),
        "acquisitions_that_follow": lambda: [plane(k, AcquisitionNumber=1 + k // 5) for k in range(9)],
        "times_differ": lambda: [
            plane(k, AcquisitionTime=f"1200{k:02d}", ContentTime=f"1300{k:02d}") for k in range(9)
        ],
        "magnetic_resonance": lambda: [as_mr(ds) for ds in stack()],
        "unknown_character_set": lambda: stack(SpecificCharacterSet="ISO_IR 999"),
        "trailing_padding": lambda: stack(DataSetTrailingPadding=b"\0" * 64),
        "positron_emission": lambda: [as_pet(ds, k) for k, ds in enumerate(stack())],
    },
)
each("right", {"axial": lambda: stack(AXIAL)}, geometry=AXIAL)
each("right", {"far_from_axial": lambda: stack(FAR)}, geometry=FAR)
CORONAL = replace(OBLIQUE, axes=np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
each("right", {"coronal": lambda: stack(CORONAL)}, geometry=CORONAL)
SAGITTAL = replace(OBLIQUE, axes=np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]))
each("right", {"sagittal": lambda: stack(SAGITTAL)}, geometry=SAGITTAL)
FEET = replace(OBLIQUE, axes=np.diag([-1.0, 1, -1]))
each("right", {"feet_first": lambda: stack(FEET)}, geometry=FEET)
WIDE = replace(OBLIQUE, step=31.0, planes=4)
each("right", {"huge_step": lambda: stack(WIDE)}, geometry=WIDE)
THIN = replace(OBLIQUE, step=0.3125, planes=14)
each("right", {"thin_overlapping": lambda: stack(THIN)}, geometry=THIN)
TWO = replace(OBLIQUE, planes=2)
each("right", {"two_slices": lambda: stack(TWO)}, geometry=TWO)
ONE = replace(OBLIQUE, planes=1)
each("right", {"one_slice": lambda: stack(ONE)}, geometry=ONE, notes=["one-plane"])
ODD = replace(OBLIQUE, rows=25, columns=17)
each(
    "right", {"odd_number_of_bytes": lambda: [as_8_bits(ds) for ds in stack(ODD)]}, geometry=ODD, tolerance=3
)
ROUND = replace(AXIAL, step=0.625, planes=11)
each(
    "right",
    {"positions_of_one_decimal": lambda: [rounded(k, 1) for k in range(11)]},
    geometry=ROUND,
    notes=["rounded-positions"],
    tolerance=2.0,
)
each(
    "right",
    {
        "orientation_jitter": lambda: [jitter(k, 1e-5) for k in range(9)],
        "orientation_jitter_nearly_too_much": lambda: [jitter(k, 4e-5) for k in range(9)],
    },
    notes=["orientation-jitter"],
    tolerance=2.0,
)
each(
    "right",
    {"no_frame_of_reference": lambda: stack(FrameOfReferenceUID=None)},
    notes=["no-frame-of-reference"],
)
each("right", {"uids_emptied": lambda: stack(StudyInstanceUID="", SeriesInstanceUID="")}, notes=["uids-made"])
each("right", {"localizers_in_series": lambda: [*stack(), *scouts()]}, notes=["localizers-dropped"])
each("right", {"values_that_are_no_hu": lambda: stack(RescaleType="Z_EFF")}, notes=["not-hounsfield"])
each("right", {"lossy_flag": lambda: stack(LossyImageCompression="01")}, notes=["lossy"])


def too_many_digits(k: int) -> Dataset:
    """Numbers as programs write them that print doubles: over 16 characters."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    ds = plane(k)
    for name, values in (
        ("ImagePositionPatient", OBLIQUE.position(k)),
        ("ImageOrientationPatient", OBLIQUE.axes[:, :2].T.ravel()),
    ):
        text = "\\".join(f"{v:.18f}" for v in values).encode()
        tag = pydicom.tag.Tag(name)
        ds[tag] = pydicom.dataelem.RawDataElement(
            tag, "DS", len(text), text + b" " * (len(text) % 2), 0, False, True
        )
    return ds


def as_mr(ds: Dataset, **changes: Any) -> Dataset:
    again(ds, intercept=0, signed=True)
    changed(ds, SOPClassUID=MR, Modality="MR", RescaleSlope=None, RescaleIntercept=None, KVP=None)
    return changed(ds, ConvolutionKernel=None, **changes)


def as_pet(ds: Dataset, k: int) -> Dataset:
    changed(ds, SOPClassUID=PET, Modality="PT", Units="BQML", KVP=None, ConvolutionKernel=None)
    return again(ds, slope=0.03123457 * (k + 1), intercept=-1024)


def as_8_bits(ds: Dataset) -> Dataset:
    return again(ds, slope=4, intercept=-600, bits=(8, 8))


def rounded(k: int, digits: int) -> Dataset:
    """A slice whose position was written with few digits; its pixels are those of where it truly was."""
    return changed(plane(k, ROUND), ImagePositionPatient=[f"{v:.{digits}f}" for v in ROUND.position(k)])


def jitter(k: int, size: float) -> Dataset:
    off = np.random.default_rng(k).uniform(-size, size, 6)
    return plane(k, ImageOrientationPatient=numbers(OBLIQUE.axes[:, :2].T.ravel() + off))


def scouts() -> list[Dataset]:
    views = [replace(CORONAL, rows=40), replace(SAGITTAL, columns=50)]
    return [
        changed(plane(0, g), SOPInstanceUID=f"{ROOT}9.{i}", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        for i, g in enumerate(views)
    ]


@kind(notes=["files-skipped"])
def junk_beside(folder: Path) -> None:
    save(folder, stack(), names="IM{:04d}")
    (folder / "notes.txt").write_text("words")
    (folder / "DICOMDIR").write_bytes(
        bytes(128) + b"DICM" + b"\x02\x00\x02\x00UI\x14\x001.2.840.10008.1.3.10" + b"\0\0"
    )
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    (folder / "._IM0001").write_bytes(b"\x00\x05\x16\x07" * 40)
    (folder / "empty").touch()
    write(report(), folder / "dose.dcm")


def report() -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = EXPLICIT
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = REPORT, ROOT + "77", "SR"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = ROOT + "1", ROOT + "78"
    return ds


@kind()
def deeper_folders_and_odd_names(folder: Path) -> None:
    save(folder / "A" / "Ünïcode name; $(x)", stack(), names="1.2.{}.CT")


@kind(notes=["copies-dropped"])
def same_file_twice(folder: Path) -> None:
    save(folder, stack())
    (folder / "copy of.dcm").write_bytes((folder / "004.dcm").read_bytes())


@kind(notes=["copies-dropped"])
def exported_twice(folder: Path) -> None:
    save(folder / "a", stack())
    save(folder / "b", stack())


@kind(notes=["copies-dropped"])
def same_image_in_two_syntaxes(folder: Path) -> None:
    save(folder, stack())
    write(plane(4), folder / "implicit.dcm", IMPLICIT)


@kind()
def preamble_is_a_program(folder: Path) -> None:
    save(folder, stack())
    for path in folder.iterdir():
        path.write_bytes(b"MZ" + b"\x90" * 126 + path.read_bytes()[128:])


@kind()
def sign_not_carried_on(folder: Path) -> None:
    slices = [again(ds, signed=True, intercept=0, bits=(16, 12)) for ds in stack()]
    for ds in slices:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") & 0x0FFF).tobytes()
    save(folder, slices)


@kind(notes=["series-passed-over"])
def study_with_scout_and_screenshot(folder: Path) -> None:
    save(folder / "ct", stack())
    save(folder / "scout", [changed(ds, SeriesInstanceUID=ROOT + "20") for ds in scouts()])
    write(screenshot(), folder / "shot.dcm")


def screenshot() -> Dataset:
    ds = plane(
        0, SOPClassUID=CAPTURE, SOPInstanceUID=ROOT + "30", SeriesInstanceUID=ROOT + "31", Modality="OT"
    )
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(ds, name)
    return ds


@kind(series="description=abdomen")
def two_series_chosen_by_a_rule(folder: Path) -> None:
    two_series(folder)


@kind("several-series")
def two_series(folder: Path) -> None:
    save(folder, [*stack(), *[other(ds) for ds in stack(AXIAL)]])


def other(ds: Dataset, **changes: Any) -> Dataset:
    """The slice under other UIDs, in another series."""
    new = {
        "SOPInstanceUID": ds.SOPInstanceUID + ".7",
        "SeriesInstanceUID": ROOT + "8",
        "SeriesDescription": "CHEST",
    }
    return changed(ds, **{**new, **changes})


def twin(ds: Dataset, **changes: Any) -> Dataset:
    """Another image of the same series."""
    return changed(ds, **{"SOPInstanceUID": ds.SOPInstanceUID + ".5", **changes})


# ---------------------------------------------------------------- compressed


def encoded(ds: Dataset, syntax: str, encode: Callable[[Array], bytes], pieces: int = 1) -> Dataset:
    """A slice of one frame, its pixels compressed by ``encode``."""
    kind_ = f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}"
    count = ds.Rows * ds.Columns
    array = np.frombuffer(ds.PixelData, kind_)[:count].reshape(ds.Rows, ds.Columns)
    ds = copy.deepcopy(ds)
    ds.PixelData = encapsulate([encode(array)], fragments_per_frame=pieces)
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def by_pydicom(syntax: str, g: Geometry = OBLIQUE, **options: Any) -> list[Dataset]:
    slices = [again(ds, bits=(16, 12)) for ds in stack(g)]
    for ds in slices:
        ds.compress(syntax, generate_instance_uid=False, **options)
    return slices


def by_gdcm(ds: Dataset, folder: Path, syntax: str) -> Path:
    import gdcm

    plain = write(ds, folder / "plain.tmp")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    out = folder / f"{ds.SOPInstanceUID}.dcm"
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(out))
    assert writer.Write()
    plain.unlink()
    return out


def htj2k(array: Array) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.htj2k_encode(array.astype(np.uint16), reversible=True))


def j2k(array: Array) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpeg2k_encode(array, codecformat="j2k", reversible=True, level=0))


def jpeg8(array: Array) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(array.astype(np.uint8), level=100))


def jpeg12(array: Array) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(array.astype(np.uint16), level=100, bitspersample=12))


@kind()
def implicit(folder: Path) -> None:
    folder.mkdir()
    for k, ds in enumerate(stack()):
        write(ds, folder / str(k), IMPLICIT)


@kind()
def big_endian(folder: Path) -> None:
    folder.mkdir()
    for k, ds in enumerate(stack()):
        write(ds, folder / str(k), BIG)


@kind()
def syntaxes_mixed(folder: Path) -> None:
    folder.mkdir()
    for k, ds in enumerate(by_pydicom(RLE)):
        write(ds if k % 2 else again(plane(k), bits=(16, 12)), folder / str(k))


RLE = "1.2.840.10008.1.2.5"
each(
    "right",
    {
        "rle": lambda: by_pydicom(RLE),
        "jpeg_ls": lambda: by_pydicom(JPEG + "80"),
        "jpeg_2000": lambda: [encoded(again(ds, bits=(16, 12)), JPEG + "90", j2k) for ds in stack()],
        "jpeg_2000_signed": lambda: [
            encoded(again(ds, intercept=0, signed=True), JPEG + "90", j2k) for ds in stack()
        ],
        "jpeg_2000_in_pieces": lambda: [encoded(ds, JPEG + "90", j2k, pieces=3) for ds in stack()],
        "jpeg_2000_high_throughput": lambda: [encoded(ds, JPEG + "201", htj2k) for ds in stack()],
    },
)
each(
    "right",
    {"jpeg_ls_near": lambda: by_pydicom(JPEG + "81", jls_error=2)},
    tolerance=3,
)
each(
    "right",
    {"jpeg_baseline": lambda: [encoded(as_8_bits(ds), JPEG + "50", jpeg8) for ds in stack()]},
    tolerance=16,
    notes=["lossy"],
)
each(
    "right",
    {"jpeg_12_bits": lambda: [encoded(again(ds, bits=(16, 12)), JPEG + "51", jpeg12) for ds in stack()]},
    tolerance=8,
    notes=["lossy"],
)


@kind()
def jpeg_lossless(folder: Path) -> None:
    folder.mkdir()
    for ds in stack():
        by_gdcm(again(ds, bits=(16, 12)), folder, JPEG + "70")


@kind()
def jpeg_lossless_any_predictor(folder: Path) -> None:
    jpeg_lossless(folder)
    for path in folder.iterdir():
        write(pydicom.dcmread(path), path, JPEG + "57")


@kind()
def jpeg_lossless_signed(folder: Path) -> None:
    folder.mkdir()
    for ds in stack():
        by_gdcm(again(ds, intercept=0, signed=True), folder, JPEG + "70")


# ---------------------------------------------------------------- enhanced


def item(**elements: Any) -> DicomSequence:
    ds = Dataset()
    for name, value in elements.items():
        setattr(ds, name, value)
    return DicomSequence([ds])


def enhanced(
    order: Sequence[int] = range(9),
    g: Geometry = OBLIQUE,
    *,
    slopes: Sequence[float] | None = None,
    modality: str = "CT",
    frame: Callable[[int, Dataset], None] = lambda k, groups: None,
) -> Dataset:
    """One enhanced object whose k-th frame is the plane ``order[k]``."""
    ds = plane(0, g)
    for name in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
        "RescaleIntercept",
        "ConvolutionKernel",
        "KVP",
        "InstanceNumber",
    ):
        delattr(ds, name)
    ds.SOPClassUID, ds.Modality = (ENHANCED_CT, "CT") if modality == "CT" else (ENHANCED_MR, "MR")
    ds.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=numbers(g.axes[:, :2].T.ravel()))
    shared.PixelMeasuresSequence = item(PixelSpacing=numbers(g.spacing), SliceThickness="2.5")
    pixels, groups = b"", []
    for n, k in enumerate(order):
        slope = slopes[n] if slopes else 1.0
        groups.append(Dataset())
        groups[-1].PlanePositionSequence = item(ImagePositionPatient=numbers(g.position(k)))
        groups[-1].PixelValueTransformationSequence = item(
            RescaleSlope=f"{slope:g}", RescaleIntercept="-1024", RescaleType="HU"
        )
        groups[-1].FrameContentSequence = item(
            StackID="1", InStackPositionNumber=n + 1, DimensionIndexValues=[1, n + 1]
        )
        frame(n, groups[-1])
        pixels += np.round((hu(g.points(g.position(k))) + 1024) / slope).astype("<u2").tobytes()
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    ds.PixelData = pixels
    return ds


SCRAMBLED = (4, 0, 7, 2, 8, 1, 6, 3, 5)
each(
    "right",
    {
        "enhanced": lambda: [enhanced()],
        "enhanced_scrambled": lambda: [enhanced(SCRAMBLED)],
        "enhanced_reversed": lambda: [enhanced(range(8, -1, -1))],
        "enhanced_slope_a_frame": lambda: [enhanced(slopes=[0.5 + 0.05 * k for k in range(9)])],
        "enhanced_mr_reversed": lambda: [enhanced(range(8, -1, -1), modality="MR")],
        "enhanced_rle": lambda: [compressed(enhanced(SCRAMBLED), RLE)],
        "enhanced_jpeg_ls": lambda: [compressed(enhanced(SCRAMBLED), JPEG + "80")],
        "enhanced_in_two_objects": lambda: [enhanced((8, 1, 3, 5)), twin(enhanced((2, 0, 4, 6, 7)))],
        "enhanced_one_frame_each": lambda: [
            changed(enhanced((k,)), SOPInstanceUID=f"{ROOT}50.{k}") for k in range(9)
        ],
        "enhanced_concatenation": lambda: [
            part(enhanced((8, 1, 3, 5)), 1),
            part(enhanced((2, 0, 4, 6, 7)), 2),
        ],
        "enhanced_orientation_a_frame": lambda: [orientation_a_frame()],
    },
)


def compressed(ds: Dataset, syntax: str) -> Dataset:
    ds.compress(syntax, generate_instance_uid=False)
    return ds


def part(ds: Dataset, number: int) -> Dataset:
    return changed(
        ds,
        SOPInstanceUID=f"{ROOT}51.{number}",
        ConcatenationUID=ROOT + "52",
        InConcatenationNumber=number,
        InConcatenationTotalNumber=2,
    )


def orientation_a_frame() -> Dataset:
    ds = enhanced(SCRAMBLED)
    shared = ds.SharedFunctionalGroupsSequence[0]
    for groups in ds.PerFrameFunctionalGroupsSequence:
        groups.PlaneOrientationSequence = copy.deepcopy(shared.PlaneOrientationSequence)
    del shared.PlaneOrientationSequence
    return ds


def time_index(n: int, groups: Dataset) -> None:
    groups.FrameContentSequence[0].TemporalPositionIndex = 1 + n // 9


def stack_of(n: int, groups: Dataset) -> None:
    groups.FrameContentSequence[0].StackID = str(1 + n // 5)
    if n >= 5:
        groups.PlaneOrientationSequence = item(ImageOrientationPatient=numbers(CORONAL.axes[:, :2].T.ravel()))


def echo(n: int, groups: Dataset) -> None:
    groups.MREchoSequence = item(EffectiveEchoTime=10.0 + 20 * (n // 9))


def without_positions(n: int, groups: Dataset) -> None:
    del groups.PlanePositionSequence


each(
    "several-volumes",
    {
        "enhanced_over_time": lambda: [enhanced([*range(9), *range(9)], frame=time_index)],
        "enhanced_two_echoes": lambda: [enhanced([*range(9), *range(9)], modality="MR", frame=echo)],
    },
)
each("mixed-orientation", {"enhanced_two_stacks": lambda: [enhanced(frame=stack_of)]})
each("missing-slices", {"enhanced_with_a_gap": lambda: [enhanced((0, 1, 2, 3, 5, 6, 7, 8))]})
each("doubled-position", {"enhanced_doubled_frame": lambda: [enhanced((0, 1, 2, 3, 4, 4, 5, 6, 7, 8))]})
each(
    "no-geometry",
    {
        "enhanced_without_positions": lambda: [enhanced(frame=without_positions)],
        "classic_with_frames": lambda: [classic_frames()],
    },
)
each("incomplete-concatenation", {"enhanced_half_a_concatenation": lambda: [part(enhanced((0, 1, 2, 3)), 1)]})
each(
    "truncated",
    {
        "enhanced_frames_not_described": lambda: [changed(enhanced(), NumberOfFrames=8)],
        "enhanced_fewer_pixels_than_frames": lambda: [
            changed(enhanced(), PixelData=enhanced().PixelData[:-900])
        ],
    },
)


def classic_frames() -> Dataset:
    ds = plane(0)
    ds.NumberOfFrames, ds.PixelData = 9, b"".join(s.PixelData for s in stack())
    return ds


# ---------------------------------------------------------------- no grid

each(
    "missing-slices",
    {
        "slice_missing": lambda: [ds for k, ds in enumerate(stack()) if k != 4],
        "second_slice_missing": lambda: [ds for k, ds in enumerate(stack()) if k != 1],
        "three_slices_missing": lambda: [ds for k, ds in enumerate(stack()) if k not in (2, 3, 6)],
        "every_second_missing": lambda: stack(SpacingBetweenSlices="2.5")[::2],
    },
)
each(
    "uneven-spacing",
    {
        "uneven": lambda: [plane(k) for k in (0, 1, 2, 3, 4.3, 5, 6, 7, 8)],
        "step_grows": lambda: [plane(k) for k in (0, 1, 2, 3.1, 4.3, 5.6, 7)],
    },
)
each("missing-slices", {"step_halves": lambda: [plane(k) for k in (0, 2, 4, 6, 7, 8, 9, 10)]})
each(
    "doubled-position",
    {
        "doubled_other_uid": lambda: [*stack(), twin(plane(4))],
        "positions_rounded_to_equal": lambda: [rounded(k, 0) for k in range(9)],
        "one_position_for_all": lambda: stack(ImagePositionPatient=["0", "0", "0"]),
    },
)
each(
    "same-uid",
    {"same_uid_other_pixels": lambda: [*stack(), again(plane(4), hu(OBLIQUE.points(OBLIQUE.position(9))))]},
)
each(
    "several-volumes",
    {
        "two_phases": lambda: [*stack(AcquisitionNumber=1), *map(twin, stack(AcquisitionNumber=2))],
        "two_phases_not_told_apart": lambda: [*stack(), *map(twin, stack())],
        "two_echoes": lambda: [
            *[as_mr(ds, EchoTime="5") for ds in stack()],
            *[twin(as_mr(ds, EchoTime="20")) for ds in stack()],
        ],
        "b_values": lambda: [
            *[as_mr(ds, DiffusionBValue=0.0) for ds in stack()],
            *[twin(as_mr(ds, DiffusionBValue=800.0)) for ds in stack()],
        ],
        "temporal_positions": lambda: [
            twin(as_mr(ds, TemporalPositionIdentifier=t), SOPInstanceUID=f"{ROOT}60.{t}.{k}")
            for t in range(3)
            for k, ds in enumerate(stack())
        ],
        "magnitude_and_phase": lambda: [
            *[as_mr(ds, ImageType=["ORIGINAL", "PRIMARY", "M"]) for ds in stack()],
            *[twin(as_mr(ds, ImageType=["ORIGINAL", "PRIMARY", "P"])) for ds in stack()],
        ],
    },
)
each(
    "mixed-images",
    {
        "echoes_at_alternate_slices": lambda: [
            as_mr(ds, EchoTime=str(5 + 15 * (k % 2))) for k, ds in enumerate(stack())
        ],
        "kernels_at_alternate_slices": lambda: [
            plane(k, ConvolutionKernel=("B30f", "B70f")[k % 2]) for k in range(9)
        ],
        "b_values_at_alternate_slices": lambda: [
            as_mr(ds, DiffusionBValue=800.0 * (k % 2)) for k, ds in enumerate(stack())
        ],
    },
)
each(
    "gantry-tilt",
    {
        "gantry_tilt": lambda: [tilted(k, 18) for k in range(9)],
        "gantry_tilt_small": lambda: [tilted(k, 0.5) for k in range(9)],
    },
)
each(
    "shifted-slices",
    {
        "half_of_the_slices_shifted": lambda: [moved(k, 3.0 * (k > 4)) for k in range(9)],
        "one_slice_shifted": lambda: [moved(k, 0.5 * (k == 4)) for k in range(9)],
    },
)
each(
    "mixed-orientation",
    {
        "scout_without_a_name": lambda: [
            *stack(),
            changed(plane(0, replace(OBLIQUE, axes=CORONAL.axes)), SOPInstanceUID=ROOT + "91"),
        ],
        "one_slice_turned": lambda: [
            plane(k, replace(OBLIQUE, axes=turned(12, -7, 20 + (k == 4)))) for k in range(9)
        ],
        "one_slice_mirrored": lambda: [
            plane(k, replace(OBLIQUE, axes=OBLIQUE.axes * [1 - 2 * (k == 4), 1, 1])) for k in range(9)
        ],
        "three_planes": lambda: [plane(k, g) for k, g in enumerate((AXIAL, CORONAL, SAGITTAL))],
        "radial": lambda: [
            plane(k, replace(OBLIQUE, axes=turned(12, 20 * k, 20), step=0.0)) for k in range(9)
        ],
    },
)
each(
    "bad-orientation",
    {
        "directions_no_unit_vectors": lambda: stack(ImageOrientationPatient=["2", "0", "0", "0", "1", "0"]),
        "directions_not_at_right_angles": lambda: stack(
            ImageOrientationPatient=["1", "0", "0", "0.6", "0.8", "0"]
        ),
        "directions_zero": lambda: stack(ImageOrientationPatient=["0"] * 6),
    },
)
each(
    "mixed-sizes",
    {
        "one_slice_larger": lambda: [plane(k, replace(OBLIQUE, rows=26 + (k == 4))) for k in range(9)],
        "rows_and_columns_swapped": lambda: [
            plane(k, replace(OBLIQUE, rows=(26, 18)[k == 4], columns=(18, 26)[k == 4])) for k in range(9)
        ],
    },
)
each(
    "mixed-spacing",
    {
        "one_slice_zoomed": lambda: [
            plane(k, replace(OBLIQUE, spacing=(0.9, 0.7 + 0.01 * (k == 4)))) for k in range(9)
        ]
    },
)


def tilted(k: int, degrees: float) -> Dataset:
    place = OBLIQUE.position(k) + k * OBLIQUE.step * np.tan(np.radians(degrees)) * OBLIQUE.axes[:, 1]
    return at(k, place)


def moved(k: int, mm: float) -> Dataset:
    return at(k, OBLIQUE.position(k) + mm * OBLIQUE.axes[:, 0])


def at(k: int, place: Array) -> Dataset:
    ds = plane(k, ImagePositionPatient=numbers(place))
    return fill(ds, hu(OBLIQUE.points(place)))


# ---------------------------------------------------------------- headers and values

each(
    "no-geometry",
    {
        "no_position": lambda: stack(ImagePositionPatient=None),
        "no_orientation": lambda: stack(ImageOrientationPatient=None),
        "one_slice_without_position": lambda: [
            plane(k, ImagePositionPatient=None) if k == 4 else plane(k) for k in range(9)
        ],
        "position_empty": lambda: stack(ImagePositionPatient=""),
        "screenshots": lambda: [screenshot()],
    },
)
each(
    "no-spacing",
    {
        "no_pixel_spacing": lambda: stack(PixelSpacing=None),
        "spacing_at_the_detector_alone": lambda: stack(PixelSpacing=None, ImagerPixelSpacing=["0.9", "0.7"]),
        "aspect_ratio_alone": lambda: stack(PixelSpacing=None, PixelAspectRatio=["9", "7"]),
        "pixel_spacing_zero": lambda: stack(PixelSpacing=["0", "0.7"]),
        "pixel_spacing_negative": lambda: stack(PixelSpacing=["0.9", "-0.7"]),
    },
)
each(
    "bad-number",
    {
        "pixel_spacing_one_number": lambda: stack(PixelSpacing="0.7"),
        "position_of_two_numbers": lambda: stack(ImagePositionPatient=["1", "2"]),
    },
)
each(
    "bad-number",
    {
        "position_beyond_all_bounds": lambda: stack(ImagePositionPatient=["1e300", "0", "0"]),
        "values_too_large": lambda: stack(RescaleSlope="1000000000"),
    },
)
each("non-finite", {"values_infinite": lambda: stack(RescaleSlope="1.5e38")})
each(
    "doubled-position",
    {"one_slice_over_time": lambda: [twin(plane(0), SOPInstanceUID=f"{ROOT}61.{k}") for k in range(9)]},
)
each("same-uid", {"one_uid_for_all": lambda: stack(SOPInstanceUID=ROOT + "62")})
each("truncated", {"pixels_empty": lambda: stack(PixelData=b"")})
each(
    "no-geometry",
    {"colourless_frames_of_a_screenshot": lambda: [changed(classic_frames(), SOPClassUID=CAPTURE + ".2")]},
)
each("localizer", {"localizers_alone": lambda: scouts()})
each(
    "colour",
    {
        "red_green_blue": lambda: [as_rgb(ds) for ds in stack()],
        "palette": lambda: stack(PhotometricInterpretation="PALETTE COLOR"),
        "coloured_values": lambda: stack(PixelPresentation="MIXED"),
    },
)
each(
    "inverted",
    {
        "monochrome_1": lambda: stack(PhotometricInterpretation="MONOCHROME1"),
        "no_photometric": lambda: stack(PhotometricInterpretation=None),
    },
)
each(
    "no-rescale",
    {
        "ct_without_slope": lambda: stack(RescaleSlope=None, RescaleIntercept=None),
        "one_slice_without_slope": lambda: [
            plane(k, RescaleSlope=None) if k == 4 else plane(k) for k in range(9)
        ],
        "slope_zero": lambda: stack(RescaleSlope="0"),
    },
)
each("modality-lut", {"values_by_a_table": lambda: stack(ModalityLUTSequence=item(ModalityLUTType="HU"))})
each(
    "several-series",
    {
        "two_frames_of_reference": lambda: [
            plane(k, FrameOfReferenceUID=f"{ROOT}4.{k // 5}") for k in range(9)
        ]
    },
)
each(
    "mixed-frame-of-reference",
    {
        "one_slice_without_frame_of_reference": lambda: [
            plane(k, FrameOfReferenceUID=None) if k == 4 else plane(k) for k in range(9)
        ]
    },
)
each("mixed-patients", {"two_patients": lambda: [plane(k, PatientID=f"P{k // 5}") for k in range(9)]})
each("stray-bits", {"overlay_in_the_high_bits": lambda: [with_overlay(ds) for ds in stack()]})
each(
    "pixel-format",
    {
        "high_bit_not_the_highest": lambda: stack(HighBit=14),
        "bits_allocated_24": lambda: stack(BitsAllocated=24),
        "more_pixels_than_rows": lambda: stack(Rows=20),
        "codestream_of_another_size": lambda: [changed(ds, Rows=25) for ds in by_pydicom(JPEG + "80")],
    },
)
each(
    "transfer-syntax",
    {
        "private_syntax": lambda: [with_syntax(ds, "1.3.6.1.4.1.99999.1") for ds in by_pydicom(RLE)],
        "video": lambda: [with_syntax(ds, JPEG + "102") for ds in by_pydicom(RLE)],
    },
)
each(
    "truncated",
    {
        "no_pixel_data": lambda: [without_pixels(plane(k)) if k == 4 else plane(k) for k in range(9)],
        "no_rows": lambda: stack(Rows=None),
    },
)
each(
    "absurd-size",
    {
        "absurd_rows": lambda: stack(Rows=65535, Columns=65535),
        "absurd_frames": lambda: stack(NumberOfFrames="2147483647"),
    },
)
each("no-series", {"reports_alone": lambda: [report()]})


def as_rgb(ds: Dataset) -> Dataset:
    count = ds.Rows * ds.Columns * 3
    return changed(
        ds,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelData=bytes(count + count % 2),
    )


def with_overlay(ds: Dataset) -> Dataset:
    again(ds, bits=(16, 12))
    pixels = np.frombuffer(ds.PixelData, "<u2").copy()
    pixels[::7] |= 0x1000
    ds.PixelData = pixels.tobytes()
    return ds


def with_syntax(ds: Dataset, syntax: str) -> Dataset:
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def without_pixels(ds: Dataset) -> Dataset:
    del ds.PixelData
    return ds


# ---------------------------------------------------------------- files


def cut(folder: Path, keep: Callable[[int], int]) -> None:
    path = folder / "004.dcm"
    data = path.read_bytes()
    path.write_bytes(data[: keep(len(data))])


@kind("truncated")
def truncated_in_the_pixels(folder: Path) -> None:
    save(folder, stack())
    cut(folder, lambda size: size - 300)


@kind("damaged-file")
def truncated_in_the_header(folder: Path) -> None:
    save(folder, stack())
    cut(folder, lambda size: 400)


@kind("truncated")
def truncated_before_the_rows(folder: Path) -> None:
    save(folder, stack())
    data = (folder / "004.dcm").read_bytes()
    cut(folder, lambda size: data.index(b"\x28\x00\x10\x00"))


@kind("damaged-file")
def truncated_in_the_meta(folder: Path) -> None:
    save(folder, stack())
    cut(folder, lambda size: 150)


@kind("truncated")
def truncated_jpeg_2000(folder: Path) -> None:
    save(folder, [encoded(ds, JPEG + "90", j2k) for ds in stack()])
    cut(folder, lambda size: size - 100)


@kind("truncated")
def jpeg_2000_cut_before_it_was_wrapped(folder: Path) -> None:
    slices = [encoded(ds, JPEG + "90", j2k) for ds in stack()]
    slices[4] = encoded(plane(4), JPEG + "90", lambda array: j2k(array)[:-60])
    save(folder, slices)


@kind("damaged-file")
def empty_slice(folder: Path) -> None:
    save(folder, stack())
    cut(folder, lambda size: 0)


@kind("damaged-file")
def one_slice_deflated(folder: Path) -> None:
    save(folder, stack())
    write(plane(8), folder / "000.dcm", DEFLATED)


@kind("no-series")
def all_deflated(folder: Path) -> None:
    folder.mkdir()
    for k, ds in enumerate(stack()):
        write(ds, folder / str(k), DEFLATED)


@kind("damaged-file")
def uid_with_a_path(folder: Path) -> None:
    save(folder, stack())
    path = folder / "004.dcm"
    data = path.read_bytes()
    uid = (ROOT + "2").encode()
    path.write_bytes(data.replace(uid, (b"../" * 20)[: len(uid)]))


@kind("damaged-file")
def no_preamble(folder: Path) -> None:
    save(folder, stack())
    path = folder / "004.dcm"
    path.write_bytes(path.read_bytes()[132:])


@kind("is-a-folder")
def nothing(folder: Path) -> None:
    folder.mkdir()


@kind("is-a-folder")
def no_dicom_at_all(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.dcm").write_text("words")


def main(folder: Path) -> None:
    for name, made in KINDS.items():
        made.make(folder / name)
        print(name, made.expect)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

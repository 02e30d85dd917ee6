"""What results take over from their source: patient, study and grid, with every text made harmless."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from .changes import unchanged
from .model import MAYBE_INCOMPLETE, DicomVolume
from .uids import Algorithm, derived_uid, result_uid

__all__ = ["Grid", "grid_of", "new_uid", "series_number", "source_dataset", "stamp"]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # patient coordinates of DICOM are to the left and to the back
_NO_DATE = "19000101"  # of sources without any date: a content date must not be empty
_CODES = {"PatientSex": ("M", "F", "O"), "PatientIdentityRemoved": ("YES", "NO")}
_CODES["LossyImageCompression"] = ("00", "01")
# attributes that are taken over, by how they are cleaned
_NAMES = ("PatientName", "ReferringPhysicianName")
_SHORT = ("AccessionNumber", "StudyID")
_LONG = ("PatientID", "IssuerOfPatientID", "StudyDescription", "Manufacturer", "ManufacturerModelName")
_DATES = {"StudyDate", "PatientBirthDate", "SeriesDate", "AcquisitionDate", "ContentDate"}
_TIMES = {"StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"}
_NOT_WRITTEN = (
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "SeriesTime",
    "AcquisitionTime",
    "ContentTime",
)
_DATE = re.compile(r"(1[89]|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")


@dataclass(frozen=True)
class Grid:
    """The planes of a volume in DICOM's patient coordinates (to the left, to the back, up), in mm.

    Attributes
    ----------
    shape : tuple of int
        Columns, rows, planes.
    affine : ndarray, shape (4, 4)
        From (column, row, plane) to the patient; its axes are exactly at right angles.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of columns, of rows and of planes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def grid_of(volume: DicomVolume) -> Grid:
    """Return the grid of a volume; planes that are not at right angles to their normal are refused.

    Raises
    ------
    Refused
        ``affine-not-held``, ``bad-shape``.
    """
    shape = tuple(volume.image.shape[1:])
    if len(shape) != 3 or len(volume.frames) != shape[2]:
        raise Refused(
            "bad-shape",
            "a volume has columns, rows and planes, and a frame for each plane",
            got=f"shape {tuple(volume.image.shape)} and {len(volume.frames)} frames",
        )
    given = _LPS @ np.asarray(volume.image.affine, np.float64)
    lengths = np.linalg.norm(given[:3, :3], axis=0)
    row, column, along = (given[:3, :3] / lengths).T
    column = column - row * (row @ column)  # rounding in the files leaves the axes not quite at right angles
    column /= np.linalg.norm(column)
    normal = np.cross(row, column) * (1 if np.cross(row, column) @ along > 0 else -1)
    affine = given.copy()
    affine[:3, :3] = np.stack([row, column, normal], axis=1) * lengths
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    off = np.abs((affine[:3, :3] - given[:3, :3]) @ corners).max()
    if not off <= 0.05 * lengths.min():
        raise Refused(
            "affine-not-held",
            "planes that are shifted against each other have no place in DICOM results",
            got=f"a voxel {off:.3g} mm from its place",
            do="resample the volume to planes at right angles",
        )
    return Grid((shape[0], shape[1], shape[2]), affine)


def new_uid(volume: DicomVolume, algorithm: Algorithm, what: str) -> str:
    """Return the UID of one thing in the results of a volume.

    It follows from the series, from which frames of it were read, from the files of the model and from the
    version and the settings: a series that has grown since has another result, and a PACS that holds the
    old one does not take it for the new one.
    """
    frames = [f"{frame.instance.sop_instance_uid} {frame.number}" for frame in volume.frames]
    made = [algorithm.name, algorithm.version, algorithm.settings, derived_uid(frames)]
    if MAYBE_INCOMPLETE in volume.series.notes:  # the results say so, and are others
        made.append(MAYBE_INCOMPLETE.code)
    return result_uid(
        volume.series.series_uid,
        algorithm.weights_sha256,
        algorithm.plan_sha256,
        f"{what} {derived_uid(made)}",
    )


def series_number(source: Any, kind: int) -> int:
    """Return the number of a series of results: that of the source with three digits more."""
    number = str(source.get("SeriesNumber", "") or "")
    first = int(number) if re.fullmatch(r"\d{1,5}", number) else 0
    return first * 1000 + 900 + kind


def stamp(source: Any) -> tuple[str, str]:
    """Return date and time that results bear: the first whole pair of the source, never the clock's."""
    for name in ("Series", "Acquisition", "Content", "Study"):
        if date := str(source.get(f"{name}Date", "") or ""):
            return date, str(source.get(f"{name}Time", "") or "") or "000000"
    return _NO_DATE, "000000"


def source_dataset(volume: DicomVolume) -> Any:
    """Return a small data set with what results take over: clean texts, and the grid's first plane.

    Returns
    -------
    pydicom.Dataset
        A single image, whose class is CT whatever the source is: the classes of results are the same for
        all, and what refers to the source is made from the volume's frames.
    """
    from pydicom.dataset import Dataset

    with unchanged([volume.frames[0].instance]):  # it has the same patient as when its pixels were read
        found = _read_some(volume.frames[0].instance.path)
    clean = Dataset()
    for name in _NAMES:
        setattr(clean, name, _person(found.get(name)))
    for name in _SHORT:
        setattr(clean, name, _text(found.get(name), 16))
    for name in (*_LONG, "DeidentificationMethod"):
        if (text := _text(found.get(name), 64)) or name == "PatientID":
            setattr(clean, name, text)
    for name in sorted(_DATES | _TIMES):
        text = str(found.get(name, "") or "").strip()
        good = (_DATE if name in _DATES else _TIME).fullmatch(text)
        setattr(clean, name, text if good else None)
    for name, allowed in _CODES.items():
        text = str(found.get(name, "") or "").strip().upper()
        if text in allowed or name == "PatientSex":
            setattr(clean, name, text if text in allowed else "")
    if versions := [t for v in _several(found.get("SoftwareVersions")) if (t := _text(v, 64))]:
        clean.SoftwareVersions = versions
    number = str(found.get("SeriesNumber", "") or "").strip()
    clean.SeriesNumber = number if re.fullmatch(r"\d{1,9}", number) else None
    if not _is_ascii(clean):
        clean.SpecificCharacterSet = "ISO_IR 192"
    clean.Modality = _text(volume.series.modality, 16).upper()
    clean.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    clean.SOPInstanceUID = volume.frames[0].instance.sop_instance_uid
    clean.StudyInstanceUID, clean.SeriesInstanceUID = volume.series.study_uid, volume.series.series_uid
    clean.FrameOfReferenceUID = volume.frame_of_reference_uid
    grid = grid_of(volume)
    clean.Columns, clean.Rows = grid.shape[:2]
    row, column = grid.affine[:3, 0] / grid.spacing[0], grid.affine[:3, 1] / grid.spacing[1]
    clean.ImageOrientationPatient = [f"{x:.10f}" for x in (*row, *column)]
    clean.ImagePositionPatient = [f"{x:.10g}" for x in grid.affine[:3, 3]]
    clean.SliceThickness = f"{grid.spacing[2]:.10g}"
    clean.PixelSpacing = [f"{x:.10g}" for x in grid.spacing[1::-1]]
    return clean


def _read_some(path: Path) -> Any:
    """Read the attributes that are taken over, and no others; what is no value of its kind is None."""
    import pydicom

    wanted = [*_NAMES, *_SHORT, *_LONG, *_CODES, *_DATES, *_TIMES]
    wanted += ["SpecificCharacterSet", "DeidentificationMethod", "SoftwareVersions", "SeriesNumber"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)
        plain: dict[str, Any] = {}
        for name in wanted:
            try:
                plain[name] = found.get(name)
            except (ValueError, TypeError, OverflowError, UnicodeError):  # no value of its kind
                plain[name] = None
    return plain


def _several(value: Any) -> list[Any]:
    if value is None or isinstance(value, str):
        return [value]
    return list(value) if hasattr(value, "__iter__") else [value]


def _text(value: Any, longest: int) -> str:
    """Return one line without control characters and backslashes, cut where DICOM has no room for more."""
    text = "\\".join(str(v) for v in _several(value) if v is not None)
    text = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return " ".join(text.split())[:longest].strip()


def _person(value: Any) -> str:
    """Return a person's name with at most three groups of at most 64 characters and five parts each."""
    text = _text(str(value) if value is not None else None, 1000)
    groups = ["^".join(group.split("^")[:5])[:64] for group in text.split("=")[:3]]
    return "=".join(groups).rstrip("=")


def _is_ascii(dataset: Any) -> bool:
    return all(str(element.value).isascii() for element in dataset)

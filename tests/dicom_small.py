"""Small DICOM sources for tests of results: oblique, anisotropic in the plane, rows != columns, shuffled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (22, 30, 7)  # columns, rows, planes
STUDY, SERIES, FRAME_OF_REFERENCE = "1.2.826.0.1.55.1", "1.2.826.0.1.55.1.2", "1.2.826.0.1.55.9"
CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"


def turned(*degrees: float) -> np.ndarray:
    """Return a rotation about x, then y, then z."""
    (a, b, c), zero = np.deg2rad(degrees), 0.0
    x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    z = [[np.cos(c), -np.sin(c), zero], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(x) @ np.array(y) @ np.array(z)


def affine_lps(angles: tuple[float, float, float] = (12, -7, 20)) -> np.ndarray:
    """Return (column, row, plane) -> patient, with pixels of 0.7 x 0.9 mm and planes 2.5 mm apart."""
    affine = np.eye(4)
    affine[:3, :3] = turned(*angles) * [0.7, 0.9, 2.5]
    affine[:3, 3] = [-31.5, 22.25, -412.0]
    return affine


def values() -> np.ndarray:
    return np.random.default_rng(3).integers(-300, 500, SHAPE).astype(np.int16)


def labels() -> np.ndarray:
    """Return an organ (1) with a hole and a corner that touches, none of 2, and an organ (4) at the edge."""
    map_ = np.zeros(SHAPE, np.uint8)
    map_[3:12, 4:20, 1:5] = 1
    map_[5:8, 7:11, 2:4] = 0
    map_[12, 20, 2] = 1  # touches at a corner
    map_[15:22, 18:30, 3:7] = 4
    return map_


def _header(changes: dict[str, Any]) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset

    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    d.SpecificCharacterSet = "ISO_IR 192"
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = STUDY, SERIES, FRAME_OF_REFERENCE
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "Müller^Änne", "PID-77123", "19510203", "F"
    d.StudyDate, d.StudyTime, d.SeriesDate, d.SeriesTime = "20190304", "101112", "20190304", "101530.25"
    d.AccessionNumber, d.StudyID, d.StudyDescription = "ACC-9921", "ST5", "CT of the abdomen"
    d.ReferringPhysicianName, d.SeriesNumber, d.Modality = "House^Gregory", 4, "CT"
    d.Manufacturer, d.ManufacturerModelName = "ACME Scanners", "Ring 3"
    d.PositionReferenceIndicator = None
    d.Columns, d.Rows = SHAPE[:2]
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation, d.SamplesPerPixel = 15, 1, 1
    d.PhotometricInterpretation, d.RescaleSlope, d.RescaleIntercept = "MONOCHROME2", 1, 0
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    for name, value in changes.items():
        setattr(d, name, value)
    return d


def write_single_frames(folder: Path, affine: np.ndarray | None = None, **changes: Any) -> Path:
    """Write a classic series, files named in another order than that of the planes."""
    import pydicom

    affine = affine_lps() if affine is None else affine
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    for plane in range(SHAPE[2]):
        d = _header(changes)
        d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = CT
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{plane + 1}"
        d.InstanceNumber = SHAPE[2] - plane
        d.PixelSpacing, d.SliceThickness = [f"{spacing[1]:g}", f"{spacing[0]:g}"], "2"
        axes = (affine[:3, :2] / spacing[:2]).T.ravel()
        d.ImageOrientationPatient = [f"{x:.10f}" for x in axes]
        d.ImagePositionPatient = [f"{x:.8f}" for x in affine[:3] @ [0, 0, plane, 1]]
        d.PixelData = np.ascontiguousarray(values()[:, :, plane].T).tobytes()
        pydicom.dcmwrite(folder / f"IM{(plane * 5 + 3) % 11:02d}", d, enforce_file_format=True)
    return folder


def write_enhanced(folder: Path) -> Path:
    """Write an enhanced CT of one file, its frames in reversed order."""
    import pydicom
    from pydicom.dataset import Dataset

    affine = affine_lps((-80, 15, 5))
    folder.mkdir(parents=True, exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    d = _header({"NumberOfFrames": SHAPE[2], "InstanceNumber": 1})
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.100"
    del d.RescaleSlope, d.RescaleIntercept

    def item(**content: Any) -> Any:
        made = Dataset()
        for name, value in content.items():
            setattr(made, name, value)
        return made

    axes = (affine[:3, :2] / spacing[:2]).T.ravel()
    d.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=["0.9", "0.7"], SliceThickness="2.5")],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[f"{x:.10f}" for x in axes])],
            PixelValueTransformationSequence=[item(RescaleSlope="1", RescaleIntercept="0", RescaleType="HU")],
        )
    ]
    order = range(SHAPE[2])[::-1]
    d.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[
                item(ImagePositionPatient=[f"{x:.8f}" for x in affine[:3] @ [0, 0, plane, 1]])
            ]
        )
        for plane in order
    ]
    d.PixelData = b"".join(np.ascontiguousarray(values()[:, :, plane].T).tobytes() for plane in order)
    pydicom.dcmwrite(folder / "enhanced.dcm", d, enforce_file_format=True)
    return folder

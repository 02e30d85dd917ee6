"""RT structure sets: the outlines of segments, plane by plane, in the patient."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from ...plan.codes import ANATOMICAL
from .codes import Segment
from .marks import MANUFACTURER, code_items, image_items, mark, save_checked, told_by
from .model import DicomVolume
from .outlines import filled, outlines
from .segmentations import check_labels, label_of
from .sources import Grid, grid_of, new_uid, series_number, source_dataset, stamp
from .uids import Algorithm

__all__ = ["read_contours", "write_rtstruct"]

_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY = "1.2.840.10008.3.1.2.3.1"  # the retired class that a reference to a study has to name


def write_rtstruct(
    path: str | os.PathLike[str],
    volume: DicomVolume,
    labels: npt.NDArray[np.integer],
    segments: Sequence[Segment],
    *,
    algorithm: Algorithm,
) -> Path:
    """Write a label map as an RT structure set (RTSTRUCT): closed planar contours along the edges of pixels.

    The area of a contour is that of its pixels, so volumes agree with those of the segmentation. A hole is
    a contour of its own within the outer one: contours of one plane are combined by the even-odd rule. The
    same arguments give the same bytes.

    Parameters
    ----------
    path : path
        The file.
    volume : DicomVolume
        The source.
    labels : ndarray of int, shape (columns, rows, planes)
        On the grid of ``volume``.
    segments : sequence of Segment
        The first is region 1. One that no voxel has is named, without contours.
    algorithm : Algorithm
        What made the labels.

    Raises
    ------
    Refused
        As of `write_segmentation`.

    References
    ----------
    DICOM PS3.3, A.19 and C.8.8.5, C.8.8.6, C.8.8.8.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    grid = grid_of(volume)
    array = check_labels(labels, segments, grid)
    source = source_dataset(volume)
    date, time = stamp(source)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = _RTSTRUCT
    made.SOPInstanceUID = new_uid(volume, algorithm, "RTSTRUCT")
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    for name in ("PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
        setattr(made, name, source.get(name))
    made.StudyTime, made.StudyInstanceUID = source.get("StudyTime"), source.StudyInstanceUID
    for name in ("IssuerOfPatientID", "StudyDescription", "PatientIdentityRemoved", "SpecificCharacterSet"):
        if source.get(name):
            setattr(made, name, source.get(name))
    if source.get("PatientIdentityRemoved") == "YES":
        made.DeidentificationMethod = source.get("DeidentificationMethod") or "unknown"
    made.Modality = "RTSTRUCT"
    made.SeriesInstanceUID = new_uid(volume, algorithm, "RTSTRUCT series")
    made.SeriesNumber, made.InstanceNumber = series_number(source, 3), 1
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, algorithm.name[:64]
    made.SoftwareVersions = algorithm.version[:64]
    made.OperatorsName = None
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = volume.frame_of_reference_uid, None
    made.StructureSetLabel, made.StructureSetDate, made.StructureSetTime = "SEGMENTATION", date, time
    told = told_by("Contours", volume, algorithm)
    made.StructureSetDescription = f"{told}; combine those of a plane by even-odd"
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(volume)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, segment in enumerate(segments, start=1):
        mask = array == segment.value
        millilitres = float(mask.sum()) * grid.voxel_ml
        _add_region(made, number, segment, millilitres, algorithm)
        made.ROIContourSequence.append(_contours(number, segment, mask, volume, grid))
    mark(made, source, algorithm, segments, told)
    return save_checked(path, made, lambda beside: _difference(beside, volume, array, segments))


def read_contours(
    path: str | os.PathLike[str], like: DicomVolume
) -> list[tuple[int, str, npt.NDArray[np.bool_]]]:
    """Return number, name and mask of each region of a structure set, on the planes of an image.

    A voxel belongs to a region if its centre lies within the contours of its plane, by the even-odd rule.

    Raises
    ------
    Refused
        ``off-grid`` for contours that lie in no plane of the image.
    """
    return list(_regions(Path(path), like))


def _regions(path: Path, like: DicomVolume) -> Iterator[tuple[int, str, npt.NDArray[np.bool_]]]:
    """Yield the regions one by one: a body of a hundred organs has masks of gigabytes."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
    grid = grid_of(like)
    inverse = np.linalg.inv(grid.affine)
    names = {int(item.ROINumber): str(item.ROIName) for item in dataset.StructureSetROISequence}
    for region in dataset.ROIContourSequence:
        number = int(region.ReferencedROINumber)
        planes: dict[int, list[npt.NDArray[np.float64]]] = {}
        for contour in region.get("ContourSequence") or []:
            points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
            index = points @ inverse[:3, :3].T + inverse[:3, 3]
            plane = round(float(index[:, 2].mean()))
            if not 0 <= plane < grid.shape[2] or np.abs(index[:, 2] - plane).max() > 0.05:
                raise Refused("off-grid", "a contour lies in no plane of the image", got=f"region {number}")
            planes.setdefault(plane, []).append(index[:, :2])
        mask = np.zeros(grid.shape, bool)
        for plane, polygons in planes.items():
            mask[:, :, plane] = filled(polygons, grid.shape[:2])
        yield number, names[number], mask


def _frame_of_reference(volume: DicomVolume) -> Any:
    """Return what places the contours: study, series and every frame of it."""
    from pydicom.dataset import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = volume.series.series_uid
    series.ContourImageSequence = image_items(volume, range(len(volume.frames)))
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, volume.series.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = volume.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _add_region(made: Any, number: int, segment: Segment, millilitres: float, algorithm: Algorithm) -> None:
    """Describe a region: what it is, how large, and that no one has looked at it."""
    from pydicom.dataset import Dataset

    region = Dataset()
    region.ROINumber, region.ReferencedFrameOfReferenceUID = number, made.FrameOfReferenceUID
    region.ROIName = label_of(segment)
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:64]
    region.ROIVolume = f"{millilitres:.8g}"
    made.StructureSetROISequence.append(region)
    seen = Dataset()
    seen.ObservationNumber, seen.ReferencedROINumber = number, number
    seen.RTROIIdentificationCodeSequence = code_items(segment.code.code)
    seen.RTROIInterpretedType = "ORGAN" if segment.code.category == ANATOMICAL else None
    seen.ROIInterpreter = None
    made.RTROIObservationsSequence.append(seen)


def _contours(
    number: int, segment: Segment, mask: npt.NDArray[np.bool_], volume: DicomVolume, grid: Grid
) -> Any:
    """Return the contours of a region, plane by plane."""
    from pydicom.dataset import Dataset

    region = Dataset()
    region.ROIDisplayColor, region.ReferencedROINumber = list(segment.colour), number
    contours: list[Any] = []
    for plane in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        images = image_items(volume, [plane])
        for polygon in outlines(mask[:, :, plane]):
            index = np.column_stack([polygon, np.full(len(polygon), plane)])
            points = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
            item = Dataset()
            item.ContourImageSequence = images
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(points)
            # ten digits have room in the 16 characters of a decimal string, and hold a nanometre
            item.ContourData = [f"{x:.10g}" for x in (points.round(9) + 0.0).ravel().tolist()]
            contours.append(item)
    if contours:
        region.ContourSequence = contours
    return region


def _difference(
    path: Path, volume: DicomVolume, labels: npt.NDArray[np.integer], segments: Sequence[Segment]
) -> str | None:
    """Say what a file does not hold of what was sent."""
    names, differ = [], 0
    for segment, (_, name, mask) in zip(segments, _regions(path, volume)):
        names.append(name)
        differ += int(((labels == segment.value) != mask).sum())
    if names != [label_of(segment) for segment in segments]:
        return "other regions"
    return f"{differ} voxels that differ" if differ else None

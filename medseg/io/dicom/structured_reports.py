"""Structured reports of measurements (TID 1500): volume and mean value of each segment, linked to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from ...plan.codes import Code
from .codes import Segment
from .marks import MANUFACTURER, mark, nameless, referenced_series, save_checked, told_by
from .model import MAYBE_INCOMPLETE, DicomVolume
from .segmentations import check_labels, label_of
from .sources import grid_of, new_uid, series_number, source_dataset, stamp
from .uids import Algorithm, derived_uid

__all__ = ["Measurement", "measure_segments", "read_report", "write_report"]

_REPORT = "1.2.840.10008.5.1.4.1.1.88.34"  # Comprehensive 3D SR
_COMMENT = Code("DCM", "121106", "Comment")
_VOLUME, _MEAN = Code("SCT", "118565006", "Volume"), Code("SCT", "373098007", "Mean")
# what a mean value is of, and its unit, by the modality
_VALUES = {
    "CT": (Code("DCM", "112031", "Attenuation Coefficient"), Code("UCUM", "[hnsf'U]", "Hounsfield unit")),
    "MR": (Code("DCM", "110852", "MR signal intensity"), Code("UCUM", "1", "no units")),
}
_OTHER_VALUE = (Code("99MEDSEG", "pixel_value", "Pixel value"), Code("UCUM", "1", "no units"))
_PROCEDURES = {
    "CT": Code("LN", "25045-6", "CT unspecified body region"),
    "MR": Code("LN", "25056-3", "MRI unspecified body region"),
    "PT": Code("LN", "44136-0", "PET unspecified body region"),
}
_PROCEDURE = Code("SCT", "363679005", "Imaging procedure")


@dataclass(frozen=True)
class Measurement:
    """What was measured of a segment; ``mean`` is None where it has no voxel.

    ``mean`` is in the unit of the source's values: HU for CT.
    """

    segment: Segment
    volume_ml: float
    mean: float | None


def measure_segments(
    volume: DicomVolume, labels: npt.NDArray[np.integer], segments: Sequence[Segment]
) -> list[Measurement]:
    """Measure the volume of each segment in mL, and the mean of the image's values in it.

    Parameters
    ----------
    volume : DicomVolume
        Its values are those of the modality, HU for CT.
    labels : ndarray of int, shape (columns, rows, planes)
    segments : sequence of Segment

    Raises
    ------
    Refused
        As of `write_segmentation` for labels that do not fit.
    """
    grid = grid_of(volume)
    array = check_labels(labels, segments, grid)
    values = np.asarray(volume.image[0])
    highest = max(segment.value for segment in segments)
    counts = np.zeros(highest + 1, np.int64)
    sums = np.zeros(highest + 1)
    for plane in range(grid.shape[2]):  # without a copy of the volume as float64
        flat = array[:, :, plane].ravel().astype(np.intp)
        counts += np.bincount(flat, minlength=highest + 1)
        sums += np.bincount(flat, values[:, :, plane].ravel().astype(np.float64), highest + 1)
    return [
        Measurement(
            segment,
            float(counts[segment.value] * grid.voxel_ml),
            float(sums[segment.value] / counts[segment.value]) if counts[segment.value] else None,
        )
        for segment in segments
    ]


def write_report(
    path: str | os.PathLike[str],
    volume: DicomVolume,
    segmentation_path: str | os.PathLike[str],
    measurements: Sequence[Measurement],
    *,
    algorithm: Algorithm,
) -> Path:
    """Write measurements as a DICOM structured report (TID 1500) that no one has verified.

    Each group (TID 1411) refers to its segment. The report is PRELIMINARY and UNVERIFIED: a person has to
    judge it. The same arguments give the same bytes.

    Parameters
    ----------
    path : path
        The file.
    volume : DicomVolume
        The source.
    segmentation_path : path
        The segmentation of the same segments, in the same order, by `write_segmentation`.
    measurements : sequence of Measurement
        Of `measure_segments`.
    algorithm : Algorithm
        What made the segmentation.

    Raises
    ------
    Refused
        ``another-study``, ``no-segments``, ``unwritable``, ``not-read-back``.

    References
    ----------
    DICOM PS3.16, TID 1500 and TID 1411; IHE Radiology, AI Results.
    """
    import highdicom
    import pydicom

    if not measurements:
        raise Refused("no-segments", "there is nothing to report", do="measure the segments of the plan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = pydicom.dcmread(segmentation_path, stop_before_pixels=True)
    if str(seg.StudyInstanceUID) != volume.series.study_uid:
        raise Refused("another-study", "the segmentation is of another study than the image")
    source = source_dataset(volume)
    date, time = stamp(source)
    groups = [_group(number, m, seg, volume) for number, m in enumerate(measurements, start=1)]
    observer = highdicom.sr.ObserverContext(
        observer_type=pydicom.sr.codedict.codes.DCM.Device,
        observer_identifying_attributes=highdicom.sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid(["device", algorithm.weights_sha256, algorithm.plan_sha256]),
            name=algorithm.name[:64],
            manufacturer_name=MANUFACTURER,
            model_name=f"{algorithm.name} {algorithm.version}"[:64],
        ),
    )
    content = highdicom.sr.MeasurementReport(
        observation_context=highdicom.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_concept(_PROCEDURES.get(volume.series.modality, _PROCEDURE)),
        imaging_measurements=groups,
    )
    if MAYBE_INCOMPLETE in volume.series.notes:
        content[0].ContentSequence.append(
            highdicom.sr.TextContentItem(
                name=_concept(_COMMENT),
                value=MAYBE_INCOMPLETE.text,
                relationship_type=highdicom.sr.RelationshipTypeValues.CONTAINS,
            )
        )
    report = highdicom.sr.Comprehensive3DSR(
        evidence=[nameless(source), _evidence(seg, source)],
        content=content,
        series_instance_uid=new_uid(volume, algorithm, f"SR series {seg.SOPInstanceUID}"),
        series_number=series_number(source, 2),
        sop_instance_uid=new_uid(volume, algorithm, f"SR {seg.SOPInstanceUID}"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name[:64],
        software_versions=algorithm.version[:64],
        is_complete=True,
        is_final=False,
        is_verified=False,
        content_date=date,
        content_time=time,
    )
    segments = [m.segment for m in measurements]
    mark(report, source, algorithm, segments, told_by("Measurements", volume, algorithm))
    _name_evidence(report, volume, seg)
    expected = [(label_of(m.segment), m.volume_ml, m.mean) for m in measurements]
    return save_checked(path, report, lambda beside: _difference(beside, expected))


def read_report(path: str | os.PathLike[str]) -> list[tuple[str, float, float | None]]:
    """Return name, volume in mL and mean value of each segment of a report by `write_report`."""
    import pydicom

    root = pydicom.dcmread(path)
    rows = []
    for container in root.ContentSequence:
        if _name(container) != "126010":  # Imaging Measurements
            continue
        for group in container.ContentSequence:
            items = {_name(item): item for item in group.ContentSequence}
            numbers = {
                key: float(item.MeasuredValueSequence[0].NumericValue)
                for key, item in items.items()
                if item.ValueType == "NUM"
            }
            volume = numbers.pop(_VOLUME.value)
            rows.append((str(items["112039"].TextValue), volume, next(iter(numbers.values()), None)))
    return rows


def _name(item: Any) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _concept(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _number(value: float) -> float:
    """Return a value with as many digits as its 16 characters have room for."""
    return float(f"{value:.8g}")


def _group(number: int, measurement: Measurement, seg: Any, volume: DicomVolume) -> Any:
    """Return the measurements of one segment."""
    import highdicom

    segment = measurement.segment
    described = seg.SegmentSequence[number - (int(seg.SegmentSequence[0].SegmentNumber) > 0)]
    made = [
        highdicom.sr.Measurement(
            name=_concept(_VOLUME),
            value=_number(measurement.volume_ml),
            unit=_concept(Code("UCUM", "mL", "milliliter")),
        )
    ]
    if measurement.mean is not None:
        name, unit = _VALUES.get(volume.series.modality, _OTHER_VALUE)
        made.append(
            highdicom.sr.Measurement(
                name=_concept(name),
                value=_number(measurement.mean),
                unit=_concept(unit),
                derivation=_concept(_MEAN),
            )
        )
    finding = _concept(segment.code.code)
    group = highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(
            uid=str(described.TrackingUID), identifier=label_of(segment)
        ),
        referenced_segment=highdicom.sr.ReferencedSegment(
            sop_class_uid=str(seg.SOPClassUID),
            sop_instance_uid=str(seg.SOPInstanceUID),
            segment_number=number,
            source_series=highdicom.sr.SourceSeriesForSegmentation(volume.series.series_uid),
        ),
        finding_type=finding,
        finding_category=_concept(segment.code.category),
        finding_sites=_sites(segment),
        measurements=made,
    )
    return group


def _sites(segment: Segment) -> list[Any] | None:
    """Return the site of an anatomical structure, with its side."""
    import highdicom

    if segment.code.modifier is None:
        return None
    side = _concept(segment.code.modifier)
    return [highdicom.sr.FindingSite(anatomic_location=_concept(segment.code.code), laterality=side)]


def _evidence(seg: Any, source: Any) -> Any:
    """Return the segmentation as evidence: what identifies it, without persons' names."""
    item = nameless(source)
    item.SOPClassUID, item.SOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    item.SeriesInstanceUID = seg.SeriesInstanceUID
    return item


def _name_evidence(report: Any, volume: DicomVolume, seg: Any) -> None:
    """Name as evidence the segmentation and every instance of the source that was read."""
    from pydicom.dataset import Dataset

    def series(uid: str, items: list[Any]) -> Any:
        item = Dataset()
        item.ReferencedSOPSequence, item.SeriesInstanceUID = items, uid
        return item

    of_seg = Dataset()
    of_seg.ReferencedSOPClassUID, of_seg.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    images = referenced_series(volume)
    study = Dataset()
    study.ReferencedSeriesSequence = [
        series(volume.series.series_uid, list(images.ReferencedInstanceSequence)),
        series(str(seg.SeriesInstanceUID), [of_seg]),
    ]
    study.StudyInstanceUID = volume.series.study_uid
    report.CurrentRequestedProcedureEvidenceSequence = [study]
    report.pop("PertinentOtherEvidenceSequence", None)


def _difference(path: Path, expected: list[tuple[str, float, float | None]]) -> str | None:
    """Say what a file does not hold of what was sent."""
    held = read_report(path)
    if [row[0] for row in held] != [row[0] for row in expected]:
        return "other segments"
    for ours, theirs in zip(expected, held):
        for a, b in zip(ours[1:], theirs[1:]):
            if (a is None) != (b is None):
                return "other measurements"
            if a is not None and b is not None and abs(a - b) > 1e-6 * max(1.0, abs(a)):
                return f"{b} for {a}"
    return None

"""What every object that medseg writes bears: who made it, from what, and never when by the clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ...errors import Refused
from ...files import replacing
from ...plan.codes import Code
from .codes import UNCODED_SCHEME, Segment
from .model import MAYBE_INCOMPLETE, DicomVolume
from .uids import Algorithm, derived_uid

__all__ = [
    "code_items",
    "image_items",
    "mark",
    "nameless",
    "referenced_series",
    "save_checked",
    "told_by",
]

_PROCESSING = Code("DCM", "109102", "Processing Equipment")
_ACQUISITION = Code("DCM", "109101", "Acquisition Equipment")
MANUFACTURER = "medseg"
_MAYBE = ", source may be incomplete"
_NAMES = ("PatientName", "ReferringPhysicianName")


def code_items(code: Code, modifier: Code | None = None) -> list[Any]:
    """Return a code sequence of one code, with the modifier that belongs to a segment's type."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    if modifier is not None:
        item.SegmentedPropertyTypeModifierCodeSequence = code_items(modifier)
    return [item]


def image_items(volume: DicomVolume, planes: Sequence[int]) -> list[Any]:
    """Return references to the frames from which planes came, an item an instance."""
    from pydicom.dataset import Dataset

    frames: dict[str, list[int]] = {}
    classes = {}
    for plane in planes:
        frame = volume.frames[plane]
        frames.setdefault(frame.instance.sop_instance_uid, []).append(frame.number)
        classes[frame.instance.sop_instance_uid] = frame.instance
    items = []
    for uid, numbers in frames.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = classes[uid].sop_class_uid, uid
        if classes[uid].frames > 1:
            item.ReferencedFrameNumber = sorted(numbers)
        items.append(item)
    return items


def referenced_series(volume: DicomVolume) -> Any:
    """Return an item that names the series and each of its instances that was read."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.SeriesInstanceUID = volume.series.series_uid
    item.ReferencedInstanceSequence = image_items(volume, range(len(volume.frames)))
    for one in item.ReferencedInstanceSequence:
        one.pop("ReferencedFrameNumber", None)
    return item


def nameless(source: Any) -> Any:
    """Return a copy without persons' names, for libraries that write them into their logs."""
    copy = deepcopy(source)  # a shallow copy has the same elements
    for name in _NAMES:
        setattr(copy, name, None)
    return copy


def told_by(what: str, volume: DicomVolume, algorithm: Algorithm) -> str:
    """Return what a result is, in the 64 characters of a description.

    Lists of a PACS show it: a reader has to know there that slices of the source may be missing.
    """
    maybe = _MAYBE if MAYBE_INCOMPLETE in volume.series.notes else ""
    return f"{what} by {algorithm.name}"[: 64 - len(maybe)] + maybe


def mark(
    dataset: Any, source: Any, algorithm: Algorithm, segments: Sequence[Segment], description: str
) -> None:
    """Write whose it is and who made it into an object, and take out the times of the clock."""
    from pydicom.dataset import Dataset

    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        dataset.pop(name, None)
    for name in _NAMES:
        setattr(dataset, name, source.get(name))
    dataset.SeriesDescription = description
    equipment = []
    if source.get("Manufacturer"):
        item = Dataset()
        item.PurposeOfReferenceCodeSequence = code_items(_ACQUISITION)
        for name in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions"):
            if name in source:
                setattr(item, name, source.get(name))
        equipment.append(item)
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = code_items(_PROCESSING)
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, algorithm.name[:64]
    item.SoftwareVersions = algorithm.version[:64]
    item.DeviceUID = derived_uid(["device", algorithm.weights_sha256, algorithm.plan_sha256])
    item.ContributionDescription = "Segmented the source images without a human being"
    equipment.append(item)
    dataset.ContributingEquipmentSequence = equipment
    if any(not segment.code.known for segment in segments):
        scheme = Dataset()
        scheme.CodingSchemeDesignator = UNCODED_SCHEME
        scheme.CodingSchemeName = "Names of classes that nobody coded"
        scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
        dataset.CodingSchemeIdentificationSequence = [scheme]


def save_checked(path: str | os.PathLike[str], dataset: Any, check: Callable[[Path], str | None]) -> Path:
    """Write a DICOM file beside its place; it takes its name when it was read back and found right.

    Parameters
    ----------
    path : path
        Where it is to be.
    dataset : pydicom.Dataset
        With its file meta. Its preamble is written as zeros.
    check : callable
        Is given the file and returns what is wrong with it, or None.

    Raises
    ------
    Refused
        ``unwritable``, ``not-read-back``.
    """
    import pydicom

    target = Path(path)
    dataset.preamble = bytes(128)
    with replacing(target) as beside:
        pydicom.dcmwrite(beside, dataset, enforce_file_format=True)
        try:
            wrong = check(beside)
        except Refused as error:
            wrong = error.reason
        if wrong:
            raise Refused(
                "not-read-back",
                f"'{target.name}' does not hold what was written",
                got=wrong,
                do="report it with your versions of pydicom and highdicom",
            )
    return target

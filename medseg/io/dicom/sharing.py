"""Results without a patient, for sharing: new UIDs that agree with each other, no names, no dates."""

from __future__ import annotations

import hashlib
import hmac
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import Refused
from ...files import replacing
from ...plan.codes import Code
from .marks import MANUFACTURER, code_items, save_checked
from .uids import derived_uid

__all__ = ["pseudonym", "share_results"]

_METHODS = (
    Code("DCM", "113100", "Basic Application Confidentiality Profile"),
    Code("DCM", "113109", "Retain Device Identity Option"),
)
_DUMMIES = {"ContentDate": "19000101", "ContentTime": "000000"}  # must not be empty
_EMPTIED = {
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"),
    *("ReferringPhysicianName", "StructureSetDate", "StructureSetTime", "OperatorsName"),
    *("ROIInterpreter", "ContentCreatorName", "PositionReferenceIndicator"),
}
_REMOVED = (
    *("IssuerOfPatientID", "StudyDescription", "SeriesDescription", "ContributingEquipmentSequence"),
    "DeidentificationMethod",
)
_STANDARD = "1.2.840.10008."  # classes and transfer syntaxes, which name no patient
_KEPT_UIDS = {"ImplementationClassUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID"}
_IDENTIFYING = (
    *("PatientName", "PatientID", "AccessionNumber", "StudyID", "StudyDescription"),
    *("ReferringPhysicianName", "PatientBirthDate", "StudyDate"),
)
_TEXTS = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}


def share_results(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, key: bytes
) -> tuple[list[Path], list[Path]]:
    """Write a copy of a result folder that does not tell whose it is.

    DICOM objects are changed after the Basic Application Confidentiality Profile, with what made them kept.
    UIDs, and the patient's number, are replaced by ones that follow from the old ones and the key: objects
    go on referring to each other, the same patient stays the same, and who lacks the key finds no way
    back. NIfTI and NRRD are written anew with grid, voxels and segments, and nothing else of their headers.

    Parameters
    ----------
    folder : path
        A result folder of medseg: ``*.dcm``, ``*.nii.gz``, ``*.seg.nrrd``.
    out : path
        Another folder.
    key : bytes
        A secret of at least 16 bytes; keep it to add to the same collection later.

    Returns
    -------
    written, left_out : list of Path
        The files in ``out``, and those of ``folder`` that are of no kind that is made safe here, such as
        pages.

    Raises
    ------
    Refused
        ``bad-key``, ``same-folder``, ``not-a-folder``, ``not-our-result``, ``unwritable``, ``not-read-back``.

    Notes
    -----
    Voxels are not looked at: a head's label map may show a face, and rare measures may point at a person.

    References
    ----------
    DICOM PS3.15, E.2 and table E.1-1.
    """
    if len(key) < 16:
        raise Refused("bad-key", "the key is too short", got=f"{len(key)} bytes", expected="at least 16")
    source, target = Path(folder), Path(out)
    if not source.is_dir():
        raise Refused("not-a-folder", "there is no such result folder")
    if source.resolve() == target.resolve():
        raise Refused("same-folder", "the copy would replace what it is made from", do="name another folder")
    written, left_out = [], []
    for path in sorted(p for p in source.iterdir() if p.is_file() and not p.name.startswith(".")):
        if path.suffix == ".dcm":
            written.append(_share_dicom(path, target / path.name, key))
        elif path.name.endswith(".nii.gz"):
            written.append(_share_nifti(path, target / path.name))
        elif path.name.endswith(".seg.nrrd"):
            written.append(_share_nrrd(path, target / path.name))
        else:
            left_out.append(path)
    return written, left_out


def pseudonym(key: bytes, text: str) -> str:
    """Return a name that follows from another one and a secret, and does not lead back."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _elements(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every element with the data set that it lies in, however deep."""
    for element in list(dataset):
        yield dataset, element
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


def _share_dicom(path: Path, target: Path, key: bytes) -> Path:
    """Write one object without a patient."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
    if dataset.get("Manufacturer") != MANUFACTURER:
        raise Refused(
            "not-our-result",
            "only objects that medseg wrote are made safe to share",
            do="use a tool for de-identification, and look at what it left",
        )
    told = _told(dataset)
    number = pseudonym(key, str(dataset.get("PatientID", "")))[:12].upper()
    dataset.remove_private_tags()
    for name in _REMOVED:
        dataset.pop(name, None)
    for within, element in _elements(dataset):
        if element.VR == "UI":
            element.value = _new_uids(element, key)
        elif element.keyword in _DUMMIES:
            element.value = _DUMMIES[element.keyword]
        elif element.keyword in _EMPTIED or element.VR == "PN":
            element.value = None
        elif element.VR in ("DA", "DT", "TM"):
            del within[element.tag]
    dataset.PatientName, dataset.PatientID = f"SHARED^{number}", number
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", MANUFACTURER
    dataset.DeidentificationMethodCodeSequence = [item for code in _METHODS for item in code_items(code)]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return save_checked(target, dataset, lambda beside: _left(beside, told))


def _new_uids(element: Any, key: bytes) -> Any:
    """Return what takes the place of one UID, or of several."""
    if element.keyword in _KEPT_UIDS or not element.value:
        return element.value
    several = not isinstance(element.value, str)
    new = [
        str(uid) if str(uid).startswith(_STANDARD) else derived_uid(["shared", pseudonym(key, str(uid))])
        for uid in (element.value if several else [element.value])
    ]
    return new if several else new[0]


def _told(dataset: Any) -> tuple[set[str], set[str]]:
    """Return the UIDs of an object that are not of the standard, and the texts that name the patient."""
    uids = {
        str(uid)
        for _, element in _elements(dataset)
        if element.VR == "UI" and element.keyword not in _KEPT_UIDS and element.value
        for uid in ([element.value] if isinstance(element.value, str) else element.value)
    }
    texts = {str(dataset.get(name, "") or "") for name in _IDENTIFYING}
    return {uid for uid in uids if not uid.startswith(_STANDARD)}, {t.upper() for t in texts if len(t) > 2}


def _left(path: Path, told: tuple[set[str], set[str]]) -> str | None:
    """Say where a written object still tells what it must not."""
    import pydicom

    uids, texts = told
    dataset = pydicom.dcmread(path)
    if dataset.preamble != bytes(128):
        return "a preamble"
    for _, element in (*_elements(dataset.file_meta), *_elements(dataset)):
        values = element.value if not isinstance(element.value, str) and element.VM > 1 else [element.value]
        if element.VR == "UI" and uids & {str(v) for v in values}:
            return f"an old UID in {element.keyword}"
        text = str(element.value).upper() if element.VR in _TEXTS else ""
        if any(one in text for one in texts):
            return f"the patient in {element.keyword}"
    return None


def _share_nifti(path: Path, target: Path) -> Path:
    from ..nifti import load, save

    pixels = load(path, label=True)
    with replacing(target) as beside:
        save(beside, pixels)
    return target


def _share_nrrd(path: Path, target: Path) -> Path:
    """Write a label map of Slicer with the fields of its segments alone."""
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    for name in image.GetMetaDataKeys():
        if not name.startswith(("Segment", "NRRD_", "ITK_")):
            image.EraseMetaData(name)
    with replacing(target) as beside:
        SimpleITK.WriteImage(image, str(beside), useCompression=True)
    return target

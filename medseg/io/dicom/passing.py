"""Objects that pass through on their way from or to a PACS: whose they are, and whether two are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import Refused
from .headers import read_header, reading_dicom

__all__ = [
    "DECODED_SYNTAXES",
    "Passing",
    "differences",
    "from_json",
    "identify",
    "identify_result",
    "open_object",
    "question",
]

#: Transfer syntaxes whose pixels are decoded here; not deflate, whose bombs inflate with the header.
DECODED_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit little endian
    "1.2.840.10008.1.2",  # implicit little endian
    "1.2.840.10008.1.2.2",  # explicit big endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",  # lossless JPEG
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",  # HTJ2K
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
)
# what a PACS may change when it reconciles an object with its order, or fills in when it hands it out
_RECONCILED_GROUPS = (0x0010, 0x0032, 0x0038)
_RECONCILED = {
    0x00080005,  # character set
    0x00080050,  # accession number
    0x00080054,  # where it can be had
    0x00080056,
    0x00080080,
    0x00080090,
    0x00081030,
    0x00081190,
    0x00200010,  # study ID
    0x04000500,
    0x04000561,  # original attributes
}
_PIXELS = 0x7FE00010


@dataclass(frozen=True)
class Passing:
    """Which object a file holds, by UIDs that are well formed, and how it is encoded."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    modality: str
    transfer_syntax_uid: str


def identify(path: str | Path) -> Passing:
    """Read whose object an image file is, without its pixels; nothing is inflated.

    Raises
    ------
    Refused
        As `medseg.io.dicom.headers.read_header` refuses, and ``transfer-syntax`` where the pixels could not
        be decoded here.
    """
    header = read_header(path)
    if header.transfer_syntax_uid not in DECODED_SYNTAXES:
        raise Refused(
            "transfer-syntax",
            "the object is encoded in a way that is not decoded here",
            got=header.transfer_syntax_uid
            if re.fullmatch(r"[0-9.]{1,64}", header.transfer_syntax_uid)
            else None,
            do="have it sent in another transfer syntax",
        )
    modality = str(header.dataset.get("Modality", "") or "")
    return Passing(
        header.sop_class_uid,
        header.sop_instance_uid,
        header.series_uid,
        header.study_uid,
        modality if re.fullmatch(r"[A-Z0-9_ ]{1,16}", modality) else "",
        header.transfer_syntax_uid,
    )


def identify_result(path: str | Path) -> Passing:
    """Read whose object a file is that was written here: a segmentation, a report, contours."""
    import pydicom

    found = pydicom.dcmread(str(path), stop_before_pixels=True)
    return Passing(
        str(found.SOPClassUID),
        str(found.SOPInstanceUID),
        str(found.SeriesInstanceUID),
        str(found.StudyInstanceUID),
        str(found.Modality),
        str(found.file_meta.TransferSyntaxUID),
    )


def open_object(path: str | Path) -> Any:
    """Read one of our own objects whole, as pynetdicom and dicomweb-client take it."""
    import pydicom

    return pydicom.dcmread(str(path))


def question(level: str, keys: Mapping[str, str]) -> Any:
    """Make the identifier of a C-FIND or C-GET: a level and keys, an empty one being asked for."""
    import pydicom

    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value)
    return identifier


def from_json(answers: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, str]]:
    """Take named attributes out of the answers of QIDO-RS, as texts; what is missing is an empty text.

    Examples
    --------
    >>> from_json([{"00080060": {"vr": "CS", "Value": ["CT"]}}], ("Modality", "SeriesInstanceUID"))
    [{'Modality': 'CT', 'SeriesInstanceUID': ''}]
    """
    from pydicom.datadict import tag_for_keyword

    out = []
    for answer in answers:
        row = {}
        for name in names:
            entry = answer.get(f"{tag_for_keyword(name):08X}")
            values = entry.get("Value") if isinstance(entry, dict) else None
            row[name] = str(values[0]) if isinstance(values, list) and values else ""
        out.append(row)
    return out


def differences(ours: str | Path, theirs: str | Path, *, decode: bool = True) -> tuple[str, ...]:
    """Tags in which two files differ that should hold the same object; no values, which may be a patient's.

    Left out is what a PACS may change or add: patient and order, where an object can be had, private
    elements of its own, the file meta information. Pixels are compared as they are stored, or decoded
    where the transfer syntaxes differ.

    Parameters
    ----------
    ours, theirs : str or Path
        DICOM files.
    decode : bool, optional
        False leaves pixels alone whose transfer syntaxes differ: those of strangers are decoded in a child
        process only.

    Returns
    -------
    tuple of str
        Such as ``("0008103E", "7FE00010")``; empty where they hold the same.

    Raises
    ------
    Refused
        ``unreadable`` where one of them is damaged.
    """
    import pydicom

    with reading_dicom():
        a, b = pydicom.dcmread(str(ours)), pydicom.dcmread(str(theirs))
        found = [f"{tag:08X}" for tag in _differing(a, b)]
        if _PIXELS in a and _PIXELS in b and a.PixelData != b.PixelData and not _same_pixels(a, b, decode):
            found.append(f"{_PIXELS:08X}")
    return tuple(found)


def _differing(a: Any, b: Any) -> Iterator[int]:
    """Tags whose values differ, but for the pixels where both have them."""
    for tag in sorted(set(a.keys()) | set(b.keys())):
        number = int(tag)
        if number in _RECONCILED or tag.group in _RECONCILED_GROUPS or tag.element == 0:
            continue
        if tag not in a and tag.is_private:
            continue
        if tag not in a or tag not in b:
            if _empty(a[tag] if tag in a else b[tag]):
                continue
            yield number
        elif number != _PIXELS and not _same(a[tag], b[tag]):
            yield number


def _empty(element: Any) -> bool:
    return element.value is None or element.value == "" or len(element) == 0 if element.VR != "SQ" else False


def _same(x: Any, y: Any) -> bool:
    if x.VR == "SQ" or y.VR == "SQ":
        same_kind = x.VR == y.VR and len(x.value) == len(y.value)
        return same_kind and not any(
            next(_differing(i, j), None) is not None for i, j in zip(x.value, y.value)
        )
    one, other = x.value, y.value
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one.rstrip(b"\0") == other.rstrip(b"\0")
    if isinstance(one, bytes) != isinstance(other, bytes):  # a private element whose type one side lost
        return _raw(x) == _raw(y)
    return bool(one == other)


def _raw(element: Any) -> bytes:
    value = element.value
    if isinstance(value, bytes):
        return value.rstrip(b"\0 ")
    texts = value if isinstance(value, list | tuple) else [value]
    return "\\".join(map(str, texts)).encode().rstrip(b"\0 ")


def _same_pixels(a: Any, b: Any, decode: bool) -> bool:
    """Compare decoded pixels where the encodings differ; the same encoding has the same bytes."""
    import numpy as np

    if a.file_meta.TransferSyntaxUID == b.file_meta.TransferSyntaxUID:
        return bool(a.PixelData.rstrip(b"\0") == b.PixelData.rstrip(b"\0"))
    if not decode:
        return True
    try:
        return bool(np.array_equal(a.pixel_array, b.pixel_array))
    except (AttributeError, NotImplementedError, RuntimeError, ValueError):
        return False

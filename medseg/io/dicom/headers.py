"""The header of one DICOM file, read behind a guard: little memory, no inflating, one line for a fault."""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import Refused
from .changes import seen_as
from .sopclasses import DICOMDIR, IMAGES, name_of_class

__all__ = ["Header", "is_dicom", "read_header"]

DEFLATED = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.8.1"}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UIDS = {"class": 0x00080016, "instance": 0x00080018, "study": 0x0020000D, "series": 0x0020000E}
_META_MOST = 2**16  # bytes of file meta; a few hundred are usual
_HEADER_MOST = 12 * 2**20  # bytes of a header that are read; 2000 enhanced frames take 3 to 6 MB
_READS_MOST = 300_000  # each element is at least one; pydicom takes about 10 microseconds for it
_ITEMS_MOST = 100_000  # 2000 enhanced frames have 30 000
_ITEM = b"\xfe\xff\x00\xe0"
_UNDEFINED = 0xFFFFFFFF
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}

# what is asked of a header, group by group; everything else is passed over where it lies
_ELEMENTS = {
    0x0008: (0x0005, 0x0008, 0x0016, 0x0018, 0x0022, 0x0032, 0x0060, 0x103E, 0x9205),
    0x0010: (0x0020,),
    0x0018: (0x0050, 0x0060, 0x0081, 0x0086, 0x0088, 0x1060, 0x1210, 0x9087, 0x9089),
    0x0019: (0x100C,),  # b-value of Siemens; then of Philips and of GE
    0x2001: (0x1003,),
    0x0043: (0x1039,),
    0x0020: (0x000D, 0x000E, 0x0012, 0x0032, 0x0037, 0x0052, 0x0100, 0x9161, 0x9162, 0x9163),
    0x0028: (
        *(0x0002, 0x0004, 0x0008, 0x0010, 0x0011, 0x0030, 0x0034, 0x0100, 0x0101, 0x0102, 0x0103),
        *(0x0120, 0x1052, 0x1053, 0x1054, 0x2110, 0x3000),
    ),
    0x0054: (0x1300,),
    0x5200: (0x9229, 0x9230),
}
_TAGS = [group << 16 | element for group, elements in _ELEMENTS.items() for element in elements]


@dataclass(frozen=True)
class Header:
    """What one file says of itself before its pixels.

    ``pixels_at`` is where the value of the pixel data begins, None where the file ends before;
    ``pixels_length`` is its declared length in bytes, None for encapsulated pixels. The UIDs of study and
    series are "" where the file has them empty. ``seen`` is of the file when it was opened.
    """

    path: Path
    size: int
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    dataset: Any
    pixels_at: int | None
    pixels_length: int | None
    seen: tuple[int, int, int]


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a regular file that begins as DICOM does.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp(), "IM1")
    >>> file.write_bytes(bytes(128) + b"DICM") and is_dicom(file)
    True
    """
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of an image file; nothing is decompressed, and at most 12 MB are read.

    Raises
    ------
    Refused
        ``empty-file``, ``not-dicom``, ``no-file-meta``, ``dicomdir``, ``not-an-image``, ``deflated``,
        ``oversized-header``, ``truncated``, ``bad-uid``, ``unreadable``. No sentence holds a path or a value
        of the file, because both may name the patient.
    """
    path = Path(path)
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Refused("not-dicom", "this is no regular file", do="leave it out")
    if found.st_size == 0:
        raise Refused("empty-file", "the file has zero bytes", do="copy it again from its source")
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        meta = _file_meta(file)
        syntax, sop_class = meta.get(0x0010, ""), meta.get(0x0002, "")
        if sop_class == DICOMDIR:
            raise Refused("dicomdir", "this is a DICOMDIR, a list of other files", do="give the files")
        if sop_class and sop_class not in IMAGES:
            raise _not_an_image(sop_class)
        if 0 in meta:
            raise Refused("truncated", "the file ends within its meta information", do="copy it again")
        if not syntax:
            raise Refused(
                "no-file-meta", "the file does not say its transfer syntax", do="export it again as a file"
            )
        if syntax in DEFLATED:
            raise Refused(
                "deflated",
                "the file is deflated, and is not inflated because a small one may hold gigabytes",
                do="export it with another transfer syntax, such as Explicit VR Little Endian",
            )
        with reading_dicom():
            dataset, at, length = _parse(file, syntax)
            uids = {name: _text(dataset, tag) for name, tag in _UIDS.items()}
    # what hides the patient may leave these empty, while the file meta still has two of them
    uids["class"] = uids["class"] or sop_class
    uids["instance"] = uids["instance"] or meta.get(0x0003, "")
    if uids["class"] and uids["class"] not in IMAGES:
        raise _not_an_image(uids["class"])
    lost = [name for name, tag in _UIDS.items() if not uids[name] and tag not in dataset]
    lost += [name for name in ("class", "instance") if not uids[name] and name not in lost]
    if lost:
        raise Refused(
            "truncated",
            "the file ends, or has lost its place, before it says what it belongs to",
            got=f"no UID of its {' and '.join(lost)}",
            do="copy it again from its source",
        )
    if any(len(uid) > 64 or not _UID.fullmatch(uid) for uid in uids.values() if uid):
        raise Refused("bad-uid", "the file has a UID that is none", expected="digits and dots, at most 64")
    return Header(
        path,
        found.st_size,
        uids["class"],
        uids["instance"],
        uids["study"],
        uids["series"],
        syntax,
        dataset,
        at,
        length,
        seen_as(found),
    )


@contextmanager
def reading_dicom() -> Iterator[None]:
    """Retell what pydicom raises on a damaged file as one refusal, and keep its warnings to itself.

    It raises struct.error, KeyError, ValueError, RecursionError and its own types; both its errors and its
    warnings repeat values of the file, which may be a patient's name, so only the type is told.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (Refused, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk; pydicom's own have no number
            raise
        raise Refused(
            "unreadable",
            "the file is damaged",
            got=type(error).__name__,
            do="copy it again from its source",
        ) from None


def _not_an_image(sop_class: str) -> Refused:
    return Refused(
        "not-an-image", f"this is {name_of_class(sop_class)}, no image", do="leave it out, or use its reader"
    )


def _file_meta(file: BinaryIO) -> dict[int, str]:
    """Read group 2, always explicit and little-endian: element -> UID; 0 is there where it has no end."""
    start = file.read(132)
    if start[128:] != b"DICM":
        if len(start) >= 8 and start[:2] in (b"\x08\x00", b"\x02\x00") and start[3:4] == b"\x00":
            raise Refused(
                "no-file-meta", "the file has no DICOM preamble", do="export it again as a DICOM file"
            )
        raise Refused("not-dicom", "the file does not begin as DICOM does", do="leave it out")
    found = {0: "the end is not found"}
    end = 132 + _META_MOST
    while file.tell() < end:
        head = file.read(8)
        if len(head) < 8:
            break
        group, element, vr, length = struct.unpack("<HH2sH", head)
        if group != 2:
            found.pop(0, None)
            break
        if vr in _LONG:
            length = int.from_bytes(file.read(4), "little")
        if length > end - file.tell():
            break
        value = file.read(length)
        if vr == b"UI":
            found[element] = value.rstrip(b"\0 ").decode("ascii", "replace")
    return found


class _Budget:
    """A file of which only so many bytes may be read: sequences without end are parsed as they come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.left, self.reads = file, _HEADER_MOST, 0
        self.seek, self.tell, self.close, self.name = file.seek, file.tell, file.close, ""

    def read(self, size: int = -1) -> bytes:
        """Read, or refuse; a length that the file does not have is told by the bytes that come."""
        data = self._file.read(size if 0 <= size <= self.left else self.left + 1)
        self.left -= len(data)
        self.reads += 1
        if self.spent:
            raise _oversized()
        return data

    @property
    def spent(self) -> bool:
        """Whether more was read than a header may have."""
        return self.left < 0 or self.reads > _READS_MOST


def _oversized() -> Refused:
    return Refused(
        "oversized-header",
        "the header before the pixels is larger than any image needs",
        expected=f"at most {_HEADER_MOST // 2**20} MB and {_ITEMS_MOST} items",
        do="leave the file out",
    )


def _parse(file: BinaryIO, syntax: str) -> tuple[Any, int | None, int | None]:
    """Return the data set before its pixels, where the pixels begin, and how many bytes they claim."""
    import pydicom

    file.seek(0)
    guarded = _Budget(file)
    source: Any = guarded
    try:
        dataset = pydicom.dcmread(source, stop_before_pixels=True, specific_tags=list(_TAGS))
    except OSError as error:  # also what pydicom makes of a refusal within a sequence
        if guarded.spent:
            raise _oversized() from error
        raise
    for tag in (0x52009229, 0x52009230):  # sequences of known length are parsed only when they are asked for
        value = getattr(dataset.get_item(tag), "value", b"") if tag in dataset else b""
        if isinstance(value, bytes) and value.count(_ITEM) > _ITEMS_MOST:
            raise _oversized()
    order = "big" if syntax == "1.2.840.10008.1.2.2" else "little"
    head = file.read(8)
    if len(head) < 8:
        return dataset, None, None
    implicit = bool(dataset.original_encoding[0])
    length = int.from_bytes(head[4:8] if implicit else head[6:8], order)  # type: ignore[arg-type]
    if not implicit and head[4:6] in _LONG:
        length = int.from_bytes(file.read(4), order)  # type: ignore[arg-type]
    return dataset, file.tell(), None if length == _UNDEFINED else length


def _text(dataset: Any, tag: int) -> str:
    value = dataset.get(tag)
    return str(value.value).strip("\0 ") if value is not None and value.value else ""

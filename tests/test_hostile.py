"""Files that want to do harm: refused or made harmless, in little time and memory, and nothing is told."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from walled import Looked, Walled

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence as Items  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

MOST_SECONDS, MOST_BYTES = 10.0, 1e9
CT = "1.2.840.10008.5.1.4.1.1.2"
SHAPE = (12, 10, 4)  # rows, columns, planes


@pytest.fixture(scope="module")
def wall() -> Iterator[Walled]:
    walled = Walled()
    yield walled
    walled.close()


def ct(index: int, *, study: str = "1.2.3.4", series: str = "1.2.3.4.5", **tags: Any) -> Dataset:
    """One slice of an oblique, anisotropic CT."""
    rows, columns, _ = SHAPE
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = CT
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.Modality = CT, "CT"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{series}.{index + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, "1.2.3.9"
    data.PatientName, data.PatientID = "Nobody", "0"
    data.ImageOrientationPatient = [1, 0, 0, 0, 0.8, 0.6]
    data.ImagePositionPatient = [1.5, round(-0.6 * 2.5 * index, 6), round(0.8 * 2.5 * index, 6)]
    data.PixelSpacing, data.SliceThickness = [0.9, 0.7], 2.5
    data.Rows, data.Columns, data.SamplesPerPixel = rows, columns, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    values = np.random.default_rng(index).integers(0, 2000, (rows, columns), dtype=np.uint16)
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def save(data: Dataset, path: Path, *, preamble: bytes = bytes(128)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.preamble = preamble
    data.save_as(path, enforce_file_format=True)
    return path


def good(folder: Path, **tags: Any) -> Path:
    """A series that is read."""
    for index in range(SHAPE[2]):
        save(ct(index, **tags), folder / f"{index}.dcm")
    return folder


def bombed(path: Path, syntax: str, item: bytes, **tags: Any) -> Path:
    """One more slice, whose compressed pixels are given."""
    from pydicom.encaps import encapsulate

    data = ct(SHAPE[2], **tags)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([item])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return save(data, path)


def by_hand(path: Path, body: bytes, syntax: str = ExplicitVRLittleEndian) -> Path:
    """A file of CT whose data set is written byte for byte."""
    meta = b"".join(
        struct.pack("<HH2sH", 2, element, b"UI", len(text)) + text
        for element, text in ((2, padded(CT)), (3, padded("1.2.3.4.5.77")), (0x10, padded(syntax)))
    )
    group = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + group + meta + body)
    return path


def padded(text: str) -> bytes:
    raw = text.encode()
    return raw + b"\0" * (len(raw) % 2)


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An explicit little-endian element, with whatever length it claims."""
    claimed = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC")
    return head + (b"\0\0" + struct.pack("<I", claimed) if long else struct.pack("<H", claimed)) + value


IDENTITY = (
    element(0x00080016, b"UI", padded(CT))
    + element(0x00080018, b"UI", padded("1.2.3.4.5.77"))
    + element(0x00100020, b"LO", b"0 ")
    + element(0x0020000D, b"UI", padded("1.2.3.4"))
    + element(0x0020000E, b"UI", padded("1.2.3.4.5"))
    + element(0x00200052, b"UI", padded("1.2.3.9"))
)


# bombs: (what is written beside the good series) -> reasons, one of which must be told


def deflate_bomb(folder: Path) -> None:
    """4 GB of zeros in 4 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(element(0x00080005, b"CS", b"ISO_IR 100")) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    by_hand(folder / "bomb.dcm", first + 256 * block + packer.flush(), DeflatedExplicitVRLittleEndian)


def rle_bomb(folder: Path) -> None:
    """Runs that would fill gigabytes."""
    run = b"\x81\x00" * (1 << 21)
    header = struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13)
    bombed(folder / "bomb.dcm", RLELossless, header + run + run)


def rle_bomb_within_the_size(folder: Path) -> None:
    run = b"\x81\x00" * (1 << 14)
    header = struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13)
    bombed(folder / "bomb.dcm", RLELossless, header + run + run)


def rle_segments_outside(folder: Path) -> None:
    """Offsets past the end and backwards: what makes decoders panic."""
    for name, offsets in (("a", (64, 1 << 31)), ("b", (1 << 31, 64)), ("c", (200, 70))):
        header = struct.pack("<16I", 2, *offsets, *[0] * 13)
        bombed(folder / f"bomb{name}.dcm", RLELossless, header + b"\x05\x01" * 40)


def jpeg_of_65535(folder: Path) -> None:
    frame = b"\xff\xd8\xff\xc3\x00\x0b\x10\xff\xff\xff\xff\x01\x01\x11\x00"
    bombed(folder / "bomb.dcm", JPEGLosslessSV1, frame + bytes(40) + b"\xff\xd9")


def j2k_of_30000(folder: Path) -> None:
    size = struct.pack(">HHIIIIIIIIH", 41, 0, 30000, 30000, 0, 0, 30000, 30000, 0, 0, 1) + b"\x0f\x01\x01"
    bombed(folder / "bomb.dcm", JPEG2000Lossless, b"\xff\x4f\xff\x51" + size + bytes(40) + b"\xff\xd9")


def j2k_hidden_behind_a_box(folder: Path) -> None:
    """A JP2 file whose codestream lies further behind than one looks."""
    size = struct.pack(">HHIIIIIIIIH", 41, 0, 30000, 30000, 0, 0, 30000, 30000, 0, 0, 1) + b"\x0f\x01\x01"
    box = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I", 66000) + b"free" + bytes(65992)
    stream = box + b"\xff\x4f\xff\x51" + size + bytes(40) + b"\xff\xd9"
    tags = {"Rows": 512, "Columns": 512}
    bombed(folder / "bomb.dcm", JPEG2000Lossless, stream, **tags)


def jpeg_ls_of_65535(folder: Path) -> None:
    frame = b"\xff\xd8\xff\xf7\x00\x0b\x0c\xff\xff\xff\xff\x01\x01\x11\x00"
    bombed(folder / "bomb.dcm", JPEGLSLossless, frame + bytes(40) + b"\xff\xd9")


def two_billion_frames(folder: Path) -> None:
    save(ct(SHAPE[2], NumberOfFrames=2**31 - 1), folder / "bomb.dcm")


def rows_of_65535(folder: Path) -> None:
    save(ct(SHAPE[2], Rows=65535, Columns=65535), folder / "bomb.dcm")


def frames_without_pixels(folder: Path) -> None:
    save(ct(SHAPE[2], NumberOfFrames=65000, Rows=8000, Columns=8000), folder / "bomb.dcm")


def length_past_the_end(folder: Path) -> None:
    by_hand(folder / "bomb.dcm", IDENTITY + element(0x00200032, b"DS", b"1\\2\\3 ", 60000))


def pixels_past_the_end(folder: Path) -> None:
    save(ct(SHAPE[2]), folder / "bomb.dcm")
    data = (folder / "bomb.dcm").read_bytes()
    (folder / "bomb.dcm").write_bytes(data[:-40])


def four_gigabytes_claimed(folder: Path) -> None:
    by_hand(folder / "bomb.dcm", IDENTITY + element(0x00204000, b"UT", b"words", 0xFFFFFFF0))


def nested(folder: Path) -> None:
    """Sequences in sequences, without end."""
    opened = element(0x00081140, b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    by_hand(folder / "bomb.dcm", IDENTITY[:100] + 50_000 * opened + IDENTITY[100:])


def nested_where_it_is_read(folder: Path) -> None:
    opened = element(0x52009229, b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    by_hand(folder / "bomb.dcm", IDENTITY + 20_000 * opened)


def many_items(folder: Path) -> None:
    """A million empty items of a sequence that is read."""
    item = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
    value = item * 1_000_000
    by_hand(folder / "bomb.dcm", IDENTITY + element(0x52009230, b"SQ", value))


def endless_header(folder: Path) -> None:
    """100 MB of elements that are read, in an undefined length."""
    value = b"\xfe\xff\x00\xe0" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    opened = element(0x52009229, b"SQ", b"", 0xFFFFFFFF)
    by_hand(folder / "bomb.dcm", IDENTITY + opened + 100 * value)


def a_sequence_of_nothing(folder: Path) -> None:
    """30 MB of elements of no bytes, in a sequence that says its length."""
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", 30_000_000) + bytes(30_000_000)
    by_hand(folder / "bomb.dcm", IDENTITY + element(0x52009229, b"SQ", item))


def numbers_of_a_megabyte(folder: Path) -> None:
    """Digits without end, where a number is expected."""
    rest = element(0x00280008, b"IS", b"9" * 65000) + element(0x00280010, b"US", b"\x0c\x00")
    by_hand(folder / "bomb.dcm", IDENTITY + rest)


def links_to_nowhere(folder: Path) -> None:
    """What they led to may have been a slice."""
    (folder / "lost.dcm").symlink_to("/nowhere/at/all")
    (folder / "self.dcm").symlink_to("self.dcm")


BOMBS: dict[Callable[[Path], None], set[str]] = {
    deflate_bomb: {"deflated"},
    rle_bomb: {"oversized-pixels"},
    rle_segments_outside: {"unreadable", "pixel-format"},
    jpeg_of_65535: {"pixel-format"},
    j2k_of_30000: {"pixel-format"},
    j2k_hidden_behind_a_box: {"pixel-format", "unreadable", "mixed-sizes"},
    jpeg_ls_of_65535: {"pixel-format", "transfer-syntax"},
    two_billion_frames: {"absurd-size"},
    links_to_nowhere: {"unreadable"},
    rows_of_65535: {"absurd-size"},
    frames_without_pixels: {"no-geometry", "truncated", "absurd-size"},
    length_past_the_end: {"truncated", "no-geometry", "unreadable"},
    pixels_past_the_end: {"truncated"},
    four_gigabytes_claimed: {"truncated", "unreadable", "oversized-header"},
    nested: {"truncated", "unreadable", "oversized-header"},
    nested_where_it_is_read: {"truncated", "unreadable", "oversized-header"},
    many_items: {"truncated", "unreadable", "oversized-header"},
    endless_header: {"oversized-header", "unreadable"},
    a_sequence_of_nothing: {"oversized-header", "unreadable", "truncated"},
    numbers_of_a_megabyte: {"unreadable", "truncated", "absurd-size"},
}


def harmless(looked: Looked) -> None:
    assert "crashed" not in looked.told, looked.told
    assert looked.seconds < MOST_SECONDS
    assert looked.bytes < MOST_BYTES


def test_runs_longer_than_the_frame_are_not_kept(wall: Walled, tmp_path: Path) -> None:
    """What an RLE segment holds beyond its pixels is padding."""
    rle_bomb_within_the_size(good(tmp_path / "s"))
    looked = wall.look(tmp_path / "s")
    harmless(looked)
    assert looked.told.get("shape", [SHAPE[1], SHAPE[0], SHAPE[2] + 1]) == [SHAPE[1], SHAPE[0], SHAPE[2] + 1]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda f: f.__name__)
def test_a_bomb_in_a_series_refuses_the_series_and_does_no_more(
    bomb: Callable[[Path], None], wall: Walled, tmp_path: Path
) -> None:
    """Each lies beside four good slices: what cannot be read may be a slice, so the series is refused."""
    bomb(good(tmp_path / "s"))
    looked = wall.look(tmp_path / "s")
    harmless(looked)
    assert "shape" not in looked.told, "a series beside a damaged file was read as if nothing were amiss"
    assert looked.reasons & BOMBS[bomb], looked.told


def test_the_same_series_without_a_bomb_is_read(wall: Walled, tmp_path: Path) -> None:
    looked = wall.look(good(tmp_path / "s"))
    assert looked.told["shape"] == [SHAPE[1], SHAPE[0], SHAPE[2]]
    assert looked.told["skipped"] == []


def huge_private_elements(folder: Path) -> None:
    for index in range(SHAPE[2]):
        data = ct(index)
        block = data.private_block(0x0019, "HUGE", create=True)
        block.add_new(0x01, "OB", bytes(60_000_000))
        save(data, folder / f"{index}.dcm")


def programs_before(folder: Path) -> None:
    for index, start in enumerate((b"MZ\x90\0", b"\x7fELF\x02\x01", b"%PDF-1.7\n", b"#!/bin/sh\nexit 1\n")):
        save(ct(index), folder / f"{index}.dcm", preamble=start.ljust(128, b"\0"))


def pipes_and_devices(folder: Path) -> None:
    good(folder)
    os.mkfifo(folder / "pipe.dcm")
    (folder / "zero.dcm").symlink_to("/dev/zero")
    (folder / "random").symlink_to("/dev/urandom")
    (folder / "round").symlink_to(folder, target_is_directory=True)


def archives(folder: Path) -> None:
    good(folder)
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../../../tmp/evil.dcm", bytes(50_000_000))
    with (folder / "bomb.gz").open("wb") as file:
        file.write(zlib.compress(bytes(50_000_000), 9))


def dicomdir(folder: Path) -> None:
    good(folder)
    outside = good(folder.parent / "outside", study="1.9.9", series="1.9.9.9")
    data = ct(9)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    item = Dataset()
    item.ReferencedFileID = ["..", "outside", outside.name, "0.dcm"]
    item.DirectoryRecordType = "IMAGE"
    data.DirectoryRecordSequence = Items([item])
    save(data, folder / "DICOMDIR")


def odd_names(folder: Path) -> None:
    for index, name in enumerate(("a\nb.dcm", "-rf", "\x1b[2J.dcm", "<script>.dcm")):
        save(ct(index), folder / name)


def bytes_that_are_no_text(folder: Path) -> None:
    good(folder)
    os.rename(folder / "0.dcm", os.fsencode(folder) + b"/\xff\xfe\x80.dcm")


HARMLESS = [
    huge_private_elements,
    programs_before,
    pipes_and_devices,
    archives,
    dicomdir,
    odd_names,
    bytes_that_are_no_text,
]


@pytest.mark.parametrize("trick", HARMLESS, ids=lambda f: f.__name__)
def test_what_is_not_of_the_series_changes_nothing(
    trick: Callable[[Path], None], wall: Walled, tmp_path: Path
) -> None:
    expected = wall.look(good(tmp_path / "good")).told
    trick(tmp_path / "s")
    looked = wall.look(tmp_path / "s")
    harmless(looked)
    assert looked.told.get("shape") == expected["shape"], looked.told
    assert looked.told["sum"] == expected["sum"]
    assert looked.told["affine"] == expected["affine"]
    assert looked.told["series"] == 1, "what lies outside the folder is not found"


# what stands in the text of a header

UIDS = ["../../etc/passwd", "/etc/passwd", "1.2.3\0.4", "1.2..3", "1.2.3/../..", "1" * 65, "1.2.3\n4", ".."]


@pytest.mark.filterwarnings("ignore")
def test_a_uid_that_is_a_path_is_no_uid(wall: Walled, tmp_path: Path) -> None:
    known = {0x0020000D: b"1.2.3.4", 0x0020000E: b"1.2.3.4.5", 0x00080018: b"1.2.3.4.5.2"}
    folders = []
    for tag, raw in known.items():
        for uid in UIDS:
            folders.append(good(tmp_path / str(len(folders))))
            path = folders[-1] / "1.dcm"
            old, new = (element(tag, b"UI", v + b"\0" * (len(v) % 2)) for v in (raw, uid.encode()))
            data = path.read_bytes()
            assert data.count(old) == 1
            path.write_bytes(data.replace(old, new))
    for looked, uid in zip(wall.look_at_all(folders), 3 * UIDS):
        harmless(looked)
        assert looked.reasons & {"bad-uid", "damaged-file"}, looked.told
        assert "passwd" not in looked.words
        assert len(uid) < 3 or uid not in looked.words


WORDS = [
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "a\r\nb",
    "\x1b[31mred\x1b]0;title\x07",
    "..\\..\\x",
    "\u202eright to left",
    "x" * 5000,
    "\0\0",
]


@pytest.mark.filterwarnings("ignore")
def test_words_of_a_header_do_no_harm(wall: Walled, tmp_path: Path) -> None:
    folders = []
    for field in ("PatientName", "SeriesDescription", "StudyID", "PhotometricInterpretation", "ImageType"):
        for words in WORDS:
            folders.append(tmp_path / str(len(folders)))
            for index in range(SHAPE[2]):
                data = ct(index, SpecificCharacterSet="ISO_IR 192")
                data.add_new(field, "PN" if field == "PatientName" else "LO", words)
                save(data, folders[-1] / f"{index}.dcm")
    for looked in wall.look_at_all(folders):
        harmless(looked)
        assert looked.told.get("shape") or looked.reasons, looked.told
        for one in [*looked.told["words"], looked.told.get("text", "")]:
            assert one.isprintable(), "what is told goes to terminals and pages"


@pytest.mark.filterwarnings("ignore")
def test_an_odd_character_set_does_no_harm(wall: Walled, tmp_path: Path) -> None:
    folders = []
    for charset in ("nonsense", "ISO 2022 IR 87", "../x", "\\" * 40, "utf-16", "idna"):
        folders.append(good(tmp_path / str(len(folders)), SeriesDescription="x"))
        for path in folders[-1].iterdir():
            old = element(0x0008103E, b"LO", b"x ")
            new = element(0x0008103E, b"LO", b"\x1b$B\xff\xfe\x80M\xfcller ")
            text = charset.encode().ljust(len(charset) + len(charset) % 2)
            data = path.read_bytes().replace(old, new)
            at = data.index(element(0x00080016, b"UI", padded(CT)))
            path.write_bytes(data[:at] + element(0x00080005, b"CS", text) + data[at:])
    for looked in wall.look_at_all(folders):
        harmless(looked)
        assert looked.told.get("shape") or looked.reasons, looked.told


NUMBERS = ["nan", "inf", "1e999", "0x10", "--1", "1,5", "1 2"]


@pytest.mark.filterwarnings("ignore")
def test_numbers_that_are_none_are_refused(wall: Walled, tmp_path: Path) -> None:
    tried = []
    for tag, count in {0x00281053: 1, 0x00280030: 2, 0x00200032: 3, 0x00200037: 6}.items():
        start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, b"DS")
        for text in NUMBERS:
            folder = good(tmp_path / str(len(tried)))
            tried.append((folder, tag, text))
            for path in folder.iterdir():
                data = path.read_bytes()
                at = data.index(start)
                length = int.from_bytes(data[at + 6 : at + 8], "little")
                parts = data[at + 8 : at + 8 + length].strip().split(b"\\")
                parts[count // 2] = text.encode()
                value = b"\\".join(parts)
                value += b" " * (len(value) % 2)
                path.write_bytes(data[:at] + element(tag, b"DS", value) + data[at + 8 + length :])
    found = wall.look_at_all([folder for folder, _, _ in tried])
    for looked, (_, tag, text) in zip(found, tried):
        harmless(looked)
        assert "shape" not in looked.told, (hex(tag), text, looked.told)


# a whole night: nothing of a patient anywhere

NAMES = {
    "PN": "PatientName ReferringPhysicianName OperatorsName PerformingPhysicianName PhysiciansOfRecord",
    "LO": "PatientID AccessionNumber InstitutionName StudyDescription SeriesDescription ProtocolName",
    "SH": "StudyID RequestingService StationName",
    "LT": "PatientComments ImageComments AdditionalPatientHistory",
    "DA": "PatientBirthDate StudyDate SeriesDate AcquisitionDate ContentDate",
    "TM": "PatientBirthTime StudyTime SeriesTime AcquisitionTime ContentTime",
}
_DATE, _TIME = "18770203", "031415.926"
# what makes a study bad, with words of its own where numbers and codes belong
TAMPERED: dict[str, dict[str, bytes]] = {
    "photometric": {"PhotometricInterpretation": b"QZMRKPHOTO "},
    "modality": {"Modality": b"QZMRKMODALITY"},
    "slope": {"RescaleSlope": b"QZMRKSLOPE "},
    "spacing": {"PixelSpacing": b"QZMRK\\SPACING"},
    "position": {"ImagePositionPatient": b"QZMRK\\POS\\IT"},
    "image type": {"ImageType": b"QZMRKTYPE"},
    "study uid": {"StudyInstanceUID": b"QZMRKUID.1 "},
    "series uid": {"SeriesInstanceUID": b"../QZMRK/x "},
    "frames": {"NumberOfFrames": b"QZMRKFRAMES"},
    "bits": {"BitsAllocated": b"QZMRK"},
    "charset": {"SpecificCharacterSet": b"QZMRKCHARSET "},
}


def marked(number: int) -> list[Dataset]:
    """A good study with a mark in each field that may tell of a patient."""
    import made_studies

    found = made_studies.slices(number)
    for data in found:
        for vr, names in NAMES.items():
            for name in names.split():
                value = {"DA": _DATE, "TM": _TIME}.get(vr, f"QZMRK{name.upper()[:12]}{number}")
                data.add_new(name, pydicom.datadict.dictionary_VR(name), value)
        data.private_block(0x0019, "QZMRKCREATOR", create=True).add_new(1, "LO", "QZMRKPRIVATE")
        data.preamble = b"MZ QZMRKPREAMBLE".ljust(128, b"\0")
    return found


def tampered(data: bytes, name: str, value: bytes) -> bytes:
    """Replace an element's value by bytes that its type does not allow; add it where it is not there."""
    tag = pydicom.datadict.tag_for_keyword(name)
    vr = pydicom.datadict.dictionary_VR(tag).encode()
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    at = data.find(start, 132 + 200)
    if at < 0:
        at = data.index(struct.pack("<HH", 0x0028, 0x0010))
        return data[:at] + element(tag, vr, value) + data[at:]
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[:at] + element(tag, vr, value) + data[at + 8 + length :]


@pytest.mark.filterwarnings("ignore")
def test_a_night_of_good_and_bad_studies_tells_nothing_of_a_patient(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import gzip

    import dicom_series
    import made_studies

    from medseg.cli import main

    source, out = tmp_path / "in", tmp_path / "out"
    for number in (1, 2):
        dicom_series.save(source / f"QZMRKFOLDER{number}", marked(number), names="QZMRKFILE{:03d}.dcm")
    for number, changes in enumerate(TAMPERED.values(), start=3):
        folder = source / f"QZMRKFOLDER{number}"
        dicom_series.save(folder, marked(number), names="QZMRKFILE{:03d}.dcm")
        for path in folder.iterdir():
            for name, value in changes.items():
                path.write_bytes(tampered(path.read_bytes(), name, value))
    cut = source / "QZMRKFOLDER1000/QZMRKCUT.dcm"
    dicom_series.save(cut.parent, marked(1000), names="QZMRKFILE{:03d}.dcm")
    cut.write_bytes((cut.parent / "QZMRKFILE000.dcm").read_bytes()[:700])
    deflate_bomb(source / "QZMRKFOLDER1001")
    os.mkfifo(source / "QZMRKFOLDER1001/QZMRKPIPE")
    (source / os.fsdecode(b"QZMRK\xff\n\x1b[31m")).mkdir()
    (source / os.fsdecode(b"QZMRK\xff\n\x1b[31m") / "=QZMRK|cmd.dcm").write_bytes(b"MZ QZMRKNOISE")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if "out" not in p.parts)
    bundle = made_studies.threshold_bundle(tmp_path / "bundle")
    code = main(["study", str(bundle), str(source), "-o", str(out)])
    told = capfd.readouterr()
    assert code == 2, told.err
    done = sorted(p.name for p in out.iterdir() if (p / "measurements.json").is_file())
    assert len(done) >= 2, told.err
    marks = [b"QZMRK", _DATE.encode(), b"031415", "QZMRK".encode("utf-16-le")]
    for name, text in (("stdout", told.out.encode()), ("stderr", told.err.encode())):
        text = text.replace(os.fsencode(tmp_path), b"")
        assert not [m for m in marks if m in text], (name, text.decode(errors="replace"))
        assert b"\x1b[31m" not in text
    for path in out.rglob("*"):
        where = path.relative_to(out).as_posix()
        assert not [m for m in marks if m in os.fsencode(where)], where
        if not path.is_file():
            continue
        text = path.read_bytes()
        if path.suffix == ".dcm":
            assert text[:128] == bytes(128), "the preamble of a source is not handed on"
            continue  # the standard wants patient and study of the source in it
        if path.suffix == ".gz":
            text = gzip.decompress(text)
        assert not [m for m in marks if m in text], (where, [m for m in marks if m in text])
    after = sorted(
        p.relative_to(tmp_path) for p in tmp_path.rglob("*") if not {"out", "bundle"} & set(p.parts)
    )
    assert after == before, "nothing is written beside the results"

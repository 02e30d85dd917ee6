"""Stored pixel values of one file, after its pixels were found to be all there and of the declared size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from .codestreams import check_codestream, ends_well
from .headers import Header, reading_dicom

__all__ = ["check_pixels", "stored_values"]

NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
#: Encapsulated transfer syntaxes that are decoded: RLE; JPEG baseline, extended and lossless; JPEG-LS; JPEG
#: 2000 and its high-throughput kind.
ENCAPSULATED = {
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG",
    "1.2.840.10008.1.2.4.57": "JPEG",
    "1.2.840.10008.1.2.4.70": "JPEG",
    "1.2.840.10008.1.2.4.80": "JPEG",
    "1.2.840.10008.1.2.4.81": "JPEG",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "JPEG 2000",
    "1.2.840.10008.1.2.4.202": "JPEG 2000",
    "1.2.840.10008.1.2.4.203": "JPEG 2000",
}
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
LOSSY = {"1.2.840.10008.1.2.4.50", JPEG_EXTENDED}
_UNDEFINED = 0xFFFFFFFF


def check_pixels(header: Header, rows: int, columns: int, frames: int) -> None:
    """Refuse pixels that are cut off, or cannot be what the header says; nothing is decoded.

    Raises
    ------
    Refused
        ``truncated``, ``transfer-syntax``, ``pixel-format``, ``oversized-pixels``.
    """
    if header.pixels_at is None:
        raise Refused("truncated", "a file ends before its pixels", do="send the series again")
    bits = _format(header)[0]
    frame = rows * columns * bits // 8
    if header.transfer_syntax_uid in NATIVE:
        expected = frame * frames
        length = header.pixels_length
        if length is None or length < expected:
            raise Refused(
                "truncated", "a file has fewer pixels than rows and columns", got=length, expected=expected
            )
        if length > expected + expected % 2 or header.pixels_at + length > header.size:
            cut = header.pixels_at + length > header.size
            raise Refused(
                "truncated" if cut else "pixel-format",
                "a file ends within its pixels" if cut else "a file has more pixels than rows and columns",
                got=f"{header.size - header.pixels_at if cut else length} bytes",
                expected=f"{length if cut else expected}",
                do="send the series again",
            )
        return
    kind = ENCAPSULATED.get(header.transfer_syntax_uid)
    if kind is None:
        raise Refused(
            "transfer-syntax",
            "the pixels are compressed in a way that is not read",
            got=header.transfer_syntax_uid,
            do="have the PACS send Explicit VR Little Endian",
        )
    if header.pixels_length is not None:
        raise Refused("pixel-format", "compressed pixels without items", do="send the series again")
    _check_items(header, kind, (rows, columns, bits), frames)


def stored_values(header: Header, rows: int, columns: int, frames: int) -> npt.NDArray[Any]:
    """Decode a file: (frames, rows, columns), integers as stored, bits above those stored cleared.

    Raises
    ------
    Refused
        As `check_pixels`; ``unreadable`` where a decoder fails, ``not-installed``, ``stray-bits``.
    """
    check_pixels(header, rows, columns, frames)
    with _decoding(header):
        if header.transfer_syntax_uid == JPEG_EXTENDED and _format(header)[1] > 8:
            values = _jpeg_12_bits(header, frames)
        else:
            values = _by_pydicom(header)
    values = values.reshape(-1, *values.shape[-2:])
    if values.shape != (frames, rows, columns):
        raise Refused(
            "pixel-format",
            "the decoded pixels have another shape than the header says",
            got=values.shape,
            expected=(frames, rows, columns),
        )
    return _within_bits(values, header)


@contextmanager
def _decoding(header: Header) -> Iterator[None]:
    """Say that it is the pixels that cannot be decoded; no sentence of a decoder is repeated."""
    try:
        with reading_dicom():
            yield
    except Refused as error:
        if error.reason != "unreadable":
            raise
        kind = ENCAPSULATED.get(header.transfer_syntax_uid, "plain")
        raise Refused(
            "unreadable", f"pixels that are {kind} cannot be decoded", do="send the series again"
        ) from error


def _by_pydicom(header: Header) -> npt.NDArray[Any]:
    from pydicom.pixels import get_decoder, pixel_array

    if not get_decoder(header.transfer_syntax_uid).is_available:
        raise Refused(
            "not-installed",
            f"no decoder for {ENCAPSULATED[header.transfer_syntax_uid]} is installed",
            do="install them: pip install 'medseg[dicom]'",
        )
    # pylibjpeg's decoder of RLE, where somebody has installed it, ends in a panic on a bomb
    own = "pydicom" if ENCAPSULATED.get(header.transfer_syntax_uid) == "RLE" else ""
    return np.asarray(pixel_array(header.path, raw=True, correct_unused_bits=False, decoding_plugin=own))


def _jpeg_12_bits(header: Header, frames: int) -> npt.NDArray[Any]:
    """Decode JPEG of 12 bits, which none of pydicom's decoders does that may be distributed."""
    import imagecodecs
    from pydicom.encaps import generate_frames

    with open(header.path, "rb") as file:
        file.seek(header.pixels_at or 0)
        items = file.read()
    return np.stack([imagecodecs.jpeg8_decode(f) for f in generate_frames(items, number_of_frames=frames)])


def _format(header: Header) -> tuple[int, int, bool]:
    """Return bits allocated, bits stored, and whether values are signed."""
    with reading_dicom():
        data = header.dataset
        told = [data.get(tag) for tag in (0x00280100, 0x00280101, 0x00280102, 0x00280103)]
        numbers = [None if element is None else element.value for element in told]
    if None in numbers or "" in numbers:
        raise Refused("truncated", "a file does not say how its pixels are stored", do="copy it again")
    allocated, stored, high, signed = (int(n) for n in numbers)  # type: ignore[arg-type]
    if (
        allocated not in (8, 16, 32)
        or not 1 <= stored <= allocated
        or high != stored - 1
        or signed not in (0, 1)
    ):
        raise Refused(
            "pixel-format",
            "pixels are stored in a way that is not read",
            got=f"{allocated} bits, {stored} used, the highest {high}",
            expected="8, 16 or 32 bits, used from the lowest",
            do="export the series again",
        )
    return allocated, stored, bool(signed)


def _within_bits(values: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """Give the bits above those stored their meaning: none, or the sign; anything else in them is refused.

    Old scanners kept overlays there. By the standard they are no part of the value; they are taken away only
    where they are all alike, because a wrong number of bits stored would look the same.
    """
    allocated, stored, signed = _format(header)
    if values.dtype.kind not in "iu":
        raise Refused("pixel-format", "pixels that are no integers", got=values.dtype)
    if stored == allocated:
        return values
    half, full = 1 << (stored - 1), 1 << stored
    low, high = int(values.min()), int(values.max())
    if not signed and low >= 0 and high < full:
        return values
    if signed and -half <= low and high < half:
        return values
    if signed and low >= 0 and high < full:  # the sign was not carried on into the bits above
        wide = values.astype(np.int32)
        return np.where(wide >= half, wide - full, wide)
    raise Refused(
        "stray-bits",
        "pixels use more bits than the header says",
        got=f"values {low} to {high}",
        expected=f"{stored} bits",
        do="export the series again",
    )


def _check_items(header: Header, kind: str, size: tuple[int, int, int], frames: int) -> None:
    """Walk the items of encapsulated pixels: every one within the file, and a delimiter at the end."""
    rows, columns, bits = size
    most = 2 * rows * columns * bits // 8 + 2**16
    with open(header.path, "rb") as file:
        items = _items(file, header)[1:]  # the first is a table of offsets
        if len(items) < frames:
            raise Refused(
                "truncated", "a file holds fewer frames than it says", got=len(items), expected=frames
            )
        for place, length in items:
            if length > most:
                raise Refused(
                    "oversized-pixels",
                    "compressed pixels take more room than plain ones",
                    got=f"{length} bytes",
                    expected=f"at most {most}",
                    do="leave the file out",
                )
            file.seek(place)
            if kind != "RLE" or len(items) == frames:
                check_codestream(file, kind, length, size)
        # where frames are in one item each, every one has an end; else the last at least
        last = items if len(items) == frames else items[-1:]
        if kind != "RLE" and not all(ends_well(file, *item) for item in last):
            raise Refused("truncated", "a compressed frame has no end", do="send the series again")


def _items(file: BinaryIO, header: Header) -> list[tuple[int, int]]:
    """Return where the items of encapsulated pixels begin, and how long they are."""
    found: list[tuple[int, int]] = []
    file.seek(header.pixels_at or 0)
    while True:
        head = file.read(8)
        tag, length = head[:4], int.from_bytes(head[4:8], "little")
        if tag == b"\xfe\xff\xdd\xe0":
            return found
        place = file.tell()
        if len(head) < 8 or length == _UNDEFINED or place + length > header.size:
            raise Refused("truncated", "a file ends within its pixels", do="send the series again")
        if tag != b"\xfe\xff\x00\xe0":
            raise Refused("unreadable", "the items of compressed pixels do not follow each other")
        found.append((place, length))
        file.seek(place + length)

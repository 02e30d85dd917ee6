"""What a compressed frame says of its own size, which decoders believe: compared with the header first."""

from __future__ import annotations

from typing import BinaryIO

from ...errors import Refused

__all__ = ["check_codestream"]

_JPEG_START, _J2K_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  "
_END = b"\xff\xd9"
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_PADDING = 64  # bytes of zero that may follow the end


def check_codestream(file: BinaryIO, kind: str, length: int, size: tuple[int, int, int]) -> None:
    """Refuse an item whose own header tells another size than ``size``: rows, columns, bits allocated.

    The file stands at the item; where it stands afterwards is not said. Items that go on with a frame begin
    with no header, and are passed over.

    Raises
    ------
    Refused
        ``pixel-format``, ``truncated``.
    """
    rows, columns, bits = size
    if kind == "RLE":
        segments = int.from_bytes(file.read(4), "little")
        if segments != bits // 8:
            raise Refused(
                "pixel-format", "RLE in another number of segments", got=segments, expected=bits // 8
            )
        return
    head = file.read(min(length, 2**16))
    found = _j2k_size(head) if kind == "JPEG 2000" else _jpeg_size(head)
    if found is not None and found != (rows, columns, 1):
        raise Refused(
            "pixel-format",
            "a compressed frame has another size than its header says",
            got="{} x {}, {} channels".format(*found),
            expected=f"{rows} x {columns}, 1 channel",
        )


def ends_well(file: BinaryIO, start: int, length: int) -> bool:
    """Tell whether a JPEG or JPEG 2000 item has its end marker: decoders fill in grey for what is missing."""
    file.seek(start + max(0, length - _PADDING))
    return file.read(min(length, _PADDING)).rstrip(b"\0").endswith(_END)


def _j2k_size(head: bytes) -> tuple[int, int, int] | None:
    if head.startswith(_JP2_START):
        at = head.find(_J2K_START)
        head = head[at:] if at >= 0 else b""
    if not head.startswith(_J2K_START) or len(head) < 42:
        return None
    right, bottom, left, top = (int.from_bytes(head[i : i + 4], "big") for i in (8, 12, 16, 20))
    return bottom - top, right - left, int.from_bytes(head[40:42], "big")


def _jpeg_size(head: bytes) -> tuple[int, int, int] | None:
    if not head.startswith(_JPEG_START):
        return None
    at = 2
    while at + 10 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _FRAMES:
            return (
                int.from_bytes(head[at + 5 : at + 7], "big"),
                int.from_bytes(head[at + 7 : at + 9], "big"),
                head[at + 9],
            )
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None

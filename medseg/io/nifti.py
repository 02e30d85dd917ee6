"""NIfTI: the header through nibabel, the pixels in parts; array axes as stored, affine RAS+."""

from __future__ import annotations

import gzip
import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from .forms import placed
from .lazy import LazyImage
from .pixels import Pixels, decoding, farthest
from .stored import Held, OnDisk, Stored, refuse_larger_than_memory

__all__ = ["load", "open_nifti", "save"]

_GZIP = b"\x1f\x8b"
_DEFLATED = 1040  # deflate makes at most 1032 bytes of one
_PIECE = 2**22  # bytes that are decompressed at once
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT: coordinates of the scanner
_LONGEST = 32767  # NIfTI-1 counts in 16 bits


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read a NIfTI file as a whole; a fourth axis is channels."""
    with open_nifti(path) as image:
        return image.whole()


def open_nifti(path: Path) -> LazyImage:
    """Open NIfTI-1 or NIfTI-2 in one file; what its header says is checked, no pixel is read.

    Raises
    ------
    Refused
        ``unreadable``, ``too-many-dimensions``, ``too-few-dimensions``, ``pixel-type``, ``no-spacing``,
        ``two-geometries``, ``bad-affine``, ``bad-unit``.
    """
    packed = path.name.lower().endswith(".gz")
    with decoding(path, "NIfTI"):
        header = _header(path, packed)
        layout = _layout(header, path)
        slope, inter = header.get_slope_inter()
    affine, unit, told = placed(header, layout.spatial, path)
    files = ExitStack()
    try:
        stored = _stored(layout, path, packed, files)
    except BaseException:  # Ctrl-C, too, must not leave the file open; it is handed on
        files.close()
        raise
    plain = slope is None or layout.samples > 1 or (slope, inter) == (1, 0)
    return LazyImage(
        path=path,
        stored=stored,
        places=layout.places,
        picks=tuple(range(layout.channels)),
        affine=affine,
        unit=unit,
        format="NIfTI",
        scale=None if plain else (float(slope), float(inter)),
        geometry=told,
        _files=files,
    )


def _header(path: Path, packed: bool) -> Any:
    """Return nibabel's header as the file has it: nibabel itself would repair what is wrong with it."""
    import nibabel

    with path.open("rb") as file:
        start = file.read(4)
    if packed != (start[:2] == _GZIP):
        if packed and _kind(start) is None:
            raise ValueError("it is not compressed with gzip")
        other = path.name[:-3] if packed else path.name + ".gz"
        raise Refused(
            "unreadable",
            f"'{path}' is {'not ' * packed}compressed, other than its name says",
            do=f"rename it to '{other}'",
        )
    with gzip.open(path) if packed else path.open("rb") as file:
        block = file.read(540)
    kind = _kind(block)
    if kind is None:
        raise ValueError("it does not begin with a header of NIfTI")
    size, order = kind
    if len(block) < size:
        raise ValueError("it ends within its header")
    magic = block[4:8] if size == 540 else block[344:348]
    if magic not in (b"n+1\0", b"n+2\0"):
        pair = magic in (b"ni1\0", b"ni2\0")
        raise Refused(
            "unreadable",
            f"'{path}' is {'half of a pair of files (.hdr and .img)' if pair else 'in the Analyze format'}",
            got=None if pair else "a header that does not say which side is left",
            expected="NIfTI in one file",
            do="convert it from its source to .nii.gz",
        )
    made = nibabel.Nifti2Header if size == 540 else nibabel.Nifti1Header
    return made(block[:size], endianness=order, check=False)


def _kind(start: bytes) -> tuple[int, str] | None:
    """Return size and byte order of a header by its first four bytes."""
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(start[:4], name)  # type: ignore[arg-type]
        if len(start) >= 4 and size in (348, 540):
            return size, order
    return None


class _Layout(NamedTuple):
    """How the pixels lie in the file: the sizes of its axes, fastest first; bytes of colour are faster."""

    sizes: tuple[int, ...]
    samples: int
    dtype: np.dtype[Any]
    offset: int

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size of the image's own axes."""
        return self.sizes[:3]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array in the file, slowest axis first."""
        return self.sizes[::-1] + ((self.samples,) if self.samples > 1 else ())

    @property
    def channel_axis(self) -> int | None:
        """Which axis of `shape` is channels."""
        n = len(self.sizes)
        long = [n - 1 - i for i in range(3, n) if self.sizes[i] > 1]
        return n if self.samples > 1 else long[0] if long else None

    @property
    def channels(self) -> int:
        """Of colours the fourth is opacity."""
        found = 1 if self.channel_axis is None else self.shape[self.channel_axis]
        return min(found, 3) if self.samples > 1 else found

    @property
    def places(self) -> tuple[int | None, ...]:
        """Of channels and spatial axes in `shape`."""
        n = len(self.sizes)
        return (self.channel_axis, *(n - 1 - i for i in range(len(self.spatial))))

    @property
    def nbytes(self) -> int:
        """Of all pixels."""
        return math.prod(self.shape) * self.dtype.itemsize


def _layout(header: Any, path: Path) -> _Layout:
    """Read from a header what lies where; refuse what is no image of numbers or colours."""
    from nibabel.nifti1 import data_type_codes

    n, *sizes = (int(k) for k in header["dim"])
    if not 0 <= n <= 7 or min(sizes[:n], default=0) < 0:
        raise ValueError(f"its header is damaged: dim {[n, *sizes]}")
    if n < 2:
        raise Refused("too-few-dimensions", f"'{path}' is no image", got=f"{n} axes", expected="2 or more")
    code = int(header["datatype"])
    dtype = data_type_codes.dtype[code] if code in data_type_codes.value_set() else np.dtype("V")
    samples = len(dtype.names) if dtype.names is not None else 1
    if not (samples > 1 or (dtype.kind in "iuf" and dtype.itemsize <= 8)):
        raise Refused(
            "pixel-type",
            f"'{path}' has pixels of a type that is not supported",
            got=dtype if dtype.kind == "c" else f"datatype {code}",
            expected="integers or floats of up to 64 bits, or RGB",
            do="convert the image first",
        )
    long = [k for k in sizes[3:n] if k > 1]
    if len(long) + (samples > 1) > 1:
        raise Refused(
            "too-many-dimensions",
            f"'{path}' has {3 + len(long) + (samples > 1)} axes",
            got=f"shape {tuple(sizes[:n])}{' of colours' if samples > 1 else ''}",
            expected="(x, y), (x, y, z) or (x, y, z, channels)",
            do="save each part as its own file",
        )
    least = 544 if header.sizeof_hdr == 540 else 352
    offset = float(header["vox_offset"]) or least
    if not least <= offset < 2**62:
        raise ValueError(f"its header is damaged: vox_offset {offset:g}")
    kind = np.dtype(np.uint8) if samples > 1 else dtype.newbyteorder(header.endianness)
    return _Layout(tuple(sizes[:n]), samples, kind, int(offset))


def _stored(layout: _Layout, path: Path, packed: bool, files: ExitStack) -> Stored:
    """Return the pixels in their place; refuse a file that is too small to hold them."""
    size = path.stat().st_size
    most = size * _DEFLATED if packed else size - layout.offset
    if layout.nbytes > most:
        raise Refused(
            "unreadable",
            f"'{path}' is truncated, or its header is damaged",
            got=f"a file of {size} bytes",
            expected=f"{layout.nbytes} bytes of pixels, as its header says",
            do="copy it again from its source",
        )
    if packed:
        held = Held(layout.shape, layout.dtype, partial(_inflate, layout, path))
        files.callback(held.release)
        return held
    return OnDisk(
        files.enter_context(path.open("rb", buffering=0)), layout.shape, layout.dtype, layout.offset
    )


def _inflate(layout: _Layout, path: Path) -> tuple[npt.NDArray[Any], None]:
    """Decompress the pixels into an array of their own type; beside it only a piece is in memory."""
    refuse_larger_than_memory(layout.nbytes, path)
    out = np.empty(layout.shape, layout.dtype)
    flat = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    done = 0
    with gzip.open(path) as file:
        file.seek(layout.offset)
        while done < len(flat):
            n = file.readinto(flat[done : done + _PIECE])
            if not n:
                raise EOFError(f"it holds {done} bytes of pixels of {len(flat)}")
            done += n
        while file.read(_PIECE):  # the checksum is at the end
            pass
    if not out.dtype.isnative:
        out = out.byteswap(inplace=True).view(out.dtype.newbyteorder("="))
    return out, None


def save(path: Path, pixels: Pixels) -> None:
    """Write NIfTI with sform and the same qform, where one can hold the axes.

    NIfTI-1, or NIfTI-2 where an axis is too long for it.
    """
    import nibabel

    array = pixels.array
    data = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    made = nibabel.Nifti1Image if max(data.shape) <= _LONGEST else nibabel.Nifti2Image
    image = made(data, pixels.affine, dtype=data.dtype)
    image.header.set_xyzt_units({"um": "micron", "mm": "mm"}.get(pixels.unit, "unknown"))
    image.set_sform(pixels.affine, code=_SCANNER)
    image.set_qform(pixels.affine, code=_SCANNER)
    shape = array.shape[1:]
    # a qform has no shear, and a quaternion in 32 bits is coarse near half a turn: then the sform is alone
    smallest = min(np.linalg.norm(pixels.affine[:3, : len(shape)], axis=0))
    if farthest(image.get_qform(), pixels.affine, shape) > 1e-2 * smallest:
        image.set_qform(pixels.affine, code=0)
    nibabel.save(image, path)

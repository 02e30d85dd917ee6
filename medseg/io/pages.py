"""Parts of a TIFF: only the strips or tiles that a window touches are read and decoded."""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from ..scratch import Window
from .lazy import LazyImage
from .pixels import decoding, raster_affine
from .stored import OnDisk, Stored
from .tiff import Layout, kept_channels, layout_of, through_palette

__all__ = ["open_tiff"]

_CACHE = 2**26  # bytes of decoded strips or tiles that are kept, since windows overlap


def open_tiff(path: Path) -> LazyImage:
    """Open a TIFF without reading its pixels."""
    import tifffile

    files = ExitStack()
    try:
        with decoding(path, "TIFF"):
            tiff = files.enter_context(tifffile.TiffFile(path))
            held = layout_of(tiff, path)
            stored = _stored(held, path, files)
            channels = 1 if held.order.places[0] is None else held.shape[held.order.places[0]]
            palette = None
            if held.colour == "PALETTE" and held.page.colormap is not None:
                every = np.arange(len(held.page.colormap[0]))
                palette = through_palette(every[None], held.page.colormap)
                channels = 3
            else:
                channels = kept_channels(channels, held.page)
    except BaseException:  # Ctrl-C, too, must not leave the file open; it is handed on
        files.close()
        raise
    ndim = len(held.order.places) - 1
    return LazyImage(
        path=path,
        stored=stored,
        places=tuple(held.order.places),
        picks=tuple(range(channels)),
        affine=raster_affine(held.spacing or (1.0,) * ndim),
        unit="um" if held.spacing else "pixel",
        format=held.format,
        palette=palette,
        _files=files,
    )


def _stored(held: Layout, path: Path, files: ExitStack) -> Stored:
    series, page = held.series, held.page
    if 0 in held.shape:
        return _Empty(held.shape, page.dtype)
    offset = series.dataoffset
    if offset is not None and series.transform is None:
        file = files.enter_context(path.open("rb", buffering=0))
        dtype = np.dtype(page.parent.byteorder + page.dtype.char)
        if offset + math.prod(held.shape) * dtype.itemsize <= path.stat().st_size:
            return OnDisk(file, held.shape, dtype, offset)
    depth = page.shaped[1]
    if series.transform is not None or depth != 1 or page.dtype is None:
        raise _rare(path)
    return _Pages(held, path)


def _rare(path: Path) -> Refused:
    return Refused(
        "not-lazy",
        f"'{path}' is a TIFF of a rare kind, which is read as a whole",
        do="save it again as OME-TIFF in tiles",
    )


class _Empty:
    """An image without pixels, which the caller refuses."""

    piece_bytes = held_bytes = 0

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype or np.uint8)

    def __getitem__(self, window: Window) -> npt.NDArray[Any]:
        return np.empty([0] * len(self.shape), self.dtype)


class _Pages:
    """The pages of a series, each in strips or tiles."""

    def __init__(self, held: Layout, path: Path) -> None:
        series, page = held.series, held.page
        self.shape, self.dtype = held.shape, np.dtype(page.dtype)
        self.path, self.page, self.pages = path, page, list(series.pages)
        self.fill = page.nodata
        samples, _, rows, columns, contiguous = page.shaped
        if page.is_tiled:
            self.size = (page.tilelength, page.tilewidth)
        else:
            self.size = (min(page.rowsperstrip, rows), columns)
        self.grid = (math.ceil(rows / self.size[0]), math.ceil(columns / self.size[1]))
        self.box = (samples, rows, columns, contiguous)
        self.piece_bytes = math.prod(self.size) * contiguous * self.dtype.itemsize
        # the last axes of the series are those of a page, the others count pages
        long = [n for n in page.shape if n > 1]
        fits = [
            k
            for k in reversed(range(len(held.shape)))
            if [n for n in held.shape[k:] if n > 1] == long and math.prod(held.shape[:k]) == len(self.pages)
        ]
        if not fits:
            raise _rare(path)
        self.leading = fits[0]
        self.axes = held.axes[self.leading :]
        self.recent: OrderedDict[tuple[int, int], npt.NDArray[Any] | None] = OrderedDict()
        self.cached_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Most bytes of decoded strips or tiles that are kept."""
        return int(min(max(_CACHE, self.piece_bytes), math.prod(self.shape) * self.dtype.itemsize))

    def __getitem__(self, window: Window) -> npt.NDArray[Any]:
        outer, inner = window[: self.leading], window[self.leading :]
        shape = [s.stop - s.start for s in window]
        out = np.empty(shape, self.dtype)
        parts = dict(zip(self.axes, inner))
        rows, columns = parts["Y"], parts["X"]
        # the samples are the one axis of a page beside rows and columns that is longer than one
        sample = next((parts[a] for a in self.axes if a not in "YX" and self._length(a) > 1), slice(0, 1))
        for place in np.ndindex(*[s.stop - s.start for s in outer]):
            index = tuple(s.start + i for s, i in zip(outer, place))
            number = int(np.ravel_multi_index(index, self.shape[: self.leading])) if index else 0
            part = self._read(number, sample, rows, columns)
            # (samples, rows, columns) to the order of the page's axes
            order = {"Y": 1, "X": 2}
            long = [a for a in self.axes if a not in "YX" and self._length(a) > 1]
            order |= dict.fromkeys(long, 0)
            axes = [order[a] for a in self.axes if a in order]
            part = part.transpose(axes) if 0 in axes else part[0].transpose([a - 1 for a in axes])
            out[place] = part.reshape(shape[self.leading :])
        return out

    def _length(self, axis: str) -> int:
        return self.shape[self.leading + self.axes.index(axis)]

    def _read(self, number: int, sample: slice, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """Read a window of one page as (samples, rows, columns)."""
        size = [s.stop - s.start for s in (sample, rows, columns)]
        out = np.full(size, self.fill, self.dtype)
        page = self.pages[number]
        if page is None:  # a plane that was never written
            return out
        separate = self.box[0] > 1
        for plane in range(sample.start, sample.stop) if separate else (0,):
            for i in range(rows.start // self.size[0], -(-rows.stop // self.size[0])):
                for j in range(columns.start // self.size[1], -(-columns.stop // self.size[1])):
                    piece = self._piece(number, (plane * self.grid[0] + i) * self.grid[1] + j)
                    if piece is None:
                        continue
                    top, left = i * self.size[0], j * self.size[1]
                    y = slice(max(rows.start, top), min(rows.stop, top + piece.shape[0]))
                    x = slice(max(columns.start, left), min(columns.stop, left + piece.shape[1]))
                    part = piece[y.start - top : y.stop - top, x.start - left : x.stop - left]
                    part = part if separate else part[..., sample]
                    box = (
                        slice(y.start - rows.start, y.stop - rows.start),
                        slice(x.start - columns.start, x.stop - columns.start),
                    )
                    where = slice(plane - sample.start, plane - sample.start + 1) if separate else slice(None)
                    out[(where, *box)] = np.moveaxis(part, -1, 0)
        return out

    def _piece(self, number: int, index: int) -> npt.NDArray[Any] | None:
        """Return a strip or tile as (rows, columns, samples), or None where the file has none."""
        key = number, index
        if key in self.recent:
            self.recent.move_to_end(key)
            return self.recent[key]
        page = self.pages[number]
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        piece = None
        if size:
            handle = page.parent.filehandle
            handle.seek(offset)
            content = handle.read(size)
            if len(content) < size:
                raise Refused("unreadable", f"'{self.path}' is truncated", do="copy it again from its source")
            tables = {"jpegtables": page.jpegtables, "jpegheader": self.page.jpegheader}
            decoded = self.page.decode(content, index, **tables)[0]
            piece = None if decoded is None else decoded[0]
        self.recent[key] = piece
        self.cached_bytes += 0 if piece is None else piece.nbytes
        while self.cached_bytes > _CACHE and len(self.recent) > 1:
            _, old = self.recent.popitem(last=False)
            self.cached_bytes -= 0 if old is None else old.nbytes
        return piece

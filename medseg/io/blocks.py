"""Maps that are larger than memory: written part by part, read back and compared, then put in their place."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from ..files import replacing
from ..scratch import Window
from .lazy import LazyImage
from .omezarr import chunk_windows, create
from .opening import open_lazy
from .paths import TIFF_SUFFIXES, ZARR_SUFFIXES, known_suffix
from .pixels import Pixels
from .writing import same_place, storable

__all__ = ["write_blocks"]

_TILE = 512
_BIG = 2**31  # bytes of pixels beyond which the file may outgrow the offsets of a classic TIFF


def write_blocks(
    path: str | os.PathLike[str],
    read: Callable[[Window], npt.NDArray[Any]],
    shape: tuple[int, ...],
    dtype: Any,
    *,
    affine: npt.ArrayLike,
    unit: str,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a map of one channel that is never in memory as a whole.

    It is written under a temporary name in the same folder, each part is read back and compared with what
    ``read`` gives, then shape, type and geometry, and then it takes its name.

    Parameters
    ----------
    path : path
        ``.tif``, ``.tiff``, ``.ome.tif`` (OME-TIFF in tiles, zlib, BigTIFF where it may be needed) or
        ``.zarr`` (a folder: OME-Zarr 0.5 with the metadata of a label image; needs ``medseg[zarr]``).
    read : callable
        From a window (a slice an axis) to its values. Called at least twice for each.
    shape : tuple of int
        (rows, columns) or (planes, rows, columns).
    dtype : numpy dtype
        An integer type.
    affine : array_like of shape (4, 4)
        From indices to the world; these formats keep the pixel size.
    unit : {"um", "mm", "pixel"}
        Of the world.
    progress : callable, optional
        Called with the number of parts that are done and of all.

    Returns
    -------
    Path

    Raises
    ------
    Refused
        ``not-written``, ``unwritable``, ``not-read-back``, ``affine-not-held``, ``too-many-dimensions``,
        ``not-installed``.

    Examples
    --------
    >>> import tempfile, numpy, medseg
    >>> part = lambda window: numpy.full([s.stop - s.start for s in window], 7, "uint8")
    >>> path = tempfile.mkdtemp() + "/seven.tif"
    >>> _ = medseg.io.write_blocks(path, part, (700, 900), "uint8", affine=numpy.eye(4), unit="pixel")
    >>> int(medseg.read(path).sum()) == 7 * 700 * 900
    True
    """
    target = Path(path)
    suffix = known_suffix(target)
    kind = np.dtype(dtype)
    if suffix not in TIFF_SUFFIXES + ZARR_SUFFIXES:
        raise Refused(
            "not-written",
            f"'{target.name}' has a format that is not written in parts",
            expected=f"one of {' '.join(TIFF_SUFFIXES + ZARR_SUFFIXES)}",
            do="use .tif",
        )
    # a map without memory of its own, for the checks that look at shapes only
    like = np.broadcast_to(np.zeros((), kind), (1, *shape))
    sent = Pixels(like, np.asarray(affine, float), unit, str(kind), suffix)
    sent = storable(sent, ".tif", target)  # both formats keep a pixel size, and no directions
    if suffix in ZARR_SUFFIXES:
        _replace_folder(target, lambda beside: _fill_zarr(beside, sent, read, target, progress))
    else:
        with replacing(target) as beside:
            _fill_tiff(beside, sent, read, target, progress)
    return target


def _fill_tiff(
    beside: Path,
    sent: Pixels,
    read: Callable[[Window], npt.NDArray[Any]],
    target: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    import tifffile

    from .tiff import ome_size

    shape = sent.array.shape[1:]
    windows = _tile_windows(shape)

    def parts() -> Iterator[npt.NDArray[Any]]:
        for done, window in enumerate(windows):
            part = np.asarray(read(window), sent.array.dtype)
            whole = np.zeros((_TILE, _TILE), sent.array.dtype)  # tiles at the edge are filled up
            whole[: part.shape[-2], : part.shape[-1]] = part.reshape(part.shape[-2:])
            yield whole
            if progress:
                progress(done, 2 * len(windows))

    tifffile.imwrite(
        beside,
        parts(),
        shape=shape,
        dtype=sent.array.dtype,
        ome=True,
        bigtiff=math.prod(shape) * sent.array.dtype.itemsize > _BIG,
        tile=(_TILE, _TILE),
        compression="zlib",
        photometric="minisblack",
        maxworkers=1,
        metadata={"axes": "ZYX"[-len(shape) :], **ome_size(sent)},
    )
    with open_lazy(beside) as held:
        _compare(sent, held, read, windows, target, progress)


def _fill_zarr(
    beside: Path,
    sent: Pixels,
    read: Callable[[Window], npt.NDArray[Any]],
    target: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    array = create(beside, sent.array.shape[1:], sent.array.dtype, affine=sent.affine, unit=sent.unit)
    windows = chunk_windows(array)
    for done, window in enumerate(windows):
        array[window] = np.asarray(read(window), sent.array.dtype)
        if progress:
            progress(done, 2 * len(windows))
    with open_lazy(beside) as held:
        _compare(sent, held, read, windows, target, progress)


def _compare(
    sent: Pixels,
    held: LazyImage,
    read: Callable[[Window], npt.NDArray[Any]],
    windows: list[Window],
    target: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Refuse a file that does not hold what was sent, part by part."""
    what = None
    header = replace(sent, array=sent.array, affine=held.affine, unit=held.unit)
    if held.shape != sent.array.shape:
        what = f"shape {held.shape}, sent {sent.array.shape}"
    elif held.stored_dtype != sent.array.dtype:
        what = f"type {held.stored_dtype}, sent {sent.array.dtype}"
    elif not same_place(sent, header, ".tif"):
        what = f"affine {np.round(held.affine, 4).tolist()}, sent {np.round(sent.affine, 4).tolist()}"
    for done, window in enumerate(windows if what is None else [], start=1):
        differ = int((held.raw(window)[0] != read(window)).sum())
        if differ:
            what = f"{differ} pixels that differ at {[s.start for s in window]}"
            break
        if progress:
            progress(len(windows) + done, 2 * len(windows))
    if what:
        raise Refused("not-read-back", f"'{target}' does not hold what was written", got=what, do="try again")


def _tile_windows(shape: tuple[int, ...]) -> list[Window]:
    """Return windows in the order in which a TIFF has its tiles: planes, then rows, then columns."""
    steps = (1,) * (len(shape) - 2) + (_TILE, _TILE)
    starts = [range(0, n, step) for n, step in zip(shape, steps)]
    return [
        tuple(slice(a, min(a + step, n)) for a, step, n in zip(corner, steps, shape))
        for corner in itertools.product(*starts)
    ]


def _replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside the target and give it the name; an older one goes when the new one is whole."""
    mark = f".{secrets.token_hex(6)}~"
    beside, old = target.with_name(mark + target.name), target.with_name(mark + "old~" + target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise FileExistsError(f"'{target}' is a file")
        fill(beside)
        if target.exists():
            os.replace(target, old)
        os.replace(beside, target)
    except OSError as error:
        raise Refused(
            "unwritable",
            f"cannot write '{target}'",
            got=error.strerror or str(error),
            do="check the folder, its rights and the free space",
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

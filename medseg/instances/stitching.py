"""Objects of a label map that is larger than memory: block by block, with the result of the whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from ..errors import Refused
from ..scratch import DiskArray, Window, window_of
from .separating import steps_of
from .table import columns

__all__ = ["HALO", "Objects", "StitchedInstances", "stitch_instances"]

#: Pixels that a block sees beyond its own part at first.
HALO = 96
# a rim of objects this wide may take its form from objects outside the window
_MARGIN = 16
_SAME = 0.5  # overlap of two pieces, intersection over union, above which they are one object

Separate = Callable[[NDArray[Any], int], NDArray[Any]]
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Objects:
    """Sizes and places of objects in columns, which take less memory than rows.

    Attributes
    ----------
    names : list of str
        Those of `medseg.instances.object_table`.
    values : list of ndarray
        One a name.
    """

    names: list[str]
    values: list[NDArray[Any]]

    def __len__(self) -> int:
        return len(self.values[0])

    def __iter__(self) -> Iterator[dict[str, float | int]]:
        """Yield the rows of `medseg.instances.object_table`, one at a time."""
        for row in zip(*self.values):
            yield {name: value.item() for name, value in zip(self.names, row)}


@dataclass
class StitchedInstances:
    """An instance map in a scratch file: windows of it are arrays.

    Attributes
    ----------
    shape : tuple of int
    exact : bool
        Whether every block saw its objects whole, so that the map is that of the whole label map.
    count : int
        Number of objects; their ids are 1 to `count`, in the order in which a scan in C order meets them.
    """

    shape: tuple[int, ...]
    core: tuple[int, ...]
    blocks: list[_Block]
    exact: bool = True
    count: int = 0
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.int32))
    _numbers: NDArray[np.int32] = field(default_factory=lambda: np.zeros(1, np.int32))
    _sizes: _Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _sums: _Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    _boxes: _Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __getitem__(self, key: Any) -> NDArray[np.int32]:
        """Return a window of the instance map."""
        window = window_of(key, self.shape)
        out = np.zeros([s.stop - s.start for s in window], np.int32)
        grid = [-(-n // c) for n, c in zip(self.shape, self.core)]
        near = [range(s.start // c, -(-s.stop // c)) for s, c in zip(window, self.core)]
        for place in itertools.product(*near):
            block = self.blocks[int(np.ravel_multi_index(place, grid))]
            part = _common(window, block.core)
            if part is not None and block.held is not None:
                out[_within(part, window)] = self._numbers[block.held[_within(part, block.window)]]
        return out

    def table(self, *, spacing: Sequence[float] | None = None, unit: str | None = None) -> Objects:
        """Measure each object, as `medseg.instances.object_table` does.

        Parameters
        ----------
        spacing : sequence of float, optional
            Size of a pixel along each axis, in `unit`. By default everything is in pixels.
        unit : str, optional
            Unit of the spacing for the names of the columns.
        """
        ndim = len(self.shape)
        steps = np.array(steps_of(spacing, ndim))
        size = self._sizes * float(np.prod(steps))
        centres = [self._sums[:, i] / np.maximum(self._sizes, 1) * steps[i] for i in range(ndim)]
        diameter = (2 * ndim * size / math.pi) ** (1 / ndim)
        ends = [self._boxes[:, i] for i in range(2 * ndim)]
        ids = np.arange(1, self.count + 1)
        return Objects(columns(ndim, unit), [ids, size, *centres, diameter, *ends])


@dataclass
class _Block:
    """One block: its own part, what it saw, and its objects there, whose ids are ``first + 1`` and up."""

    core: Window
    window: Window
    held: DiskArray | None = None
    first: int = 0
    count: int = 0


@dataclass
class _Pieces:
    """What is known of the pieces of objects in the blocks' own parts; one entry a piece."""

    places: list[_Ints] = field(default_factory=list)
    sizes: list[_Ints] = field(default_factory=list)
    sums: list[_Ints] = field(default_factory=list)
    boxes: list[_Ints] = field(default_factory=list)
    pairs: list[_Ints] = field(default_factory=list)


def stitch_instances(
    labels: Any,
    separate: Separate,
    file: BinaryIO,
    *,
    core: Sequence[int],
    most: float = math.inf,
    halo: int = HALO,
    min_size: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> StitchedInstances:
    """Tell the objects of a label map apart block by block.

    Each block is seen with a halo, which grows on a side while a cluster of objects that reaches into the
    block's own part is cut there. So a block sees whole clusters, its objects are those of the whole label
    map, and pieces of one object in several blocks are found by their overlap in what both blocks saw:
    intersection over union above one half, joined by union-find. Where a cluster is larger than memory
    allows, it stays cut; the pieces are joined in the same way, but their outlines may differ near the cut,
    and the result says that it is not `exact`.

    Parameters
    ----------
    labels : array of shape (\\*spatial)
        Label map; anything that slices. Read in windows.
    separate : callable
        From a label map and a smallest size to its instance map, such as `medseg.to_instances`. What it gives
        for pixels must depend only on the cluster of foreground that they lie in, connected by corners, and
        on what is nearer than 16 pixels.
    file : binary file
        Takes the instance map, 4 bytes a pixel and half as much again; see `medseg.scratch.scratch_file`.
    core : sequence of int
        Size of a block's own part along each axis.
    most : float
        Pixels that a block may see.
    halo : int
        Pixels beyond its own part that a block sees at first.
    min_size : int
        Objects with fewer pixels are removed.
    progress : callable, optional
        Called with the number of blocks that are done and of all.

    Returns
    -------
    StitchedInstances

    Examples
    --------
    >>> import tempfile
    >>> from medseg.instances import to_instances
    >>> labels = np.kron(np.eye(3, dtype=np.uint8), np.ones((4, 5), np.uint8))
    >>> separate = lambda part, least: to_instances(part, method="components", min_size=least)
    >>> with tempfile.TemporaryFile(buffering=0) as file:
    ...     stitched = stitch_instances(labels, separate, file, core=(5, 6), halo=20)
    ...     stitched.count, bool((stitched[:, :] == separate(labels, 0)).all())
    (3, True)
    """
    shape = tuple(labels.shape)
    if len(core) != len(shape) or min(core) < 1 or halo < 1:
        raise Refused("bad-argument", "blocks", got=f"core {tuple(core)}, halo {halo}", expected="1 or more")
    size = tuple(min(c, n) for c, n in zip(core, shape))
    starts = [range(0, n, c) for n, c in zip(shape, size)]
    total = math.prod(map(len, starts))
    stitched, pieces, end = StitchedInstances(shape, size, []), _Pieces(), 0
    for corner in itertools.product(*starts):
        own = tuple(slice(a, min(a + c, n)) for a, c, n in zip(corner, size, shape))
        window, whole = _window(labels, own, halo, most)
        stitched.exact &= whole
        first = stitched.blocks[-1].first + stitched.blocks[-1].count if stitched.blocks else 0
        block = _Block(own, window, first=first)
        seen = labels[window]
        if (seen[_within(own, window)] > 0).any():
            instances = _own_only(separate(seen, min_size if whole else 0), _within(own, window))
            block.count = int(instances.max(initial=0))
            _measure(instances[_within(own, window)], own, shape, pieces)
            _match(instances, block, stitched.blocks, pieces)
            instances[instances > 0] += first
            block.held = DiskArray(file, instances.shape, np.int32, offset=end)
            block.held[(slice(None),) * len(shape)] = instances
            end += block.held.nbytes
        stitched.blocks.append(block)
        if progress:
            progress(len(stitched.blocks), total)
    _number(stitched, pieces, min_size)
    return stitched


def _window(labels: Any, own: Window, halo: int, most: float) -> tuple[Window, bool]:
    """Return what a block sees, and whether every cluster in its own part is whole there."""
    shape = labels.shape
    grown = [[halo, halo] for _ in shape]

    def grow() -> Window:
        return tuple(
            slice(max(s.start - a, 0), min(s.stop + b, n)) for s, (a, b), n in zip(own, grown, shape)
        )

    window = grow()
    while True:
        clusters, n = ndimage.label(labels[window] > 0, structure=np.ones((3,) * len(shape)))
        inside = np.zeros(n + 1, bool)
        inside[clusters[_within(own, window)]] = True
        inside[0] = False
        cut = False
        for axis, s in enumerate(window):
            for side, at_edge in enumerate((s.start == 0, s.stop == shape[axis])):
                rim = [slice(None)] * len(shape)
                rim[axis] = slice(-_MARGIN, None) if side else slice(0, _MARGIN)
                if not at_edge and inside[clusters[tuple(rim)]].any():
                    grown[axis][side] *= 2
                    cut = True
        if not cut:
            return window, True
        larger = grow()
        if math.prod(s.stop - s.start for s in larger) > most:
            return window, False
        window = larger


def _own_only(instances: NDArray[Any], own: Window) -> NDArray[np.int32]:
    """Keep the objects that have pixels in the block's own part, numbered 1 to n."""
    n = int(instances.max(initial=0))
    kept = np.zeros(n + 1, bool)
    kept[instances[own]] = True
    kept[0] = False
    numbers = np.zeros(n + 1, np.int32)
    numbers[kept] = np.arange(1, np.count_nonzero(kept) + 1)
    own_numbers: NDArray[np.int32] = numbers[instances]
    return own_numbers


def _measure(instances: NDArray[np.int32], own: Window, shape: tuple[int, ...], pieces: _Pieces) -> None:
    """Note size, sum of coordinates, box and first place in the scan of each piece 1 to n."""
    n = int(instances.max(initial=0))
    where = np.nonzero(instances)
    ids = instances[where] - 1
    where = tuple(w + s.start for w, s in zip(where, own))
    first = np.zeros(n, np.int64)
    # of several values for one id the last is kept: backwards, the first in the scan
    first[ids[::-1]] = np.ravel_multi_index(where, shape)[::-1]
    pieces.places.append(first)
    pieces.sizes.append(np.bincount(ids, minlength=n))
    # sums of whole numbers below 2**53 are exact
    pieces.sums.append(np.stack([np.bincount(ids, w, n).astype(np.int64) for w in where], axis=1))
    boxes = [box for box in ndimage.find_objects(instances) if box is not None]
    ends = [[e + s.start for b, s in zip(box, own) for e in (b.start, b.stop)] for box in boxes]
    pieces.boxes.append(np.array(ends, np.int64).reshape(n, 2 * len(shape)))


def _match(instances: NDArray[np.int32], block: _Block, earlier: list[_Block], pieces: _Pieces) -> None:
    """Note which objects of a block are objects of earlier ones."""
    for other in earlier:
        shared = _common(block.window, other.window)
        if shared is None or other.held is None or not other.count:
            continue
        theirs = other.held[_within(shared, other.window)]
        mine = instances[_within(shared, block.window)]
        both = (theirs > 0) & (mine > 0)
        if not both.any():
            continue
        theirs = np.where(theirs > 0, theirs - other.first, 0)
        sizes = np.bincount(theirs.ravel()), np.bincount(mine.ravel())
        keys, common = np.unique(theirs[both] * np.int64(block.count + 1) + mine[both], return_counts=True)
        a, b = np.divmod(keys, block.count + 1)
        same = common > _SAME * (sizes[0][a] + sizes[1][b] - common)
        pieces.pairs.append(np.stack([a[same] + other.first, b[same] + block.first], axis=1) - 1)


def _number(stitched: StitchedInstances, pieces: _Pieces, min_size: int) -> None:
    """Join pieces, drop small objects, and number the others in the order of the scan."""
    ndim = len(stitched.shape)
    if not pieces.places:
        stitched._boxes = np.zeros((0, 2 * ndim), np.int64)
        stitched._sums = np.zeros((0, ndim), np.int64)
        return
    places, sizes = np.concatenate(pieces.places), np.concatenate(pieces.sizes)
    sums, boxes = np.concatenate(pieces.sums), np.concatenate(pieces.boxes)
    pairs = np.concatenate([*pieces.pairs, np.zeros((0, 2), np.int64)])
    graph = sparse.coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (len(places),) * 2)
    n, owner = sparse.csgraph.connected_components(graph, directed=False)
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, owner, places)
    area = np.bincount(owner, sizes, n).astype(np.int64)
    scan = np.argsort(first)
    scan = scan[area[scan] >= min_size]
    number = np.zeros(n, np.int32)
    number[scan] = np.arange(1, len(scan) + 1)
    stitched.count, stitched._numbers = len(scan), np.concatenate([[np.int32(0)], number[owner]])
    stitched._sizes = area[scan]
    total = np.stack([np.bincount(owner, sums[:, i], n).astype(np.int64) for i in range(ndim)], axis=1)
    stitched._sums = total[scan]
    ends = np.full((n, 2 * ndim), np.iinfo(np.int64).max)
    ends[:, 1::2] = 0
    for i in range(2 * ndim):
        (np.maximum if i % 2 else np.minimum).at(ends[:, i], owner, boxes[:, i])
    stitched._boxes = ends[scan]


def _within(part: Window, window: Window) -> Window:
    """Return a part of a window, counted from the window's corner."""
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, window))


def _common(a: Window, b: Window) -> Window | None:
    """Return what two windows share, or None."""
    shared = tuple(slice(max(s.start, t.start), min(s.stop, t.stop)) for s, t in zip(a, b))
    return shared if all(s.start < s.stop for s in shared) else None

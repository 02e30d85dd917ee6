"""The bilateral kernel between all pixels, summed on a grid over place and value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Refused
from .direct import DirectKernel, is_small, pairs_of
from .gaussian import Banded, places_in_cell, spline_coupling, spline_weights

__all__ = ["GridKernel", "Layout", "bilateral_kernel"]

_STEPS = (0.4, 0.5, 0.6, 0.7, 0.8)  # width of a cell in standard deviations: the finest that fits is taken
_FINE = 3  # of them, with which all probabilities were within 0.02 of all pairs
_PATIENCE = 4  # how many times longer an exact sum may take than one on coarser cells
_CELLS = 2**24  # of the grid, at most, as long as cells are not wider than that
_MOST_CELLS = 2**27
_MOST_PAIRS = 2**36  # of pixels, one by one: minutes an update
_SAMPLES = 8  # a cell of an axis of values, from which the coupling of its splines is derived
_PIECE = 2**16  # pixels that are spread at once


@dataclass(frozen=True)
class Layout:
    """How place and value are cut into cells.

    Attributes
    ----------
    sides : tuple of int
        Of a cell, in pixels, an axis.
    places : tuple of int
        Cells along each axis of the image.
    levels : tuple of int
        Cells along each channel.
    degree : int
        Of the splines.
    """

    sides: tuple[int, ...]
    places: tuple[int, ...]
    levels: tuple[int, ...]
    degree: int

    @property
    def cells(self) -> int:
        """Numbers in the grid."""
        return math.prod(n + self.degree for n in (*self.places, *self.levels))

    @property
    def held(self) -> float:
        """Bytes."""
        pixels = math.prod(self.places) * math.prod(self.sides)
        return float(pixels * (8 * (self.degree + 1) ** len(self.levels) + 16) + 12 * self.cells)


def bilateral_kernel(
    image: Tensor, sigma: Sequence[float], theta_beta: float, *, bytes_left: float = math.inf
) -> GridKernel | DirectKernel:
    """Return the bilateral kernel of an image in the way that takes less time: a grid, or all pairs in reach.

    Parameters
    ----------
    image : Tensor of shape (C, \\*spatial), float32
    sigma : sequence of float
        Standard deviation of the place an axis, in pixels.
    theta_beta : float
        Standard deviation of the values.
    bytes_left : float
        What may be taken.

    Raises
    ------
    Refused
        ``out-of-memory`` where neither is possible.
    """
    values = _turned(image) / theta_beta
    if is_small(values.shape[1:]):
        return DirectKernel(values, sigma)
    shape, axes = values.shape[1:], values.ndim - 1 + len(values)
    layouts = [_layout(values, sigma, step) for step in _STEPS]
    small = [one for one in layouts if one.cells <= _CELLS and one.held <= bytes_left]
    layout = small[0] if small else layouts[-1]
    pixels, pairs = math.prod(shape), pairs_of(shape, sigma)
    direct = pairs * (pixels * (3 * len(values) + 12) + 1e5)  # in nanoseconds, about
    grid = pixels * (layout.degree + 1) ** axes + 5 * axes * layout.cells
    if direct < grid * (1 if layout in layouts[:_FINE] else _PATIENCE):
        return DirectKernel(values, sigma)
    if layout.cells <= _MOST_CELLS and layout.held <= bytes_left:
        return GridKernel(values, sigma, layout)
    if pairs * pixels <= _MOST_PAIRS:
        return DirectKernel(values, sigma)
    raise Refused(
        "out-of-memory",
        "the grid of the bilateral kernel does not fit into memory",
        got=f"{layout.held / 1e9:.1f} GB",
        expected=f"at most {min(bytes_left, 12.0 * _MOST_CELLS) / 1e9:.1f} GB",
        do="take a larger theta_beta or theta_alpha, or a smaller image",
    )


def _layout(values: Tensor, sigma: Sequence[float], step: float) -> Layout:
    shape = values.shape[1:]
    sides = [max(1, min(math.floor(step * s), n)) for s, n in zip(sigma, shape)]
    places = [math.ceil(n / side) for n, side in zip(shape, sides)]
    levels = [max(1, math.ceil(span / step)) for span in _spans(values)]
    # cubic splines of several channels would take too much time
    return Layout(tuple(sides), tuple(places), tuple(levels), 3 if len(values) == 1 else 2)


def _spans(values: Tensor) -> list[float]:
    flat = values.flatten(1)
    return [float(span) for span in (flat.amax(1) - flat.amin(1)).cpu()]


def _turned(image: Tensor) -> Tensor:
    """Turn values of several channels to their principal axes, if that makes their box smaller."""
    if len(image) == 1:
        return image
    flat = image.flatten(1)
    centred = (flat - flat.mean(1, keepdim=True)).double()
    _, axes = torch.linalg.eigh(centred @ centred.T)
    turned = (axes.T @ centred).to(torch.float32).reshape(image.shape)
    return turned if math.prod(_spans(turned)) < math.prod(_spans(image)) else image


class GridKernel:
    """The Gaussian of the distance times the Gaussian of the difference of values.

    Place and value are one space, whose grid has cells of about half a standard deviation a side. Each pixel
    is spread over the B-splines around it, neighbouring splines are coupled axis by axis, and each
    pixel collects from the splines around it. All pixels of a cell's place are spread over the same splines
    of place, so that only those of value are looked up pixel by pixel.

    Parameters
    ----------
    values : Tensor of shape (C, \\*spatial), float32
        The image, in standard deviations.
    sigma : sequence of float
        Standard deviation of the place an axis, in pixels.
    layout : Layout
    """

    def __init__(self, values: Tensor, sigma: Sequence[float], layout: Layout) -> None:
        self.shape, self.device = tuple(values.shape[1:]), values.device
        self.sides, self.places, self.levels = layout.sides, layout.places, layout.levels
        self.degree = layout.degree
        low = values.flatten(1).amin(1)
        widths = [s / n if s > 0 else 1.0 for s, n in zip(_spans(values), layout.levels)]
        self._couple(sigma, widths)
        self._spread(values, low, widths)

    def _couple(self, sigma: Sequence[float], widths: Sequence[float]) -> None:
        self.axes: list[Banded] = []
        self.near: list[Tensor] = []
        numbers = [
            *zip(self.places, self.sides, sigma),
            *((n, _SAMPLES, _SAMPLES / width) for n, width in zip(self.levels, widths)),
        ]
        for cells, samples, s in numbers:
            coupling, near = spline_coupling(cells, samples, s, self.degree, self.device)
            self.axes.append(coupling)
            self.near.append(near)

    def _spread(self, values: Tensor, low: Tensor, widths: Sequence[float]) -> None:
        """Make the tables that spread pixels over splines."""
        dims, channels, degree = len(self.shape), len(widths), self.degree
        whole = [n * side for n, side in zip(self.places, self.sides)]
        self.padding = [m - n for m, n in zip(whole, self.shape)]
        inside = torch.ones(1, 1)
        for side in self.sides:
            inside = torch.kron(inside, spline_weights(places_in_cell(side, degree).float(), degree))
        self.inside = inside.to(self.device)  # (pixels of a place, splines)
        self.each = math.prod(self.sides)
        nodes = [n + degree for n in self.levels]
        self.planes = math.prod(nodes)
        strides = [math.prod(n + degree for n in self.places[a + 1 :]) for a in range(dims)]
        self.offsets = [
            sum(o * s for o, s in zip(offset, strides)) * self.planes
            for offset in itertools.product(range(degree + 1), repeat=dims)
        ]
        steps = [math.prod(nodes[c + 1 :]) for c in range(channels)]
        corners = torch.tensor(
            [
                sum(o * s for o, s in zip(offset, steps))
                for offset in itertools.product(range(degree + 1), repeat=channels)
            ],
            device=self.device,
        )
        origin = torch.zeros((), dtype=torch.long)
        for n, stride in zip(self.places, strides):
            origin = origin[..., None] + torch.arange(n) * stride
        origin = origin.flatten().to(self.device) * self.planes
        ordered = self._ordered(values)
        diagonal = torch.ones(ordered.shape[1], device=self.device)
        self.pieces: list[_Piece] = []
        blocks = max(1, _PIECE // self.each)
        for first in range(0, len(origin), blocks):
            here = origin[first : first + blocks]
            part = slice(first * self.each, (first + len(here)) * self.each)
            base = torch.zeros(len(here) * self.each, dtype=torch.long, device=self.device)
            weights = []
            for c in range(channels):
                at = ((ordered[c, part] - low[c]) / widths[c]).clamp(0, self.levels[c])
                cell = at.floor().clamp(0, self.levels[c] - 1)
                weights.append(spline_weights(at - cell, degree))
                diagonal[part] *= _diagonal(self.near[dims + c], cell.long(), weights[-1])
                base += cell.long() * steps[c]
            number = torch.arange(len(here), device=self.device).repeat_interleave(self.each)
            columns = (base + number * self.planes)[:, None] + corners
            used = torch.zeros(len(here) * self.planes, dtype=torch.bool, device=self.device)
            used[columns.flatten()] = True
            found = used.nonzero()[:, 0]
            place = torch.empty(len(used), dtype=torch.int32, device=self.device)
            place[found] = torch.arange(len(found), dtype=torch.int32, device=self.device)
            spots = here[found // self.planes] + found % self.planes
            self.pieces.append(_Piece(part, spots, _Table(_products(weights), place[columns], len(found))))
        self._diagonal = self._restored(diagonal[None])[0]
        for axis, (count, side) in enumerate(zip(self.shape, self.sides)):
            position = torch.arange(count, device=self.device)
            weight = spline_weights(places_in_cell(side, degree).float(), degree).to(self.device)
            own = _diagonal(self.near[axis], position // side, weight[position % side])
            self._diagonal *= own.reshape(-1, *[1] * (dims - axis - 1))

    def diagonal(self) -> Tensor:
        """Return the kernel between each pixel and itself, which is 1 but for rounding to the grid."""
        return self._diagonal

    def __call__(self, planes: Tensor) -> Tensor:
        """Return for each pixel the sum over all pixels of kernel times plane; planes are (G, \\*spatial)."""
        ordered = self._ordered(planes)
        out = torch.empty_like(ordered)
        some = max(1, 64 // len(self.offsets))
        for first in range(0, len(planes), some):
            out[first : first + some] = self._filtered(ordered[first : first + some])
        return self._restored(out)

    def _filtered(self, ordered: Tensor) -> Tensor:
        count, sides = len(ordered), [axis.size for axis in self.axes]
        grid = torch.zeros(count, math.prod(sides), device=self.device)
        for piece in self.pieces:
            there = ordered[:, piece.part].T.reshape(-1, self.each, count, 1) * self.inside[:, None]
            spread = piece.table.spread(there.reshape(-1, count * len(self.offsets)))
            for column, (plane, offset) in enumerate(itertools.product(range(count), self.offsets)):
                grid[plane, offset:].index_add_(0, piece.spots, spread[:, column])
        spare = torch.empty(sides, device=self.device)
        for plane in range(count):
            coupled, other = grid[plane].view(sides), spare
            for axis, matrix in enumerate(self.axes):
                coupled, other = matrix(coupled, axis, other), coupled
            if coupled is spare:
                grid[plane] = spare.flatten()
        out = torch.empty_like(ordered)
        for piece in self.pieces:
            near = torch.empty(len(piece.spots), count * len(self.offsets), device=self.device)
            for column, (plane, offset) in enumerate(itertools.product(range(count), self.offsets)):
                near[:, column] = grid[plane, offset:][piece.spots]
            found = piece.table.collect(near).reshape(-1, self.each, count, len(self.offsets))
            out[:, piece.part] = (found * self.inside[:, None]).sum(-1).reshape(-1, count).T
        return out

    def _ordered(self, planes: Tensor) -> Tensor:
        """Bring pixels of one place together: (G, pixels), with zeros beyond the image."""
        pad = [n for amount in reversed(self.padding) for n in (0, amount)]
        padded = F.pad(planes, pad)
        dims = len(self.shape)
        split = padded.reshape(len(planes), *(n for pair in zip(self.places, self.sides) for n in pair))
        order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2)]
        return split.permute(order).reshape(len(planes), -1)

    def _restored(self, ordered: Tensor) -> Tensor:
        """Undo `_ordered`."""
        dims = len(self.shape)
        split = ordered.reshape(len(ordered), *self.places, *self.sides)
        order = [0, *(a + 1 + dims * b for a in range(dims) for b in range(2))]
        whole = [n * side for n, side in zip(self.places, self.sides)]
        padded = split.permute(order).reshape(len(ordered), *whole)
        return padded[(slice(None), *(slice(n) for n in self.shape))].contiguous()


class _Table:
    """A sparse matrix from grid to pixels with equally many numbers a row; SciPy's where it can be used.

    PyTorch's own product with a transposed sparse matrix is many times slower on a processor.
    """

    def __init__(self, weights: Tensor, columns: Tensor, width: int, *, scipy: bool = True) -> None:
        rows, each = weights.shape
        self.matrix: Any
        if scipy and weights.device.type == "cpu":
            from scipy.sparse import csr_array

            ends = torch.arange(0, rows * each + 1, each, dtype=torch.int32).numpy()
            parts = (weights.flatten().numpy(), columns.flatten().numpy(), ends)
            self.matrix = csr_array(parts, shape=(rows, width))
        else:
            row = torch.arange(rows, device=weights.device).repeat_interleave(each)
            places = torch.stack([row, columns.flatten().long()])
            self.matrix = torch.sparse_coo_tensor(
                places, weights.flatten(), (rows, width), check_invariants=False
            ).coalesce()
            self.turned = self.matrix.t().coalesce()

    def spread(self, pixels: Tensor) -> Tensor:
        if isinstance(self.matrix, Tensor):
            found: Tensor = torch.sparse.mm(self.turned, pixels)
            return found
        return torch.from_numpy(self.matrix.T @ pixels.numpy())

    def collect(self, grid: Tensor) -> Tensor:
        if isinstance(self.matrix, Tensor):
            found: Tensor = torch.sparse.mm(self.matrix, grid)
            return found
        return torch.from_numpy(self.matrix @ grid.numpy())


@dataclass(frozen=True)
class _Piece:
    part: slice
    """Of the ordered pixels."""
    spots: Tensor
    """Where in the grid the first spline of place of each column of the table lies."""
    table: _Table


def _products(weights: Sequence[Tensor]) -> Tensor:
    """Return all products of the weights of several axes: (pixels, n) each, to (pixels, n^axes)."""
    out = weights[0]
    for other in weights[1:]:
        out = (out[:, :, None] * other[:, None, :]).flatten(1)
    return out


def _diagonal(near: Tensor, cell: Tensor, weights: Tensor) -> Tensor:
    """Return ``b T b^T`` of one axis for pixels whose splines begin at ``cell``."""
    count = weights.shape[1]
    out = torch.zeros_like(weights[:, 0])
    for a in range(count):
        for b in range(a, count):
            times = 1 if a == b else 2
            out += times * weights[:, a] * weights[:, b] * near[cell + a, b - a]
    return out

"""The bilateral kernel between all pixels, summed on a grid over place and value."""

from __future__ import annotations

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
from .layout import Layout, cells_along, layout_of, turned

__all__ = ["GridKernel", "bilateral_kernel"]

_STEPS = (0.4, 0.5, 0.6, 0.7, 0.8)  # width of a cell in standard deviations: the finest in reach is taken
_FINE = 0.6  # with which all probabilities were within 0.02 of all pairs
_PATIENCE = 4  # how many times longer an exact sum may take than one on coarser cells
_CELLS = 2**24  # of the grid, at most, as long as cells are not wider than that
_WORK = 4e3  # to couple the splines of a plane, a pixel: about half of what the pixel itself takes
_MOST_CELLS = 2**27
_MOST_PAIRS = 2**36  # of pixels, one by one: minutes an update
_SAMPLES = 8  # a cell of an axis of values, from which the coupling of its splines is derived
_CHUNK = 2**14  # columns of the grid that are coupled at once


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
        ``out-of-memory`` where neither is possible, ``bad-argument`` where float32 does not hold the values
        in units of ``theta_beta``.
    """
    values = turned(image, theta_beta)
    if not values.isfinite().all():
        raise Refused(
            "bad-argument",
            "theta_beta is too small for the values of the image",
            got=f"{theta_beta:g} for values up to {float(image.abs().max()):.3g}",
            do="give it in the unit of the image",
        )
    shape = values.shape[1:]
    if is_small(shape, bytes_left):
        return DirectKernel(values, sigma, bytes_left)
    pixels, pairs = math.prod(shape), pairs_of(shape, sigma)
    direct = pairs * (pixels * (3 * len(values) + 12) + 1e5)  # in nanoseconds, about
    layout = _finest(values, sigma, bytes_left)
    if layout:
        corners = (layout.degree + 1) ** (len(shape) + len(values))
        grid = pixels * corners + layout.work / 30 + 5 * layout.cells
        if direct < grid * (1 if layout.step <= _FINE else _PATIENCE):
            return DirectKernel(values, sigma, bytes_left)
        if layout.cells <= _MOST_CELLS and layout.held <= bytes_left:
            return GridKernel(values, sigma, layout)
    if pairs * pixels <= _MOST_PAIRS:
        return DirectKernel(values, sigma, bytes_left)
    raise Refused(
        "out-of-memory",
        "the grid of the bilateral kernel does not fit into memory",
        got=f"{layout.held / 1e9:.1f} GB" if layout else "more kinds of values than a grid can hold",
        expected=f"at most {min(bytes_left, 12.0 * _MOST_CELLS) / 1e9:.1f} GB",
        do="take a larger theta_beta or theta_alpha, or a smaller image",
    )


def _finest(values: Tensor, sigma: Sequence[float], bytes_left: float) -> Layout | None:
    """Return the finest layout in reach of memory and time, or the coarsest where none is."""
    most, one = _WORK * math.prod(values.shape[1:]), None
    for step in _STEPS:
        one = layout_of(values, sigma, step, bytes_left)
        quick = one and (one.full <= _CELLS or (one.cells <= _CELLS and one.work <= most))
        if one and quick and one.held <= bytes_left:
            break
    return one


class GridKernel:
    """The Gaussian of the distance times the Gaussian of the difference of values.

    Place and value are one space, whose grid has cells of about half a standard deviation a side. Each pixel
    is spread over the B-splines around it, neighbouring splines are coupled axis by axis, and each
    pixel collects from the splines around it. All pixels of a cell's place are spread over the same splines
    of place, so that only those of value are looked up pixel by pixel.

    The grid lies in memory as (splines of place along the first axis, splines of value, planes, splines of
    place along the other axes). Its memory is kept from one call to the next, for to be given new memory
    can take longer than to fill it.

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
        self.layout, self.sides, self.places = layout, layout.sides, layout.places
        self.beyond = math.prod(layout.nodes[1:])  # splines of place along all axes but the first
        self.grid = torch.empty(layout.together * layout.cells, device=self.device)
        self.slices = self.grid.new_empty(2, layout.together * self.beyond * (max(layout.rows) + 1))
        self._couple(sigma)
        self._route()
        self._spread(values)

    def _couple(self, sigma: Sequence[float]) -> None:
        layout = self.layout
        self.axes: list[Banded] = []
        self.near: list[Tensor] = []
        numbers = [
            *zip(self.places, self.sides, sigma),
            *((n, _SAMPLES, _SAMPLES / width) for n, width in zip(layout.levels, layout.widths.tolist())),
        ]
        for cells, samples, s in numbers:
            coupling, near = spline_coupling(cells, samples, s, layout.degree, self.device)
            self.axes.append(coupling)
            self.near.append(near)

    def _route(self) -> None:
        """Find which row each line of each axis of values begins with, and where the last rows end up."""
        layout, used = self.layout, self.layout.used
        place = torch.empty(layout.box, dtype=torch.int32, device=self.device)
        rows, self.routes = used, []
        for size, step, (before, after) in zip(layout.levels, layout.steps, layout.lines):
            place.fill_(len(rows))  # the row of zeros
            place[rows] = torch.arange(len(rows), dtype=torch.int32, device=self.device)
            along = torch.arange(size + layout.degree, device=self.device) * step
            rows = (along[:, None, None] + before[:, None] + after).flatten()
            self.routes.append(place[rows])
        place[rows] = torch.arange(len(rows), dtype=torch.int32, device=self.device)
        self.routes.append(place[used])

    def _spread(self, values: Tensor) -> None:
        """Make the tables that spread pixels over splines."""
        layout, degree, dims = self.layout, self.layout.degree, len(self.shape)
        whole = [n * side for n, side in zip(self.places, self.sides)]
        self.padding = [m - n for m, n in zip(whole, self.shape)]
        inside = torch.ones(1, 1)
        for side in self.sides:
            inside = torch.kron(inside, spline_weights(places_in_cell(side, degree).float(), degree))
        self.inside = inside.to(self.device)  # (pixels of a place, splines)
        self.each = math.prod(self.sides)
        origin = torch.zeros((), dtype=torch.long)
        for axis, n in enumerate(self.places):
            origin = origin[..., None] + torch.arange(n) * self._stride(axis)
        origin = origin.flatten().to(self.device)
        corners = torch.zeros((), dtype=torch.long, device=self.device)
        for step in layout.steps:
            corners = corners[..., None] + torch.arange(degree + 1, device=self.device) * step
        number = torch.zeros(layout.box, dtype=torch.int32, device=self.device)
        number[layout.used] = torch.arange(len(layout.used), dtype=torch.int32, device=self.device)
        ordered = self._ordered(values)
        diagonal = torch.ones(ordered.shape[1], device=self.device)
        self.pieces: list[_Piece] = []
        for first in range(0, len(origin), layout.blocks):
            here = origin[first : first + layout.blocks]
            part = slice(first * self.each, (first + len(here)) * self.each)
            base = torch.zeros(len(here) * self.each, dtype=torch.long, device=self.device)
            weights = []
            for c, levels in enumerate(layout.levels):
                cell, inner = cells_along(ordered[c, part], layout.low[c], layout.widths[c], levels)
                weights.append(spline_weights(inner, degree))
                diagonal[part] *= _diagonal(self.near[dims + c], cell, weights[-1])
                base += cell * layout.steps[c]
            self.pieces.append(self._piece(part, here, number[base[:, None] + corners.flatten()], weights))
        self._diagonal = self._restored(diagonal[None])[0]
        for axis, (count, side) in enumerate(zip(self.shape, self.sides)):
            position = torch.arange(count, device=self.device)
            weight = spline_weights(places_in_cell(side, degree).float(), degree).to(self.device)
            own = _diagonal(self.near[axis], position // side, weight[position % side])
            self._diagonal *= own.reshape(-1, *[1] * (dims - axis - 1))

    def _piece(self, part: slice, here: Tensor, columns: Tensor, weights: Sequence[Tensor]) -> _Piece:
        """Return the table of some cells of place, whose splines begin at ``here`` in a grid of one plane."""
        used = len(self.layout.used)
        number = torch.arange(len(here), device=self.device).repeat_interleave(self.each)
        columns = columns + number[:, None] * used
        touched = torch.zeros(len(here) * used, dtype=torch.bool, device=self.device)
        touched[columns.flatten()] = True
        found = touched.nonzero()[:, 0]
        place = torch.empty(len(touched), dtype=torch.int32, device=self.device)
        place[found] = torch.arange(len(found), dtype=torch.int32, device=self.device)
        spots = here[found // used] + found % used * self.beyond
        return _Piece(part, spots.int(), _Table(_products(weights), place[columns], len(found)))

    def _stride(self, axis: int) -> int:
        """Return how far splines of place are apart in a grid of one plane."""
        if axis == 0:
            return (len(self.layout.used) + 1) * self.beyond
        return math.prod(self.layout.nodes[axis + 1 :])

    def diagonal(self) -> Tensor:
        """Return the kernel between each pixel and itself, which is 1 but for rounding to the grid."""
        return self._diagonal

    def __call__(self, planes: Tensor) -> Tensor:
        """Return for each pixel the sum over all pixels of kernel times plane; planes are (G, \\*spatial)."""
        ordered = self._ordered(planes)
        out = torch.empty_like(ordered)
        for first in range(0, len(planes), self.layout.together):
            some = slice(first, first + self.layout.together)
            self._filter(ordered[some], out[some])
        return self._restored(out)

    def _filter(self, ordered: Tensor, out: Tensor) -> None:
        count = len(ordered)
        grid = self.grid[: count * self.layout.cells].zero_()
        corners = self._corners(count)
        splines = len(corners) // count  # of place
        for piece in self.pieces:
            there = ordered[:, piece.part].T.reshape(-1, self.each, count, 1) * self.inside[:, None]
            spread = piece.table.spread(there.reshape(-1, count * splines))
            grid.index_add_(0, self._at(piece, corners, count), spread.flatten())
        self._blur(grid, count)
        for piece in self.pieces:
            near = grid.index_select(0, self._at(piece, corners, count)).reshape(-1, count * splines)
            found = piece.table.collect(near).reshape(-1, self.each, count, splines)
            out[:, piece.part] = torch.linalg.vecdot(found, self.inside[:, None]).reshape(-1, count).T

    def _corners(self, count: int) -> Tensor:
        """Return how far the splines of place around a pixel are from the first one, for each plane."""
        far = torch.arange(count, dtype=torch.int32, device=self.device) * self.beyond
        for axis in range(len(self.shape)):
            stride = self._stride(axis) * (count if axis == 0 else 1)
            steps = torch.arange(self.layout.degree + 1, dtype=torch.int32, device=self.device)
            far = far[..., None] + steps * stride
        return far.flatten()

    def _at(self, piece: _Piece, corners: Tensor, count: int) -> Tensor:
        """Return where the splines that a piece touches lie in the grid of ``count`` planes."""
        first = piece.spots + piece.spots.div(self.beyond, rounding_mode="floor") * (
            (count - 1) * self.beyond
        )
        return (first[:, None] + corners).flatten()

    def _blur(self, grid: Tensor, count: int) -> None:
        """Couple near splines, in place."""
        nodes = self.layout.nodes
        whole = grid.view(nodes[0], -1)
        for first in range(0, whole.shape[1], _CHUNK):
            part = whole[:, first : first + _CHUNK]
            part.copy_(self.axes[0](part, 0))
        for row in whole:
            held = row.view(-1, count, *nodes[1:])
            rows = held
            for axis in range(1, len(nodes)):
                rows = self.axes[axis](rows, axis + 1)
            rows = rows.reshape(len(held), -1)
            for route, matrix in zip(self.routes, self.axes[len(nodes) :]):
                shape = len(route) + 1, rows.shape[1]
                picked, found = (one[: math.prod(shape)].view(shape) for one in self.slices)
                torch.index_select(rows, 0, route, out=picked[:-1])
                matrix(picked[:-1].view(matrix.size, -1), 0, found[:-1].view(matrix.size, -1))
                found[-1] = 0
                rows = found
            torch.index_select(rows, 0, self.routes[-1], out=held[:-1].view(-1, rows.shape[1]))

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
    """A sparse matrix from grid to pixels with equally many numbers a row.

    `embedding_bag` collects, and is fast. SciPy, where it can be used, spreads without a second table.
    """

    def __init__(self, weights: Tensor, columns: Tensor, width: int, *, scipy: bool = True) -> None:
        self.weights, self.columns = weights, columns
        rows, each = weights.shape
        self.turned: Any
        if scipy and weights.device.type == "cpu":
            from scipy.sparse import csc_array

            ends = torch.arange(0, rows * each + 1, each, dtype=torch.int32).numpy()
            parts = (weights.flatten().numpy(), columns.flatten().numpy(), ends)
            self.turned = csc_array(parts, shape=(width, rows))
        else:
            flat, order = columns.flatten().sort(stable=True)
            starts = torch.searchsorted(flat, torch.arange(width, dtype=flat.dtype, device=flat.device))
            self.turned = (order // each, starts, weights.flatten()[order])

    def spread(self, pixels: Tensor) -> Tensor:
        if isinstance(self.turned, tuple):
            rows, starts, weights = self.turned
            return F.embedding_bag(rows, pixels, starts, per_sample_weights=weights, mode="sum")
        return torch.from_numpy(self.turned @ pixels.numpy())

    def collect(self, grid: Tensor) -> Tensor:
        return F.embedding_bag(self.columns, grid, per_sample_weights=self.weights, mode="sum")


@dataclass(frozen=True)
class _Piece:
    part: slice
    """Of the ordered pixels."""
    spots: Tensor
    """Where in the grid of one plane the first spline of place of each column of the table lies."""
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

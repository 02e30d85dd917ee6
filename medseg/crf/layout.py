"""How the space of place and value is cut into cells for the grid of the bilateral kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .gaussian import band_width

__all__ = ["Layout", "cells_along", "layout_of", "turned"]

_MOST_BOX = 2**24  # splines of value in the box around all values: more are not looked at
_PIECE = 2**15  # pixels that are spread at once, at most
_SPOTS = 2**18  # splines of a place and a value that they touch, at most
_COLUMNS = 64  # planes times splines of place that are worked on at once, at most
_ROOM = 2**25  # numbers of the grids of all planes that are worked on at once, at most


@dataclass(frozen=True, eq=False)
class Layout:
    """How place and value are cut into cells.

    Only splines of value that some pixel touches are held: the values of an image fill little of the box
    around them. Between two axes of that box only such lines are kept as begin and end at those splines.

    Attributes
    ----------
    step : float
        Width of a cell, at most, in standard deviations.
    sides : tuple of int
        Of a cell, in pixels, an axis.
    places : tuple of int
        Cells along each axis of the image.
    levels : tuple of int
        Cells along each channel.
    degree : int
        Of the splines.
    low, widths : Tensor of shape (C,)
        The least value and the width of a cell of each channel, in standard deviations.
    used : Tensor of shape (U,)
        Numbers in the box of the splines of value that are touched, ascending.
    lines : tuple of (Tensor, Tensor), one a channel
        What of the numbers in the box comes from the channels before it, and from those after it.
    together : int
        Planes that are summed at once.
    """

    step: float
    sides: tuple[int, ...]
    places: tuple[int, ...]
    levels: tuple[int, ...]
    degree: int
    low: Tensor
    widths: Tensor
    used: Tensor
    lines: tuple[tuple[Tensor, Tensor], ...]
    together: int = 1

    @property
    def nodes(self) -> tuple[int, ...]:
        """Splines along each axis of the image."""
        return tuple(n + self.degree for n in self.places)

    @property
    def steps(self) -> tuple[int, ...]:
        """How far the splines of each channel are apart in the box of all splines of value."""
        counts = [n + self.degree for n in self.levels]
        return tuple(math.prod(counts[c + 1 :]) for c in range(len(counts)))

    @property
    def box(self) -> int:
        """Splines of value between the least and the largest values."""
        return math.prod(n + self.degree for n in self.levels)

    @property
    def cells(self) -> int:
        """Numbers in the grid of one plane; one more a place is always zero."""
        return math.prod(self.nodes) * (len(self.used) + 1)

    @property
    def full(self) -> int:
        """Numbers in the grid of one plane if all splines of value were held."""
        return math.prod(self.nodes) * self.box

    @property
    def rows(self) -> tuple[int, ...]:
        """Splines of value, touched or on the way, when an axis of them is coupled."""
        return tuple(
            (n + self.degree) * len(before) * len(after)
            for n, (before, after) in zip(self.levels, self.lines)
        )

    @property
    def work(self) -> float:
        """Multiplications and additions that couple the splines of one plane."""
        most = band_width(1 / self.step)
        value = sum(min(n + self.degree, most) * rows for n, rows in zip(self.levels, self.rows))
        return 2.0 * (math.prod(self.nodes) * value + self.cells * sum(min(n, most) for n in self.nodes))

    @property
    def blocks(self) -> int:
        """Cells of place whose pixels are spread at once."""
        return max(1, min(_PIECE // math.prod(self.sides), _SPOTS // self._touched))

    @property
    def held(self) -> float:
        """Bytes."""
        return self._tables + self.together * self._plane

    @property
    def _touched(self) -> int:
        """Splines of value that the pixels of one cell of place touch, at most."""
        corners: int = (self.degree + 1) ** len(self.levels)
        return min(len(self.used), math.prod(self.sides) * corners)

    @property
    def _tables(self) -> float:
        count = math.prod(self.places)
        each = 8 * (self.degree + 1) ** len(self.levels) + 16
        return float(
            count * math.prod(self.sides) * each
            + 8 * count * self._touched
            + 16 * self.box
            + 4 * sum(self.rows)
        )

    @property
    def _plane(self) -> float:
        """Bytes of one plane that is summed: its grid, a slice of it on its way, and what a piece needs."""
        slices = 2 * (max(self.rows) + 1) * math.prod(self.nodes[1:])
        piece = self.blocks * (3 * self._touched + 3 * math.prod(self.sides))
        corners: int = (self.degree + 1) ** len(self.places)
        return 4.0 * (self.cells + slices + piece * corners)


def turned(image: Tensor, theta_beta: float) -> Tensor:
    """Return values around 0 in standard deviations, on their principal axes if that makes their box smaller.

    Parameters
    ----------
    image : Tensor of shape (C, \\*spatial), float32
    theta_beta : float

    Returns
    -------
    Tensor of shape (C, \\*spatial), float32
        The widest channels first and last, for what lies between them is coupled from end to end.

    Examples
    --------
    A grey image in three channels has values along a line.

    >>> grey = torch.linspace(0, 1, 4).expand(3, 1, 4)
    >>> [round(most, 3) for most in turned(grey, 0.5).flatten(1).abs().amax(1).tolist()]
    [0.0, 0.0, 1.732]
    """
    values = image - image.flatten(1).mean(1).reshape(-1, *[1] * (image.ndim - 1))
    values = values / theta_beta
    if len(image) == 1 or not values.isfinite().all():
        return values
    flat = values.flatten(1).double()
    _, axes = torch.linalg.eigh(flat @ flat.T)
    other = (axes.T @ flat).to(torch.float32).reshape(image.shape)
    values = other if _volume(other) < _volume(values) else values
    spans = _spans(values)
    widest = sorted(range(len(spans)), key=lambda channel: -spans[channel])
    return values[[*widest[1::2], *reversed(widest[::2])]]


def layout_of(
    values: Tensor, sigma: Sequence[float], step: float, bytes_left: float = math.inf
) -> Layout | None:
    """Return the layout with cells of ``step`` standard deviations, if the box of values is not too large.

    Parameters
    ----------
    values : Tensor of shape (C, \\*spatial), float32
        The image, in standard deviations.
    sigma : sequence of float
        Standard deviation of the place an axis, in pixels.
    step : float
    bytes_left : float
        As many planes are summed at once as fit.
    """
    shape, spans = values.shape[1:], _spans(values)
    sides = [max(1, min(math.floor(step * s), n)) for s, n in zip(sigma, shape)]
    places = [math.ceil(n / side) for n, side in zip(shape, sides)]
    levels = [max(1, math.ceil(span / step)) for span in spans]
    degree = 3 if len(values) == 1 else 2  # cubic splines of several channels would take too much time
    if math.prod(n + degree for n in levels) > _MOST_BOX:
        return None
    low = values.flatten(1).amin(1)
    widths = [span / n if span > 0 else 1.0 for span, n in zip(spans, levels)]
    per_cell = torch.tensor(widths, device=values.device)
    used = _touched(values, low, per_cell, levels, degree)
    lines, step_of = [], 1
    for n in reversed(levels):
        over = step_of * (n + degree)
        before = torch.unique(used.div(over, rounding_mode="floor")) * over
        lines.append((before, torch.unique(used % step_of)))
        step_of = over
    whole = tuple(sides), tuple(places), tuple(levels)
    one = Layout(step, *whole, degree, low, per_cell, used, tuple(reversed(lines)))
    most = min(
        _COLUMNS // (degree + 1) ** len(shape),
        _ROOM // one.cells,
        (bytes_left - one._tables) / one._plane,
    )
    return replace(one, together=max(1, math.floor(most)))


def cells_along(values: Tensor, low: Tensor, width: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the cell of one channel that each value lies in, and where in it, in [0, 1]."""
    at = ((values - low) / width).clamp(0, levels)
    cell = at.floor().clamp(0, levels - 1)
    return cell.long(), at - cell


def _touched(values: Tensor, low: Tensor, widths: Tensor, levels: Sequence[int], degree: int) -> Tensor:
    """Return the numbers of the splines of value that any pixel touches."""
    cells = [cells_along(values[c].flatten(), low[c], widths[c], n)[0] for c, n in enumerate(levels)]
    touched = torch.zeros([n + degree for n in levels], dtype=torch.bool, device=values.device)
    touched[tuple(cells)] = True
    for axis, n in enumerate(levels):
        first = touched.narrow(axis, 0, n).clone()
        for further in range(1, degree + 1):
            touched.narrow(axis, further, n).logical_or_(first)
    return touched.flatten().nonzero()[:, 0]


def _spans(values: Tensor) -> list[float]:
    flat = values.flatten(1)
    return [float(span) for span in (flat.amax(1) - flat.amin(1)).cpu()]


def _volume(values: Tensor) -> float:
    return math.prod(max(1.0, span) for span in _spans(values))

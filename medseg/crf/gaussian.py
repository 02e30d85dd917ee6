"""Matrices that couple near positions of one axis, applied to it in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Banded", "band_width", "gaussian", "places_in_cell", "spline_coupling", "spline_weights"]

_REACH = 4.5  # standard deviations: what lies farther away weighs less than 5e-5
_MORE = 12  # cells that the projection on splines spreads farther
_BLOCK = 64  # rows of a block, at least
_RIDGE = 1e-9  # of the diagonal, for splines that no sample tells apart


@dataclass(frozen=True)
class Banded:
    """A square matrix that is zero far from its diagonal, as blocks of rows.

    Attributes
    ----------
    size : int
        Rows and columns.
    blocks : tuple of (int, int, Tensor)
        First row, first column and the part of the matrix that starts there. What is in no part is zero.
    """

    size: int
    blocks: tuple[tuple[int, int, Tensor], ...]

    def __call__(self, array: Tensor, axis: int, out: Tensor | None = None) -> Tensor:
        """Return the product with the matrix along one axis, written into ``out`` where that is given."""
        out = torch.empty_like(array, memory_format=torch.contiguous_format) if out is None else out
        before, after = math.prod(array.shape[:axis]), math.prod(array.shape[axis + 1 :])
        flat, found = (one.reshape(before, self.size, after) for one in (array, out))
        for row, column, part in self.blocks:
            there = flat[:, column : column + part.shape[1]]
            here = found[:, row : row + part.shape[0]]
            if after > 1 and len(self.blocks) > 1:
                here.copy_(part @ there)
            elif after > 1:
                torch.bmm(part.expand(before, *part.shape), there, out=here)
            elif len(self.blocks) > 1:
                here[..., 0] = there[..., 0] @ part.mT
            else:
                torch.mm(there[..., 0], part.mT, out=here[..., 0])
        return out


def gaussian(size: int, sigma: float, device: torch.device) -> Banded:
    """Return the Gaussian ``exp(-(i - j)^2 / (2 sigma^2))`` of the positions 0 to ``size - 1``.

    Examples
    --------
    >>> gaussian(3, 1.0, torch.device("cpu"))(torch.tensor([0.0, 1.0, 0.0]), 0)
    tensor([0.6065, 1.0000, 0.6065])
    """

    def part(rows: Tensor, columns: Tensor) -> Tensor:
        return (-((rows[:, None] - columns) ** 2) / (2 * sigma**2)).exp()

    return _banded(size, math.ceil(_REACH * sigma), part, device)


def spline_weights(position: Tensor, degree: int) -> Tensor:
    """Return the B-splines that are not zero at a position in [0, 1] of a cell, along a new last axis.

    Parameters
    ----------
    position : Tensor
    degree : int
        2 (quadratic, three splines) or 3 (cubic, four).

    Examples
    --------
    >>> spline_weights(torch.tensor([0.0, 0.5]), 2)
    tensor([[0.5000, 0.5000, 0.0000],
            [0.1250, 0.7500, 0.1250]])
    """
    t, rest = position, 1 - position
    if degree == 2:
        return torch.stack([rest**2 / 2, 0.5 + t * rest, t**2 / 2], dim=-1)
    inner = [2 / 3 - t**2 + t**3 / 2, 2 / 3 - rest**2 + rest**3 / 2]
    return torch.stack([rest**3 / 6, *inner, t**3 / 6], dim=-1)


def places_in_cell(samples: int, degree: int) -> Tensor:
    """Return where in [0, 1] the samples of a cell lie: so that even one sample tells the splines apart.

    Examples
    --------
    >>> places_in_cell(2, 2).tolist(), places_in_cell(2, 3).tolist()
    ([0.25, 0.75], [0.0, 0.5])
    """
    return (torch.arange(samples, dtype=torch.float64) + (0.5 if degree % 2 == 0 else 0.0)) / samples


def spline_coupling(
    cells: int, samples: int, sigma: float, degree: int, device: torch.device
) -> tuple[Banded, Tensor]:
    """Return how splines are coupled so that points between them are coupled by a Gaussian.

    The matrix ``T`` for which ``B T B^T`` is nearest to the Gaussian of all pairs of samples, where ``B``
    holds the splines at the samples: the Gaussian between the projections on the splines. Like the Gaussian
    itself it has no negative eigenvalue.

    Parameters
    ----------
    cells : int
        Cells of the axis; there are ``degree`` splines more.
    samples : int
        Samples a cell, see `places_in_cell`.
    sigma : float
        Standard deviation, in samples.
    degree : int
        Of the splines.
    device : torch.device

    Returns
    -------
    coupling : Banded
        ``T``, of size ``cells + degree``.
    near : Tensor of shape (cells + degree, degree + 1)
        ``T`` between a spline and itself and those that follow, for the diagonal of ``B T B^T``.
    """
    reach = math.ceil(_REACH * sigma / samples) + _MORE
    short = min(cells, 4 * reach + 1)  # in the middle of a longer axis all rows are alike
    count, size = short * samples, short + degree
    weights = spline_weights(places_in_cell(samples, degree), degree)
    splines = torch.zeros(short, samples, size, dtype=torch.float64)
    for cell in range(short):
        splines[cell, :, cell : cell + degree + 1] = weights
    splines = splines.reshape(count, size)
    gram = splines.T @ splines
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    project = torch.linalg.solve(gram, splines.T)
    smooth = gaussian(count, sigma, torch.device("cpu"))
    wide = Banded(count, tuple((row, column, part.double()) for row, column, part in smooth.blocks))
    coupling = project @ wide(project.T.contiguous(), 0)
    near = torch.stack([F.pad(coupling.diagonal(offset), (0, offset)) for offset in range(degree + 1)], dim=1)
    more = cells - short

    def alike(rows: Tensor) -> Tensor:
        return rows.minimum((rows - more).clamp_min(size // 2))

    def part(rows: Tensor, columns: Tensor) -> Tensor:
        like = alike(rows.long())
        other = like[:, None] + (columns[None] - rows[:, None]).long()
        found = coupling[like[:, None], other.clamp(0, size - 1)]
        return torch.where((other >= 0) & (other < size), found, 0.0)

    whole = alike(torch.arange(cells + degree))
    return _banded(cells + degree, reach, part, device), near[whole].to(device, torch.float32)


def band_width(sigma: float) -> int:
    """Return how many splines each is coupled with, at most, for a deviation in cells.

    Examples
    --------
    >>> band_width(2.5)
    112
    """
    reach = math.ceil(_REACH * sigma) + _MORE
    return max(_BLOCK, reach) + 2 * reach


def _banded(size: int, reach: int, part: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> Banded:
    step = max(_BLOCK, reach)
    blocks = []
    for row in range(0, size, step):
        stop = min(row + step, size)
        first, last = max(0, row - reach), min(size, stop + reach)
        rows = torch.arange(row, stop, dtype=torch.float64)
        found = part(rows, torch.arange(first, last, dtype=torch.float64))
        blocks.append((row, first, found.to(device, torch.float32)))
    return Banded(size, tuple(blocks))

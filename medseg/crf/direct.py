"""Kernels summed over the pixels themselves: place alone, or place and value where reach is short."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .gaussian import gaussian

__all__ = ["DirectKernel", "SpatialKernel", "is_small", "pairs_of"]

_REACH = 4.0  # standard deviations
_PIXELS = 4096  # of which all pairs are held as one matrix


def pairs_of(shape: Sequence[int], sigma: Sequence[float]) -> int:
    """Return the number of displacements within reach, of two opposite ones one."""
    return (math.prod(2 * r + 1 for r in _reach(shape, sigma)) - 1) // 2


def is_small(shape: Sequence[int], bytes_left: float = math.inf) -> bool:
    """Tell whether all pairs of pixels are held as one matrix."""
    return math.prod(shape) <= _PIXELS and 8 * math.prod(shape) ** 2 <= bytes_left


def _reach(shape: Sequence[int], sigma: Sequence[float]) -> list[int]:
    return [min(math.ceil(_REACH * s), n - 1) for n, s in zip(shape, sigma)]


class DirectKernel:
    """The bilateral kernel as its formula says: all pairs of few pixels, or those within 4 deviations.

    Parameters
    ----------
    values : Tensor of shape (C, \\*spatial), float32
        The image, in standard deviations.
    sigma : sequence of float
        Standard deviation of the place an axis, in pixels.
    bytes_left : float
        What may be taken.
    """

    def __init__(self, values: Tensor, sigma: Sequence[float], bytes_left: float = math.inf) -> None:
        self.shape, self.sigma, self.values = tuple(values.shape[1:]), sigma, values
        self.matrix: Tensor | None = None
        if is_small(self.shape, bytes_left):
            axes = [torch.arange(n, device=values.device) / s for n, s in zip(self.shape, sigma)]
            place = torch.stack(torch.meshgrid(*axes, indexing="ij"))
            points = torch.cat([place, values]).flatten(1).T.contiguous()
            exact = "donot_use_mm_for_euclid_dist"
            far = torch.cdist(points, points, compute_mode=exact)
            self.matrix = far.square_().mul_(-0.5).exp_()

    def diagonal(self) -> Tensor:
        """Return the kernel between each pixel and itself."""
        return torch.ones(())

    def __call__(self, planes: Tensor) -> Tensor:
        """Return for each pixel the sum over all pixels of kernel times plane; planes are (G, \\*spatial)."""
        if self.matrix is not None:
            return (planes.flatten(1) @ self.matrix).reshape(planes.shape)
        out = planes.clone()
        for here, there, weight in self._weights():
            out[(slice(None), *here)] += weight * planes[(slice(None), *there)]
            out[(slice(None), *there)] += weight * planes[(slice(None), *here)]
        return out

    def _weights(self) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], Tensor]]:
        """Yield both ends of all pairs with one displacement, and their weights."""
        spans = [range(-r, r + 1) for r in _reach(self.shape, self.sigma)]
        none = (0,) * len(spans)
        for shift in itertools.product(*spans):
            if shift <= none:
                continue  # the opposite displacement has the same pairs
            here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(shift, self.shape))
            there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(shift, self.shape))
            apart = self.values[(slice(None), *here)] - self.values[(slice(None), *there)]
            far = sum((o / s) ** 2 for o, s in zip(shift, self.sigma))
            yield here, there, apart.square_().sum(0).add_(far).mul_(-0.5).exp_()


class SpatialKernel:
    """The Gaussian of the distance, exact but for what lies farther away than 4.5 standard deviations.

    Parameters
    ----------
    shape : sequence of int
        Of the image.
    sigma : sequence of float
        Standard deviation an axis, in pixels.
    device : torch.device
    """

    def __init__(self, shape: Sequence[int], sigma: Sequence[float], device: torch.device) -> None:
        self.axes = [gaussian(n, s, device) for n, s in zip(shape, sigma)]

    def __call__(self, planes: Tensor) -> Tensor:
        """Return for each pixel the sum over all pixels of kernel times plane; planes are (G, \\*spatial)."""
        for axis, matrix in enumerate(self.axes, start=1):
            planes = matrix(planes, axis)
        return planes

    def diagonal(self) -> Tensor:
        """Return the kernel between each pixel and itself."""
        return torch.ones(())

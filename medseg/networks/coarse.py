"""A network that sees coarse pixels and answers for fine ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from ..tiling import Geometry
from .geometry import geometry_of

__all__ = ["Coarse"]

_MEAN = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


class Coarse(nn.Module):
    """A network between an average over blocks of pixels and a linear interpolation back to pixels.

    It is local where the network is, so that tiles of it give the result of the whole image.

    Parameters
    ----------
    network : torch.nn.Module
        From ``(N, C, *spatial)`` to logits, at the coarse resolution.
    factors : sequence of int
        Pixels an axis that become one.
    in_channels : int
        Channels of its input.

    Examples
    --------
    >>> import torch
    >>> from medseg.networks import UNet
    >>> network = Coarse(UNet(2, 1, 3, channels=(4, 8), padding="same"), (4, 3), 1)
    >>> tuple(network(torch.rand(1, 1, 32, 30)).shape), network.geometry.stride
    ((1, 3, 32, 30), (8, 6))
    """

    def __init__(self, network: nn.Module, factors: Sequence[int], in_channels: int) -> None:
        super().__init__()
        self.network, self.factors = network, tuple(factors)
        inner = geometry_of(network, in_channels, len(self.factors))

        def times(sizes: Sequence[int]) -> tuple[int, ...]:
            return tuple(n * f for n, f in zip(sizes, self.factors))

        # the interpolation reads one coarse pixel beyond those that the network answers for
        halo = None if inner.halo is None else times([h + (f > 1) for h, f in zip(inner.halo, self.factors)])
        self.geometry = Geometry(halo, times(inner.stride), times(inner.shrink), times(inner.minimum))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of images whose sizes the geometry allows."""
        self.geometry.output_size(image.shape[2:])
        axes = len(self.factors)
        logits: Tensor = self.network(_MEAN[axes](image, self.factors))
        size = [n * f for n, f in zip(logits.shape[2:], self.factors)]
        return functional.interpolate(logits, size=size, mode=_LINEAR[axes], align_corners=False)

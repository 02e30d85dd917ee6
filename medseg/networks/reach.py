"""Receptive fields by arithmetic: which pixels a feature is made of, and the geometry that follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..errors import Refused
from ..tiling import Geometry

__all__ = ["Reach", "reach_along", "step_geometry"]

_MOVING = (nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d)
_OTHERWISE = (  # features behind these lie between the pixels, or see all of them
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Upsample,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


@dataclass(frozen=True)
class Reach:
    """What the features of a layer are made of, along one axis.

    Feature ``i`` reads the pixels from ``stride * i - before`` to ``stride * i + after``.

    References
    ----------
    Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, equations
    1 and 2, written for both ends.

    Examples
    --------
    >>> pool = nn.MaxPool2d(3, stride=2, padding=1)
    >>> reach = Reach().through(nn.Conv2d(1, 1, 7, stride=2, padding=3)).through(pool)
    >>> reach.stride, reach.field
    (4, 11)
    """

    stride: int = 1
    before: int = 0
    after: int = 0

    @property
    def field(self) -> int:
        """Size of the receptive field in pixels."""
        return self.before + self.after + 1

    def through(self, layer: nn.Module, axis: int = 0) -> Reach:
        """Return the reach behind a layer; one that moves nothing leaves it as it is.

        Raises
        ------
        Refused
            ``bad-network`` where a convolution pads by a name, or features come to lie in another way.
        """
        if isinstance(layer, _OTHERWISE):
            raise Refused(
                "bad-network",
                "how many pixels are seen is not told from a layer",
                got=type(layer).__name__,
                expected="convolutions, poolings, and layers that leave features in their places",
            )
        if not isinstance(layer, _MOVING):
            return self  # norms, activations and dropout keep the place of every feature
        size, stride, padding, dilation = (
            _entry(getattr(layer, key, 1), axis) for key in ("kernel_size", "stride", "padding", "dilation")
        )
        return Reach(
            self.stride * stride,
            self.before + self.stride * padding,
            self.after + self.stride * (dilation * (size - 1) - padding),
        )

    def beside(self, other: Reach) -> Reach:
        """Return the reach of a sum, or of channels side by side."""
        if self.stride != other.stride:
            raise Refused("bad-network", "features of two strides meet", got=(self.stride, other.stride))
        return replace(self, before=max(self.before, other.before), after=max(self.after, other.after))


def _entry(value: Any, axis: int) -> int:
    if isinstance(value, str):
        raise Refused("bad-network", "the padding of a convolution", got=value, expected="a number")
    return int(value if isinstance(value, int) else value[axis])


def reach_along(run: Callable[..., Any], dims: int, **joins: Callable[..., Any]) -> list[Reach]:
    """Return the reach of each axis behind a network's walk ``run(x, apply, **joins)``.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Conv2d(1, 1, (3, 5)), nn.ReLU())
    >>> def run(x, apply):
    ...     for layer in layers:
    ...         x = apply(layer, x)
    ...     return x
    >>> [reach.field for reach in reach_along(run, 2)]
    [3, 5]
    """
    return [run(Reach(), lambda layer, x, a=axis: x.through(layer, a), **joins) for axis in range(dims)]


def step_geometry(reaches: Sequence[Reach], *, local: bool) -> Geometry:
    """Return the geometry of a network that interpolates features linearly to the pixels between them.

    Feature ``i`` lies on pixel ``stride * i``. A pixel sees the features on either side of it, so a tile's
    rim is fouled as far as to the first feature that sees nothing beyond the tile, and up to the next one.

    Parameters
    ----------
    reaches : sequence of Reach
        Of the features, an entry an axis.
    local : bool
        False where a layer sees the whole input.

    Examples
    --------
    >>> step_geometry([Reach(8, 20, 20)], local=True)
    Geometry(halo=(24,), stride=(8,), shrink=(0,), minimum=(8,), mirror=None)
    """
    stride = tuple(r.stride for r in reaches)
    halo = tuple(r.stride * (max(r.before, r.after) // r.stride + 1) for r in reaches)
    return Geometry(halo if local else None, stride, (0,) * len(stride), stride)

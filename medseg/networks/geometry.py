"""Geometry of a network: derived from its layers, or measured where the layers are not known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import Refused
from ..tiling import Geometry

__all__ = ["as_given", "geometry_of", "measure_geometry", "per_axis", "walk_geometry"]


_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class _Span:
    """One axis on its way through the layers.

    ``size`` is the number of pixels, ``foul`` how many at either end are touched by zero padding: they
    differ between a tile and the whole image. ``odd`` tells that a layer did not divide evenly.
    """

    size: int
    foul: int = 0
    stride: int = 1
    deepest: int = 1
    odd: bool = False


def walk_geometry(
    run: Callable[..., Any],
    dims: int,
    *,
    local: bool,
    largest: int = 4096,
) -> Geometry:
    """Derive the geometry by walking the layers with spans in place of tensors.

    Parameters
    ----------
    run : callable
        ``run(x, apply, join, add)``: the network's walk, see `UNet.run`.
    dims : int
        Axes of an image.
    local : bool
        False where a layer sees the whole input, so that no halo makes tiles exact.
    largest : int
        The smallest legal size is looked for up to here.
    """
    halo, stride, shrink, minimum = [], [], [], []
    for axis in range(dims):

        def through(size: int, axis: int = axis) -> _Span:
            span: _Span = run(_Span(size), lambda layer, x: _pass(layer, x, axis), _join, _join)
            return span

        smallest = next((n for n in range(1, largest) if _legal(through(n))), None)
        if smallest is None:
            raise Refused("bad-network", "no input size up to 4096 is legal", do="use fewer levels")
        step = through(smallest).deepest
        # a small input is fouled from both ends at once, a larger one shows the depth of it
        span = through(smallest + 8 * step)
        lost = (smallest + 8 * step - span.size) // 2
        halo.append(lost + span.foul)
        stride.append(step)
        shrink.append(lost)
        minimum.append(smallest)
    return Geometry(tuple(halo) if local else None, tuple(stride), tuple(shrink), tuple(minimum))


def _legal(span: _Span) -> bool:
    return not span.odd and span.size >= 1


def _pass(layer: nn.Module, x: _Span, axis: int) -> _Span:
    """Size, fouled margin and stride of one axis after a layer."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        k, d, s = layer.kernel_size[axis], layer.dilation[axis], layer.stride[axis]
        p = layer.padding[axis]
        if isinstance(p, str) or s != 1:
            raise Refused("bad-network", "geometry of this convolution is not known", got=layer)
        return _resized(x, size=x.size + 2 * p - d * (k - 1), foul=x.foul + p)
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        k, s, p = layer.kernel_size[axis], layer.stride[axis], int(layer.padding[axis])
        if (layer.output_padding[axis], layer.dilation[axis]) != (0, 1):
            raise Refused("bad-network", "geometry of this up-convolution is not known", got=layer)
        # pixel i goes to the k from i * s - p on: that of the last foul one, or of the first beyond the end
        foul = max(0, (x.foul - 1) * s + k - p)
        return _resized(x, size=(x.size - 1) * s + k - 2 * p, foul=foul, stride=x.stride // s)
    if isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
        size = layer.kernel_size
        k = size if isinstance(size, int) else size[axis]
        up = x.stride * k
        odd = x.odd or x.size % k != 0
        smaller = _resized(x, size=x.size // k, foul=-(-x.foul // k), stride=up)
        return replace(smaller, deepest=max(x.deepest, up), odd=odd or x.size < k)
    return x  # norms, activations and dropout keep the place of every pixel


def _resized(x: _Span, *, size: int, foul: int, stride: int | None = None) -> _Span:
    odd = x.odd or size < 1
    return replace(x, size=size, foul=foul, stride=x.stride if stride is None else stride, odd=odd)


def _join(skip: _Span, x: _Span) -> _Span:
    """Crop the skip connection to ``x``, and concatenate or add: the fouler of both decides."""
    cut = skip.size - x.size
    crop = cut // 2
    foul = max(skip.foul - crop, x.foul)
    uneven = cut < 0 or cut % 2 != 0
    deepest = max(skip.deepest, x.deepest)
    return replace(x, foul=foul, odd=x.odd or skip.odd or uneven, deepest=deepest)


def per_axis(size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """Return one number an axis.

    Examples
    --------
    >>> per_axis(5, 2), per_axis((5, 6), 2)
    ((5, 5), (5, 6))
    """
    if isinstance(size, int):
        return (size,) * dims
    if len(size) != dims:
        raise Refused("bad-size", "one size an axis", got=tuple(size), expected=f"{dims} numbers")
    return tuple(int(n) for n in size)


def as_given(sizes: tuple[int, ...], like: object = 0) -> int | tuple[int, ...]:
    """Return an int where an int was given and all axes are equal, else the tuple.

    Examples
    --------
    >>> as_given((92, 92)), as_given((92, 60)), as_given((4, 4), (1, 1))
    (92, (92, 60), (4, 4))
    """
    return sizes[0] if isinstance(like, int) and len(set(sizes)) == 1 else sizes


def geometry_of(network: nn.Module, in_channels: int, spatial_dims: int) -> Geometry:
    """Return a network's own geometry, or measure it.

    Examples
    --------
    >>> from medseg.networks import UNet, geometry_of
    >>> geometry_of(UNet(2, 1, 2, channels=(2, 4)), 1, 2).halo
    (8, 8)
    """
    own = getattr(network, "geometry", None)
    return own if isinstance(own, Geometry) else measure_geometry(network, in_channels, spatial_dims)


def measure_geometry(
    network: nn.Module, in_channels: int, spatial_dims: int, *, largest: int = 512
) -> Geometry:
    """Measure halo, stride and legal sizes of any network by what one broken pixel breaks.

    An input that is not a number makes exactly those outputs not a number whose receptive field it lies
    in: a convolution, a maximum and a sum all hand it on. So a line of such pixels at each place of an
    axis shows how far the context reaches; where it breaks the whole output, a layer sees everything and
    the halo is None.

    Parameters
    ----------
    network : torch.nn.Module
        From ``(N, in_channels, *spatial)`` to ``(N, classes, *spatial)``. Left as it was.
    in_channels, spatial_dims : int
        What it takes.
    largest : int
        Largest input tried along an axis, in pixels.

    Raises
    ------
    Refused
        ``bad-network`` where no input size up to ``largest`` is taken.

    Examples
    --------
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 5, padding=2))
    >>> measure_geometry(network, 1, 2)
    Geometry(halo=(3, 3), stride=(1, 1), shrink=(0, 0), minimum=(1, 1), mirror=None)
    """
    thin = _thin(copy.deepcopy(network).cpu().float().eval())
    probe = _Probe(thin, in_channels, spatial_dims, largest)
    axes: list[tuple[int | None, int, int, int]] = []
    for axis in range(spatial_dims):
        # where one axis has no halo there is none, so that of the others need not be measured
        axes.append(probe.axis(axis, local=all(a[0] is not None for a in axes)))
    halo = tuple(a[0] for a in axes if a[0] is not None)
    return Geometry(
        halo if len(halo) == spatial_dims else None,
        tuple(a[1] for a in axes),
        tuple(a[2] for a in axes),
        tuple(a[3] for a in axes),
    )


def _thin(network: nn.Module) -> nn.Module:
    """Let the convolutions of a network compute one channel, in place: what is broken stays the same.

    A sum of products is not a number where one of its terms is not, whatever the weights are. So all output
    channels are broken where that of one convolution of the sum of all input channels is, and in volumes
    that is many times quicker.
    """
    for layer in network.modules():
        if type(layer) in _CONVOLUTIONS and layer.groups == 1 and not layer._forward_pre_hooks:
            layer.forward = _OneChannel(layer)
    return network


class _OneChannel:
    """The forward pass of a convolution from one channel to one, repeated to as many as it has."""

    def __init__(self, layer: Any) -> None:
        keys = ["kernel_size", "stride", "padding", "dilation", "padding_mode"]
        keys += ["output_padding"] if layer.transposed else []
        self.layer = type(layer)(1, 1, **{key: getattr(layer, key) for key in keys})
        self.channels = layer.out_channels

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = self.layer(x.sum(1, keepdim=True), *args, **kwargs)
        return out.repeat(1, self.channels, *[1] * (out.ndim - 2))  # memory of its own: it may be written to


class _Probe:
    """Sends inputs of one varied axis through a network, the other axes as short as it takes them."""

    def __init__(self, network: nn.Module, channels: int, dims: int, largest: int) -> None:
        self.network, self.channels, self.dims, self.largest = network, channels, dims, largest
        sizes = [*range(1, 33), *range(36, largest + 1, 4)]
        cube = next((n for n in sizes if self.run((n,) * dims) is not None), None)
        if cube is None:
            raise Refused("bad-network", f"the network takes no input of up to {largest} pixels a side")
        self.cube = cube
        self.lost: dict[tuple[int, int], int] = {}
        self.other = [cube] * dims
        fit = [
            [n for n in sizes if n <= cube and self.run(self.shape(n, a)) is not None] for a in range(dims)
        ]
        self.shortest = [min(found, default=cube) for found in fit]
        if self.run(self.shortest) is not None:  # axes of smaller strides and kernels may be shorter
            self.other = self.shortest

    def run(self, shape: Sequence[int], axis: int = 0, line: int | None = None) -> torch.Tensor | None:
        """Return which places along ``axis`` are broken, or None where the size is not taken."""
        image = torch.zeros(1, self.channels, *shape)
        if line is not None:
            image.select(2 + axis, line).fill_(float("nan"))
        try:
            with torch.inference_mode():
                out: torch.Tensor = self.network(image)
        except (RuntimeError, ValueError):  # each network tells an illegal size in its own way
            return None
        if out.ndim != image.ndim or min(out.shape[2:]) < 1:
            return None
        return out.isnan().any(dim=[d for d in range(out.ndim) if d != 2 + axis])

    def shape(self, n: int, axis: int) -> list[int]:
        return [n if a == axis else self.other[a] for a in range(self.dims)]

    def axis(self, axis: int, *, local: bool) -> tuple[int | None, int, int, int]:
        """Return halo, stride, shrink and minimum of one axis; no halo where the network is not local."""
        aperiodic = None
        for stride in (1, 2, 4, 8, 16, 32, 64):
            sizes = self._sizes(axis, stride)
            if sizes is None:
                continue
            minimum, shrink = sizes
            halo = self._halo(axis, stride, minimum, shrink) if local else math.inf
            if halo == math.inf:
                return None, stride, shrink, minimum
            if halo is not None:
                return int(halo), stride, shrink, minimum
            aperiodic = aperiodic or (None, stride, shrink, minimum)
        if aperiodic is None:
            raise Refused("bad-network", "the output does not keep a fixed distance to the input's border")
        return aperiodic

    def _sizes(self, axis: int, stride: int) -> tuple[int, int] | None:
        """Return the smallest size from which sizes ``stride`` apart all lose the same border."""
        for first in range(max(1, self.shortest[axis] - stride), self.cube + stride + 1):
            lost = {self._lost(axis, first + k * stride) for k in range(3)}
            if len(lost) == 1 and (cut := lost.pop()) >= 0 and cut % 2 == 0:
                return first, cut // 2
        return None

    def _lost(self, axis: int, n: int) -> int:
        """Return by how much an output is smaller than an input of this size; -1 if it is not taken."""
        if (axis, n) not in self.lost:
            out = self.run(self.shape(n, axis), axis)
            self.lost[axis, n] = -1 if out is None else n - len(out)
        return self.lost[axis, n]

    def _halo(self, axis: int, stride: int, minimum: int, shrink: int) -> float | None:
        """Return the reach of a pixel, infinity where it has no end, None where it does not repeat."""
        length = minimum + 4 * stride
        while length <= self.largest + minimum:
            start = length // 2 // stride * stride
            spans: list[tuple[int, int]] = []
            for line in range(start, start + 2 * stride):
                if len(spans) > stride and spans[-1] != spans[-1 - stride]:
                    return None  # the pooling grid repeats after a stride, and so must the reach
                broken = self.run(self.shape(length, axis), axis, line)
                where = torch.empty(0) if broken is None else broken.nonzero().flatten()
                if broken is None or len(where) == 0 or where[0] == 0 or where[-1] == len(broken) - 1:
                    break  # reaches an end: try a longer input
                spans.append((int(where[0]) - line, int(where[-1]) - line))
            if len(spans) == 2 * stride:
                if spans[:stride] != spans[stride:]:
                    return None
                return shrink + self._depth(spans, start, shrink, minimum)
            length = minimum + 2 * (length - minimum)
        return math.inf

    def _depth(self, spans: list[tuple[int, int]], start: int, shrink: int, minimum: int) -> int:
        """Return how many outputs at either end of a tile see pixels beyond it.

        Tiles begin on a multiple of the stride and end a legal size later. So only pixels before such a
        place and how far up they reach count, and those after it and how far down: less than the reach
        of the worst placed pixel.
        """
        stride = len(spans) // 2
        lines = range(start, start + 2 * stride)
        first = start + stride
        fouled_below = max(line + high for line, (_, high) in zip(lines[:stride], spans)) + 1 - first
        end = next(line for line in lines if (line - minimum) % stride == 0)
        lowest = min(line + low for line, (low, _) in zip(lines, spans) if line >= end)
        fouled_above = (end - 2 * shrink) - lowest
        return max(fouled_below, fouled_above, 0)

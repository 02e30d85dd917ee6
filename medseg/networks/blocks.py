"""What a U-Net is built of: the two convolutions of a level, plain or residual, and their norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Refused, refuse_unknown

__all__ = [
    "CONV",
    "NORMS",
    "Blocks",
    "ChannelNorm",
    "Residual",
    "check_norm",
    "initialise",
    "is_local",
    "through",
]

LEAST_CHANNELS = 8  # of a channel norm
CONV: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel: mean 0 and deviation 1, then a gain and an offset.

    No pixel sees another one, so tiles of a network with it stay exact, and a batch of one volume is
    normalised as well as a batch of many.

    Parameters
    ----------
    channels : int
        Channels of its input ``(N, C, *spatial)``. Of few of them nothing is left but rounding: the largest
        error of a network in float32 is that of batch norm from 8 channels on, and 50 times that with 3.

    References
    ----------
    Ba, Kiros, Hinton: Layer Normalization, 2016, equation 3, for each position by itself as in Liu et al.: A
    ConvNet for the 2020s, CVPR 2022.

    Examples
    --------
    >>> import torch
    >>> out = ChannelNorm(4)(torch.rand(1, 4, 5, 6, 7))
    >>> bool((out.mean(1).abs() < 1e-5).all())
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, input: Tensor) -> Tensor:
        # with channels last the moved axes lie in memory as the layer wants them: nothing is copied
        last = input.movedim(1, -1)
        if self.training and input.dtype in (torch.bfloat16, torch.float16):
            # with weights in float32 the backward pass over 8 to 24 channels takes up to ten times as long
            return super().forward(last.float()).to(input.dtype).movedim(-1, 1)
        return super().forward(last).movedim(-1, 1)


NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda dims, channels: {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels),
    "instance": lambda dims, channels: {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](
        channels, affine=True
    ),
    "group": lambda dims, channels: nn.GroupNorm(_groups(channels), channels),
    "channel": lambda dims, channels: ChannelNorm(channels),
}


def check_norm(norm: str | None, channels: Sequence[int]) -> None:
    """Refuse an unknown norm, and a channel norm over too few channels.

    Examples
    --------
    >>> check_norm("channel", (8, 16))
    """
    if norm is not None and norm not in NORMS:
        raise refuse_unknown("norm", norm, NORMS)
    if norm == "channel" and min(channels) < LEAST_CHANNELS:
        raise Refused(
            "bad-network",
            "a channel norm over few channels leaves little but rounding",
            got=tuple(channels),
            expected=f"{LEAST_CHANNELS} or more at each level",
            do="use more channels or norm batch",
        )


def is_local(norm: str | None) -> bool:
    """Tell whether a norm, once trained, sees no more of its input than the pixel that it changes.

    Examples
    --------
    >>> is_local("batch"), is_local("instance")
    (True, False)
    """
    return norm in (None, "batch", "channel")


class Residual(nn.Module):
    """Layers whose input is added to their output before the last of them, an activation.

    Where the channels differ, a convolution of 1 carries the input over; where unpadded convolutions eat
    the border, its middle is added.

    Parameters
    ----------
    body, shortcut : torch.nn.Sequential
        What is added; an empty ``shortcut`` is the identity.
    last : torch.nn.Module
        What follows the sum.

    References
    ----------
    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, figure 2 and equation 2.
    """

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential, last: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut, last


class Blocks:
    """Makes the two convolutions of a level."""

    def __init__(
        self, dims: int, padding: Literal["valid", "same"], norm: str | None, *, residual: bool
    ) -> None:
        self.dims, self.padding, self.norm, self.residual = dims, padding, norm, residual

    def block(self, inputs: int, outputs: int, kernel: Sequence[int]) -> nn.Module:
        """Return a block from ``inputs`` to ``outputs`` channels; its convolutions are of this size."""
        layers: list[nn.Module] = []
        for a, b in pairwise((inputs, outputs, outputs)):
            layers += [*self._convolution(a, b, kernel), nn.ReLU(inplace=True)]
        if not self.residual:
            return nn.Sequential(*layers)
        last = layers.pop()
        same = inputs == outputs
        shortcut = [] if same else self._convolution(inputs, outputs, (1,) * self.dims)
        return Residual(nn.Sequential(*layers), nn.Sequential(*shortcut), last)

    def _convolution(self, inputs: int, outputs: int, kernel: Sequence[int]) -> list[nn.Module]:
        pad = tuple(k // 2 if self.padding == "same" else 0 for k in kernel)
        # a norm has its own offset, and takes away one before it; but the one over channels takes away how
        # bright a voxel is, unless an offset before it tells bright from dark
        bias = self.norm in (None, "channel")
        layer = CONV[self.dims](inputs, outputs, tuple(kernel), padding=pad, bias=bias)
        return [layer, NORMS[self.norm](self.dims, outputs)] if self.norm else [layer]


def through(
    block: nn.Module, x: Any, apply: Callable[[nn.Module, Any], Any], add: Callable[[Any, Any], Any]
) -> Any:
    """Walk the layers of a block: ``apply(layer, x)`` for each, ``add(shortcut, x)`` for a sum."""
    if isinstance(block, Residual):
        shortcut = through(block.shortcut, x, apply, add)
        return apply(block.last, add(shortcut, through(block.body, x, apply, add)))
    for layer in block.children():
        x = apply(layer, x)
    return x


def initialise(layer: nn.Module) -> None:
    """Draw weights of deviation sqrt(2 / N), N the inputs of a neuron (He et al. 2015; U-Net, section 3)."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear):
        if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            # its stride is its size, so each output pixel has in_channels inputs
            nn.init.normal_(layer.weight, std=(2 / layer.in_channels) ** 0.5)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _groups(channels: int) -> int:
    """Largest number of groups up to 8 that divides the channels."""
    return max(g for g in range(1, 9) if channels % g == 0)

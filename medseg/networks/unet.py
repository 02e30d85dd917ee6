"""The U-Net of Ronneberger et al. (2015) and its modern form, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Refused, refuse_unknown
from .geometry import as_given, per_axis, walk_geometry

__all__ = ["UNet"]

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": lambda dims, channels: {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels),
    "instance": lambda dims, channels: {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](
        channels, affine=True
    ),
    "group": lambda dims, channels: nn.GroupNorm(_groups(channels), channels),
}


class UNet(nn.Module):
    """U-Net with unpadded or padded convolutions.

    With the defaults it is the network of the paper: 23 convolutional layers (18 of 3x3, 4 up-convolutions
    and one of 1x1), 64 to 1024 channels, input 572 for output 388, skip connections cropped and
    concatenated, ReLU, no normalisation.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels, out_channels : int
        Channels of the image, and classes.
    channels : sequence of int
        Channels a level, from the finest to the coarsest.
    padding : {"valid", "same"}
        Unpadded convolutions as in the paper, or zero-padded ones whose output is as large as the input.
    norm : {None, "batch", "instance", "group"}
        Normalisation after each 3x3 convolution. Instance and group norm see the whole input, so tiles of
        such a network cannot be exact.
    dropout : float
        Probability of dropout at the end of the contracting path (its two coarsest levels).

    Attributes
    ----------
    geometry : Geometry
        Halo, stride, shrink and minimum, derived from the layers.
    halo : int, tuple of int, or None
        Context in pixels a side that makes tiling exact; None where it cannot be.

    Raises
    ------
    Refused
        ``bad-network`` or ``unknown-norm``; calls refuse an illegal input size with the next legal one.

    References
    ----------
    Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
    section 2 and figure 1. 3D: Cicek et al., 3D U-Net, MICCAI 2016. Initialisation: He et al., Delving Deep
    into Rectifiers, ICCV 2015.

    Examples
    --------
    >>> import torch
    >>> from medseg.networks import UNet
    >>> network = UNet(2, 1, 2, channels=(4, 8, 16, 32, 64))
    >>> network.output_size(572), network.input_size(388), network.halo
    (388, 572, 92)
    >>> network(torch.zeros(1, 1, 204, 188)).shape
    torch.Size([1, 2, 20, 4])
    """

    takes_any_format = True  # channels last is as good to its layers, and faster

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        padding: Literal["valid", "same"] = "valid",
        norm: str | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise Refused("bad-network", "spatial_dims", got=spatial_dims, expected="2 or 3")
        if not channels or min(channels) < 1 or in_channels < 1 or out_channels < 1:
            raise Refused(
                "bad-network", "a network needs channels", got=(in_channels, tuple(channels), out_channels)
            )
        if padding not in ("valid", "same"):
            raise refuse_unknown("padding", padding, ["valid", "same"])
        if norm is not None and norm not in _NORMS:
            raise refuse_unknown("norm", norm, _NORMS)
        self.spatial_dims, self.in_channels, self.out_channels = spatial_dims, in_channels, out_channels
        make = _Maker(spatial_dims, padding, norm)
        widths = [in_channels, *channels]
        self.down = nn.ModuleList(make.block(a, b) for a, b in pairwise(widths))
        self.pool = _POOL[spatial_dims](2)
        self.drop = nn.Dropout(dropout)
        pairs = list(pairwise(channels[::-1]))
        self.up = nn.ModuleList(_UP[spatial_dims](a, b, kernel_size=2, stride=2) for a, b in pairs)
        self.merge = nn.ModuleList(make.block(2 * b, b) for _, b in pairs)
        self.head = _CONV[spatial_dims](channels[0], out_channels, kernel_size=1)
        self.apply(_he)
        self.geometry = walk_geometry(self.run, spatial_dims, local=norm in (None, "batch"))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, classes, *output)`` of images ``(N, C, *input)``."""
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            raise Refused(
                "channel-mismatch",
                "the network's input",
                got=tuple(image.shape),
                expected=f"(N, {self.in_channels}, {', '.join(['size'] * self.spatial_dims)})",
            )
        self.geometry.output_size(image.shape[2:])
        logits: Tensor = self.run(image, lambda layer, x: layer(x), _crop_and_concatenate)
        return logits

    def run(self, x: Any, apply: Callable[[nn.Module, Any], Any], join: Callable[[Any, Any], Any]) -> Any:
        """Walk the layers in their order.

        The forward pass and the derivation of the geometry are the same walk with other meanings of
        ``apply`` and ``join``, so that the one cannot drift from the other.
        """
        skips = []
        for level, block in enumerate(self.down):
            if level:
                x = apply(self.pool, x)
            x = _through(block, x, apply)
            if level >= len(self.down) - 2:
                x = apply(self.drop, x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge):
            x = join(skips.pop(), apply(up, x))
            x = _through(merge, x, apply)
        return apply(self.head, x)

    @property
    def halo(self) -> int | tuple[int, ...] | None:
        """Context in pixels a side that makes tiling exact; a tuple where the axes differ."""
        return None if self.geometry.halo is None else as_given(self.geometry.halo)

    def input_size(self, output: int | Sequence[int]) -> int | tuple[int, ...]:
        """Return the smallest legal input size that gives at least this output size."""
        return as_given(self.geometry.input_size(per_axis(output, self.spatial_dims)), output)

    def output_size(self, input: int | Sequence[int]) -> int | tuple[int, ...]:
        """Return the output size of a legal input size."""
        return as_given(self.geometry.output_size(per_axis(input, self.spatial_dims)), input)


class _Maker:
    """Makes the two convolutions of a level."""

    def __init__(self, dims: int, padding: str, norm: str | None) -> None:
        self.dims, self.padding, self.norm = dims, 1 if padding == "same" else 0, norm

    def block(self, inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a in (inputs, outputs):
            # the norm has its own offset, so the convolution needs none before it
            layers.append(_CONV[self.dims](a, outputs, 3, padding=self.padding, bias=self.norm is None))
            if self.norm:
                layers.append(_NORMS[self.norm](self.dims, outputs))
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)


def _through(block: nn.Module, x: Any, apply: Callable[[nn.Module, Any], Any]) -> Any:
    for layer in block.children():
        x = apply(layer, x)
    return x


def _crop_and_concatenate(skip: Tensor, x: Tensor) -> Tensor:
    """Cut the middle out of the skip connection and put it before ``x`` (figure 1, grey arrows)."""
    window = [slice(None), slice(None)]
    for a, b in zip(skip.shape[2:], x.shape[2:]):
        window.append(slice((a - b) // 2, (a - b) // 2 + b))
    return torch.cat([skip[tuple(window)], x], dim=1)


def _groups(channels: int) -> int:
    """Largest number of groups up to 8 that divides the channels."""
    return max(g for g in range(1, 9) if channels % g == 0)


def _he(layer: nn.Module) -> None:
    """Weights with deviation sqrt(2 / N), N the inputs of a neuron (He et al. 2015; U-Net, section 3)."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            # each output pixel of a 2x2, stride 2 up-convolution has in_channels inputs
            nn.init.normal_(layer.weight, std=(2 / layer.in_channels) ** 0.5)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

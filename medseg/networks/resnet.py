"""Residual networks (He et al. 2016) as encoders, with atrous convolution that keeps resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import Refused
from .blocks import CONV, NORMS, check_norm, initialise
from .dense import check_image
from .reach import reach_along

__all__ = ["LAYERS", "Bottleneck", "ResNet", "strides_and_rates"]

LAYERS: dict[str, tuple[int, ...]] = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_STEM = 4  # stride of the first convolution and pooling


class Bottleneck(nn.Module):
    """Three convolutions, of 1, 3 and 1, whose input is added to their output.

    Parameters
    ----------
    spatial_dims : {2, 3}
    inputs, width : int
        Channels that come in, and of the first two convolutions; four times ``width`` go out.
    stride, rate : int
        Of the convolution of 3. The input is carried over by a convolution of 1 with the same stride where
        place or channels differ.
    norm : str or None
        A name from `medseg.networks.blocks.NORMS`.

    References
    ----------
    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, figure 5, right. There the
    stride is in the first convolution; here in the one of 3, as in the weights that torchvision publishes.
    """

    expansion = 4
    norms_behind = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))  # see `fold_batch_norm`

    def __init__(
        self, spatial_dims: int, inputs: int, width: int, *, stride: int, rate: int, norm: str | None
    ) -> None:
        super().__init__()
        conv, outputs = CONV[spatial_dims], width * self.expansion
        bias = norm in (None, "channel")  # the other norms take an offset away
        self.conv1 = conv(inputs, width, 1, bias=bias)
        self.bn1 = _norm(norm, spatial_dims, width)
        self.conv2 = conv(width, width, 3, stride=stride, padding=rate, dilation=rate, bias=bias)
        self.bn2 = _norm(norm, spatial_dims, width)
        self.conv3 = conv(width, outputs, 1, bias=bias)
        self.bn3 = _norm(norm, spatial_dims, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            carry = conv(inputs, outputs, 1, stride=stride, bias=bias)
            self.downsample = nn.Sequential(carry, _norm(norm, spatial_dims, outputs))

    def run(self, x: Any, apply: Callable[[nn.Module, Any], Any], add: Callable[[Any, Any], Any]) -> Any:
        """Walk the layers, see `ResNet.run`."""
        shortcut = x
        for layer in self.downsample or ():
            shortcut = apply(layer, shortcut)
        for layer in (self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.relu, self.conv3, self.bn3):
            x = apply(layer, x)
        return apply(self.relu, add(shortcut, x))


class ResNet(nn.Module):
    """Residual network without its classifier: images in, features out, in 2D and 3D.

    The names of its parameters are those of the weights that torchvision publishes.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels : int
        Channels of the image.
    layers : sequence of int
        Blocks a stage: (3, 4, 6, 3) of ResNet-50, (3, 4, 23, 3) of ResNet-101, see `LAYERS`.
    channels : sequence of int
        Channels inside the blocks of each stage; four times as many go out. The first convolution makes as
        many as the first stage has inside.
    output_stride : int
        Pixels from one feature to the next. Of the 32 of the paper (for four stages), 16 and 8 leave out the
        strides of the last one or two stages; what follows is dilated by as much, so that each feature of
        stride 32 is there, unchanged, and those between are new.
    norm : {"batch", "channel", "instance", "group", None}
        Behind each convolution.

    Attributes
    ----------
    out_channels : int
        Of the features.

    Raises
    ------
    Refused
        ``bad-network``, ``unknown-norm``; calls refuse ``channel-mismatch``.

    References
    ----------
    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, table 1 and equation 2.
    Atrous convolution: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017,
    section 3.1 and figure 3; the same with a volume's third axis.

    Examples
    --------
    >>> import torch
    >>> network = ResNet(2, 3, layers=(1, 1, 1, 1), channels=(2, 2, 4, 4), output_stride=8)
    >>> network(torch.rand(1, 3, 65, 40)).shape
    torch.Size([1, 16, 9, 5])
    """

    takes_any_format = True
    norms_behind = (("conv1", "bn1"),)

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        layers: Sequence[int] = LAYERS["resnet50"],
        channels: Sequence[int] = (64, 128, 256, 512),
        output_stride: int = 32,
        norm: str | None = "batch",
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise Refused("bad-network", "spatial_dims", got=spatial_dims, expected="2 or 3")
        if len(layers) != len(channels) or min(*layers, *channels, in_channels) < 1:
            raise Refused(
                "bad-network",
                "a residual network has blocks and channels at each stage",
                got=f"channels {list(channels)}, layers {list(layers)}, {in_channels} of the image",
                expected=f"{len(layers)} channels, of 1 or more each",
            )
        check_norm(norm, channels)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.output_stride = output_stride
        self.out_channels = channels[-1] * Bottleneck.expansion
        self.conv1 = CONV[spatial_dims](
            in_channels, channels[0], 7, stride=2, padding=3, bias=norm in (None, "channel")
        )
        self.bn1 = _norm(norm, spatial_dims, channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _POOL[spatial_dims](3, stride=2, padding=1)
        self.stages: list[str] = []
        inputs, rate = channels[0], 1
        strides = [_STEM, 1] + [2] * (len(layers) - 1)
        stages = strides_and_rates(strides, output_stride)[1:]
        for (stride, after), blocks, width in zip(stages, layers, channels):
            made = []
            for number in range(blocks):
                # the block that loses its stride still reads what it read; those behind it are dilated
                first = number == 0
                made.append(
                    Bottleneck(
                        spatial_dims,
                        inputs,
                        width,
                        stride=stride if first else 1,
                        rate=rate if first else after,
                        norm=norm,
                    )
                )
                inputs = width * Bottleneck.expansion
            rate = after
            self.stages.append(f"layer{len(self.stages) + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*made))
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``(N, out_channels, *ceil(spatial / output_stride))`` of ``(N, C, *spatial)``."""
        check_image(image, self.spatial_dims, self.in_channels)
        features: Tensor = self.run(image, lambda layer, x: layer(x), lambda shortcut, x: x.add_(shortcut))
        return features

    def run(self, x: Any, apply: Callable[[nn.Module, Any], Any], add: Callable[[Any, Any], Any]) -> Any:
        """Walk the layers in their order: ``apply(layer, x)`` for each, ``add(shortcut, x)`` for a sum.

        The forward pass and the derivation of the receptive field are the same walk.
        """
        for layer in (self.conv1, self.bn1, self.relu, self.maxpool):
            x = apply(layer, x)
        for stage in self.stages:
            for block in self.get_submodule(stage).children():
                assert isinstance(block, Bottleneck), "a stage holds blocks only"
                x = block.run(x, apply, add)
        return x

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Pixels an axis that a feature sees."""
        reaches = reach_along(self.run, self.spatial_dims, add=lambda shortcut, x: x.beside(shortcut))
        return tuple(reach.field for reach in reaches)

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn published weights into this network's.

        The classifier, ``fc.weight`` and ``fc.bias``, is left out. Where the network takes grey images and
        the weights colour, their three channels are added up: that is what they make of a grey image whose
        channels are all alike.
        """
        out = {name: value for name, value in state.items() if not name.startswith("fc.")}
        first = out.get("conv1.weight")
        if first is not None and self.in_channels == 1 and first.ndim > 1 and first.shape[1] == 3:
            out["conv1.weight"] = first.sum(1, keepdim=True)
        return out


def strides_and_rates(strides: Sequence[int], output_stride: int) -> list[tuple[int, int]]:
    """Return stride and rate of each stage, where the strides together reach the output stride and no more.

    The rate is that of the layers behind the stride: from there on each left-out stride is made up for.

    Raises
    ------
    Refused
        ``bad-network`` where no strides can be left out so that the others reach it.

    Examples
    --------
    >>> strides_and_rates((4, 1, 2, 2, 2), 8)
    [(4, 1), (1, 1), (2, 1), (1, 2), (1, 4)]
    """
    made, rate = 1, 1
    found: list[tuple[int, int]] = []
    for stride in strides:
        if rate == 1 and made * stride <= output_stride:
            made *= stride
            found.append((stride, 1))
        else:
            rate *= stride
            found.append((1, rate))
    if made != output_stride:
        raise Refused(
            "bad-network",
            "no strides of the network can be left out for this output_stride",
            got=output_stride,
            expected="8, 16 or 32",
        )
    return found


def _norm(norm: str | None, dims: int, channels: int) -> nn.Module:
    return nn.Identity() if norm is None else NORMS[norm](dims, channels)

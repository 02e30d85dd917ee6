"""Fully convolutional networks of Long, Shelhamer and Darrell (2015): FCN-32s, FCN-16s, FCN-8s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..plan import Plan
from .blocks import CONV, initialise
from .dense import check_image, interpolate_at_start
from .geometry import walk_geometry
from .numbers import refuse_other_numbers
from .vgg import STAGES, WIDTHS, adapt_vgg16, vgg16_classifier, vgg16_features

__all__ = ["FCN", "fcn_of"]

_UP: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOLS = (nn.MaxPool2d, nn.MaxPool3d)
_FACTORS = {4: 2, 3: 2, 0: 8}  # from stride 32 to that of pool4, to that of pool3, to the pixels


class FCN(nn.Module):
    """VGG16 made convolutional, whose class scores of a coarse grid are brought back to the pixels.

    Scores of stride 32 are interpolated to stride 16, there those of pool4 are added (FCN-16s), then to
    stride 8, there those of pool3 are added (FCN-8s), and then to the pixels. The interpolations are
    transposed convolutions that start as linear ones and learn. All score layers start at zero, so that a
    network that starts from the weights of the one with a skip less gives what that gave.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels, out_channels : int
        Channels of the image, and classes.
    skips : {0, 1, 2}
        FCN-32s, FCN-16s or FCN-8s.
    channels : sequence of int
        Of the five stages of VGG16 and of what were its fully connected layers.
    norm : {None, "batch"}
        Behind each convolution of the five stages.
    dropout : float
        Probability behind what were the fully connected layers.

    Attributes
    ----------
    geometry : Geometry
        Halo, stride and minimum, derived from the layers. Tiles, and training patches, have sizes that 32
        divides; the network itself takes any size.
    encoder : torch.nn.ModuleList
        What VGG16 brings along.

    Raises
    ------
    Refused
        ``bad-network``; calls refuse images of other channels.

    Notes
    -----
    The network that the authors published pads the first convolution by 100 pixels and crops at a fixed
    place, so that the unpadded 7x7 convolution has something left of small images. Here that convolution is
    padded as all others are, and every score lies in the middle of the 32 x 32 pixels that it stands for,
    whatever the size: no rim of zeros is computed, and a tile's scores are those of the whole image. The
    paper's FCN-32s interpolates by 32 at once, and FCN-16s by 2 and 16; here all three go by 2, 2 and 8, as
    its FCN-8s does: only so a network starts with exactly what the one before it gave.

    References
    ----------
    Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, sections
    3.3 and 4.1 to 4.3, figure 3.

    Examples
    --------
    >>> import torch
    >>> network = FCN(2, 1, 3, skips=2, channels=(2, 2, 4, 4, 4, 8))
    >>> network(torch.rand(1, 1, 50, 37)).shape, network.geometry.stride
    (torch.Size([1, 3, 50, 37]), (32, 32))
    """

    takes_any_format = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        skips: int = 2,
        channels: Sequence[int] = WIDTHS,
        norm: str | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if skips not in (0, 1, 2) or out_channels < 1:
            raise Refused(
                "bad-network",
                "an FCN has classes, and skips from pool4 and pool3",
                got=f"{out_channels} classes, {skips} skips",
                expected="0, 1 or 2 skips",
            )
        self.spatial_dims, self.in_channels, self.out_channels = spatial_dims, in_channels, out_channels
        self.features = vgg16_features(spatial_dims, in_channels, channels, norm=norm)
        self.classifier = vgg16_classifier(spatial_dims, channels, dropout=dropout, padding=3)
        conv = CONV[spatial_dims]
        self.score = conv(channels[-1], out_channels, 1)
        self.score_pool4 = conv(channels[3], out_channels, 1) if skips > 0 else None
        self.score_pool3 = conv(channels[2], out_channels, 1) if skips > 1 else None

        def up(factor: int) -> nn.Module:
            sizes = {"kernel_size": 2 * factor, "stride": factor, "padding": factor // 2}
            return _UP[spatial_dims](out_channels, out_channels, **sizes, bias=False)

        self.up_pool4, self.up_pool3, self.up = (up(factor) for factor in _FACTORS.values())
        self.apply(initialise)
        for layer in self.children():
            if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
                interpolate_at_start(layer)
            elif isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.zeros_(layer.weight)
        self.geometry = walk_geometry(self.run, spatial_dims, local=True)

    @property
    def encoder(self) -> nn.ModuleList:
        """What VGG16 brings along: its convolutions, and what were its fully connected layers."""
        return nn.ModuleList([self.features, self.classifier])

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, classes, *spatial)`` of images ``(N, C, *spatial)`` of any size."""
        check_image(image, self.spatial_dims, self.in_channels)
        logits: Tensor = self.run(image, lambda layer, x: layer(x), _crop, torch.add)
        return _crop(image, logits)

    def run(
        self,
        x: Any,
        apply: Callable[[nn.Module, Any], Any],
        join: Callable[[Any, Any], Any],
        add: Callable[[Any, Any], Any],
    ) -> Any:
        """Walk the layers: the forward pass and the derivation of the geometry, see `UNet.run`."""
        pooled: list[Any] = []
        for layer in self.features:
            x = apply(layer, x)
            if isinstance(layer, _POOLS):
                pooled.append(x)
        assert len(pooled) == len(STAGES), "each stage ends with a pooling"
        for layer in (*self.classifier, self.score):
            x = apply(layer, x)
        for up, score, skip in (
            (self.up_pool4, self.score_pool4, pooled[3]),
            (self.up_pool3, self.score_pool3, pooled[2]),
        ):
            x = join(skip, apply(up, x))
            x = x if score is None else add(apply(score, skip), x)
        return apply(self.up, x)

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn published weights of VGG16 into this network's, see `adapt_vgg16`."""
        return adapt_vgg16(state, self)


def fcn_of(plan: Plan, *, skips: int) -> nn.Module:
    """Make the FCN of a plan.

    Examples
    --------
    >>> few = {"network.name": "fcn16s", "network.channels": (2, 2, 2, 2, 2, 4), "network.norm": "none"}
    >>> type(fcn_of(Plan().with_values(few), skips=1)).__name__
    'FCN'
    """
    n = plan.network
    refuse_other_numbers(plan, "channels", "norm", "dropout")
    return FCN(
        plan.input.spatial_dims,
        plan.input.channels,
        len(plan.target.classes),
        skips=skips,
        channels=n.channels,
        norm=None if n.norm == "none" else n.norm,
        dropout=n.dropout,
    )


def _crop(like: Tensor, x: Tensor) -> Tensor:
    """Cut off what lies beyond the last pixel: coarse pixels reach as far as they are large."""
    return x[(slice(None), slice(None), *(slice(n) for n in like.shape[2:]))]

"""VGG16 as DeepLab has it: pooling that keeps features on pixels, and atrous convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .blocks import initialise
from .dense import check_image
from .reach import reach_along
from .resnet import strides_and_rates
from .vgg import STAGES, WIDTHS, adapt_vgg16, vgg16_features

__all__ = ["AtrousVGG16"]

_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class AtrousVGG16(nn.Module):
    """The thirteen convolutions of VGG16 with the poolings of DeepLab, in 2D and 3D.

    Poolings read 3 pixels in place of 2, so that a feature lies on a pixel and not between two. Those that
    would exceed the output stride keep their place and lose their stride; the convolutions behind them are
    dilated by as much. Parameters are called as in the weights that torchvision publishes: those of ``vgg16``
    without a norm, those of ``vgg16_bn`` with batch norm.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels : int
        Channels of the image.
    channels : sequence of int
        Channels of the five stages; what follows is not used here.
    output_stride : {8, 16, 32}
        Pixels from one feature to the next; 8 in the papers.
    norm : {None, "batch"}
        Behind each convolution; none in the papers.

    Attributes
    ----------
    out_channels : int
        Of the features.

    Raises
    ------
    Refused
        ``bad-network``; calls refuse ``channel-mismatch``.

    References
    ----------
    Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
    table 1, column D. Chen et al.: Semantic Image Segmentation with Deep Convolutional Nets and Fully
    Connected CRFs, ICLR 2015, section 3.1; the poolings are those of the network that its authors published.

    Examples
    --------
    >>> import torch
    >>> network = AtrousVGG16(2, 1, channels=(2, 2, 2, 2, 4))
    >>> network(torch.rand(1, 1, 33, 40)).shape
    torch.Size([1, 4, 5, 5])
    """

    takes_any_format = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        *,
        channels: Sequence[int] = WIDTHS,
        output_stride: int = 8,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        stages = strides_and_rates([2] * len(STAGES), output_stride)
        strides, behind = zip(*stages)
        # a convolution is dilated by what the poolings before it have left out
        rates = (1, *behind[:-1])
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.features = vgg16_features(
            spatial_dims, in_channels, channels, norm=norm, strides=strides, rates=rates
        )
        self.output_stride, self.out_channels = output_stride, channels[len(STAGES) - 1]
        for number, layer in enumerate(self.features):
            if isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
                self.features[number] = _POOL[spatial_dims](3, stride=layer.stride, padding=1)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``(N, out_channels, *ceil(spatial / output_stride))`` of ``(N, C, *spatial)``."""
        check_image(image, self.spatial_dims, self.in_channels)
        features: Tensor = self.features(image)
        return features

    def run(
        self, x: Any, apply: Callable[[nn.Module, Any], Any], add: Callable[[Any, Any], Any] | None = None
    ) -> Any:
        """Walk the layers in their order, as in `medseg.networks.resnet.ResNet.run`; nothing is added."""
        for layer in self.features:
            x = apply(layer, x)
        return x

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Pixels an axis that a feature sees."""
        return tuple(reach.field for reach in reach_along(self.run, self.spatial_dims))

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave the classifier out of published weights, and fit them to grey images, see `adapt_vgg16`."""
        kept = {name: value for name, value in state.items() if not name.startswith("classifier.")}
        return adapt_vgg16(kept, self)

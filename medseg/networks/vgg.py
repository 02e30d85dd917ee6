"""The network of 16 layers of Simonyan and Zisserman (2015): classifier, its convolutional twin, encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import Refused
from .blocks import CONV, NORMS, initialise
from .dense import as_convolutions, check_image

__all__ = ["STAGES", "VGG16", "WIDTHS", "adapt_vgg16", "vgg16_classifier", "vgg16_features"]

STAGES = (2, 2, 3, 3, 3)  # convolutions before each pooling
WIDTHS = (64, 128, 256, 512, 512, 4096)  # channels of the stages, and of the fully connected layers
_SIDE = 7  # of the features that the first fully connected layer sees: 224 pixels, halved five times
_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN: dict[int, Callable[..., nn.Module]] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def vgg16_features(
    spatial_dims: int,
    in_channels: int,
    channels: Sequence[int] = WIDTHS,
    *,
    norm: str | None = None,
    strides: Sequence[int] = (2, 2, 2, 2, 2),
    rates: Sequence[int] = (1, 1, 1, 1, 1),
) -> nn.Sequential:
    """Return the 13 convolutions and 5 poolings; numbered as in published weights, with and without norm.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels : int
        Channels of the image.
    channels : sequence of int
        Of the five stages; what follows is not used here.
    norm : {None, "batch"}
        Behind each convolution.
    strides, rates : sequence of int
        Of the pooling of each stage, and of the atrous convolutions in it. A pooling that does not stride
        takes the maximum of 3.

    Raises
    ------
    Refused
        ``bad-network``.

    Notes
    -----
    A pooling of a size that is not even has a last output for the last pixel alone, so that any size goes
    in and none is lost.

    References
    ----------
    Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
    table 1, configuration D.

    Examples
    --------
    >>> import torch
    >>> vgg16_features(2, 1, (2, 2, 4, 4, 4))(torch.rand(1, 1, 64, 33)).shape
    torch.Size([1, 4, 2, 2])
    """
    if spatial_dims not in CONV or len(channels) < len(STAGES) or min(*channels, in_channels) < 1:
        raise Refused(
            "bad-network",
            "VGG16 has channels for 5 stages, in 2 or 3 axes",
            got=f"{list(channels)}, {in_channels} of the image, {spatial_dims} axes",
        )
    if norm not in (None, "batch"):
        raise Refused("bad-network", "the norm of VGG16", got=norm, expected="none or batch")
    layers: list[nn.Module] = []
    inputs = in_channels
    for count, width, stride, rate in zip(STAGES, channels, strides, rates):
        for _ in range(count):
            # an offset before batch norm does nothing, but published weights have one
            layers.append(CONV[spatial_dims](inputs, width, 3, padding=rate, dilation=rate))
            layers += [NORMS[norm](spatial_dims, width)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            inputs = width
        pool = _POOL[spatial_dims]
        layers.append(pool(2, ceil_mode=True) if stride == 2 else pool(3, stride=1, padding=1))
    return nn.Sequential(*layers)


def vgg16_classifier(
    spatial_dims: int,
    channels: Sequence[int] = WIDTHS,
    out_channels: int | None = None,
    *,
    dropout: float = 0.5,
    padding: int = 0,
) -> nn.Sequential:
    """Return the fully connected layers as convolutions: 7x7, then 1x1, numbered as in published weights.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    channels : sequence of int
        Of the five stages and of the two layers.
    out_channels : int, optional
        Classes; without them the third layer is left out.
    dropout : float
        Probability behind the first two layers.
    padding : int
        Zeros around the features; 3 keeps their size.

    Examples
    --------
    >>> [tuple(p.shape) for p in vgg16_classifier(2, (1, 1, 1, 1, 3, 5)).parameters()]
    [(5, 3, 7, 7), (5,), (5, 5, 1, 1), (5,)]
    """
    if len(channels) != len(WIDTHS):
        raise Refused(
            "bad-network",
            "VGG16 has channels for 5 stages and for the layers after them",
            got=list(channels),
            expected=f"6 numbers, such as {list(WIDTHS)}",
        )
    if out_channels is not None and out_channels < 1:
        raise Refused("bad-network", "VGG16 has classes", got=out_channels, expected="1 or more")
    conv, wide = CONV[spatial_dims], channels[-1]
    layers = [conv(channels[-2], wide, _SIDE, padding=padding), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    layers += [conv(wide, wide, 1), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    layers += [] if out_channels is None else [conv(wide, out_channels, 1)]
    return nn.Sequential(*layers)


class VGG16(nn.Module):
    """VGG16, which tells what an image shows, or its twin that tells it for each place of a coarse grid.

    The names of its parameters are those of the weights that torchvision publishes.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels, out_channels : int
        Channels of the image, and classes.
    channels : sequence of int
        Of the five stages and of the two fully connected layers.
    norm : {None, "batch"}
        Behind each convolution.
    dropout : float
        Probability behind the first two fully connected layers.
    dense : bool
        Make convolutions of the fully connected layers: the same weights, the same numbers for an image of
        224 x 224, and an answer every 32 pixels for a larger one.

    Raises
    ------
    Refused
        ``bad-network``; calls refuse images of other channels, and the dense twin those under 193 pixels.

    References
    ----------
    Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
    table 1, configuration D, and section 3.2 (dense evaluation). Initial weights: He et al., ICCV 2015,
    section 2.2.

    Examples
    --------
    >>> import torch
    >>> few = dict(channels=(1, 1, 1, 1, 1, 2))
    >>> network, twin = VGG16(2, 3, 5, **few).eval(), VGG16(2, 3, 5, **few, dense=True).eval()
    >>> _ = twin.load_state_dict(twin.adapt_weights(network.state_dict()))
    >>> image = torch.rand(1, 3, 224, 224)
    >>> torch.allclose(twin(image)[:, :, 0, 0], network(image), atol=1e-4)
    True
    >>> twin(torch.rand(1, 3, 256, 320)).shape
    torch.Size([1, 5, 2, 4])
    """

    takes_any_format = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = WIDTHS,
        norm: str | None = None,
        dropout: float = 0.5,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels, self.dense = spatial_dims, in_channels, dense
        self.features = vgg16_features(spatial_dims, in_channels, channels, norm=norm)
        # of other sizes than 224 the published network takes means, so that 7 x 7 features are left
        self.avgpool = nn.Identity() if dense else _MEAN[spatial_dims](_SIDE)
        self.classifier = vgg16_classifier(spatial_dims, channels, out_channels, dropout=dropout)
        if not dense:
            for number, layer in enumerate(self.classifier):
                if isinstance(layer, nn.Conv2d | nn.Conv3d):
                    connected = nn.Linear(layer.weight[0].numel(), layer.out_channels)
                    self.classifier[number] = connected
        self.apply(initialise)

    @property
    def encoder(self) -> nn.Sequential:
        """The convolutions and poolings."""
        return self.features

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, classes)``, or ``(N, classes, *coarse)`` of the dense twin."""
        check_image(image, self.spatial_dims, self.in_channels)
        smallest = 32 * (_SIDE - 1) + 1  # of which seven features a side are left, the last of one pixel
        if self.dense and min(image.shape[2:]) < smallest:
            raise Refused(
                "illegal-size",
                "the image is smaller than what the convolution of 7 looks at",
                got=tuple(image.shape[2:]),
                expected=f"{smallest} or more an axis",
                do="take the network that is not dense, or a larger image",
            )
        features = self.avgpool(self.features(image))
        logits: Tensor = self.classifier(features if self.dense else features.flatten(1))
        return logits

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn published weights into this network's, see `adapt_vgg16`."""
        return adapt_vgg16(state, self)


def adapt_vgg16(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Turn published weights of VGG16 into those of a network that is built on it.

    Fully connected weights become those of convolutions, see `as_convolutions`. Where the network takes grey
    images and the weights colour, their three channels are added up: that is what they make of a grey
    image whose channels are all alike.

    Examples
    --------
    >>> grey, colour = (VGG16(2, n, 2, channels=(1, 1, 1, 1, 1, 2)) for n in (1, 3))
    >>> adapt_vgg16(colour.state_dict(), grey)["features.0.weight"].shape
    torch.Size([1, 1, 3, 3])
    """
    out = as_convolutions(state, network)
    first, own = out.get("features.0.weight"), network.state_dict()["features.0.weight"]
    if first is not None and own.shape[1] == 1 and first.ndim == own.ndim and first.shape[1] == 3:
        out["features.0.weight"] = torch.sum(first, 1, keepdim=True)
    return out

"""A patch around each pixel, classified on its own (Ciresan et al. 2012), and its convolutional twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import Refused
from ..plan import Plan
from ..tiling import Geometry
from .blocks import CONV, NORMS, initialise
from .dense import as_convolutions, check_image
from .numbers import refuse_other_numbers

__all__ = ["KERNELS", "PatchNetwork", "patch_network_of"]

KERNELS = (4, 5, 4, 4)  # of the convolutions of network N4
_LAST = 3  # features a side that are left for the fully connected layers
_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MAXIMUM: dict[int, Callable[..., Tensor]] = {2: functional.max_pool2d, 3: functional.max_pool3d}
_CONVOLVE: dict[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}


class PatchNetwork(nn.Module):
    """Classifier of the pixel in the middle of a window, for windows around all pixels at once.

    With the defaults it is network N4 of the paper: a window of 95 x 95 pixels, four times a convolution
    and a max-pooling, 200 neurons that see the 3 x 3 features that are left, and the classes.

    Called on a window it classifies it. Called on an image it gives a result for each pixel whose window
    lies within, the same as `slide` gives one window after the other, at a small part of the cost: each
    pooling takes the maximum at every place in place of every second one, and what follows is dilated by two,
    so that the features of all windows are computed once.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Axes of an image.
    in_channels, out_channels : int
        Channels of the image, and classes.
    channels : sequence of int
        Maps of each convolution, and neurons of the fully connected layer.
    kernels : sequence of int
        Sizes of the convolutions. The first is even, so that the window has a pixel in its middle.
    norm : {None, "batch"}
        Behind each convolution.
    dropout : float
        Probability before the last layer.
    dense : bool
        Hold the fully connected layers as convolutions. The same weights and the same numbers; weights of
        the one go into the other by ``adapt_weights``.

    Attributes
    ----------
    window : int
        Pixels a side that one result depends on.
    geometry : Geometry
        Half a window is lost on either side, and any size from a window on is taken.
    encoder : torch.nn.Sequential
        Convolutions and poolings.

    Raises
    ------
    Refused
        ``bad-network``; calls refuse images smaller than a window.

    Notes
    -----
    The paper has more than this network: foveation and nonuniform sampling of windows, the mean of four
    networks, and calibrated probabilities. Its neurons are not told; here they are rectified.

    References
    ----------
    Ciresan, Giusti, Gambardella, Schmidhuber: Deep Neural Networks Segment Neuronal Membranes in Electron
    Microscopy Images, NIPS 2012, table 1. Dense computation: Giusti et al., Fast Image Scanning with Deep
    Max-Pooling Convolutional Neural Networks, ICIP 2013; dilation in place of its fragments: Long et al.,
    Fully Convolutional Networks, CVPR 2015, section 3.2.

    Examples
    --------
    >>> network = PatchNetwork(2, 1, 2, channels=(2, 2, 2, 2, 4)).eval()
    >>> network.window, network.geometry.halo
    (95, (47, 47))
    >>> image = torch.rand(1, 1, 97, 96)
    >>> bool(torch.allclose(network(image), network.slide(image), atol=1e-5))
    True
    """

    takes_any_format = True

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (48, 48, 48, 48, 200),
        kernels: Sequence[int] = KERNELS,
        norm: str | None = None,
        **form: Any,
    ) -> None:
        super().__init__()
        dropout, dense = form.pop("dropout", 0.0), form.pop("dense", False)
        if form:
            raise TypeError(f"PatchNetwork() got an unexpected keyword argument '{next(iter(form))}'")
        _check(spatial_dims, (in_channels, out_channels, *channels), kernels, norm)
        if len(channels) != len(kernels) + 1:
            raise Refused(
                "bad-network",
                "a patch network has channels for each convolution and for the fully connected layer",
                got=list(channels),
                expected=f"{len(kernels) + 1} numbers",
            )
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.window = _LAST
        for kernel in reversed(kernels):
            self.window = 2 * self.window + kernel - 1
        layers: list[nn.Module] = []
        for a, b, kernel in zip([in_channels, *channels], channels, kernels):
            layers.append(CONV[spatial_dims](a, b, kernel))
            layers += [NORMS[norm](spatial_dims, b)] if norm else []
            layers += [nn.ReLU(inplace=True), _POOL[spatial_dims](2)]
        self.features = nn.Sequential(*layers)
        seen, neurons = channels[-2], channels[-1]
        if dense:
            first: nn.Module = CONV[spatial_dims](seen, neurons, _LAST)
            last: nn.Module = CONV[spatial_dims](neurons, out_channels, 1)
        else:
            first = nn.Linear(seen * _LAST**spatial_dims, neurons)
            last = nn.Linear(neurons, out_channels)
        self.classifier = nn.Sequential(first, nn.ReLU(inplace=True), nn.Dropout(dropout), last)
        self.apply(initialise)
        half = (self.window // 2,) * spatial_dims
        self.geometry = Geometry(half, (1,) * spatial_dims, half, (self.window,) * spatial_dims)

    @property
    def encoder(self) -> nn.Sequential:
        """Convolutions and poolings."""
        return self.features

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(N, classes, *(spatial - window + 1))`` of images ``(N, C, *spatial)``."""
        check_image(image, self.spatial_dims, self.in_channels)
        if self.geometry.output_size(image.shape[2:]) == (1,) * self.spatial_dims:
            return self.coarse(image)  # one window: nothing lies between its features
        rate = 1
        for layer in self.features:
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                image = _CONVOLVE[self.spatial_dims](image, layer.weight, layer.bias, dilation=rate)
            elif isinstance(layer, nn.MaxPool2d | nn.MaxPool3d):
                image = _MAXIMUM[self.spatial_dims](image, 2, stride=1, dilation=rate)
                rate *= 2
            else:
                image = layer(image)
        return self._classify(image, rate)

    def coarse(self, image: Tensor) -> Tensor:
        """Return logits of every window that begins a multiple of the pooling (16 pixels) after the first.

        It is the network as it stands, run once over the whole image: the coarse grid of scores that an FCN
        interpolates.

        Examples
        --------
        >>> network = PatchNetwork(2, 1, 3, channels=(2, 2, 2, 2, 4))
        >>> network.coarse(torch.rand(1, 1, 95 + 2 * 16, 95 + 16)).shape
        torch.Size([1, 3, 3, 2])
        """
        check_image(image, self.spatial_dims, self.in_channels)
        self.geometry.output_size(image.shape[2:])
        features = self.features(image)
        if features.shape[2:] == (_LAST,) * self.spatial_dims and isinstance(self.classifier[0], nn.Linear):
            logits: Tensor = self.classifier(features.flatten(1))
            return logits[(..., *[None] * self.spatial_dims)]
        return self._classify(features, 1)

    def slide(self, image: Tensor, *, batch_size: int = 64) -> Tensor:
        """Return what ``forward`` returns, by cutting out each window and classifying it on its own.

        This is what the paper does, and what the rest is compared with; it takes hundreds of times as long.
        """
        check_image(image, self.spatial_dims, self.in_channels)
        out = self.geometry.output_size(image.shape[2:])
        windows = image
        for axis in range(self.spatial_dims):
            windows = windows.unfold(2 + axis, self.window, 1)
        windows = windows.movedim(1, 1 + self.spatial_dims)  # (N, *out, C, *window)
        rows = []
        for place in itertools.product(range(len(image)), *(range(n) for n in out[:-1])):
            rows += [self.coarse(part).flatten(1) for part in windows[place].split(batch_size)]
        whole: Tensor = torch.cat(rows).unflatten(0, (len(image), *out)).movedim(-1, 1)
        return whole

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn fully connected weights into convolutions, or back."""
        own = {name: tensor.shape for name, tensor in self.state_dict().items()}
        flat = {
            name: t.flatten(1) if t.ndim > 2 and len(own.get(name, t.shape)) == 2 else t
            for name, t in state.items()
        }
        return as_convolutions(flat, self)

    def _classify(self, x: Tensor, rate: int) -> Tensor:
        """Run the fully connected layers at every place, over features that lie ``rate`` pixels apart."""
        size = _LAST
        for layer in self.classifier:
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d):
                weight = layer.weight.flatten(1).unflatten(1, (-1, *[size] * self.spatial_dims))
                x = _CONVOLVE[self.spatial_dims](x, weight, layer.bias, dilation=rate)
                size = 1
            else:
                x = layer(x)
        return x


def patch_network_of(plan: Plan, *, dense: bool = False) -> nn.Module:
    """Make the patch network of a plan, or its convolutional twin.

    Examples
    --------
    >>> values = {"network.name": "patch", "network.norm": "none", "network.padding": "valid"}
    >>> few = Plan().with_values({**values, "network.channels": (2, 2, 2, 2, 4)})
    >>> type(patch_network_of(few)).__name__
    'PatchNetwork'
    """
    n = plan.network
    refuse_other_numbers(plan, "channels", "norm", "dropout", "padding")
    if n.padding != "valid" or plan.input.spatial_dims != 2:
        raise Refused(
            "bad-plan",
            f"the network '{n.name}' takes images, and windows that are not padded",
            got=f"network.padding = {n.padding}, input.spatial_dims = {plan.input.spatial_dims}",
            expected="valid, 2",
        )
    return PatchNetwork(
        plan.input.spatial_dims,
        plan.input.channels,
        len(plan.target.classes),
        channels=n.channels,
        norm=None if n.norm == "none" else n.norm,
        dropout=n.dropout,
        dense=dense,
    )


def _check(dims: int, channels: Sequence[int], kernels: Sequence[int], norm: str | None) -> None:
    if dims not in CONV or min(channels) < 1:
        raise Refused(
            "bad-network", "a network needs axes and channels", got=f"{dims} axes, {list(channels)}"
        )
    if not kernels or min(kernels) < 1 or kernels[0] % 2:
        raise Refused(
            "bad-network", "the window has a pixel in its middle", got=list(kernels), expected="an even first"
        )
    if norm not in (None, "batch"):
        raise Refused("bad-network", "the norm of a patch network", got=norm, expected="none or batch")

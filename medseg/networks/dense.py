"""Fully connected layers as convolutions, sizes of convolutions, and the kernel of linear interpolation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import Refused

__all__ = [
    "as_convolutions",
    "check_image",
    "conv_size",
    "interpolate_at_start",
    "linear_kernel",
    "up_conv_size",
]


def as_convolutions(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Give weights of fully connected layers the shape of the convolutions of the same names.

    A fully connected layer over features of ``(C, *size)`` multiplies each of them by a number of its own. So
    does a convolution whose kernel is as large as they are, where it lies; it may lie in other places, too.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights by name; fully connected ones are of shape (outputs, inputs).
    network : torch.nn.Module
        Has convolutions where the state has fully connected layers.

    Returns
    -------
    dict of str to Tensor
        The same numbers. What does not fit is handed on as it is.

    References
    ----------
    Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, section 3.1.

    Examples
    --------
    >>> state = nn.Linear(2 * 7 * 7, 5).state_dict()
    >>> as_convolutions(state, nn.Conv2d(2, 5, 7))["weight"].shape
    torch.Size([5, 2, 7, 7])
    """
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    out = {}
    for name, tensor in state.items():
        shape = own.get(name, tensor.shape)
        connected = tensor.ndim == 2 and len(shape) > 2
        fits = connected and tuple(tensor.shape) == (shape[0], math.prod(shape[1:]))
        out[name] = tensor.reshape(shape) if fits else tensor
    return out


def conv_size(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return the output size of a convolution or pooling: floor((I + 2p - d(k-1) - 1) / s) + 1.

    References
    ----------
    Dumoulin, Visin: A guide to convolution arithmetic for deep learning, 2016, relationships 6 and 15.

    Examples
    --------
    >>> conv_size(224, 3, padding=1), conv_size(92, 2, stride=2), conv_size(32, 3, dilation=6)
    (224, 46, 20)
    """
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def up_conv_size(size: int, kernel: int, *, stride: int = 1, padding: int = 0) -> int:
    """Return the output size of a transposed convolution: (I - 1)s - 2p + k.

    References
    ----------
    Dumoulin, Visin: A guide to convolution arithmetic for deep learning, 2016, relationship 14.

    Examples
    --------
    >>> up_conv_size(7, 64, stride=32, padding=16), up_conv_size(16, 64, stride=32)
    (224, 544)
    """
    return (size - 1) * stride - 2 * padding + kernel


def linear_kernel(sizes: Sequence[int]) -> Tensor:
    """Return the kernel that interpolates linearly along each axis: a tent, as wide as the kernel.

    References
    ----------
    Long, Shelhamer, Darrell, CVPR 2015, section 3.3: an output is a linear combination of the nearest inputs,
    with weights that depend on nothing but where they lie.

    Examples
    --------
    >>> linear_kernel([4]), linear_kernel([2, 4]).shape
    (tensor([0.2500, 0.7500, 0.7500, 0.2500]), torch.Size([2, 4]))
    """
    kernel = torch.ones(())
    for size in sizes:
        distance = (torch.arange(size) - (size - 1) / 2).abs()
        kernel = kernel[..., None] * (1 - distance / ((size + 1) // 2))
    return kernel


def interpolate_at_start(layer: nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
    """Let a transposed convolution begin as linear interpolation of each channel, which it may unlearn.

    Examples
    --------
    >>> layer = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1, bias=False)
    >>> interpolate_at_start(layer)
    >>> layer(torch.ones(1, 2, 3, 3))[0, 0, 2].tolist()
    [0.75, 1.0, 1.0, 1.0, 1.0, 0.75]
    """
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(min(layer.weight.shape[:2])):
            layer.weight[channel, channel] = linear_kernel(layer.kernel_size)
        if layer.bias is not None:
            layer.bias.zero_()


def check_image(image: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Refuse a batch of other channels or axes than a network takes.

    Examples
    --------
    >>> check_image(torch.zeros(1, 3, 5, 6), 2, 3)
    """
    if image.ndim != spatial_dims + 2 or image.shape[1] != in_channels:
        raise Refused(
            "channel-mismatch",
            "the network's input",
            got=tuple(image.shape),
            expected=f"(N, {in_channels}, {', '.join(['size'] * spatial_dims)})",
        )

"""A copy of a network that predicts fast: batch norm folded, channels last, bfloat16 where wanted."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .device import fast_format
from .ensemble import Ensemble
from .geometry import geometry_of
from .parts import Box, runs_parts
from .unet import UNet

__all__ = ["fast_network", "fold_batch_norm"]

_log = logging.getLogger(__name__)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
_STRIP = 1 << 15  # pixels
_TOLERANCE = 1e-4  # folding only rounds: an error in it is off by far more


def fast_network(
    network: nn.Module, in_channels: int, spatial_dims: int, *, bfloat16: bool = False
) -> nn.Module:
    """Return a copy of a network for predicting, or the network itself where a copy would not be the same.

    Takes float32 images and gives float32 logits. With ``bfloat16`` the weights are rounded once and all
    layers but the last compute in bfloat16; a last layer called ``head`` keeps float32, so that classes
    are not tied by rounding.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode. It is left as it was; later changes of its weights do not reach the copy.
    in_channels, spatial_dims : int
        What it takes.
    bfloat16 : bool
        Half the memory, and several times faster where `has_bfloat16`; values keep about 3 digits.

    Notes
    -----
    A network that is not one of `NETWORKS` is tried on a small input first. If its copy fails or
    differs (a layer may need contiguous input), the network itself is returned, and that is logged.

    Examples
    --------
    >>> import torch
    >>> from medseg.networks import UNet
    >>> network = UNet(2, 1, 2, channels=(2, 4), padding="same", norm="batch").eval()
    >>> fast, image = fast_network(network, 1, 2), torch.rand(1, 1, 16, 24)
    >>> torch.allclose(fast(image), network(image), atol=1e-5)
    True
    """
    if isinstance(network, Ensemble):
        each = (fast_network(m, in_channels, spatial_dims, bfloat16=bfloat16) for m in network.members)
        return Ensemble(list(each)).eval()
    fast = _Fast(network, in_channels, spatial_dims, torch.bfloat16 if bfloat16 else torch.float32)
    if not isinstance(network, UNet) and not _same(network, fast, in_channels):
        _log.warning("the network has layers that its fast form does not give: it runs as it is, in float32")
        return network
    return fast


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold each batch norm right behind a convolution into it, in place.

    Only where the order of the layers is known: in an ``nn.Sequential``, and in a module whose attribute
    ``norms_behind`` gives the names of convolutions and of the norms right behind them. Modules that are used
    in several places or have hooks are left alone. Returns ``network``.

    References
    ----------
    Jacob et al., Quantization and Training of Neural Networks, CVPR 2018, section 3.2 (equation 14).

    Examples
    --------
    >>> block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> [type(layer).__name__ for layer in fold_batch_norm(block)]
    ['Conv2d', 'Identity', 'ReLU']
    """
    uses = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    for parent in list(network.modules()):
        for name, name_of_norm in _neighbours(parent):
            layer, norm = parent.get_submodule(name), parent.get_submodule(name_of_norm)
            if not (isinstance(layer, nn.Conv2d | nn.Conv3d) and isinstance(norm, _NORMS)):
                continue
            if norm.track_running_stats and _alone(layer, uses) and _alone(norm, uses):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, name_of_norm, nn.Identity())  # the places of the others stay
    return network


def _neighbours(parent: nn.Module) -> Sequence[tuple[str, str]]:
    if type(parent) is nn.Sequential:
        names = [name for name, _ in parent.named_children()]
        return list(itertools.pairwise(names))
    return getattr(parent, "norms_behind", ())


class _Fast(nn.Module):
    """Folded weights in one type, channels last; float32 goes in and comes out."""

    input_dtype = torch.float32
    takes_any_format = True

    def __init__(self, network: nn.Module, in_channels: int, spatial_dims: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.geometry = geometry_of(network, in_channels, spatial_dims)
        self.format = fast_format(spatial_dims)
        self.dtype, self.runs_parts = dtype, runs_parts(network)
        inner = fold_batch_norm(copy.deepcopy(network).eval().requires_grad_(False))
        head = getattr(network, "head", None)
        self.network = inner.to(dtype).to(memory_format=self.format)  # type: ignore[call-overload]
        if dtype != torch.float32 and isinstance(head, nn.Module):
            inner.head = _Float32(copy.deepcopy(head))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image.to(self.dtype).contiguous(memory_format=self.format))
        return logits.float()

    def parts(self, image: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
        inner: Any = self.network
        for logits in inner.parts(image.to(self.dtype).contiguous(memory_format=self.format), boxes):
            yield logits.float()


class _Float32(nn.Module):
    """A last layer that computes in float32 behind others that do not."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self.layer
        pointwise = isinstance(layer, nn.Conv2d | nn.Conv3d) and set(layer.kernel_size) == {1}
        if not pointwise or x.device.type == "cuda":
            whole: Tensor = layer(x.float())
            return whole
        # in strips that stay in the processor's cache: a float32 copy of everything would be twice x
        shape = (x.shape[0], int(layer.out_channels), *x.shape[2:])
        like = fast_format(x.ndim - 2)
        out = torch.empty(shape, dtype=torch.float32, device=x.device, memory_format=like)
        step = max(1, _STRIP // math.prod(x.shape[3:]))
        for start in range(0, x.shape[2], step):
            rows = slice(start, start + step)
            out[:, :, rows] = layer(x[:, :, rows].float())
        return out


def _alone(module: nn.Module, uses: Counter[int]) -> bool:
    return uses[id(module)] == 1 and not (module._forward_hooks or module._forward_pre_hooks)


def _same(network: nn.Module, fast: _Fast, in_channels: int) -> bool:
    """Tell whether the copy runs, and in float32 gives what the network gives."""
    device = next((t.device for t in network.parameters()), torch.device("cpu"))
    g = fast.geometry
    size = [m + (2 + axis) * s for axis, (m, s) in enumerate(zip(g.minimum, g.stride))]
    image = torch.rand(1, in_channels, *size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        with torch.inference_mode():
            expected, found = network(image), fast(image)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return False  # each network tells in its own way that it cannot
    if expected.shape != found.shape or not bool(found.isfinite().all()):
        return False
    scale = max(1.0, float(expected.abs().max()))
    rounded = fast.dtype != torch.float32  # how much that changes is for a validation to tell
    return rounded or float((found - expected).abs().max()) <= _TOLERANCE * scale

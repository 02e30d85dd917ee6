"""Networks by their short names; each answers for its own geometry.

A network is any ``torch.nn.Module`` from ``(N, C, *spatial)`` to logits ``(N, classes, *spatial)``. What
it needs of context is read from its ``geometry`` where it has one, and measured where it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psutil
import torch
from torch import nn

from ..errors import Refused, refuse_unknown
from ..plan import Plan
from ..tiling import Geometry
from .coarse import Coarse
from .deeplab import deeplab_of
from .device import fast_format, has_bfloat16, resolve_device, training_format
from .ensemble import Ensemble, mean_probabilities
from .fast import fast_network
from .fcn import FCN, fcn_of
from .geometry import geometry_of, measure_geometry
from .memory import forward_bytes
from .parts import runs_parts
from .patches import PatchNetwork, patch_network_of
from .unet import UNet
from .vgg import VGG16
from .weights import Loaded, load_weights, read_weights

__all__ = [
    "FCN",
    "NETWORKS",
    "VGG16",
    "Coarse",
    "Ensemble",
    "Loaded",
    "PatchNetwork",
    "UNet",
    "build_network",
    "fast_format",
    "fast_network",
    "forward_bytes",
    "geometry_of",
    "has_bfloat16",
    "load_weights",
    "mean_probabilities",
    "measure_geometry",
    "parameter_bytes",
    "plan_geometry",
    "read_weights",
    "resolve_device",
    "runs_parts",
    "training_format",
]


def _unet(plan: Plan, *, skips: bool = True) -> nn.Module:
    n = plan.network
    return UNet(
        plan.input.spatial_dims,
        plan.input.channels,
        len(plan.target.classes),
        channels=n.channels,
        padding=n.padding,
        norm=None if n.norm == "none" else n.norm,
        dropout=n.dropout,
        strides=n.strides or None,
        kernels=n.kernels or None,
        residual=n.residual,
        deep_supervision=n.deep_supervision,
        skips=skips,
    )


NETWORKS: dict[str, Callable[[Plan], nn.Module]] = {
    "unet": _unet,
    "encoder-decoder": partial(_unet, skips=False),
    "patch": patch_network_of,
    "patch-dense": partial(patch_network_of, dense=True),
    "fcn32s": partial(fcn_of, skips=0),
    "fcn16s": partial(fcn_of, skips=1),
    "fcn8s": partial(fcn_of, skips=2),
    "deeplab-vgg16": partial(deeplab_of, encoder="vgg16"),
    "deeplab-resnet50": partial(deeplab_of, encoder="resnet50"),
    "deeplab-resnet101": partial(deeplab_of, encoder="resnet101"),
}


def build_network(plan: Plan) -> nn.Module:
    """Make the network that a plan names, with fresh weights.

    Raises
    ------
    Refused
        ``unknown-network``; ``out-of-memory`` where its weights alone do not fit.

    Examples
    --------
    >>> from medseg import Plan
    >>> type(build_network(Plan())).__name__
    'UNet'
    """
    name, members = plan.network.name, plan.network.members
    if name not in NETWORKS:
        raise refuse_unknown("network", name, NETWORKS)
    try:
        # first without weights: an operating system that promises more than it has ends the process
        with torch.device("meta"):
            needed = parameter_bytes(NETWORKS[name](plan)) * members
        if needed > psutil.virtual_memory().available:
            raise MemoryError
        made = [NETWORKS[name](plan) for _ in range(members)]
        return made[0] if members == 1 else Ensemble(made)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        raise Refused(
            "out-of-memory",
            "the network's weights do not fit into memory",
            got=f"network.channels = {list(plan.network.channels)}",
            do="use fewer network.channels",
        ) from error


def plan_geometry(plan: Plan) -> Geometry:
    """Return the geometry of the network that a plan names; weights are made only where it is measured.

    Examples
    --------
    >>> from medseg import Plan
    >>> plan_geometry(Plan()).stride
    (8, 8)
    """
    if plan.network.name not in NETWORKS:
        raise refuse_unknown("network", plan.network.name, NETWORKS)
    with torch.device("meta"):
        own = getattr(NETWORKS[plan.network.name](plan), "geometry", None)
    if isinstance(own, Geometry):
        return own
    return geometry_of(build_network(plan), plan.input.channels, plan.input.spatial_dims)


def parameter_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers.

    Examples
    --------
    >>> parameter_bytes(nn.Linear(3, 1))
    16
    """
    tensors = [*network.parameters(), *network.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)

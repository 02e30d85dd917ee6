"""The memory of a training step, and plans that stay within a bound."""

from __future__ import annotations

from typing import Any

from ..errors import Refused
from ..networks import build_network, forward_bytes, geometry_of
from ..plan import Plan

__all__ = ["training_bytes", "within"]

_SLACK = 1.5  # the loss, and what convolution libraries need beside the tensors: measured 1.1 to 1.65 times


def within(plan: Plan, memory_gb: float) -> Plan:
    """Return a plan whose batch and then patch shrink until a training step stays within the memory."""
    network = build_network(plan)
    geometry = geometry_of(network, plan.input.channels, plan.input.spatial_dims)
    reason = f"a training step stays within {memory_gb:g} GB"
    while (needed := training_bytes(plan, network)) > memory_gb * 1e9:
        patch, batch = plan.train.patch, plan.train.batch_size
        if batch > 1:
            plan = plan.with_values({"train.batch_size": batch // 2}, reason=reason)
            continue
        longest = max(range(len(patch)), key=lambda axis: patch[axis])
        smaller = list(patch)
        smaller[longest] -= geometry.stride[longest]
        legal = smaller[longest] >= geometry.minimum[longest]
        shrunk = plan.with_values({"train.patch": tuple(smaller)}, reason=reason) if legal else plan
        if not legal or not _trainable(shrunk, network):
            raise Refused(
                "out-of-memory",
                "the network is too big for this memory even on its smallest patch",
                got=f"memory_gb = {memory_gb:g}",
                expected=f"at least {needed / 1e9:.2f} GB",
                do="use fewer network.channels",
            )
        plan = shrunk
    return plan


def _trainable(plan: Plan, network: Any) -> bool:
    """Tell whether a patch is large enough to be normalised at the deepest level."""
    try:
        return training_bytes(plan, network) > 0
    except Refused:
        return False


def training_bytes(plan: Plan, network: Any = None) -> int:
    """Return the memory of a training step: activations, weights, gradients and the optimiser's state.

    Examples
    --------
    >>> from medseg import Plan
    >>> training_bytes(Plan()) > 1e8
    True
    """
    network = build_network(plan) if network is None else network
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    try:
        activations = forward_bytes(network, plan.input.channels, backward=True)(plan.train.patch)
    except ValueError as error:
        if isinstance(error, Refused) or "more than 1 value" not in str(error):
            raise
        raise Refused(
            "illegal-size",
            "'train.patch' leaves one pixel at the deepest level, which cannot be normalised",
            got=list(plan.train.patch),
            do="use a larger train.patch, fewer network.channels or network.norm=none",
        ) from error
    return int(activations * plan.train.batch_size * _SLACK + 4 * weights)

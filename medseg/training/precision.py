"""Whether a trained network predicts as well in bfloat16: measured once, at the end of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..networks import fast_network, has_bfloat16
from ..plan import Plan
from .validation import main_metric, score_labels

__all__ = ["MOST_CHANGE", "with_precision"]

MOST_CHANGE = 0.002  # of the mean of a metric: less than two trainings of other seeds differ by
_BY_HAND = ("set by hand", "given on the command line")
_KEY = "predict.precision"


def with_precision(plan: Plan, network: nn.Module, samples: Sequence[Mapping[str, Any]]) -> Plan:
    """Return the plan with the precision in which the network is to predict, and the reason.

    bfloat16 is chosen where the main metric and the Dice coefficient over the validation cases both stay
    within 0.002 of what float32 gives. A precision that was given by hand is left as it is.

    Parameters
    ----------
    plan : Plan
        Of the training.
    network : torch.nn.Module
        With its final weights, where it was trained.
    samples : sequence of mapping
        Validation cases from `medseg.sampling.load_samples`.
    """
    if plan.reasons.get(_KEY) in _BY_HAND:
        return plan
    precision, reason = _measured(plan, network, samples)
    return plan.with_values({_KEY: precision}, reason=reason)


def _measured(plan: Plan, network: nn.Module, samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if not has_bfloat16(next(network.parameters()).device):
        return "float32", "not measured: it was trained where bfloat16 is not computed in hardware"
    channels, dims = plan.input.channels, plan.input.spatial_dims
    was_training = network.training
    network.eval()
    exact = fast_network(network, channels, dims)
    rounded = fast_network(network, channels, dims, bfloat16=True)
    network.train(was_training)
    if rounded is network:
        return "float32", "the network cannot be run in bfloat16"
    before, after = score_labels(exact, samples, plan), score_labels(rounded, samples, plan)
    known = [name for name in before if not (math.isnan(before[name]) and math.isnan(after[name]))]
    if main_metric(plan) not in known:
        return "float32", "not measured: no validation case has a score"
    told = ", ".join(f"{name} {after[name]:.4f} for {before[name]:.4f}" for name in known)
    safe = all(abs(after[name] - before[name]) <= MOST_CHANGE for name in known)  # NaN is not
    cases = f"of {len(samples)} validation cases"
    if safe:
        return "bfloat16", f"measured: as good as float32, {told} {cases}"
    return "float32", f"measured: bfloat16 would give {told} {cases}"

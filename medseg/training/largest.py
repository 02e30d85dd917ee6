"""Of which classes only the largest connected part is kept: measured once, at the end of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ..instances import keep_largest
from ..metrics import dice, without_ignored
from ..plan import Plan
from ..targets import IGNORED
from .validation import predicted_labels

__all__ = ["LEAST_GAIN", "with_largest"]

LEAST_GAIN = 0.0005  # of the mean Dice coefficient of a class
_KEY = "predict.largest"


def with_largest(plan: Plan, network: nn.Module, samples: Sequence[Mapping[str, Any]]) -> Plan:
    """Return the plan with the classes of which only the largest part is to be kept, and the reason.

    A class is one of them if that raises its mean Dice coefficient over the validation cases. Classes that
    were given by hand stay.

    Parameters
    ----------
    plan : Plan
        Of the training.
    network : torch.nn.Module
        With its final weights, in evaluation mode.
    samples : sequence of mapping
        Validation cases from `medseg.sampling.load_samples`.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18 (2021), online methods: postprocessing.
    """
    ground = plan.target.kind == "semantic" and plan.target.has_background
    if not ground or not len(samples) or plan.predict.largest:
        return plan
    classes = range(1, len(plan.target.classes))
    gains: dict[int, list[float]] = {value: [] for value in classes}
    for number in range(len(samples)):
        sample = samples[number]
        labels, reference = predicted_labels(network, sample, plan), np.asarray(sample["label"][0])
        kept, _, _ = without_ignored(keep_largest(labels, classes), reference, (IGNORED,))
        labels, reference, _ = without_ignored(labels, reference, (IGNORED,))
        before = dice(labels, reference, classes=classes)
        after = dice(kept, reference, classes=classes)
        for value in classes:
            gains[value].append(after[value] - before[value])
    mean = {v: float(np.nanmean(g)) if np.isfinite(g).any() else 0.0 for v, g in gains.items()}
    names = plan.target.classes
    gaining = tuple(names[value] for value in classes if mean[value] > LEAST_GAIN)
    told = ", ".join(f"{names[value]} {mean[value]:+.4f}" for value in list(classes)[:8])
    reason = f"measured: dice of {len(samples)} validation cases would change by {told}"
    return plan.with_values({_KEY: gaining}, reason=reason)

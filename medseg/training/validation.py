"""Validation while training: the loss, and the metric that chooses the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..chains import target_chain
from ..inference import Prediction, inferer_of
from ..metrics import score_arrays
from ..plan import Plan
from ..targets import IGNORED

__all__ = ["main_metric", "predicted_labels", "score_labels", "validate"]


def main_metric(plan: Plan) -> str:
    """Return the metric that chooses the best checkpoint: mean ap for instances, mean dice for classes."""
    return "ap" if plan.target.kind == "instances" else "dice"


def validate(
    network: nn.Module, samples: Sequence[Mapping[str, Any]], plan: Plan, loss: Callable[..., Tensor]
) -> dict[str, float]:
    """Return ``val_loss`` and the main metric over whole images.

    Parameters
    ----------
    network : torch.nn.Module
        Put into evaluation mode, and back.
    samples : sequence of mapping
        From `medseg.sampling.load_samples`.
    plan : Plan
        Its targets, and how objects are made.
    loss : callable
        ``loss(logits, target, weight=...)``.
    """
    was_training = network.training
    network.eval()
    inferer, chain = inferer_of(plan), target_chain(plan)
    device = next(network.parameters()).device
    metric = main_metric(plan)
    losses, scores = [], []
    for number in range(len(samples)):
        sample = samples[number]
        target = chain({"label": sample["label"]})
        image = torch.as_tensor(sample["image"]).as_subclass(Tensor).to(device)
        logits = inferer(image[None], network)
        extra = {"weight": _plain(target["weight"], device)} if "weight" in target else {}
        losses.append(float(loss(logits.float(), _plain(target["label"], device).long(), **extra)))
        labels = logits[0].argmax(0).cpu().numpy()
        reference = np.asarray(sample["label"][0])
        scores.append(_scores(labels, reference, plan, (metric,))[metric])
    network.train(was_training)
    return {"val_loss": float(np.mean(losses)) if losses else math.nan, metric: _mean(scores)}


def score_labels(network: nn.Module, samples: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, float]:
    """Return the main metric and the mean Dice coefficient of whole images, predicted tile by tile.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode.
    samples : sequence of mapping
        From `medseg.sampling.load_samples`.
    plan : Plan
        How objects are made. Dice is that of its classes, or of objects against their ground.
    """
    rows: dict[str, list[float]] = {main_metric(plan): [], "dice": []}
    for number in range(len(samples)):
        sample = samples[number]
        labels = predicted_labels(network, sample, plan)
        for name, value in _scores(labels, np.asarray(sample["label"][0]), plan, tuple(rows)).items():
            rows[name].append(value)
    return {name: _mean(values) for name, values in rows.items()}


def predicted_labels(network: nn.Module, sample: Mapping[str, Any], plan: Plan) -> np.ndarray:
    """Return the class indices of a sample, predicted tile by tile by a network in evaluation mode."""
    device = next(network.parameters()).device
    image = torch.as_tensor(sample["image"]).as_subclass(Tensor).to(device)
    labels, _ = inferer_of(plan).labels(image, network)
    return labels


def _scores(
    labels: np.ndarray, reference: np.ndarray, plan: Plan, metrics: Sequence[str]
) -> dict[str, float]:
    """Return those of the metrics ap (objects only) and dice that are asked for."""
    if plan.target.kind == "instances":
        # samples are coarse, see input.downsample, and sizes of objects are those of fine pixels
        size = plan.predict.min_size // math.prod(plan.input.downsample)
        coarse = plan.with_values({"predict.min_size": size})
        found = Prediction(labels, None, np.eye(4), "pixel", coarse).instances()
        objects = score_arrays(found, reference, metrics=("ap",), ignore=(IGNORED,))
        scores = {"ap": objects.mean("ap", "mean")}
        if "dice" in metrics:
            is_object = np.where(reference == IGNORED, IGNORED, reference > 0)
            ground = score_arrays(np.uint8(found > 0), is_object, metrics=("dice",), ignore=(IGNORED,))
            scores["dice"] = ground.mean("dice")
        return scores
    # metrics take 0 for the background: where there is none, indices count from 1
    first = 0 if plan.target.has_background else 1
    classes = {name: i for i, name in enumerate(plan.target.classes, first) if i}
    reference = np.where(reference == IGNORED, IGNORED, reference + first)
    scored = score_arrays(
        labels.astype(np.int64) + first, reference, metrics=("dice",), classes=classes, ignore=(IGNORED,)
    )
    return {"dice": scored.mean("dice")}


def _mean(values: Sequence[float]) -> float:
    usable = [value for value in values if math.isfinite(value)]
    return float(np.mean(usable)) if usable else math.nan


def _plain(tensor: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(tensor).as_subclass(Tensor).to(device)

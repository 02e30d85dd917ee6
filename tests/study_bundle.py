"""A model that is right by construction: above 150 HU it says liver, below -150 HU spleen."""

from __future__ import annotations

from pathlib import Path

import torch

import medseg
from medseg.bundle import save_bundle
from medseg.networks import build_network

THRESHOLD = 150.0
CLASSES = ("background", "liver", "spleen")


def threshold_bundle(path: Path) -> Path:
    """Write a U-Net whose weights hand the input on to its last layer, which compares it."""
    plan = medseg.Plan(name="threshold").with_values(
        {
            "input.spatial_dims": 3,
            "input.normalise": "none",
            "input.orientation": "RAS",
            "input.spacing_unit": "mm",
            "train.patch": (16, 16, 16),
            "network.channels": (2, 4),
            "network.norm": "none",
            "network.padding": "same",
            "target.classes": CLASSES,
            "target.values": (0, 1, 2),
        }
    )
    network = build_network(plan)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
        state = network.state_dict()

        def passes(name: str, pairs: list[tuple[int, int, float]]) -> None:
            middle = tuple(s // 2 for s in state[name].shape[2:])
            for to, source, factor in pairs:
                state[name][(to, source, *middle)] = factor

        passes("down.0.0.weight", [(0, 0, 1.0), (1, 0, -1.0)])  # what is above 0, and what is below
        for name in ("down.0.2.weight", "merge.0.0.weight", "merge.0.2.weight"):
            passes(name, [(0, 0, 1.0), (1, 1, 1.0)])  # the skip's channels come first
        passes("head.weight", [(1, 0, 1.0), (2, 1, 1.0)])
        state["head.bias"][:] = torch.tensor([0.0, -THRESHOLD, -THRESHOLD])
    return save_bundle(path, plan, network.eval(), card="# A threshold")

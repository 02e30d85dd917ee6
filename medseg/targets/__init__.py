"""What a network learns from an instance map: class targets, and the border weight map of the U-Net paper."""

from __future__ import annotations

from .classes import (
    IGNORED,
    TARGETS,
    Target,
    centre_directions,
    distance_levels,
    foreground,
    interior_border,
)
from .touching import instances_from_mask, part_touching
from .weights import border_weight_map, class_weights

__all__ = [
    "IGNORED",
    "TARGETS",
    "Target",
    "border_weight_map",
    "centre_directions",
    "class_weights",
    "distance_levels",
    "foreground",
    "instances_from_mask",
    "interior_border",
    "part_touching",
]

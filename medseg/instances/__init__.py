"""From a label map to objects: told apart, numbered, measured."""

from __future__ import annotations

from .largest import keep_largest
from .numbering import relabel
from .panoptic import Panoptic, to_panoptic
from .separating import METHODS, to_instances
from .table import object_table

__all__ = ["METHODS", "Panoptic", "keep_largest", "object_table", "relabel", "to_instances", "to_panoptic"]

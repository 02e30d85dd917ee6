"""Samples from paths: images and label maps read, values of label files turned into numbers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..errors import Refused
from ..instances import relabel
from ..io import read, read_label
from ..plan import TargetPlan

__all__ = ["ClassIndicesd", "ReadImaged", "ReadLabeld", "Renumberd"]


class ReadImaged(MapTransform):  # type: ignore[misc]
    """Replace a path by its image, see `medseg.read`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the image of every key."""
        return dict(data) | {key: read(data[key]) for key in self.key_iterator(data)}


class ReadLabeld(MapTransform):  # type: ignore[misc]
    """Replace a path, or one path an object, by its label map, see `medseg.io.read_label`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the label map of every key; its shape must be the image's."""
        out = dict(data) | {key: read_label(data[key]) for key in self.key_iterator(data)}
        for key in self.key_iterator(data):
            if "image" in out and out[key].shape[1:] != out["image"].shape[1:]:
                raise Refused(
                    "shape-mismatch",
                    f"the label of '{out['image'].meta.get('filename_or_obj')}' has another shape",
                    got=tuple(out[key].shape[1:]),
                    expected=tuple(out["image"].shape[1:]),
                    do="pair each image with its own label",
                )
        return out


class ClassIndicesd(MapTransform):  # type: ignore[misc]
    """Turn the values of label files into class indices; a value that no class has is refused."""

    def __init__(self, keys: KeysCollection, target: TargetPlan) -> None:
        super().__init__(keys)
        self.target = target

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert every key."""
        out = dict(data)
        values = torch.tensor(self.target.values)
        order = values.argsort()
        for key in self.key_iterator(out):
            label = out[key]
            place = torch.searchsorted(values[order], label.as_tensor().contiguous()).clamp_max(
                len(values) - 1
            )
            if (wrong := values[order][place] != label.as_tensor()).any():
                raise Refused(
                    "unknown-label",
                    f"'{label.meta.get('filename_or_obj')}' holds values that no class has",
                    got=label.as_tensor()[wrong].unique().tolist()[:5],
                    expected=list(self.target.values),
                    do="add them to target.classes and target.values of the plan",
                )
            out[key] = MetaTensor(order[place], meta=label.meta)
        return out


class Renumberd(MapTransform):  # type: ignore[misc]
    """Number objects 1 to n: the resampling goes through float32, which knows whole numbers to 2**24 only."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Renumber every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            numbers = torch.from_numpy(relabel(np.asarray(out[key])))
            out[key] = MetaTensor(numbers, meta=out[key].meta)
        return out

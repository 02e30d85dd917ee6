"""Samples from paths: images and label maps read, values of label files turned into numbers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ..errors import Refused
from ..instances import relabel
from ..io import read, read_label, with_spacing
from ..io.pixels import MOST_APART, farthest, spacing_from
from ..plan import TargetPlan
from ..targets import IGNORED

__all__ = ["ClassIndicesd", "ReadImaged", "ReadLabeld", "Renumberd"]


class ReadImaged(MapTransform):  # type: ignore[misc]
    """Replace a path, or one path a channel, by its image, see `medseg.read`.

    A ``spacing`` of the sample, with its ``spacing_unit``, takes the place of the file's own.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the image of every key."""
        out = {key: value for key, value in data.items() if key not in ("spacing", "spacing_unit")}
        for key in self.key_iterator(data):
            out[key] = read(data[key])
            if (spacing := data.get("spacing")) is not None:
                unit = data.get("spacing_unit") or "mm"
                out[key] = with_spacing(out[key], spacing, unit, name=f"'{data[key]}'")
                out[key].meta["spacing_given"] = True
        return out


class ReadLabeld(MapTransform):  # type: ignore[misc]
    """Replace a path, or one path an object, by its label map, see `medseg.io.read_label`.

    ``colours`` of the sample say what the colours of a colour picture stand for. The map gets the affine of
    the image, whose grid must be its own where both files know theirs in millimetres.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the label map of every key; its grid must be the image's."""
        out = {key: value for key, value in data.items() if key != "colours"}
        colours = data.get("colours") or ()
        out |= {key: read_label(data[key], colours=colours) for key in self.key_iterator(data)}
        if "image" in out:
            for key in self.key_iterator(data):
                _lay_on(out[key], out["image"])
        return out


def _lay_on(label: MetaTensor, image: MetaTensor) -> None:
    """Give a label map the affine of its image; refuse one of another shape, or elsewhere in the patient."""
    if label.shape[1:] != image.shape[1:]:
        raise Refused(
            "shape-mismatch",
            f"the label of '{image.meta.get('filename_or_obj')}' has another shape",
            got=tuple(label.shape[1:]),
            expected=tuple(image.shape[1:]),
            do="pair each image with its own label",
        )
    known = image.meta.get("spacing_unit") == label.meta.get("spacing_unit") == "mm"
    if known and label.ndim == 4 and not image.meta.get("spacing_given"):
        ours, theirs = np.asarray(image.affine, np.float64), np.asarray(label.affine, np.float64)
        apart = farthest(ours, theirs, image.shape[1:])
        if apart > MOST_APART * min(spacing_from(ours, 3)):
            raise Refused(
                "different-grids",
                f"the label of '{image.meta.get('filename_or_obj')}' lies elsewhere in the patient",
                got=f"corners up to {apart:.3g} mm apart",
                expected="one grid",
                do="resample the label to the image by nearest neighbours, or correct its header",
            )
    label.affine = image.affine.clone()


class ClassIndicesd(MapTransform):  # type: ignore[misc]
    """Turn the values of label files into class indices; a value that no class has is refused.

    Values in ``target.ignore`` become `medseg.targets.IGNORED`.
    """

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
            ignored = _is_one_of(label, self.target.ignore)
            if (wrong := (values[order][place] != label.as_tensor()) & ~ignored).any():
                raise Refused(
                    "unknown-label",
                    f"'{label.meta.get('filename_or_obj')}' holds values that no class has",
                    got=label.as_tensor()[wrong].unique().tolist()[:5],
                    expected=list(self.target.values),
                    do="add them to target.classes and target.values of the plan, or to target.ignore",
                )
            out[key] = MetaTensor(order[place].masked_fill(ignored, IGNORED), meta=label.meta)
        return out


class Renumberd(MapTransform):  # type: ignore[misc]
    """Number objects 1 to n: the resampling goes through float32, which knows whole numbers to 2**24 only.

    Values in ``ignore`` are no objects; they become `medseg.targets.IGNORED`.
    """

    def __init__(self, keys: KeysCollection, ignore: Sequence[int] = ()) -> None:
        super().__init__(keys)
        self.ignore = tuple(ignore)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Renumber every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            ignored = _is_one_of(out[key], self.ignore)
            numbers = torch.from_numpy(relabel(np.asarray(out[key].masked_fill(ignored, 0))))
            out[key] = MetaTensor(numbers.masked_fill(ignored, IGNORED), meta=out[key].meta)
        return out


def _is_one_of(label: MetaTensor, values: Sequence[int]) -> torch.Tensor:
    """Tell which pixels hold one of a few values."""
    found = torch.zeros(label.shape, dtype=torch.bool)
    for value in values:
        found |= label.as_tensor() == value
    return found

"""Transforms from an instance map to what the loss needs: border weights and class indices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from ..errors import Refused, refuse_unknown
from ..targets import (
    IGNORED,
    TARGETS,
    border_weight_map,
    class_weights,
    instances_from_mask,
    part_touching,
)

__all__ = ["BorderWeightMapd", "Targetd"]


class BorderWeightMapd(MapTransform):  # type: ignore[misc]
    """Add the border weight map of an instance map, or of a map of class indices, to the sample.

    The map is computed each time the transform runs: put it after the deformation, which changes
    distances, and before :class:`Targetd`, which replaces the objects by classes. See
    :func:`medseg.border_weight_map`. Pixels that are `medseg.targets.IGNORED` are no part of an object.

    Parameters
    ----------
    key : str
        Key of the map, shape (1, *spatial), of an integer or boolean type.
    w0, sigma, spacing
        As for :func:`medseg.border_weight_map`.
    n_classes : int, optional
        The map holds indices of so many classes, 0 for the background. The connected components of each
        other class are the objects, and the weights balance all classes.
    out : str
        Key of the weights, shape (1, *spatial), float32, on the device of the map.

    Raises
    ------
    Refused
        When it runs: ``channel-count``, ``not-integer``, ``negative-label``, ``unknown-class``.

    Examples
    --------
    >>> import torch
    >>> from medseg.transforms import BorderWeightMapd
    >>> sample = BorderWeightMapd("label")({"label": torch.tensor([[[1, 1, 0, 2, 2]]])})
    >>> tuple(sample["weight"].shape), int(sample["weight"].argmax())
    ((1, 1, 5), 2)
    """

    def __init__(
        self,
        key: KeysCollection,
        *,
        w0: float = 10.0,
        sigma: float = 5.0,
        n_classes: int | None = None,
        out: str = "weight",
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(key)
        self.w0, self.sigma, self.spacing = w0, sigma, spacing
        self.n_classes, self.out = n_classes, out

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            label, ignored = _parted(_spatial(sample[key], key))
            if self.n_classes is not None:
                # the network is asked for these classes as they are, so nothing is parted
                label = label.astype(np.uint8) if label.dtype == bool else label
                weights = self._weighed(instances_from_mask(label), label, self.n_classes, ignored)
            elif ignored is not None:
                objects = part_touching(label)
                weights = self._weighed(objects, (objects > 0).astype(np.uint8), 2, ignored)
            else:
                weights = border_weight_map(label, w0=self.w0, sigma=self.sigma, spacing=self.spacing)
            sample[self.out] = _like(weights, sample[key])
        return sample

    def _weighed(
        self, objects: NDArray[Any], classes: NDArray[Any], n_classes: int, ignored: NDArray[np.bool_] | None
    ) -> NDArray[np.float32]:
        """Return border weights of objects, with classes balanced over the pixels that count."""
        balance = class_weights(classes if ignored is None else classes[~ignored], n_classes)
        weights = border_weight_map(
            objects, w0=self.w0, sigma=self.sigma, spacing=self.spacing, class_weights=False, part=False
        )
        weights += (balance - 1).astype(np.float32)[classes.astype(np.intp)]
        return weights


class Targetd(MapTransform):  # type: ignore[misc]
    """Replace an instance map by the class indices that the network learns.

    Parameters
    ----------
    key : str
        Key of the instance map, shape (1, *spatial), of an integer or boolean type.
    target : str
        A name from :data:`medseg.targets.TARGETS`.
    out : str, optional
        Key of the class indices, shape (1, *spatial), uint8; by default they replace the instance map.
        Where pixels are `medseg.targets.IGNORED` they stay so, and the type is int16.

    Raises
    ------
    Refused
        ``unknown-target``; when it runs: ``channel-count``, ``not-integer``, ``negative-label``.

    Examples
    --------
    >>> import torch
    >>> from medseg.transforms import Targetd
    >>> Targetd("label")({"label": torch.tensor([[[7, 7, 7, 2, 2]]])})["label"].tolist()
    [[[1, 1, 0, 1, 1]]]
    """

    def __init__(self, key: KeysCollection, *, target: str = "foreground", out: str | None = None) -> None:
        super().__init__(key)
        if target not in TARGETS:
            raise refuse_unknown("target", target, TARGETS)
        self.target, self.out = target, out

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        sample = dict(data)
        for key in self.key_iterator(sample):
            instances, ignored = _parted(_spatial(sample[key], key))
            labels: NDArray[Any] = TARGETS[self.target](instances)
            if ignored is not None:
                labels = np.where(ignored, np.int16(IGNORED), labels)
            sample[key if self.out is None else self.out] = _like(labels, sample[key])
        return sample


def _spatial(label: Any, key: Hashable) -> NDArray[Any]:
    """Take the one channel of a label as an array."""
    array = label.detach().cpu().numpy() if isinstance(label, torch.Tensor) else np.asarray(label)
    if array.ndim < 2 or array.shape[0] != 1:
        raise Refused(
            "channel-count",
            f"'{key}' holds one instance map",
            got=tuple(array.shape),
            expected="(1, *spatial)",
        )
    return np.asarray(array[0])


def _parted(label: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a map with background where pixels are ignored, and where that is; None for nowhere."""
    if label.dtype.kind != "i" or not (ignored := label == IGNORED).any():
        return label, None
    return np.where(ignored, label.dtype.type(0), label), ignored


def _like(values: NDArray[Any], label: Any) -> torch.Tensor:
    """Give new values the channel, the device and the geometry of the label they came from."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))[None]
    if isinstance(label, MetaTensor):
        return MetaTensor(tensor.to(label.device)).copy_meta_from(label)  # type: ignore[no-any-return]
    return tensor.to(label.device) if isinstance(label, torch.Tensor) else tensor

"""Images and label maps of a sample on the network's grid: cropped, turned and resampled by MONAI."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import CastToTyped, MapTransform, Orientationd, Spacingd, SpatialCropd, Transform
from numpy.typing import NDArray

from ..frames import Frame, nonzero_box
from ..io import turn_to
from ..plan import InputPlan

__all__ = ["CropNonzerod", "frame_of", "framing_transforms"]

_EVEN = 1e-3  # spacings that differ by less are one
_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


class CropNonzerod(MapTransform):  # type: ignore[misc]
    """Cut the smallest box that holds all pixels of an image that are not 0 out of every key.

    Parameters
    ----------
    keys : str or sequence of str
        Of one spatial shape; the first is the image that is looked at.

    Examples
    --------
    >>> from monai.data import MetaTensor
    >>> image = MetaTensor(torch.tensor([[[0, 0, 0], [0, 5, 6]]]))
    >>> CropNonzerod(["image"])({"image": image})["image"].tolist()
    [[[5, 6]]]
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        box = nonzero_box(data[self.keys[0]].as_tensor())
        cropped: dict[Hashable, Any] = SpatialCropd(self.keys, roi_slices=[slice(*span) for span in box])(
            data
        )
        return cropped


def framing_transforms(how: InputPlan, *, label: str = "label") -> list[Transform]:
    """Return the transforms that bring a sample to the network's grid; prediction undoes the same.

    `medseg.frames.Frame` is their counterpart: it gives the same values to a prediction, part by part, and
    leads back.

    Parameters
    ----------
    how : InputPlan
        Its orientation and spacing.
    label : str
        Key of the label map beside ``image``.

    Examples
    --------
    >>> how = InputPlan(spatial_dims=3, orientation="RAS", spacing=(1.0, 1.0, 3.0), resample=True)
    >>> [type(t).__name__ for t in framing_transforms(how)]
    ['Orientationd', 'Spacingd', 'CastToTyped']
    """
    both = ["image", label]
    chain: list[Transform] = []
    if how.orientation:
        chain.append(Orientationd(both, axcodes=how.orientation.upper(), labels=_LABELS))
    if how.resample:
        modes = ["bilinear", "nearest"]
        chain.append(Spacingd(both, pixdim=how.spacing, mode=modes, padding_mode="border"))
        # the resampling makes both float64 or float32
        chain.append(CastToTyped(both, dtype=[torch.float32, torch.int32]))
    return chain


def frame_of(image: Any, affine: NDArray[Any], how: InputPlan) -> Frame:
    """Return the frame that a plan lays into an image.

    Parameters
    ----------
    image : array of shape (C, \\*spatial)
        Anything that slices. Its values are looked at only where the plan crops.
    affine : ndarray of shape (4, 4)
        Of the image.
    how : InputPlan
        Its orientation, spacing and cropping.

    Examples
    --------
    >>> how = InputPlan(spatial_dims=3, orientation="RAS", spacing=(1.0, 1.0, 2.0), resample=True)
    >>> frame = frame_of(np.zeros((1, 8, 9, 5)), np.diag([-1.0, 1.0, 4.0, 1.0]), how)
    >>> frame.flipped, frame.step, frame.size
    ((True, False, False), (1.0, 1.0, 0.5), (8, 9, 9))
    """
    shape = tuple(int(n) for n in image.shape[1:])
    axes = len(shape)
    order, flipped = tuple(range(axes)), (False,) * axes
    if how.orientation:
        order, flipped = turn_to(affine, how.orientation)
    native = nonzero_box(image) if how.crop == "nonzero" else tuple((0, n) for n in shape)
    box = tuple(
        (shape[o] - native[o][1], shape[o] - native[o][0]) if f else native[o] for o, f in zip(order, flipped)
    )
    step = (1.0,) * axes
    if how.resample:
        own = np.linalg.norm(np.asarray(affine, np.float64)[:3, :axes], axis=0)
        ratio = [wanted / own[o] for wanted, o in zip(how.spacing, order)]
        step = tuple(1.0 if abs(r - 1) < _EVEN else float(r) for r in ratio)
    return Frame(shape, order, flipped, box, step)

"""Channels and brightness of images: brought to what a network takes, and changed at random."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from ..errors import Refused
from ..io import LazyImage
from ..plan import InputPlan

__all__ = [
    "Channelsd",
    "Normalized",
    "RandGreyd",
    "RandInvertd",
    "is_grey",
    "normalisation",
    "normaliser",
    "with_channels",
]

_SAMPLED = 2**21  # pixels that percentiles are taken from: the error of a percentile is then under 0.1 %


_Image = TypeVar("_Image", Tensor, LazyImage)


def with_channels(image: _Image, channels: int, name: str = "the image") -> _Image:
    """Return an image with the wanted number of channels where nothing is lost by it.

    Grey is repeated to colour; colour whose channels are equal becomes grey. Anything else is refused.

    Examples
    --------
    >>> import torch
    >>> with_channels(torch.zeros(1, 4, 5), 3).shape
    torch.Size([3, 4, 5])
    """
    found = image.shape[0]
    if found == channels:
        return image
    if found == 1 and channels == 3:
        if isinstance(image, LazyImage):
            return image.with_channels([0, 0, 0])
        return image.expand(3, *image.shape[1:])
    if found == 3 and channels == 1:
        if is_grey(image):
            return image.with_channels([0]) if isinstance(image, LazyImage) else image[:1]
        do = "convert it to grey, or train on colour images"
    else:
        do = "give the model images like those it was trained on"
    raise Refused(
        "channel-mismatch", f"{name} has the wrong number of channels", got=found, expected=channels, do=do
    )


def is_grey(image: Tensor | LazyImage) -> bool:
    """Tell whether all channels hold the same values.

    Examples
    --------
    >>> import torch
    >>> is_grey(torch.ones(3, 2, 2))
    True
    """
    if isinstance(image, LazyImage):
        parts = (image.raw(window) for window in image.windows())
        return all(bool((part[1:] == part[:1]).all()) for part in parts)
    return bool((image[1:] == image[:1]).all())


class Channelsd(MapTransform):  # type: ignore[misc]
    """Bring images to the network's number of channels, see `with_channels`."""

    def __init__(self, keys: KeysCollection, channels: int) -> None:
        super().__init__(keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            name = getattr(out[key], "meta", {}).get("filename_or_obj")
            out[key] = with_channels(out[key], self.channels, f"'{name}'" if name else "the image")
        return out


def normalisation(image: Any, how: InputPlan) -> tuple[float, float]:
    """Return ``(offset, scale)`` such that ``(image - offset) / scale`` is normalised.

    Parameters
    ----------
    image : array of shape (C, \\*spatial)
        Anything that slices with steps; a regular part of at most two million pixels is looked at.
    how : InputPlan
        Its ``normalise``, which is ``percentile`` or ``zscore``, and ``percentiles``.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.plan import InputPlan
    >>> normalisation(np.linspace(5, 15, 101)[None], InputPlan(percentiles=(0.0, 100.0)))
    (5.0, 10.0)
    """
    step = 1
    while np.prod([-(-n // step) for n in image.shape[1:]]) * image.shape[0] > _SAMPLED:
        step += 1
    # in one order whatever the image is: sums of floats depend on it
    part = np.ascontiguousarray(
        image[(slice(None), *[slice(None, None, step)] * (len(image.shape) - 1))], dtype=np.float64
    )
    if how.normalise == "percentile":
        low, high = np.percentile(part, how.percentiles)
        if low == high:  # few bright pixels on an even ground: their range, or they would stay as they are
            low, high = part.min(), part.max()
        offset, scale = low, high - low
    else:
        offset, scale = part.mean(), part.std()
    return float(offset), float(scale) if scale > 0 else 1.0


def normaliser(image: Any, how: InputPlan) -> Callable[[Tensor], Tensor]:
    """Return what normalises an image, or any part of it: a function from ``(C, ...)`` to float32.

    Parameters
    ----------
    image : array of shape (C, \\*spatial)
        Anything that slices with steps. Not looked at where all images are normalised alike.
    how : InputPlan
        Its ``normalise`` and what belongs to it.

    Examples
    --------
    >>> import torch
    >>> ct = InputPlan(normalise="window", window=((-100.0, 300.0),), mean=(100.0,), deviation=(50.0,))
    >>> normaliser(None, ct)(torch.tensor([[-1000, 100, 150]])).tolist()
    [[-4.0, 0.0, 1.0]]
    """
    if how.normalise == "none":
        return lambda part: part.to(torch.float32)
    if how.normalise == "window":
        return lambda part: _windowed(part.to(torch.float32), how)
    offset, scale = normalisation(image, how)
    return lambda part: (part.to(torch.float32) - offset) / scale


def _windowed(part: Tensor, how: InputPlan) -> Tensor:
    shape = (-1, *[1] * (part.ndim - 1))
    low, high, mean, deviation = (
        torch.tensor(numbers, dtype=part.dtype, device=part.device).reshape(shape)
        for numbers in (*zip(*how.window), how.mean, how.deviation)
    )
    return (part.maximum(low).minimum(high) - mean) / deviation


class Normalized(MapTransform):  # type: ignore[misc]
    """Normalise the brightness of images as the plan says; the result is float32."""

    def __init__(self, keys: KeysCollection, how: InputPlan) -> None:
        super().__init__(keys)
        self.how = how

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = normaliser(out[key], self.how)(out[key])
        return out


class RandInvertd(MapTransform, Randomizable):  # type: ignore[misc]
    """Make bright dark and dark bright, with a probability.

    Parameters
    ----------
    keys : str or sequence of str
        Of images.
    prob : float
        Of an inversion.
    pivot : float
        The brightness that stays: 0.5 where images go from 0 to 1, 0 where their mean is 0.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5, *, pivot: float = 0.5) -> None:
        super().__init__(keys)
        self.prob, self.pivot = prob, pivot

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Invert every key, or none."""
        out = dict(data)
        if self.R.random_sample() < self.prob:
            out |= {key: 2 * self.pivot - out[key] for key in self.key_iterator(out)}
        return out


class RandGreyd(MapTransform, Randomizable):  # type: ignore[misc]
    """Replace all channels by their mean, with a probability."""

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        super().__init__(keys)
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make every key grey, or none."""
        out = dict(data)
        if self.R.random_sample() < self.prob:
            out |= {key: out[key].mean(0, keepdim=True).expand_as(out[key]) for key in self.key_iterator(out)}
        return out

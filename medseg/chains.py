"""The chains of MONAI dictionary transforms that a plan makes: loading, augmentation, targets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    CastToTyped,
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)
from torch import Tensor

from .errors import Refused, refuse_unknown
from .instances import relabel
from .io import read, read_label
from .plan import InputPlan, Plan, TargetPlan
from .targets import TARGETS
from .tiling import read_mirrored
from .transforms import BorderWeightMapd, RandElasticd, Targetd

__all__ = [
    "Channelsd",
    "ClassIndicesd",
    "Normalized",
    "RandGreyd",
    "RandInvertd",
    "RandMirrorCropd",
    "ReadImaged",
    "ReadLabeld",
    "Renumberd",
    "augmenting_chain",
    "image_chain",
    "is_grey",
    "loading_chain",
    "normalisation",
    "take_tensor",
    "target_chain",
    "with_channels",
]

_SAMPLED = 2**21  # pixels that percentiles are taken from: the error of a percentile is then under 0.1 %


def image_chain(plan: Plan) -> Compose:
    """Return the chain from a read image to what the network is given.

    Examples
    --------
    >>> import numpy as np
    >>> from monai.data import MetaTensor
    >>> from medseg import Plan
    >>> sample = {"image": MetaTensor(np.arange(12.0).reshape(1, 3, 4))}
    >>> image = image_chain(Plan())(sample)["image"]
    >>> image.dtype, tuple(image.shape)
    (torch.float32, (1, 3, 4))
    """
    return Compose([Channelsd("image", plan.input.channels), Normalized("image", plan.input)])


def loading_chain(plan: Plan) -> Compose:
    """Return the chain from the paths ``image`` and ``label`` to a prepared sample; nothing is random."""
    prepare: list[Transform] = [ReadImaged("image"), ReadLabeld("label"), *image_chain(plan).transforms]
    if plan.target.kind == "semantic":
        prepare.append(ClassIndicesd("label", plan.target))
    else:
        prepare.append(Renumberd("label"))
    return Compose(prepare)


def augmenting_chain(plan: Plan, *, margin: Sequence[int] | None = None) -> Compose:
    """Return the random chain: a patch is cut out and changed, image and label by the same draw.

    ``margin`` is how far a patch may reach beyond the image, see `RandMirrorCropd`.
    """
    a, size = plan.augment, plan.train.patch
    both, modes = ["image", "label"], ["bilinear", "nearest"]
    chain: list[Transform] = [RandMirrorCropd(both, size, margin=margin)]
    if a.flip_prob:
        chain += [RandFlipd(both, prob=a.flip_prob, spatial_axis=axis) for axis in range(len(size))]
    if a.affine_prob:
        turn = np.deg2rad(a.rotate_degrees)
        # thick slices are not turned out of their plane: the last two axes of a volume turn
        angles = [turn] if len(size) == 2 else [turn, 0.0, 0.0]
        low, high = a.scale[0] - 1, a.scale[1] - 1
        chain.append(
            RandAffined(
                both,
                prob=a.affine_prob,
                rotate_range=angles,
                scale_range=[(low, high)] * len(size),
                mode=modes,
                padding_mode="reflection",
            )
        )
        chain.append(CastToTyped("label", dtype=torch.int32))  # the resampling makes it float32
    if a.elastic_prob:
        chain.append(
            RandElasticd(both, grid=a.elastic_grid, sigma=a.elastic_sigma, prob=a.elastic_prob, mode=modes)
        )
    if p := a.intensity_prob:
        chain += [
            RandScaleIntensityd("image", factors=(-0.4, 0.6), prob=p),
            RandShiftIntensityd("image", offsets=0.1, prob=p),
            RandAdjustContrastd("image", prob=p, gamma=(0.6, 1.6), retain_stats=True),
            RandGaussianSmoothd(
                "image", sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2), sigma_z=(0.3, 1.2), prob=p / 2
            ),
            RandGaussianNoised("image", prob=p, mean=0.0, std=0.08),
        ]
    if a.invert_prob:
        chain.append(RandInvertd("image", prob=a.invert_prob))
    if a.grey_prob:
        chain.append(RandGreyd("image", prob=a.grey_prob))
    return Compose(chain)


def target_chain(plan: Plan) -> Compose:
    """Return the chain from a deformed label to class indices and, if asked for, the border weight map."""
    t = plan.target
    chain: list[Transform] = []
    if t.border_weights:
        # class indices are no objects: two cells of one class would count as one, without a border
        n_classes = len(t.classes) if t.kind == "semantic" else None
        chain.append(BorderWeightMapd("label", w0=t.w0, sigma=t.sigma, n_classes=n_classes))
    if t.kind == "instances":
        if t.name not in TARGETS:
            raise refuse_unknown("target", t.name, TARGETS)
        chain.append(Targetd("label", target=t.name))
    return Compose(chain)


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


def with_channels(image: Tensor, channels: int, name: str = "the image") -> Tensor:
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
        return image.expand(3, *image.shape[1:])
    if found == 3 and channels == 1:
        if is_grey(image):
            return image[:1]
        do = "convert it to grey, or train on colour images"
    else:
        do = "give the model images like those it was trained on"
    raise Refused(
        "channel-mismatch", f"{name} has the wrong number of channels", got=found, expected=channels, do=do
    )


def is_grey(image: Tensor) -> bool:
    """Tell whether all channels hold the same values.

    Examples
    --------
    >>> import torch
    >>> is_grey(torch.ones(3, 2, 2))
    True
    """
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
        Its ``normalise`` and ``percentiles``.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.plan import InputPlan
    >>> normalisation(np.linspace(5, 15, 101)[None], InputPlan(percentiles=(0.0, 100.0)))
    (5.0, 10.0)
    """
    if how.normalise == "none":
        return 0.0, 1.0
    step = 1
    while np.prod([-(-n // step) for n in image.shape[1:]]) * image.shape[0] > _SAMPLED:
        step += 1
    part = np.asarray(
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


class Normalized(MapTransform):  # type: ignore[misc]
    """Normalise the brightness of each image by itself, as the plan says; the result is float32."""

    def __init__(self, keys: KeysCollection, how: InputPlan) -> None:
        super().__init__(keys)
        self.how = how

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            offset, scale = normalisation(out[key], self.how)
            out[key] = (out[key].to(torch.float32) - offset) / scale
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


class RandMirrorCropd(MapTransform, Randomizable):  # type: ignore[misc]
    """Cut the same random window out of every key; what an image lacks is mirrored.

    Parameters
    ----------
    keys : str or sequence of str
        Of one spatial shape.
    size : sequence of int
        Of the window.
    margin : sequence of int, optional
        How far the window may reach beyond the image. The rim of a window is lost to unpadded convolutions,
        so without a margin as wide the rim of an image would hardly ever be trained on.
    """

    def __init__(
        self, keys: KeysCollection, size: Sequence[int], *, margin: Sequence[int] | None = None
    ) -> None:
        super().__init__(keys)
        self.size = tuple(size)
        self.margin = tuple(margin or (0,) * len(self.size))
        self.start: tuple[int, ...] = ()

    def randomize(self, shape: Sequence[int]) -> None:
        """Draw where the window begins; a larger window than the image and margins is centred on it."""
        self.start = tuple(
            int(self.R.randint(-m, n + m - k + 1)) if n + 2 * m > k else -((k - n) // 2)
            for n, k, m in zip(shape, self.size, self.margin)
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut every key."""
        out = dict(data)
        self.randomize(out[self.keys[0]].shape[1:])
        box = [(a, a + n) for a, n in zip(self.start, self.size)]
        for key in self.key_iterator(out):
            part = out[key].as_tensor() if isinstance(out[key], MetaTensor) else out[key]
            # cloned: a view would be changed together with the cached image
            out[key] = MetaTensor(read_mirrored(part, box, take=take_tensor).clone())
        return out


def take_tensor(part: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """``numpy.take`` for tensors, for `medseg.tiling.read_mirrored`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> take_tensor(torch.tensor([[1, 2]]), np.array([1, 0]), 1)
    tensor([[2, 1]])
    """
    return part.index_select(axis, torch.from_numpy(index).to(part.device))


class RandInvertd(MapTransform, Randomizable):  # type: ignore[misc]
    """Make bright dark and dark bright, ``1 - image``, with a probability."""

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        super().__init__(keys)
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Invert every key, or none."""
        out = dict(data)
        if self.R.random_sample() < self.prob:
            out |= {key: 1 - out[key] for key in self.key_iterator(out)}
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

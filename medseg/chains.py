"""The chains of MONAI dictionary transforms that a plan makes: loading, augmentation, targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import (
    CastToTyped,
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)

from .errors import refuse_unknown
from .plan import Plan
from .targets import TARGETS
from .transforms import (
    BorderWeightMapd,
    Channelsd,
    ClassIndicesd,
    ClassPlacesd,
    CropNonzerod,
    Downsampled,
    Normalized,
    RandElasticd,
    RandGreyd,
    RandInvertd,
    RandMirrorCropd,
    ReadImaged,
    ReadLabeld,
    Renumberd,
    Targetd,
    framing_transforms,
)

__all__ = ["augmenting_chain", "image_chain", "loading_chain", "relative_spacing", "target_chain"]

_EVEN = 1.2  # spacings that differ by less are taken for equal where pixels are turned


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
    both = ["image", "label"]
    prepare: list[Transform] = [ReadImaged("image"), ReadLabeld("label")]
    if plan.input.crop == "nonzero":
        prepare.append(CropNonzerod(both))
    prepare += image_chain(plan).transforms
    semantic = plan.target.kind == "semantic"
    values = ClassIndicesd("label", plan.target) if semantic else Renumberd("label", plan.target.ignore)
    prepare.append(values)
    prepare += framing_transforms(plan.input)
    if plan.input.downsample:
        prepare.append(Downsampled(both, plan.input.downsample))
    if plan.train.foreground:
        ground = plan.target.has_background
        prepare.append(ClassPlacesd("label", together=not semantic, background=ground))
    return Compose(prepare)


def relative_spacing(plan: Plan) -> tuple[float, ...]:
    """Return how much farther apart pixels are along each axis than along the finest; 1 if not known.

    Examples
    --------
    >>> values = {"input.spacing": (0.5, 2.0), "input.spacing_unit": "mm"}
    >>> relative_spacing(Plan().with_values(values))
    (1.0, 4.0)
    """
    known = plan.input.spacing_unit != "pixel" and len(plan.input.spacing) == plan.input.spatial_dims
    spacing = plan.input.spacing if known else (1.0,) * plan.input.spatial_dims
    return tuple(s / min(spacing) for s in spacing)


def _turns(plan: Plan) -> list[float]:
    """Return the largest angle about each axis; of an image, in its plane."""
    turn, dims = float(np.deg2rad(plan.augment.rotate_degrees)), plan.input.spatial_dims
    if dims == 3 and plan.input.spacing_unit == "pixel":
        return [turn, 0.0, 0.0]  # what may be thick slices is not turned out of its plane
    far = relative_spacing(plan)
    pairs = [far] if dims == 2 else [(far[1], far[2]), (far[0], far[2]), (far[0], far[1])]
    # the turn is one of pixels: where they are not as long as wide it would shear
    return [turn if max(pair) < _EVEN * min(pair) else 0.0 for pair in pairs]


def augmenting_chain(plan: Plan, *, margin: Sequence[int] | None = None) -> Compose:
    """Return the random chain: a patch is cut out and changed, image and label by the same draw.

    ``margin`` is how far a patch may reach beyond the image, see `RandMirrorCropd`.
    """
    a, size = plan.augment, plan.train.patch
    both, modes = ["image", "label"], ["bilinear", "nearest"]
    foreground = plan.train.foreground
    chain: list[Transform] = [RandMirrorCropd(both, size, margin=margin, foreground=foreground)]
    if a.flip_prob:
        axes = a.flip_axes or range(len(size))
        chain += [RandFlipd(both, prob=a.flip_prob, spatial_axis=axis) for axis in axes]
    if a.affine_prob:
        low, high = a.scale[0] - 1, a.scale[1] - 1
        chain.append(
            RandAffined(
                both,
                prob=a.affine_prob,
                rotate_range=_turns(plan),
                scale_range=[(low, high)] * len(size),
                mode=modes,
                padding_mode="reflection",
            )
        )
        chain.append(CastToTyped("label", dtype=torch.int32))  # the resampling makes it float32
    if a.elastic_prob:
        # as many millimetres along each axis
        sigma = [a.elastic_sigma / far for far in relative_spacing(plan)]
        chain.append(RandElasticd(both, grid=a.elastic_grid, sigma=sigma, prob=a.elastic_prob, mode=modes))
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
    if p := a.colour_prob:
        chain += [
            RandScaleIntensityd("image", factors=(-0.3, 0.3), prob=p, channel_wise=True),
            RandShiftIntensityd("image", offsets=0.1, prob=p, channel_wise=True),
        ]
    if a.invert_prob:
        chain.append(
            RandInvertd(
                "image", prob=a.invert_prob, pivot=0.5 if plan.input.normalise == "percentile" else 0.0
            )
        )
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
        far = relative_spacing(plan)
        spacing = far if max(far) > min(far) else None
        weigh = BorderWeightMapd("label", w0=t.w0, sigma=t.sigma, n_classes=n_classes, spacing=spacing)
        chain.append(weigh)
    if t.kind == "instances":
        if t.name not in TARGETS:
            raise refuse_unknown("target", t.name, TARGETS)
        chain.append(Targetd("label", target=t.name))
    return Compose(chain)

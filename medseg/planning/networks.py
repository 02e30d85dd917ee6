"""What a plan holds for each network beside what follows from the data: its widths, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..networks import plan_geometry
from ..networks.vgg import WIDTHS
from ..plan import Plan

__all__ = ["LAYOUTS", "Choice", "has_levels", "with_network", "with_training"]


class Choice(NamedTuple):
    """One number of a plan, or a function from the plan to it, and the reason for it."""

    key: str
    value: Any
    reason: str


def _smallest(plan: Plan) -> tuple[int, ...]:
    """Return the smallest legal input size."""
    return plan_geometry(plan).minimum


def _widths(plan: Plan) -> tuple[int, ...]:
    """Return the channels of VGG16; a convolution of 7 x 7 x 7 has 700 million weights with as many."""
    return WIDTHS if plan.input.spatial_dims == 2 else tuple(n // 8 for n in WIDTHS)


_PATCH = (
    Choice("network.channels", (48, 48, 48, 48, 200), "network N4 of Ciresan et al. 2012, table 1"),
    Choice("network.padding", "valid", "a window lies within the image, mirrored at its ends"),
    Choice("network.norm", "none", "as in the paper"),
)
_ONE_PIXEL = (
    Choice("train.patch", _smallest, "one window, of which the pixel in the middle is classified"),
    Choice("train.batch_size", 64, "a patch has one pixel, so many of them make a step"),
    Choice("train.foreground", 0.5, "classes as often as any place: the paper balances them, too"),
)
_FCN = (
    Choice("network.channels", _widths, "those of VGG16, so that its weights fit; in volumes an eighth"),
    Choice("network.norm", "none", "as in the paper"),
    Choice("network.dropout", 0.5, "of the two layers that were fully connected, as in VGG16"),
    Choice("train.lr", 1e-4, "the rate of the paper for VGG16 (Long et al. 2015, section 4.3)"),
    Choice("predict.mirror", 0, "around patches the network pads with zeros: so it does around images"),
)


def _stride(plan: Plan) -> int:
    """Return the output stride: patches of volumes have few voxels a side."""
    return 16 if plan.input.spatial_dims == 2 else 8


def _rates(plan: Plan) -> tuple[int, ...]:
    """Return the rates: those of the paper in images, less in patches that are a quarter as wide."""
    return () if plan.input.spatial_dims == 2 else (1, 2, 3, 4)


_RIM = Choice("predict.mirror", 0, "around patches the network pads with zeros: so it does around images")
_DEEPLAB = (
    Choice("network.channels", (64, 128, 256, 512), "those of the paper, so that its weights fit"),
    Choice("network.norm", "batch", "as in the paper, in the encoder and in the pyramid"),
    Choice(
        "network.output_stride", _stride, "16 as the paper trains it; 8 in volumes, whose patches are small"
    ),
    Choice("network.rates", _rates, "those of the paper, if empty; in volumes rates that their patches hold"),
    _RIM,
)
_DEEPLAB_VGG = (
    Choice("network.channels", (64, 128, 256, 512, 512), "those of VGG16, so that its weights fit"),
    Choice("network.norm", "batch", "as in the pyramid of version 3; 'none' is the VGG16 without norms"),
    Choice("network.output_stride", 8, "as in the paper (Chen et al. 2015, section 3.1)"),
    Choice("network.rates", _rates, "those of the paper, if empty; in volumes rates that their patches hold"),
    _RIM,
)

# name of a network -> its numbers; a network that is not here has levels like those of a U-Net
LAYOUTS: dict[str, Sequence[Choice]] = {
    "patch": (*_PATCH, *_ONE_PIXEL),
    "patch-dense": _PATCH,
    "fcn32s": _FCN,
    "fcn16s": _FCN,
    "fcn8s": _FCN,
    "deeplab-vgg16": _DEEPLAB_VGG,
    "deeplab-resnet50": _DEEPLAB,
    "deeplab-resnet101": _DEEPLAB,
}


def has_levels(name: str) -> bool:
    """Tell whether a network's channels, strides and kernels follow from the spacing, a level at a time.

    Examples
    --------
    >>> has_levels("unet"), has_levels("fcn8s")
    (True, False)
    """
    return name not in LAYOUTS


def with_network(plan: Plan, name: str) -> Plan:
    """Return a plan with a network's name and its own numbers.

    Examples
    --------
    >>> plan = with_network(Plan(), "fcn8s")
    >>> plan.network.name, plan.network.norm
    ('fcn8s', 'none')
    """
    plan = plan.with_values({"network.name": name}, reason="as asked for")
    return _chosen(plan, lambda key: key.startswith("network."))


def with_training(plan: Plan) -> Plan:
    """Return a plan with what its network wants of training and prediction, once the rest is known.

    Examples
    --------
    >>> with_training(with_network(Plan(), "fcn8s")).predict.mirror
    0
    """
    return _chosen(plan, lambda key: not key.startswith("network."))


def _chosen(plan: Plan, wanted: Callable[[str], bool]) -> Plan:
    for choice in LAYOUTS.get(plan.network.name, ()):
        if wanted(choice.key):
            value = choice.value(plan) if callable(choice.value) else choice.value
            plan = plan.with_values({choice.key: value}, reason=choice.reason)
    return plan

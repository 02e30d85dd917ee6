"""The tables of a plan: one frozen dataclass each, and the range of every number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "RANGES",
    "AugmentPlan",
    "InputPlan",
    "NetworkPlan",
    "PredictPlan",
    "SplitPlan",
    "TargetPlan",
    "TrainPlan",
]


@dataclass(frozen=True)
class InputPlan:
    """What the network is given."""

    spatial_dims: Literal[2, 3] = 2
    channels: int = 1
    """Channels of an image; 1 takes grey images, 3 takes colour and repeats grey."""
    normalise: Literal["percentile", "zscore", "window", "none"] = "percentile"
    """Each image for itself: its percentiles to 0 and 1, or its mean to 0 and its deviation to 1. Or all
    alike by ``window``, ``mean`` and ``deviation``, where values have a meaning of their own (CT)."""
    percentiles: tuple[float, float] = (1.0, 99.8)
    window: tuple[tuple[float, float], ...] = ()
    """Lowest and highest value of each channel; what lies beyond is clipped."""
    mean: tuple[float, ...] = ()
    """Value of each channel that becomes 0, with ``window``."""
    deviation: tuple[float, ...] = ()
    """Difference of values of each channel that becomes 1, with ``window``."""
    orientation: str = ""
    """Where the axes of an image point before anything else, such as ``RAS``; empty: as they are stored."""
    spacing: tuple[float, ...] = ()
    """Median spacing of the training images an axis; empty where the files do not tell."""
    spacing_unit: Literal["um", "mm", "pixel"] = "pixel"
    resample: bool = False
    """Bring images to ``spacing``, and the result back to the image's own grid."""
    crop: Literal["none", "nonzero"] = "none"
    """Leave out the margin of an image that holds nothing but zeros."""
    downsample: tuple[int, ...] = ()
    """Pixels an axis that are averaged to one before the network; empty for none."""


@dataclass(frozen=True)
class NetworkPlan:
    """The network, by its short name and its numbers."""

    name: str = "unet"
    channels: tuple[int, ...] = (32, 64, 128, 256)
    padding: Literal["same", "valid"] = "same"
    norm: Literal["none", "batch", "channel", "instance", "group"] = "batch"
    dropout: float = 0.0
    strides: tuple[tuple[int, ...], ...] = ()
    """By how much each level is coarser than the one before, an axis; empty for 2 everywhere."""
    kernels: tuple[tuple[int, ...], ...] = ()
    """Size of the convolutions of each level, an axis; empty for 3 everywhere."""
    residual: bool = False
    """Add the input of a level's two convolutions to their output."""
    deep_supervision: bool = False
    """While training, coarser levels answer, too, and the loss judges them."""
    rates: tuple[int, ...] = ()
    """Rates of the parallel atrous convolutions of DeepLab, in features; empty for those of the paper."""
    image_pooling: bool = False
    """Show DeepLab the mean of the whole input, too; then tiles are not exact."""
    output_stride: Literal[8, 16, 32] = 16
    """Pixels from one feature of DeepLab to the next."""
    members: int = 1
    """Networks whose probabilities are averaged: those of several folds."""


@dataclass(frozen=True)
class TargetPlan:
    """What the network is asked for."""

    kind: Literal["instances", "semantic"] = "semantic"
    name: str = "classes"
    """``classes`` for label maps; for instance maps a name from ``medseg.targets.TARGETS``."""
    classes: tuple[str, ...] = ("background", "foreground")
    """Names of the outputs in their order; the first is the background."""
    values: tuple[int, ...] = (0, 1)
    """Value in the label files for each class (label maps only). Where the first is not 0 there is no
    background, and every class is scored."""
    ignore: tuple[int, ...] = ()
    """Values in the label files of pixels that do not count: no loss, no score, and never predicted."""
    codes: tuple[str, ...] = ()
    """What each class stands for in DICOM, such as ``SCT:10200004:Liver``; an empty one, or none at all, is
    looked up by the name of the class."""
    things: tuple[str, ...] = ()
    """Classes of label maps whose objects are told apart in a panoptic result; the others are stuff."""
    border_weights: bool = False
    """Weigh the loss by the border weight map, recomputed after every deformation."""
    w0: float = 10.0
    sigma: float = 5.0

    @property
    def has_background(self) -> bool:
        """Whether the first class is the ground on which the others lie."""
        return self.kind == "instances" or self.values[0] == 0

    @property
    def scored(self) -> dict[str, int]:
        """Name -> value of the classes of label maps that are scored: all but the background."""
        first = int(self.has_background)
        return dict(zip(self.classes[first:], self.values[first:]))


@dataclass(frozen=True)
class AugmentPlan:
    """Random changes of a training patch. A probability of 0 switches one off."""

    elastic_prob: float = 0.5
    elastic_grid: int = 3
    elastic_sigma: float = 10.0
    """Standard deviation of the displacements on the coarse grid, in pixels."""
    affine_prob: float = 0.5
    rotate_degrees: float = 180.0
    scale: tuple[float, float] = (0.7, 1.4)
    flip_prob: float = 0.5
    flip_axes: tuple[int, ...] = ()
    """Axes that are flipped; empty for all. A body is much like its mirror image, but not upside down."""
    intensity_prob: float = 0.5
    """Gain, offset, gamma, blur and noise; each is drawn with this probability."""
    invert_prob: float = 0.0
    """Bright becomes dark: for data in which both occur."""
    grey_prob: float = 0.0
    """Colour becomes grey: for data in which both occur, and other stains may come."""
    colour_prob: float = 0.0
    """Gain and offset of each channel by itself: for stains that differ from image to image."""


@dataclass(frozen=True)
class TrainPlan:
    """How the network is trained."""

    loss: str = "cross_entropy"
    dice_weight: float = 1.0
    """Factor of the Dice term of losses that are a sum with it."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    encoder_lr: float = 1.0
    """Factor of the learning rate for the encoder, whose weights may come from another training."""
    frozen_steps: int = 0
    """So many first steps leave the encoder as it is: its weights, and the statistics of its batch norms."""
    momentum: float = 0.9
    """Momentum of SGD; the first decay rate of AdamW."""
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 50
    steps: int = 1000
    batch_size: int = 4
    patch: tuple[int, ...] = (256, 256)
    """Input size of a patch, in pixels; a legal input size of the network."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    validate_every: int = 100
    """Steps from one validation, and one checkpoint, to the next."""
    validate_cases: int = 16
    """At most so many validation cases are used while training; 0 takes all."""
    foreground: float = 0.0
    """Share of the patches with a voxel of a class in their middle, each class equally often."""
    balance: float = 0.0
    """How much more often rare kinds of images are drawn: 0 every case equally, 1 every kind equally."""
    mixed_precision: bool = True
    """Half precision where the device computes it: GPUs, and processors with bfloat16."""
    workers: int = 2
    seed: int = 0


@dataclass(frozen=True)
class SplitPlan:
    """Which cases train, choose the checkpoint, and are kept unseen. Groups are never parted."""

    folds: int = 5
    """Validation sets; of 1 nothing validates, and the last checkpoint is kept."""
    test_fraction: float = 0.15
    """Share of the groups kept unseen where the data set declares no test split."""
    seed: int = 0


@dataclass(frozen=True)
class PredictPlan:
    """How a result is made from the network's output."""

    method: str = "watershed"
    """How objects are parted: a name from ``medseg.instances.METHODS``."""
    min_size: int = 0
    """Objects with fewer pixels are dropped."""
    flips: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in where the device has it; `fit` measures whether bfloat16 is as good."""
    mirror: int = -1
    """How far beyond an image context is mirrored, in pixels of the network's grid; -1: as far as it sees."""
    largest: tuple[str, ...] = ()
    """Classes of which only the largest connected part is kept; `fit` measures whether that is better."""
    crf_iterations: int = 0
    """Updates of the fully connected CRF that refines the probabilities; 0 for none."""
    crf_theta_alpha: float = 60.0
    """Reach of its bilateral kernel, in pixels (of the finest axis of ``input.spacing``, where known)."""
    crf_theta_beta: float = 0.05
    """Difference of values that counts there, in values of the normalised image."""
    crf_theta_gamma: float = 3.0
    """Reach of its spatial kernel, in pixels as above."""
    crf_w_bilateral: float = 5.0
    crf_w_spatial: float = 3.0
    crf_compatibility: tuple[tuple[float, ...], ...] = ()
    """Cost of each two classes as neighbours, a row a class; empty: 1 where they differ."""


# dotted name -> lowest and highest legal value; of a tuple each number, however deep
RANGES: dict[str, tuple[float, float]] = {
    "input.channels": (1, math.inf),
    "input.percentiles": (0, 100),
    "input.spacing": (0, math.inf),
    "input.downsample": (1, 64),
    "network.channels": (1, math.inf),
    "network.dropout": (0, 1),
    "network.rates": (1, 1024),
    "network.members": (1, 64),
    "network.strides": (1, 16),
    "network.kernels": (1, 15),
    "target.values": (0, math.inf),
    "target.ignore": (0, math.inf),
    "target.w0": (0, math.inf),
    "target.sigma": (1e-6, math.inf),
    "augment.elastic_prob": (0, 1),
    "augment.elastic_grid": (2, math.inf),
    "augment.elastic_sigma": (0, math.inf),
    "augment.affine_prob": (0, 1),
    "augment.rotate_degrees": (0, 360),
    "augment.scale": (1e-3, math.inf),
    "augment.flip_prob": (0, 1),
    "augment.flip_axes": (0, 2),
    "augment.intensity_prob": (0, 1),
    "augment.invert_prob": (0, 1),
    "augment.grey_prob": (0, 1),
    "augment.colour_prob": (0, 1),
    "train.dice_weight": (0, math.inf),
    "train.lr": (0, math.inf),
    "train.encoder_lr": (0, math.inf),
    "train.frozen_steps": (0, math.inf),
    "train.momentum": (0, 0.99999),
    "train.weight_decay": (0, math.inf),
    "train.warmup_steps": (0, math.inf),
    "train.steps": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.patch": (1, math.inf),
    "train.clip_norm": (0, math.inf),
    "train.validate_every": (1, math.inf),
    "train.validate_cases": (0, math.inf),
    "train.foreground": (0, 1),
    "train.balance": (0, 1),
    "train.workers": (0, math.inf),
    "train.seed": (0, 2**63 - 1),
    "split.folds": (1, math.inf),
    "split.test_fraction": (0, 1),
    "split.seed": (0, 2**63 - 1),
    "predict.min_size": (0, math.inf),
    "predict.mirror": (-1, math.inf),
    "predict.crf_iterations": (0, 1000),
    "predict.crf_theta_alpha": (1e-6, math.inf),
    "predict.crf_theta_beta": (1e-6, math.inf),
    "predict.crf_theta_gamma": (1e-6, math.inf),
    "predict.crf_w_bilateral": (0, math.inf),
    "predict.crf_w_spatial": (0, math.inf),
}

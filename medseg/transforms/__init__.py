"""MONAI dictionary transforms: elastic deformation, border weights, targets, and what prepares images."""

from __future__ import annotations

from .coarse import Downsampled
from .cropping import ClassPlacesd, RandMirrorCropd, take_tensor
from .elastic import RandElastic, RandElasticd
from .framing import CropNonzerod, frame_of, framing_transforms
from .intensity import (
    Channelsd,
    Normalized,
    RandGreyd,
    RandInvertd,
    is_grey,
    normalisation,
    normaliser,
    with_channels,
)
from .labels import BorderWeightMapd, Targetd
from .reading import ClassIndicesd, ReadImaged, ReadLabeld, Renumberd

__all__ = [
    "BorderWeightMapd",
    "Channelsd",
    "ClassIndicesd",
    "ClassPlacesd",
    "CropNonzerod",
    "Downsampled",
    "Normalized",
    "RandElastic",
    "RandElasticd",
    "RandGreyd",
    "RandInvertd",
    "RandMirrorCropd",
    "ReadImaged",
    "ReadLabeld",
    "Renumberd",
    "Targetd",
    "frame_of",
    "framing_transforms",
    "is_grey",
    "normalisation",
    "normaliser",
    "take_tensor",
    "with_channels",
]

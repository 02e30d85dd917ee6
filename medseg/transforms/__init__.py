"""MONAI dictionary transforms: elastic deformation, border weights, targets, and what prepares images."""

from __future__ import annotations

from .coarse import Downsampled
from .cropping import RandMirrorCropd, take_tensor
from .elastic import RandElastic, RandElasticd
from .intensity import Channelsd, Normalized, RandGreyd, RandInvertd, is_grey, normalisation, with_channels
from .labels import BorderWeightMapd, Targetd
from .reading import ClassIndicesd, ReadImaged, ReadLabeld, Renumberd

__all__ = [
    "BorderWeightMapd",
    "Channelsd",
    "ClassIndicesd",
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
    "is_grey",
    "normalisation",
    "take_tensor",
    "with_channels",
]

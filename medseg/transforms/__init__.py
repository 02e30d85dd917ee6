"""MONAI transforms: the elastic deformation of the U-Net paper, border weights and class targets."""

from __future__ import annotations

from .elastic import RandElastic, RandElasticd
from .labels import BorderWeightMapd, Targetd

__all__ = ["BorderWeightMapd", "RandElastic", "RandElasticd", "Targetd"]

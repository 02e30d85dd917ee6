"""Image files in and out: the only place that knows file formats and their libraries."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module it lives in; loaded on first use, because a list of suffixes should not cost
# MONAI's import
_HOMES = {
    "DicomReader": "dicom",
    "IMAGE_SUFFIXES": "paths",
    "IN_MM": "pixels",
    "ImageInfo": "info",
    "LabelReader": "labels",
    "LazyImage": "lazy",
    "NiftiReader": "readers",
    "RasterReader": "readers",
    "SeriesRules": "dicom",
    "SimpleITKReader": "readers",
    "axis_codes": "orientation",
    "choose_series": "dicom",
    "farthest": "pixels",
    "find_images": "paths",
    "find_series": "dicom",
    "image_info": "info",
    "natural_key": "paths",
    "open_lazy": "opening",
    "raster_affine": "pixels",
    "read": "readers",
    "read_label": "labels",
    "read_series": "dicom",
    "reader_for": "readers",
    "stem_of": "paths",
    "suffix_of": "paths",
    "turn_to": "orientation",
    "with_spacing": "respacing",
    "write": "writing",
    "write_blocks": "blocks",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:  # editors and mypy see the real objects
    from .blocks import write_blocks as write_blocks
    from .dicom import DicomReader as DicomReader
    from .dicom import SeriesRules as SeriesRules
    from .dicom import choose_series as choose_series
    from .dicom import find_series as find_series
    from .dicom import read_series as read_series
    from .info import ImageInfo as ImageInfo
    from .info import image_info as image_info
    from .labels import LabelReader as LabelReader
    from .labels import read_label as read_label
    from .lazy import LazyImage as LazyImage
    from .opening import open_lazy as open_lazy
    from .orientation import axis_codes as axis_codes
    from .orientation import turn_to as turn_to
    from .paths import IMAGE_SUFFIXES as IMAGE_SUFFIXES
    from .paths import find_images as find_images
    from .paths import natural_key as natural_key
    from .paths import stem_of as stem_of
    from .paths import suffix_of as suffix_of
    from .pixels import IN_MM as IN_MM
    from .pixels import farthest as farthest
    from .pixels import raster_affine as raster_affine
    from .readers import NiftiReader as NiftiReader
    from .readers import RasterReader as RasterReader
    from .readers import SimpleITKReader as SimpleITKReader
    from .readers import read as read
    from .readers import reader_for as reader_for
    from .respacing import with_spacing as with_spacing
    from .writing import write as write


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'medseg.io' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

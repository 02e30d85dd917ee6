"""DICOM in and out; pydicom and highdicom are used here alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module it lives in; loaded on first use
_HOMES = {
    "DicomReader": "reading",
    "DicomVolume": "model",
    "Found": "finding",
    "Frame": "model",
    "Instance": "model",
    "Note": "model",
    "Series": "model",
    "SeriesRules": "choosing",
    "SkippedFile": "model",
    "choose_series": "choosing",
    "find_series": "finding",
    "is_dicom": "headers",
    "read_header": "headers",
    "read_series": "reading",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:  # editors and mypy see the real objects
    from .choosing import SeriesRules as SeriesRules
    from .choosing import choose_series as choose_series
    from .finding import Found as Found
    from .finding import find_series as find_series
    from .headers import is_dicom as is_dicom
    from .headers import read_header as read_header
    from .model import DicomVolume as DicomVolume
    from .model import Frame as Frame
    from .model import Instance as Instance
    from .model import Note as Note
    from .model import Series as Series
    from .model import SkippedFile as SkippedFile
    from .reading import DicomReader as DicomReader
    from .reading import read_series as read_series


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'medseg.io.dicom' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

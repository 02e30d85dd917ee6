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
    "SeriesCheck": "reading",
    "SeriesRules": "choosing",
    "SkippedFile": "model",
    "check_series": "reading",
    "choose_series": "choosing",
    "find_series": "finding",
    "is_dicom": "headers",
    "read_header": "headers",
    "read_series": "reading",
    "Algorithm": "uids",
    "Measurement": "structured_reports",
    "Segment": "codes",
    "measure_segments": "structured_reports",
    "read_segmentation": "segments",
    "result_uid": "uids",
    "segments_of": "codes",
    "write_report": "structured_reports",
    "write_segmentation": "segmentations",
    "read_contours": "contours",
    "write_rtstruct": "contours",
    "write_slicer": "slicer",
    "share_results": "sharing",
    "ReadSegmentation": "segments",
    "read_report": "structured_reports",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:  # editors and mypy see the real objects
    from .choosing import SeriesRules as SeriesRules
    from .choosing import choose_series as choose_series
    from .codes import Segment as Segment
    from .codes import segments_of as segments_of
    from .contours import read_contours as read_contours
    from .contours import write_rtstruct as write_rtstruct
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
    from .reading import SeriesCheck as SeriesCheck
    from .reading import check_series as check_series
    from .reading import read_series as read_series
    from .segmentations import write_segmentation as write_segmentation
    from .segments import ReadSegmentation as ReadSegmentation
    from .segments import read_segmentation as read_segmentation
    from .sharing import share_results as share_results
    from .slicer import write_slicer as write_slicer
    from .structured_reports import Measurement as Measurement
    from .structured_reports import measure_segments as measure_segments
    from .structured_reports import read_report as read_report
    from .structured_reports import write_report as write_report
    from .uids import Algorithm as Algorithm
    from .uids import result_uid as result_uid


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'medseg.io.dicom' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

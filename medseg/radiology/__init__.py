"""Studies in, results out: strictly read, measured, doubted and nothing wrong in silence."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name -> the module it lives in; loaded on first use: the process that watches over the others is
# small
_HOMES = {
    "Doubt": "doubt",
    "FoundStudies": "finding",
    "Item": "finding",
    "Limits": "limits",
    "Night": "night",
    "NightResult": "outcomes",
    "Outcome": "outcomes",
    "StudyOptions": "options",
    "StudyResult": "study",
    "open_night": "running",
    "process_study": "study",
    "run_studies": "running",
}

__all__ = list(_HOMES)

if TYPE_CHECKING:  # editors and mypy see the real objects
    from .doubt import Doubt as Doubt
    from .finding import FoundStudies as FoundStudies
    from .finding import Item as Item
    from .limits import Limits as Limits
    from .night import Night as Night
    from .options import StudyOptions as StudyOptions
    from .outcomes import NightResult as NightResult
    from .outcomes import Outcome as Outcome
    from .running import open_night as open_night
    from .running import run_studies as run_studies
    from .study import StudyResult as StudyResult
    from .study import process_study as process_study


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'medseg.radiology' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Medical image segmentation with guarantees.

Names are loaded when they are first used, so that ``import medseg`` costs no more than Python itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import Refused
from .version import __version__

# public name -> the module it lives in; one line makes a name public
_HOMES = {
    "BatchResult": "batch",
    "Bundle": "bundle",
    "Case": "dataset",
    "Dataset": "dataset",
    "OverlapTileInferer": "inference",
    "Plan": "plan",
    "Prediction": "inference",
    "Scores": "metrics",
    "border_weight_map": "targets",
    "evaluate": "evaluation",
    "fit": "training",
    "load_bundle": "bundle",
    "load_dataset": "dataset",
    "load_plan": "plan",
    "make_plan": "planning",
    "map_cases": "batch",
    "predict": "inference",
    "read": "io",
    "render_report": "report",
    "to_instances": "instances",
    "write": "io",
}
_MODULES = (
    "io",
    "jobs",
    "losses",
    "metrics",
    "networks",
    "phantoms",
    "plan",
    "report",
    "targets",
    "tiling",
    "training",
    "transforms",
)

__all__ = ["Refused", "__version__", *_HOMES, *_MODULES]

if TYPE_CHECKING:  # editors and mypy see the real objects
    from . import (
        io,
        jobs,
        losses,
        metrics,
        networks,
        phantoms,
        report,
        targets,
        tiling,
        training,
        transforms,
    )
    from . import plan as plan
    from .batch import BatchResult, map_cases
    from .bundle import Bundle, load_bundle
    from .dataset import Case, Dataset, load_dataset
    from .evaluation import evaluate
    from .inference import OverlapTileInferer, Prediction, predict
    from .instances import to_instances
    from .io import read, write
    from .metrics import Scores
    from .plan import Plan, load_plan
    from .planning import make_plan
    from .report import render_report
    from .targets import border_weight_map
    from .training import fit


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'medseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

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
    "dense_crf": "crf",
    "evaluate": "evaluation",
    "fit": "training",
    "load_bundle": "bundle",
    "load_dataset": "dataset",
    "load_plan": "plan",
    "make_plan": "planning",
    "map_cases": "batch",
    "predict": "inference",
    "process_study": "radiology",
    "read": "io",
    "render_report": "report",
    "to_instances": "instances",
    "to_panoptic": "instances",
    "write": "io",
}
_MODULES = (
    "crf",
    "io",
    "jobs",
    "losses",
    "measure",
    "metrics",
    "networks",
    "palettes",
    "phantoms",
    "plan",
    "radiology",
    "report",
    "targets",
    "tiling",
    "training",
    "transforms",
)

__all__ = ["Refused", "__version__", *_HOMES, *_MODULES]

if TYPE_CHECKING:  # editors and mypy see the real objects; "as" tells mypy that they are public
    from . import crf as crf
    from . import io as io
    from . import jobs as jobs
    from . import losses as losses
    from . import measure as measure
    from . import metrics as metrics
    from . import networks as networks
    from . import palettes as palettes
    from . import phantoms as phantoms
    from . import plan as plan
    from . import radiology as radiology
    from . import report as report
    from . import targets as targets
    from . import tiling as tiling
    from . import training as training
    from . import transforms as transforms
    from .batch import BatchResult as BatchResult
    from .batch import map_cases as map_cases
    from .bundle import Bundle as Bundle
    from .bundle import load_bundle as load_bundle
    from .crf import dense_crf as dense_crf
    from .dataset import Case as Case
    from .dataset import Dataset as Dataset
    from .dataset import load_dataset as load_dataset
    from .evaluation import evaluate as evaluate
    from .inference import OverlapTileInferer as OverlapTileInferer
    from .inference import Prediction as Prediction
    from .inference import predict as predict
    from .instances import to_instances as to_instances
    from .instances import to_panoptic as to_panoptic
    from .io import read as read
    from .io import write as write
    from .metrics import Scores as Scores
    from .plan import Plan as Plan
    from .plan import load_plan as load_plan
    from .planning import make_plan as make_plan
    from .radiology import process_study as process_study
    from .report import render_report as render_report
    from .targets import border_weight_map as border_weight_map
    from .training import fit as fit


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'medseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

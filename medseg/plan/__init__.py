"""A plan: every number that a run depends on, as frozen dataclasses that go to TOML and back."""

from __future__ import annotations

from .plan import Plan, load_plan
from .tables import (
    AugmentPlan,
    InputPlan,
    NetworkPlan,
    PredictPlan,
    SplitPlan,
    TargetPlan,
    TrainPlan,
)

__all__ = [
    "AugmentPlan",
    "InputPlan",
    "NetworkPlan",
    "Plan",
    "PredictPlan",
    "SplitPlan",
    "TargetPlan",
    "TrainPlan",
    "load_plan",
]

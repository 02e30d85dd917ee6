"""Training: one loop, whose every step is a pure function of the plan and of the step before."""

from __future__ import annotations

from .card import versions
from .choosing import derive_plan, plan_for
from .loop import StepInfo, fit
from .run import Run, open_run
from .starting import Start, start_from

__all__ = ["Run", "Start", "StepInfo", "derive_plan", "fit", "open_run", "plan_for", "start_from", "versions"]

"""A plan from a data set: every number is derived from what the files hold, and says why."""

from __future__ import annotations

from .deriving import check_names, make_plan, target_values
from .fingerprint import Fingerprint, take_fingerprint
from .memory import training_bytes

__all__ = ["Fingerprint", "check_names", "make_plan", "take_fingerprint", "target_values", "training_bytes"]

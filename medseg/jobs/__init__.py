"""Whole jobs on files: predict a folder, score it, test a run on what it did not see, make the page."""

from __future__ import annotations

from .predicting import Manifest, predict_files
from .reporting import report
from .scoring import evaluate_files
from .unseen import score_unseen

__all__ = ["Manifest", "evaluate_files", "predict_files", "report", "score_unseen"]

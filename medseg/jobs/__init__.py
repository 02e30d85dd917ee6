"""Whole jobs on files: predict a folder, score it, test a run on what it did not see, make the page."""

from __future__ import annotations

from .predicting import Manifest, list_images, predict_files
from .reporting import report
from .scoring import evaluate_files, list_predictions
from .unseen import score_unseen

__all__ = [
    "Manifest",
    "evaluate_files",
    "list_images",
    "list_predictions",
    "predict_files",
    "report",
    "score_unseen",
]

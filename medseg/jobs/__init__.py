"""Whole jobs on files: check a data set, predict a folder, score it, test on unseen cases, make the page."""

from __future__ import annotations

from .checking import CheckReport, check_dataset
from .colouring import colour_maps
from .predicting import Manifest, list_images, predict_files
from .reporting import report
from .scoring import evaluate_files, list_predictions
from .unseen import score_unseen

__all__ = [
    "CheckReport",
    "Manifest",
    "check_dataset",
    "colour_maps",
    "evaluate_files",
    "list_images",
    "list_predictions",
    "predict_files",
    "report",
    "score_unseen",
]

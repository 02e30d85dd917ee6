"""Metrics of label maps and instance maps, each (prediction, reference), and the scores that they give."""

from __future__ import annotations

from .confusion import accuracies, confusion, pixel_accuracy
from .contingency import Contingency, contingency
from .ignoring import without_ignored
from .information import vi
from .objects import AP_THRESHOLDS, MatchedPair, ap, count_error, match, seg
from .overlap import dice, iou, pixel_error, sensitivity, specificity
from .pairs import adapted_rand, rand, v_rand
from .panoptic import panoptic_counts, panoptic_quality, pq
from .ranking import auc
from .registry import METRICS, Metric
from .rows import Score, SummaryRow
from .scores import Scores
from .scoring import counted, score_arrays, score_tables
from .surfaces import SurfaceDistances, assd_mm, hd95_mm, nsd, surface_distances
from .volumes import volume_error_ml, volume_ml
from .warping import warping_error

__all__ = [
    "AP_THRESHOLDS",
    "METRICS",
    "Contingency",
    "MatchedPair",
    "Metric",
    "Score",
    "Scores",
    "SummaryRow",
    "SurfaceDistances",
    "accuracies",
    "adapted_rand",
    "ap",
    "assd_mm",
    "auc",
    "confusion",
    "contingency",
    "count_error",
    "counted",
    "dice",
    "hd95_mm",
    "iou",
    "match",
    "nsd",
    "panoptic_counts",
    "panoptic_quality",
    "pixel_accuracy",
    "pixel_error",
    "pq",
    "rand",
    "score_arrays",
    "score_tables",
    "seg",
    "sensitivity",
    "specificity",
    "surface_distances",
    "v_rand",
    "vi",
    "volume_error_ml",
    "volume_ml",
    "warping_error",
    "without_ignored",
]

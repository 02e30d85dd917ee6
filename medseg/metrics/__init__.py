"""Metrics of label maps and instance maps, each (prediction, reference), and the scores that they give."""

from __future__ import annotations

from .contingency import Contingency, contingency
from .information import vi
from .objects import AP_THRESHOLDS, MatchedPair, ap, count_error, match, seg
from .overlap import dice, iou, pixel_error, sensitivity, specificity
from .pairs import adapted_rand, rand, v_rand
from .panoptic import pq
from .ranking import auc
from .registry import METRICS, Metric
from .rows import Score, SummaryRow
from .scores import Scores
from .scoring import score_arrays
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
    "adapted_rand",
    "ap",
    "auc",
    "contingency",
    "count_error",
    "dice",
    "iou",
    "match",
    "pixel_error",
    "pq",
    "rand",
    "score_arrays",
    "seg",
    "sensitivity",
    "specificity",
    "v_rand",
    "vi",
    "warping_error",
]

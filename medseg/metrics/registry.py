"""The metrics by name: what each one is for, its unit, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .objects import ap, count_error, seg
from .overlap import dice, iou, pixel_error, sensitivity, specificity

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A metric function and what a program must know to call it and to read its result.

    Attributes
    ----------
    function : callable
        ``function(prediction, reference, **needs)``; returns one float, or a mapping from class value or IoU
        threshold to float.
    kind : {"classes", "instances"}
        Whether it compares label maps or instance maps.
    higher_is_better : bool
        False for errors and distances, which are best at 0.
    unit : str
        Unit of the value; empty for a fraction.
    summary : str
        One line for help texts and reports.
    needs : tuple of str
        Keyword arguments to pass, of "classes" (values to score, or None), "table" (the `Contingency` of the
        two maps) and "spacing" (mm, or None). They are derived once for all metrics of a case.

    Examples
    --------
    >>> from medseg.metrics import METRICS
    >>> METRICS["ap"].kind, METRICS["pixel_error"].higher_is_better
    ('instances', False)
    """

    function: Callable[..., float | Mapping[Any, float]]
    kind: Literal["classes", "instances"]
    higher_is_better: bool
    unit: str
    summary: str
    needs: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {
    "iou": Metric(
        iou, "classes", True, "", "intersection over union of each class", needs=("classes", "table")
    ),
    "dice": Metric(dice, "classes", True, "", "Dice coefficient of each class", needs=("classes", "table")),
    "sensitivity": Metric(
        sensitivity, "classes", True, "", "share of each class that was found", needs=("classes", "table")
    ),
    "specificity": Metric(
        specificity, "classes", True, "", "share of the rest that was left out", needs=("classes", "table")
    ),
    "pixel_error": Metric(
        pixel_error, "classes", False, "", "fraction of pixels whose label is wrong", needs=("table",)
    ),
    "ap": Metric(
        ap, "instances", True, "", "TP / (TP + FP + FN) of objects at each IoU threshold", needs=("table",)
    ),
    "seg": Metric(
        seg,
        "instances",
        True,
        "",
        "mean IoU of reference objects found, Cell Tracking Challenge",
        needs=("table",),
    ),
    "count_error": Metric(
        count_error,
        "instances",
        False,
        "objects",
        "predicted minus reference number of objects",
        needs=("table",),
    ),
}

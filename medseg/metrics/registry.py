"""The metrics by name: what each one is for, its unit, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .confusion import pixel_accuracy
from .information import vi
from .objects import ap, count_error, seg
from .overlap import dice, iou, pixel_error, sensitivity, specificity
from .pairs import adapted_rand, rand, v_rand
from .panoptic import pq
from .surfaces import assd_mm, hd95_mm, nsd
from .volumes import volume_error_ml, volume_ml
from .warping import warping_error

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A metric function and what a program must know to call it and to read its result.

    Attributes
    ----------
    function : callable
        ``function(prediction, reference, **needs)``; returns one float, or a mapping to float: from class
        values, from IoU thresholds, or from names. Of names, the metric's own is that of its value, and the
        others those of its parts.
    kind : {"classes", "instances"}
        Whether it compares label maps or instance maps.
    higher_is_better : bool or None
        False for errors and distances, which are best at 0; None for what is measured and not judged.
    unit : str
        Unit of the value; empty for a fraction. ``{tolerance_mm}`` in it stands for the tolerance, so that
        scores of different tolerances cannot be thrown together.
    summary : str
        One line for help texts and reports.
    needs : tuple of str
        Keyword arguments to pass, of "classes" (values to score, or None), "table" (the `Contingency` of the
        two maps), "spacing" (mm, or None), "tolerance_mm", and "distances" (the `SurfaceDistances`, which
        need a spacing). They are derived once for all metrics of a case.
    whole : {"mean", "all", "absolute"}
        The row that a metric of classes adds for all of them: their mean, their sum, or the mean of their
        magnitudes, in which classes too large and too small do not cancel.

    Examples
    --------
    >>> from medseg.metrics import METRICS
    >>> METRICS["ap"].kind, METRICS["pixel_error"].higher_is_better
    ('instances', False)
    """

    function: Callable[..., float | Mapping[Any, float]]
    kind: Literal["classes", "instances"]
    higher_is_better: bool | None
    unit: str
    summary: str
    needs: tuple[str, ...] = ()
    whole: Literal["mean", "all", "absolute"] = "mean"

    @property
    def is_physical(self) -> bool:
        """Whether it needs the size of a pixel."""
        return bool({"spacing", "distances"} & set(self.needs))


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
    "pixel_accuracy": Metric(
        pixel_accuracy,
        "classes",
        True,
        "",
        "share of pixels whose label is right; with mean accuracy, mean iou, frequency-weighted iou",
        needs=("table",),
    ),
    "pixel_error": Metric(
        pixel_error, "classes", False, "", "fraction of pixels whose label is wrong", needs=("table",)
    ),
    "hd95_mm": Metric(
        hd95_mm,
        "classes",
        False,
        "mm",
        "95 % Hausdorff distance of the surfaces of each class",
        needs=("classes", "distances"),
    ),
    "assd_mm": Metric(
        assd_mm,
        "classes",
        False,
        "mm",
        "average symmetric distance of the surfaces of each class",
        needs=("classes", "distances"),
    ),
    "nsd": Metric(
        nsd,
        "classes",
        True,
        "at {tolerance_mm:g} mm",
        "share of the surfaces of each class that agree within a tolerance",
        needs=("classes", "distances", "tolerance_mm"),
    ),
    "volume_ml": Metric(
        volume_ml,
        "classes",
        None,
        "ml",
        "volume of each class in the prediction",
        needs=("classes", "table", "spacing"),
        whole="all",
    ),
    "volume_error_ml": Metric(
        volume_error_ml,
        "classes",
        False,
        "ml",
        "volume of each class in the prediction minus that in the reference",
        needs=("classes", "table", "spacing"),
        whole="absolute",
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
    "pq": Metric(
        pq,
        "instances",
        True,
        "",
        "panoptic quality of one class of objects; sq of those matched, rq of the matching",
        needs=("table",),
    ),
    "rand": Metric(
        rand,
        "instances",
        False,
        "",
        "fraction of pairs of pixels that the maps disagree on",
        needs=("table",),
    ),
    "adapted_rand": Metric(
        adapted_rand,
        "instances",
        False,
        "",
        "1 - F-score of pairs of pixels in reference objects, ISBI 2012",
        needs=("table",),
    ),
    "v_rand": Metric(
        v_rand,
        "instances",
        True,
        "",
        "Rand score of pixels in reference objects, with its split and merge scores",
        needs=("table",),
    ),
    "vi": Metric(
        vi,
        "instances",
        False,
        "bits",
        "variation of information; split is of objects cut up, merge of objects joined",
        needs=("table",),
    ),
    "warping_error": Metric(
        warping_error,
        "instances",
        False,
        "",
        "fraction of pixels that moving boundaries cannot mend, ISBI 2012",
    ),
}

"""Score one case: call metrics by name on two arrays, deriving what they share once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike

from ..errors import Refused, refuse_unknown
from .contingency import Contingency, check_objects, contingency
from .ignoring import without_ignored
from .registry import METRICS, Metric
from .rows import Score
from .scores import Scores
from .spacing import checked_spacing
from .surfaces import surface_distances

__all__ = ["score_arrays"]


def score_arrays(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    case: str = "",
    metrics: Sequence[str] = ("dice", "iou"),
    classes: Mapping[str, int] | None = None,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 1.0,
    ignore: Collection[int] = (),
) -> Scores:
    """Score one case by metrics named in `METRICS`.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps for metrics of the kind "classes", instance maps for those of the kind "instances".
    case : str
        Name of the case in the scores.
    metrics : sequence of str
        Names in `METRICS`, all of one kind.
    classes : mapping of str to int, optional
        Class name to its value in the label maps; the background, 0, may be there and is not scored. By
        default every value that occurs, named by its number.
    spacing : sequence of float, optional
        Size of a pixel in mm, one number an axis; passed to metrics that need it.
    tolerance_mm : float
        Distance within which surfaces agree, for `nsd`; it stands in the unit of the score.
    ignore : collection of int
        Values of the reference whose pixels do not count, see `medseg.metrics.without_ignored`. Surfaces are
        those of the maps without those pixels.

    Returns
    -------
    Scores
        For each metric of classes a row for each class and one for all of them ("mean"; "all", the sum, of
        volumes; "absolute", the mean of the magnitudes, of errors with a sign), for `ap` a row for each
        threshold and "mean", for metrics of a single number the row "all" (label maps) or "objects"
        (instance maps); for metrics that have parts, such as `vi`, that row and one for each part.

    Raises
    ------
    Refused
        An unknown metric, metrics of two kinds, a value that is no class, maps that the metrics refuse, a
        spacing that does not fit, or none where a metric needs it.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import score_arrays
    >>> prediction, reference = np.array([[1, 1, 0]]), np.array([[1, 0, 0]])
    >>> scores = score_arrays(prediction, reference, metrics=["iou"], classes={"cell": 1})
    >>> [(score.label, score.value) for score in scores]
    [('cell', 0.5), ('mean', 0.5)]
    """
    chosen = _chosen(metrics)
    objects = any(metric.kind == "instances" for metric in chosen.values())
    prediction, reference, ignored = without_ignored(prediction, reference, ignore, objects=objects)
    table = contingency(prediction, reference)
    # what is ignored is 0 in both maps by now, and is no pixel of the background
    table = replace(table, n_pixels=table.n_pixels - ignored)
    names: dict[int, str] | None = None
    if objects:
        check_objects(prediction, reference)
    elif classes is not None:
        names = _class_names(classes, table, {metric.whole for metric in chosen.values()})
    if spacing is not None:
        spacing = checked_spacing(spacing, prediction.ndim)
    wanted = None if names is None else list(names)
    shared: dict[str, Any] = {
        "classes": wanted,
        "table": table,
        "spacing": spacing,
        "tolerance_mm": tolerance_mm,
    }
    if any("distances" in metric.needs for metric in chosen.values()):
        shared["distances"] = surface_distances(prediction, reference, spacing=spacing, classes=wanted)

    rows: list[Score] = []
    for name, metric in chosen.items():
        values = metric.function(prediction, reference, **{need: shared[need] for need in metric.needs})
        unit = metric.unit.format(tolerance_mm=tolerance_mm)
        rows += [
            Score(case, name, label, value, unit) for label, value in _labelled(values, name, names).items()
        ]
    return Scores(rows)


def _chosen(names: Sequence[str]) -> dict[str, Metric]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in METRICS:
            raise refuse_unknown("metric", name, METRICS)
    chosen = {name: METRICS[name] for name in names}
    if len({metric.kind for metric in chosen.values()}) > 1:
        kinds = ", ".join(f"{name} ({metric.kind})" for name, metric in chosen.items())
        raise Refused(
            "mixed-kinds",
            "metrics of label maps and of instance maps cannot score the same arrays",
            got=kinds,
            expected="metrics of one kind",
            do="score label maps and instance maps apart and put the scores together with Scores.join",
        )
    return chosen


def _class_names(classes: Mapping[str, int], table: Contingency, reserved: set[str]) -> dict[int, str]:
    """Value to name of the classes to score; every value of both maps must be known."""
    names = {int(value): str(name) for name, value in classes.items()}
    if len(names) < len(classes):
        raise Refused("duplicate-class", "two classes have the same value", got=dict(classes))
    names.pop(0, None)
    for name in sorted(reserved & set(names.values())):
        raise Refused("reserved-name", f"a class cannot be named '{name}'", do="rename the class")
    for where, ids in (("prediction", table.prediction_ids), ("reference", table.reference_ids)):
        unknown = [int(value) for value in ids.tolist() if value not in names]
        if unknown:
            raise Refused(
                "unknown-class",
                f"the {where} holds values that are no class",
                got=str(unknown[:5])[1:-1] + (" and more" if len(unknown) > 5 else ""),
                expected="0, " + ", ".join(f"{value} ({name})" for value, name in names.items()),
                do="map the values to classes, or name them in classes",
            )
    return names


def _labelled(
    values: float | Mapping[Any, float], name: str, classes: Mapping[int, str] | None
) -> dict[str, float]:
    """Give each value its label; values of classes and thresholds also one for all, with NaN left out."""
    kind, row = METRICS[name].kind, METRICS[name].whole
    whole = "objects" if kind == "instances" else "all"
    if not isinstance(values, Mapping):
        return {whole: float(values)}
    if name in values:
        return {whole if key == name else str(key): float(value) for key, value in values.items()}
    if kind == "classes":
        rows = {classes[key] if classes is not None else str(key): value for key, value in values.items()}
    else:
        rows = {f"{key:.2f}": value for key, value in values.items()}
    known = [value for value in rows.values() if not math.isnan(value)]
    if row == "all":
        return {**rows, row: math.fsum(known)}
    if row == "absolute":
        known = [abs(value) for value in known]
    return {**rows, row: math.fsum(known) / len(known) if known else math.nan}

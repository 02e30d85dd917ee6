"""Score one case: call metrics by name on two arrays, deriving what they share once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import ArrayLike, NDArray

from ..errors import Refused, refuse_unknown
from .contingency import Contingency, check_objects, contingency, joined
from .ignoring import without_ignored
from .registry import METRICS, Metric
from .rows import Score
from .scores import Scores
from .spacing import checked_spacing
from .surfaces import surface_distances

__all__ = ["counted", "score_arrays", "score_tables"]


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
    prediction, reference, table = _counted(prediction, reference, ignore, objects)
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

    return _rows(case, chosen, (prediction, reference), shared, names)


def counted(prediction: ArrayLike, reference: ArrayLike, *, ignore: Collection[int] = ()) -> Contingency:
    """Count the pixels of two label maps for `score_tables`, without those that are ignored.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
    ignore : collection of int
        Values of the reference whose pixels do not count.

    Raises
    ------
    Refused
        What `without_ignored` and `contingency` refuse.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import counted
    >>> counted(np.array([[1, 1, 0]]), np.array([[1, 255, 0]]), ignore=[255]).n_pixels
    2
    """
    return _counted(prediction, reference, ignore, objects=False)[2]


def score_tables(
    tables: Iterable[Contingency],
    *,
    case: str = "together",
    metrics: Sequence[str] = ("pixel_accuracy", "iou"),
    classes: Mapping[str, int] | None = None,
) -> Scores:
    """Score all pixels of several cases as if they were of one image, as papers on natural images do.

    There the IoU of a class is one number of a whole test set, and their mean over the classes is the mean
    IoU; the mean over images, of `score_arrays`, is another number: it counts small objects as much as large
    ones, and a class that was seen where it is not as a whole failure, however few its pixels.

    Parameters
    ----------
    tables : iterable of Contingency
        Of `counted`, one a case.
    case : str
        Name of the one row in the scores.
    metrics : sequence of str
        Names in `METRICS` of metrics that count pixels of classes: ``iou``, ``dice``, ``pixel_error``,
        ``pixel_accuracy``, ``sensitivity``, ``specificity``.
    classes : mapping of str to int, optional
        As for `score_arrays`.

    Returns
    -------
    Scores
        Of one case.

    Raises
    ------
    Refused
        ``unknown-metric``, ``mixed-kinds`` for a metric that does not count pixels, ``unknown-class``.

    References
    ----------
    Everingham et al. (2010), "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 88, 303-338, section
    4.2; Long, Shelhamer, Darrell (2015), CVPR, 3431-3440, section 5.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import counted, score_tables
    >>> cases = [counted(np.array([[1, 1, 1]]), np.array([[1, 1, 1]])), counted([[0, 0, 1]], [[0, 0, 0]])]
    >>> score_tables(cases, metrics=["iou"]).value("together", "iou", "1")  # the mean over images is 1/2
    0.75
    """
    chosen = _chosen(metrics)
    counting = [n for n, m in METRICS.items() if m.kind == "classes" and {"classes", "table"} >= {*m.needs}]
    for name in chosen:
        if name not in counting:
            raise Refused(
                "mixed-kinds",
                f"'{name}' is of one image, and not of the pixels of many together",
                expected=", ".join(counting),
                do="score the cases one by one",
            )
    table = joined(tables)
    reserved: set[str] = {metric.whole for metric in chosen.values()}
    names = None if classes is None else _class_names(classes, table, reserved)
    shared = {"classes": None if names is None else list(names), "table": table}
    return _rows(case, chosen, ((), ()), shared, names)


def _counted(
    prediction: ArrayLike, reference: ArrayLike, ignore: Collection[int], objects: bool
) -> tuple[NDArray[Any], NDArray[Any], Contingency]:
    prediction, reference, ignored = without_ignored(prediction, reference, ignore, objects=objects)
    table = contingency(prediction, reference)
    # what is ignored is 0 in both maps by now, and is no pixel of the background
    return prediction, reference, replace(table, n_pixels=table.n_pixels - ignored)


def _rows(
    case: str,
    chosen: Mapping[str, Metric],
    maps: tuple[ArrayLike, ArrayLike],
    shared: Mapping[str, Any],
    names: Mapping[int, str] | None,
) -> Scores:
    """Call each metric with what it needs of what is shared."""
    rows: list[Score] = []
    for name, metric in chosen.items():
        values = metric.function(*maps, **{need: shared[need] for need in metric.needs})
        unit = metric.unit.format(tolerance_mm=shared.get("tolerance_mm"))
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

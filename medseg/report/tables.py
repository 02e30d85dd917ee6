"""The scores as a page shows them: the first number to read, a case's own, all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import METRICS, Score, Scores
from .curves import spread

__all__ = ["case_table", "chips", "heading", "number", "overview", "table"]

_SINGLE = ("all", "objects")  # labels that say only that there is a single number
_WHOLE = ("mean", "absolute", *_SINGLE)  # labels of a whole case, where classes are beside it
_MOST_ROWS = 10
_BETTER = {True: "; higher is better", False: "; nearer to 0 is better", None: ""}


def number(value: float | None, unit: str = "", show: bool = True) -> str:
    """A value as people write it; a dash for NaN.

    Examples
    --------
    >>> number(0.5), number(4.0, "objects"), number(12.25, "mm"), number(0.00716, "bits", show=False)
    ('0.500', '4 objects', '12.2 mm', '0.0072')
    """
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if not unit or unit.startswith("at "):  # a fraction, perhaps at a tolerance
        text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    else:
        size = abs(value)
        whole = value == 0 or size >= 100 or unit == "objects"
        text = format(value, ".0f" if whole else ".1f" if size >= 10 else ".2f" if size >= 1 else ".3f")
        if size < 0.01 and not whole:
            text = f"{value:.2g}"
    text += f" {unit}" if show and unit else ""
    return text.replace("-", "\N{MINUS SIGN}")


def chips(
    rows: Sequence[Score], main: str | None, own: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the scores beside a case's name: a number a metric, with its parts where it has some.

    Of the main metric the first few labels are told too. Of the metrics in the case's `own` table only the
    main one's value of the whole case is among them.
    """
    found = []
    if own is not None:
        listed = {column["metric"] for column in own["columns"]}
        rows = [
            row for row in rows if row.metric not in listed or (row.metric == main and row.label in _WHOLE)
        ]
    for name in dict.fromkeys([main, *(row.metric for row in rows)]):
        mine = sorted((row for row in rows if row.metric == name), key=lambda row: row.label not in _WHOLE)
        if not mine:
            continue
        first, *rest = mine
        named = first.label == "objects"  # then the others are its parts, such as "split"
        found.append(
            {
                "metric": first.metric,
                "label": "" if first.label in _SINGLE or not rest else first.label,
                "value": first.value,
                "unit": first.unit,
                "parts": [(r.label, r.value) for r in (rest[:4] if named or name == main else ())],
            }
        )
    return found


def overview(scores: Scores, main: str) -> dict[str, Any]:
    """The first thing to read: one number, its spread, the worst case."""
    scored = dict.fromkeys(row.case for row in scores.rows if row.metric == main)
    values = {case: scores.value(case, main) for case in scored}
    known = sorted(v for v in values.values() if math.isfinite(v))
    worst = [case for case in scores.worst(main) if math.isfinite(values[case])]
    middle = len(known) // 2
    unit = next((row.unit for row in scores.rows if row.metric == main), "")
    return {
        "metric": main,
        "abouts": [
            (name, _about(name))
            for name in sorted(scores.metrics, key=lambda name: name != main)
            if name in METRICS  # not those of a script's own, such as a circumference
        ],
        "unit": unit,
        "mean": scores.mean(main),
        "median": (known[middle] + known[~middle]) / 2 if known else None,
        "worst": worst[0] if worst else None,
        "worst_value": values[worst[0]] if worst else None,
        "best_value": values[worst[-1]] if worst else None,
        "n": len(scores.cases),
        "undefined": len(scores.cases) - len(known),
        "spread": spread(values),
        "rows": [
            {
                "metric": row.metric,
                "label": _label(scores, row.metric, row.label),
                "unit": row.unit,
                "n": f"{row.n} of {row.n + row.absent}" if row.absent else str(row.n),
                "numbers": (row.mean, row.std, row.median, row.min, row.max),
            }
            for row in scores.summary()
        ],
    }


def _label(scores: Scores, metric: str, label: str) -> str:
    """Return what a row is of; nothing of a metric's single number, or of the number that has parts."""
    return "" if label == "objects" or (label in _SINGLE and len(scores.labels(metric)) == 1) else label


def _about(metric: str) -> str:
    about = METRICS[metric]
    return about.summary + _BETTER[about.higher_is_better]


def table(scores: Scores, main: str) -> dict[str, Any]:
    """Cases as rows, worst first; metrics and labels as columns."""
    names = list(dict.fromkeys((row.metric, row.label) for row in scores.rows))
    names.sort(key=lambda name: name[0] != main)
    units = {row.metric: row.unit for row in scores.rows}
    values = {(row.case, row.metric, row.label): row.value for row in scores.rows}
    order = dict.fromkeys([*scores.worst(main), *scores.cases])
    return {
        "columns": [{"metric": m, "label": _label(scores, m, c), "unit": units[m]} for m, c in names],
        "rows": [
            {"case": case, "values": [values.get((case, *name), math.nan) for name in names]}
            for case in order
        ],
    }


def heading(metric: str, unit: str, label: str = "") -> str:
    """Name of a metric and its label with the unit, which is not said twice.

    Examples
    --------
    >>> heading("hd95_mm", "mm"), heading("vi", "bits", "split"), heading("dice", "")
    ('hd95_mm', 'vi split (bits)', 'dice')
    """
    name = f"{metric} {label}" if label else metric
    return f"{name} ({unit})" if unit and not metric.endswith(f"_{unit}") else name


def case_table(rows: Sequence[Score], main: str | None) -> dict[str, Any] | None:
    """One case: its classes as rows, worst first, and metrics of classes as columns; None without any.

    Of many classes the worst are kept, and "rest" is the number of the others.
    """
    mine = [row for row in rows if row.metric in METRICS and METRICS[row.metric].kind == "classes"]
    metrics = sorted(dict.fromkeys(row.metric for row in mine), key=lambda m: m != main)
    if not mine:
        return None
    values: dict[str, dict[str, float]] = {}
    for row in mine:
        values.setdefault("" if row.label in _WHOLE else row.label, {})[row.metric] = row.value
    labels = [label for label in values if label]
    first = metrics[0]
    error = METRICS[first].higher_is_better is False

    def badness(label: str) -> float:
        value = values[label].get(first, math.nan)
        return math.inf if math.isnan(value) else -abs(value) if error else value

    labels.sort(key=badness)
    kept = labels[:_MOST_ROWS]
    if len(labels) == 1:  # the whole is the class
        values[labels[0]] = values.get("", {}) | values[labels[0]]
    elif "" in values:
        kept.append("")
    units = {row.metric: row.unit for row in mine}
    return {
        "columns": [{"metric": m, "unit": units[m]} for m in metrics],
        "rows": [
            {
                "label": label or "case",
                "values": [values[label].get(m, math.nan) for m in metrics],
            }
            for label in kept
        ],
        "rest": max(0, len(labels) - _MOST_ROWS),
    }

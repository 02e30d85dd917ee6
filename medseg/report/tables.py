"""The scores as a page shows them: the first number to read, a case's own, all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..metrics import METRICS, Score, Scores
from .curves import spread

__all__ = ["case_table", "chips", "heading", "number", "overview", "table"]

_SINGLE = ("all", "objects")  # labels that say only that there is a single number
_WHOLE = ("mean", "absolute", *_SINGLE)  # labels of a whole case, where classes are beside it
_MOST_ROWS = 10
_BETTER = {True: "; higher is better", False: "; nearer to 0 is better", None: ""}


def number(value: float | None, unit: str = "", show: bool = True) -> str:
    """A value as people write it: three decimals for fractions, else three digits; a dash for NaN."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if not unit or unit.startswith("at "):  # a fraction, perhaps at a tolerance
        text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    else:
        text = f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
    text += f" {unit}" if show and unit else ""
    return text.replace("-", "\N{MINUS SIGN}")


def chips(rows: Sequence[Score], main: str | None) -> list[dict[str, Any]]:
    """Return the scores beside a case's name: a number a metric, of the main one its first few labels too."""
    found = []
    for name in dict.fromkeys([main, *(row.metric for row in rows)]):
        mine = sorted((row for row in rows if row.metric == name), key=lambda row: row.label not in _WHOLE)
        for row in mine[: 5 if name == main else 1]:
            label = "" if row.label in _SINGLE or len(mine) == 1 else row.label
            found.append({"metric": row.metric, "label": label, "value": row.value, "unit": row.unit})
    return found


def overview(scores: Scores, main: str) -> dict[str, Any]:
    """The first thing to read: one number, its spread, the worst case."""
    scored = dict.fromkeys(row.case for row in scores.rows if row.metric == main)
    values = {case: scores.value(case, main) for case in scored}
    known = sorted(v for v in values.values() if math.isfinite(v))
    worst = [case for case in scores.worst(main) if math.isfinite(values[case])]
    middle = len(known) // 2
    unit = next((row.unit for row in scores.rows if row.metric == main), "")
    about = METRICS[main]
    highs: dict[tuple[str, str], float] = {}
    for row in scores.rows:
        if math.isfinite(row.value):
            key = (row.metric, row.label)
            highs[key] = max(row.value, highs.get(key, -math.inf))
    return {
        "metric": main,
        "about": about.summary,
        "better": _BETTER[about.higher_is_better],
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
                "label": "" if row.label in _SINGLE else row.label,
                "unit": row.unit,
                "n": row.n,
                "numbers": (row.mean, row.std, row.median, row.min, highs.get((row.metric, row.label))),
            }
            for row in scores.summary()
        ],
    }


def table(scores: Scores, main: str) -> dict[str, Any]:
    """Cases as rows, worst first; metrics and labels as columns."""
    names = list(dict.fromkeys((row.metric, row.label) for row in scores.rows))
    names.sort(key=lambda name: name[0] != main)
    units = {row.metric: row.unit for row in scores.rows}
    values = {(row.case, row.metric, row.label): row.value for row in scores.rows}
    order = dict.fromkeys([*scores.worst(main), *scores.cases])
    return {
        "columns": [{"metric": m, "label": "" if c in _SINGLE else c, "unit": units[m]} for m, c in names],
        "rows": [
            {"case": case, "values": [values.get((case, *name), math.nan) for name in names]}
            for case in order
        ],
    }


def heading(metric: str, unit: str) -> str:
    """Name of a metric with its unit, which is not said twice.

    Examples
    --------
    >>> heading("hd95_mm", "mm"), heading("vi", "bits"), heading("dice", "")
    ('hd95_mm', 'vi (bits)', 'dice')
    """
    return f"{metric} ({unit})" if unit and not metric.endswith(f"_{unit}") else metric


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
        "columns": [{"name": heading(m, units[m]), "unit": units[m]} for m in metrics],
        "rows": [
            {
                "label": label or "case",
                "values": [values[label].get(m, math.nan) for m in metrics],
            }
            for label in kept
        ],
        "rest": max(0, len(labels) - _MOST_ROWS),
    }

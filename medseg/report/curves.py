"""Charts as plain numbers for inline SVG: training curves and the spread of the scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Chart", "Line", "charts", "spread"]

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 14, 44
MOST_POINTS = 400
# keys of a history row that are no validation metric
NOT_METRICS = {"step", "epoch", "loss", "val_loss", "lr", "time", "seconds", "grad_norm", "memory_gb", "fold"}


@dataclass(frozen=True)
class Line:
    """One series: its points in picture coordinates, and what to write beside it."""

    name: str
    points: tuple[tuple[float, float], ...]
    marked: bool
    last: str


@dataclass(frozen=True)
class Chart:
    """One chart: axes with ticks in picture coordinates, and lines."""

    title: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    note: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    frame: tuple[int, int, int, int] = field(
        default=(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    )  # left, top, right, bottom


def charts(history: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """Make the charts of a training: loss, and validation metrics, against the step.

    Parameters
    ----------
    history : iterable of mapping
        Rows with "step", and any of "loss", "val_loss" and metrics by name; a row may lack a key.

    Examples
    --------
    >>> from medseg.report.curves import charts
    >>> rows = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.5, "dice": 0.7}]
    >>> [(c.title, [len(line.points) for line in c.lines]) for c in charts(rows)]
    [('Loss', [2]), ('Validation', [1])]
    """
    rows = [row for row in history if _number(row.get("step")) is not None]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            number = _number(value)
            if number is not None and key != "step":
                series.setdefault(key, []).append((float(row["step"]), number))
    losses: dict[str, list[tuple[float, float]]] = {k: series[k] for k in ("loss", "val_loss") if k in series}
    metrics = {k: v for k, v in series.items() if k not in NOT_METRICS}
    fractions = {k: v for k, v in metrics.items() if all(0 <= y <= 1 for _, y in v)}
    others = {k: v for k, v in metrics.items() if k not in fractions}
    steps = [float(row["step"]) for row in rows]
    made = []
    for title, y_label, group in (("Loss", "loss", losses), ("Validation", "score", fractions)):
        if group:
            made.append(_chart(title, y_label, group, steps))
    made += [_chart(f"Validation: {k}", k, {k: v}, steps) for k, v in others.items()]
    return made


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _chart(
    title: str, y_label: str, group: Mapping[str, list[tuple[float, float]]], steps: Sequence[float]
) -> Chart:
    values = [y for points in group.values() for _, y in points]
    low, high = min(values), max(values)
    # a loss that falls by more than a decade and a half shows nothing on a linear axis
    logarithmic = title == "Loss" and low > 0 and high / low > 30
    if logarithmic:
        bottom, top = math.log10(low), math.log10(high)
        bottom, top = math.floor(bottom * 2) / 2, math.ceil(top * 2) / 2
        levels = [m * 10.0**e for e in range(math.floor(bottom), math.ceil(top) + 1) for m in (1, 3)]
        levels = [v for v in levels if bottom - 0.03 <= math.log10(v) <= top + 0.03]
    else:
        levels = _nice(0.0 if low >= 0 and low < 0.6 * high else low, high)
        bottom, top = min(levels[0], low), max(levels[-1], high)
    span = (top - bottom) or 1.0
    first, last = min(steps), max(steps)
    across = _nice(first, last, whole=True) if last > first else [first]
    across = [x for x in across if first <= x <= last]
    reach = (last - first) or 1.0

    def x_at(x: float) -> float:
        return round(LEFT + (x - first) / reach * (WIDTH - LEFT - RIGHT), 1)

    def y_at(y: float) -> float:
        y = math.log10(y) if logarithmic else y
        return round(HEIGHT - BOTTOM - (y - bottom) / span * (HEIGHT - TOP - BOTTOM), 1)

    lines, notes = [], ["logarithmic axis"] if logarithmic else []
    for name, points in group.items():
        thinned, bunch = _thinned(points)
        if bunch > 1:
            notes.append(f"each point of {name} is the mean of {bunch} steps")
        placed = tuple((x_at(x), y_at(y)) for x, y in thinned)
        lines.append(Line(name, placed, len(placed) <= 60, f"{points[-1][1]:.4g}"))
    return Chart(
        title=title,
        y_label=y_label,
        lines=tuple(lines),
        x_ticks=tuple((x_at(x), f"{x:,.0f}" if x == int(x) else f"{x:g}") for x in across),
        y_ticks=tuple((y_at(y), f"{y:.6g}") for y in levels),
        note="; ".join(notes),
    )


def _thinned(points: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    bunch = -(-len(points) // MOST_POINTS)
    if bunch <= 1:
        return points, 1
    groups = [points[i : i + bunch] for i in range(0, len(points), bunch)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups], bunch


def _nice(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Three to seven round numbers that reach from at most `low` to at least `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(start, stop + 1)]


def spread(values: Mapping[str, float]) -> Chart | None:
    """Make a chart with one dot a case, dots of near values stacked; NaN is left out.

    Examples
    --------
    >>> from medseg.report.curves import spread
    >>> chart = spread({"a": 0.5, "b": 0.9, "c": float("nan")})
    >>> [line.name for line in chart.lines]
    ['a', 'b']
    """
    known = sorted((v, k) for k, v in values.items() if math.isfinite(v))
    if not known:
        return None
    low, high = known[0][0], known[-1][0]
    levels = _nice(0.0, 1.0) if low >= 0 and high <= 1 else _nice(min(low, 0.0), max(high, 0.0))
    left, right, top = 14, WIDTH - 14, 8
    span = levels[-1] - levels[0]
    bins: dict[int, list[tuple[float, str]]] = {}
    for value, case in known:
        x = left + (value - levels[0]) / span * (right - left)
        bins.setdefault(round((x - left) / 8), []).append((value, case))
    tallest = max(len(b) for b in bins.values())
    rise = min(8.0, 120 / tallest)
    bottom = top + 12 + round(rise * tallest)
    lines = [
        Line(case, ((round(left + k * 8.0, 1), round(bottom - 6 - i * rise, 1)),), True, f"{value:.4g}")
        for k, members in sorted(bins.items())
        for i, (value, case) in enumerate(members)
    ]
    return Chart(
        title="Cases",
        y_label="",
        lines=tuple(lines),
        x_ticks=tuple((round(left + (v - levels[0]) / span * (right - left), 1), f"{v:g}") for v in levels),
        y_ticks=(),
        height=bottom + 32,
        frame=(left, top, right, bottom),
    )

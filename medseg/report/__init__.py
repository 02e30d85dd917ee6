"""One self-contained HTML page: how good the results are, where they are wrong, and what they came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..files import replacing
from ..metrics import METRICS, Scores
from .curves import charts, spread
from .pictures import Panel, View, draw

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Gallery", "Panel", "render_report"]

_SINGLE = ("all", "objects")  # labels that say only that there is a single number
_WHOLE = ("mean", *_SINGLE)


@dataclass(frozen=True)
class Gallery:
    """Panels with limits other than the usual ones.

    Attributes
    ----------
    panels : iterable of Panel
        Worst case first; a generator is drawn from one panel at a time.
    max_panels : int
        Most cases with pictures; the table of scores has all.
    max_side : int
        Longest side of a picture in pixels.
    """

    panels: Iterable[Panel]
    max_panels: int = 24
    max_side: int = 1024


def render_report(
    path: str | Path,
    *,
    title: str,
    panels: Iterable[Panel] | Gallery,
    scores: Scores | None = None,
    history: Iterable[Mapping[str, Any]] | None = None,
    plan: str | None = None,
    facts: Mapping[str, str] | None = None,
    metric: str | None = None,
) -> Path:
    """Write the report of an evaluation, a training or a batch as one HTML file.

    The file refers to nothing outside itself, and appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file to write.
    title : str
        Heading of the page.
    panels : iterable of Panel, or Gallery
        Cases to show, in this order (worst first is best). Consumed lazily; the first 24 are shown, see
        `Gallery`.
    scores : Scores, optional
        Scores of all cases, shown or not.
    history : iterable of mapping, optional
        Rows of a training: "step", and any of "loss", "val_loss", "lr" and metrics by name.
    plan : str, optional
        The plan's TOML text, with its reasons as comments.
    facts : mapping of str to str, optional
        What the result came from: versions, device, time, command, dataset.
    metric : str, optional
        The metric to judge by; the first of the scores by default.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    Refused
        ``bad-panel`` for a picture that cannot be shown, ``unknown-metric``, ``bad-value``, ``unwritable``.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from medseg.phantoms import cells
    >>> from medseg.report import Panel, render_report
    >>> image, instances = cells((64, 96), rng=np.random.default_rng(0))
    >>> page = render_report(
    ...     tempfile.mkdtemp() + "/report.html", title="Cells", panels=[Panel("a", image, instances)]
    ... )
    >>> page.read_text()[:15]
    '<!doctype html>'
    """
    path = Path(path)
    gallery = panels if isinstance(panels, Gallery) else Gallery(panels)
    for name, value in (("max_panels", gallery.max_panels), ("max_side", gallery.max_side)):
        if value < (1 if name == "max_side" else 0):
            raise Refused("bad-value", f"{name} is too small", got=value)
    if metric is not None and (scores is None or metric not in scores.metrics):
        known = ", ".join(scores.metrics) if scores is not None else "no scores"
        raise Refused("unknown-metric", f"the scores have no metric '{metric}'", got=known)
    main = metric or (scores.metrics[0] if scores is not None and len(scores.metrics) else None)
    shown: dict[str, str] = {}
    hidden: dict[str, str] = {}
    pieces = _template().generate(
        title=title,
        overview=None if scores is None or main is None else _overview(scores, main),
        table=None if scores is None or main is None else _table(scores, main),
        panels=_views(gallery, scores, main, shown, hidden),
        shown=shown,
        hidden=hidden,
        charts=charts(history or ()),
        plan=None if plan is None else [_split_comment(line) for line in plan.strip("\n").split("\n")],
        facts=dict(facts or {}),
    )
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    source = resources.files("medseg").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)


def _number(value: float | None, unit: str = "", show: bool = True) -> str:
    """A value as people write it: three decimals for fractions, else three digits; a dash for NaN."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if not unit:
        text = f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    else:
        text = f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
        text += f" {unit}" if show else ""
    return text.replace("-", "\N{MINUS SIGN}")


def _views(
    gallery: Gallery, scores: Scores | None, main: str | None, shown: dict[str, str], hidden: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield panels one at a time; then `shown` has their anchors and `hidden` the sentence on the rest."""
    panels = iter(gallery.panels)
    count = 0
    for count, panel in enumerate(islice(panels, gallery.max_panels), start=1):
        view = draw(panel, max_side=gallery.max_side)
        shown.setdefault(panel.case, f"case-{count}")
        mine = [] if scores is None else [row for row in scores.rows if row.case == panel.case]
        value = math.nan
        if mine and scores is not None and main is not None and any(row.metric == main for row in mine):
            value = scores.value(panel.case, main)
        yield {
            "anchor": f"case-{count}",
            "view": view,
            "scores": _chips(mine, main),
            "value": value,
            "objects": _sentence(view),
            "noun": "part" if view.classes else "object",
        }
    if isinstance(gallery.panels, Sized):
        rest = len(gallery.panels) - count
    elif scores is not None:
        rest = len(scores.cases) - count
    else:
        rest = 1 if count == gallery.max_panels and next(panels, None) is not None else 0
        if rest:
            hidden["text"] = f"Pictures of the first {count} cases; further ones are not shown."
            return
    if rest > 0:
        hidden["text"] = f"{rest} more case{'s are' if rest > 1 else ' is'} not shown in pictures."


def _chips(rows: Sequence[Any], main: str | None) -> list[dict[str, Any]]:
    """The scores beside a case's name: one number a metric, of the main one its first few labels too."""
    chips = []
    for name in dict.fromkeys([main, *(row.metric for row in rows)]):
        mine = sorted((row for row in rows if row.metric == name), key=lambda row: row.label not in _WHOLE)
        for row in mine[: 5 if name == main else 1]:
            label = "" if row.label in _SINGLE or len(mine) == 1 else row.label
            chips.append({"metric": row.metric, "label": label, "value": row.value, "unit": row.unit})
    return chips


def _sentence(view: View) -> list[tuple[str, str]]:
    """Counts of right and wrong objects as (kind, text)."""
    verdict = view.comparison
    noun = "part" if view.classes else "object"

    def many(n: int, word: str) -> str:
        return f"{n} {word}{'' if n == 1 else 's'}"

    if verdict is None:
        return [("plain", f"{many(view.n_prediction, noun)} predicted; no reference")]
    parts = [("plain", f"{int(verdict.found.sum())} of {many(view.n_reference or 0, noun)} found")]
    merges = int(verdict.merged.sum())
    for kind, n, text in (
        ("missed", int(verdict.missed.sum()), "missed"),
        ("false", int(verdict.false.sum()), "false"),
        ("mixed", merges, f"{'merge' if merges == 1 else 'merges'} of {int(verdict.swallowed.sum())}"),
        ("mixed", int(verdict.split.sum()), "split"),
    ):
        if n:
            parts.append((kind, f"{n} {text}"))
    return parts


def _overview(scores: Scores, main: str) -> dict[str, Any]:
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
        "better": "higher is better" if about.higher_is_better else "nearer to 0 is better",
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


def _table(scores: Scores, main: str) -> dict[str, Any]:
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


def _split_comment(line: str) -> tuple[str, str]:
    """A line of TOML as code and comment; a # inside quotes starts none."""
    quote = ""
    for i, sign in enumerate(line):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign == "#":
            return line[:i], line[i:]
    return line, ""

"""One self-contained HTML page: how good the results are, where they are wrong, and what they came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import Refused
from ..files import replacing
from ..metrics import Scores
from .comparison import Column, Shown, System, comparison_markdown, render_comparison
from .curves import charts
from .pages import template
from .pictures import Panel, View, draw
from .tables import case_table, chips, overview, table
from .volumes import Volume, VolumeView, draw_volume

__all__ = [
    "Column",
    "Gallery",
    "Panel",
    "Shown",
    "System",
    "Volume",
    "comparison_markdown",
    "render_comparison",
    "render_report",
]


@dataclass(frozen=True)
class Gallery:
    """Panels with limits other than the usual ones.

    Attributes
    ----------
    panels : iterable of Panel or Volume
        Worst case first; a generator is drawn from one panel at a time.
    max_panels : int
        Most cases with pictures; the table of scores has all.
    max_side : int
        Longest side of a picture in pixels.
    max_solids : int
        Most volumes with a 3D view; each adds about 200 kB to the page.
    """

    panels: Iterable[Panel | Volume]
    max_panels: int = 24
    max_side: int = 1024
    max_solids: int = 12


def render_report(
    path: str | Path,
    *,
    title: str,
    panels: Iterable[Panel | Volume] | Gallery,
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
    panels : iterable of Panel or Volume, or Gallery
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
    for name, least in (("max_panels", 0), ("max_side", 1), ("max_solids", 0)):
        if getattr(gallery, name) < least:
            raise Refused("bad-value", f"{name} is too small", got=getattr(gallery, name))
    if metric is not None and (scores is None or metric not in scores.metrics):
        known = ", ".join(scores.metrics) if scores is not None else "no scores"
        raise Refused("unknown-metric", f"the scores have no metric '{metric}'", got=known)
    main = metric or (scores.metrics[0] if scores is not None and len(scores.metrics) else None)
    shown: dict[str, str] = {}
    hidden: dict[str, str] = {}
    pieces = template("report.html.j2").generate(
        title=title,
        overview=None if scores is None or main is None else overview(scores, main),
        table=None if scores is None or main is None else table(scores, main),
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


def _views(
    gallery: Gallery, scores: Scores | None, main: str | None, shown: dict[str, str], hidden: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield panels one at a time; then `shown` has their anchors and `hidden` the sentence on the rest."""
    panels = iter(gallery.panels)
    count = solids = 0
    for count, panel in enumerate(islice(panels, gallery.max_panels), start=1):
        view: View | VolumeView
        if isinstance(panel, Volume):
            solids += 1
            view = draw_volume(panel, max_side=gallery.max_side, surfaces=solids <= gallery.max_solids)
        else:
            view = draw(panel, max_side=gallery.max_side)
        shown.setdefault(panel.case, f"case-{count}")
        mine = [] if scores is None else [row for row in scores.rows if row.case == panel.case]
        value = math.nan
        if mine and scores is not None and main is not None and any(row.metric == main for row in mine):
            value = scores.value(panel.case, main)
        own = case_table(mine, main) if isinstance(view, VolumeView) else None
        yield {
            "anchor": f"case-{count}",
            "volume": isinstance(view, VolumeView),
            "view": view,
            "scores": chips(mine, main, own),
            "table": own,
            "value": value,
            "objects": _sentence(view),
            "noun": "part" if isinstance(view, View) and view.classes else "object",
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


def _sentence(view: View | VolumeView) -> list[tuple[str, str]]:
    """Counts of right and wrong objects, or volumes of what is wrong, as (kind, text)."""
    if view.comparison is None and view.sums:
        return list(view.sums)
    verdict = view.comparison
    noun = "part" if isinstance(view, View) and view.classes else "object"

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

"""One page for several systems on the same data: scores, costs, and the same images under each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Refused
from ..files import replacing
from .pages import template
from .pictures import Panel, draw

__all__ = ["Column", "Shown", "System", "comparison_markdown", "render_comparison"]

_SIDE = 320  # pixels of a picture: a dozen of them lie side by side


@dataclass(frozen=True)
class Column:
    """A score of the table.

    Attributes
    ----------
    name : str
        Heading.
    kind : str
        What it judges, such as region, boundary or objects; columns of a kind stand together.
    higher_is_better : bool
        False for errors.
    """

    name: str
    kind: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes
    ----------
    name : str
        Of the system.
    scores : mapping of str to sequence of float
        Heading of a `Column` to one value for each repetition; NaN where there is none.
    costs : mapping of str to str
        What it takes, such as parameters, seconds and memory, ready to be read.
    note : str
        One sentence on what it is.
    """

    name: str
    scores: Mapping[str, Sequence[float]]
    costs: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def mean(self, column: str) -> float:
        """Return the mean over the repetitions, NaN where there is none."""
        known = [v for v in self.scores.get(column, ()) if math.isfinite(v)]
        return float(np.mean(known)) if known else math.nan

    def text(self, column: str) -> str:
        """Return the mean and, of several repetitions, the standard deviation.

        Examples
        --------
        >>> System("a", {"iou": (0.5, 0.7)}).text("iou")
        '0.600 ± 0.141'
        """
        known = [v for v in self.scores.get(column, ()) if math.isfinite(v)]
        if not known:
            return "-"
        spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
        return f"{np.mean(known):.3f}{spread}"


@dataclass(frozen=True)
class Shown:
    """One image and what each system made of it.

    Attributes
    ----------
    case : str
        Its name.
    image : ndarray, shape (H, W) or (H, W, 3)
        See `Panel`.
    reference : ndarray of int, shape (H, W)
        The truth.
    predictions : mapping of str to ndarray of int, shape (H, W)
        Name of a system to its map.
    captions : mapping of str to str
        Name of a system to what stands under its picture, such as a score.
    classes : mapping of int to str, optional
        Names of the values, where the maps are label maps; without it a value stands for one object.
    """

    case: str
    image: NDArray[Any]
    reference: NDArray[Any]
    predictions: Mapping[str, NDArray[Any]]
    captions: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[int, str] | None = None


def render_comparison(
    path: str | Path,
    *,
    title: str,
    columns: Sequence[Column],
    systems: Sequence[System],
    shown: Iterable[Shown] = (),
    lead: str = "",
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a comparison of systems as one HTML file that refers to nothing outside itself.

    Parameters
    ----------
    path : str or Path
        The file; it appears whole or not at all.
    title, lead : str
        Heading, and the paragraph below it.
    columns : sequence of Column
        Scores in their order.
    systems : sequence of System
        Rows in their order.
    shown : iterable of Shown
        Images to show under every system; consumed one by one.
    facts : mapping of str to str, optional
        What the table came from: data, machine, budget, command.

    Raises
    ------
    Refused
        ``nothing-to-compare`` without systems or columns, ``bad-panel``, ``unwritable``.

    Examples
    --------
    >>> import tempfile
    >>> page = render_comparison(
    ...     tempfile.mkdtemp() + "/page.html", title="Two networks", columns=[Column("iou", "region")],
    ...     systems=[System("a", {"iou": (0.5, 0.6)}), System("b", {"iou": (0.7, 0.8)})],
    ... )
    >>> "0.750 ± 0.071" in page.read_text()
    True
    """
    if not systems or not columns:
        raise Refused(
            "nothing-to-compare",
            f"a comparison of {len(systems)} systems by {len(columns)} scores",
            expected="at least one of each",
        )
    costs = list(dict.fromkeys(name for system in systems for name in system.costs))
    path = Path(path)
    pieces = template("comparison.html.j2").generate(
        title=title,
        lead=lead,
        kinds=_kinds(columns),
        columns=columns,
        costs=costs,
        rows=_rows(columns, systems, costs),
        shown=_pictures(shown),
        facts=dict(facts or {}),
    )
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path


def comparison_markdown(columns: Sequence[Column], systems: Sequence[System]) -> str:
    """Return the table as Markdown, the best of each column in bold.

    Examples
    --------
    >>> rows = [System("a", {"iou": (0.5,)}, {"parameters": "3"}), System("b", {"iou": (0.7,)})]
    >>> print(comparison_markdown([Column("iou", "region")], rows))
    | system | iou | parameters |
    |---|---|---|
    | a | 0.500 | 3 |
    | b | **0.700** |  |
    <BLANKLINE>
    """
    costs = list(dict.fromkeys(name for system in systems for name in system.costs))
    best = {column.name: _best(column, systems) for column in columns}
    lines = [
        "| system | " + " | ".join([*(c.name for c in columns), *costs]) + " |",
        "|---" * (1 + len(columns) + len(costs)) + "|",
    ]
    for system in systems:
        cells = [
            f"**{system.text(c.name)}**" if system.name in best[c.name] else system.text(c.name)
            for c in columns
        ]
        cells += [system.costs.get(name, "") for name in costs]
        lines.append(f"| {system.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _best(column: Column, systems: Sequence[System]) -> set[str]:
    """Names of the systems with the best mean."""
    means = {s.name: s.mean(column.name) for s in systems if math.isfinite(s.mean(column.name))}
    if not means:
        return set()
    top = max(means.values()) if column.higher_is_better else min(means.values())
    return {name for name, mean in means.items() if mean == top}


def _kinds(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Kinds and how many neighbouring columns each spans."""
    kinds: list[tuple[str, int]] = []
    for column in columns:
        if kinds and kinds[-1][0] == column.kind:
            kinds[-1] = (column.kind, kinds[-1][1] + 1)
        else:
            kinds.append((column.kind, 1))
    return kinds


def _rows(
    columns: Sequence[Column], systems: Sequence[System], costs: Sequence[str]
) -> Iterator[dict[str, Any]]:
    best = {column.name: _best(column, systems) for column in columns}
    spans = {}
    for column in columns:
        values = [v for s in systems for v in s.scores.get(column.name, ()) if math.isfinite(v)]
        spans[column.name] = (min(values, default=0.0), max(values, default=1.0))
    for system in systems:
        cells = []
        for column in columns:
            low, high = spans[column.name]
            wide = (high - low) or 1.0
            known = [v for v in system.scores.get(column.name, ()) if math.isfinite(v)]
            cells.append(
                {
                    "text": system.text(column.name),
                    "best": system.name in best[column.name],
                    "dots": [round(4 + 92 * (v - low) / wide, 1) for v in known],
                }
            )
        yield {
            "name": system.name,
            "note": system.note,
            "cells": cells,
            "costs": [system.costs.get(name, "") for name in costs],
        }


def _pictures(shown: Iterable[Shown]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(shown, start=1):
        views = [
            (
                name,
                draw(Panel(one.case, one.image, found, one.reference, classes=one.classes), max_side=_SIDE),
            )
            for name, found in one.predictions.items()
        ]
        if not views:
            continue
        first = views[0][1]
        yield {
            "anchor": f"image-{number}",
            "case": one.case,
            "width": first.width,
            "height": first.height,
            "image": first.image,
            "reference": first.reference,
            "systems": [(name, view.difference, one.captions.get(name, "")) for name, view in views],
        }

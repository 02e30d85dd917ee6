"""The page of a night: what to look at first, and what could not be done and why; that as lists, too."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import replacing, write_text
from .options import FOLDER, StudyOptions
from .outcomes import NightResult, Outcome

__all__ = ["NIGHT", "QUARANTINE", "by_doubt", "write_night", "write_overview"]

NIGHT, QUARANTINE = "night.html", "quarantine"
_PICTURES = 24
_STRUCTURES = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_night(out: Path, result: NightResult, *, model: str, options: StudyOptions | None = None) -> Path:
    """Write ``night.html`` and, into ``quarantine``, ``refused.json`` and ``refused.csv``.

    They hold no times, so that the same studies give the same bytes, however often the run was interrupted.

    Parameters
    ----------
    out : Path
        The folder.
    result : NightResult
    model : str
        Name of the model.
    options : StudyOptions, optional
        What is shown of patients.

    Returns
    -------
    Path
        The page.
    """
    options = options or StudyOptions()
    _write_quarantine(out / QUARANTINE, _refusals(result, options))
    return write_overview(out / NIGHT, result, model=model, options=options)


def write_overview(
    path: Path,
    result: NightResult,
    *,
    model: str,
    options: StudyOptions | None = None,
    items: tuple[str, str] = ("study", "studies"),
    note: str = "",
) -> Path:
    """Write the page alone; the pages of the studies lie in folders beside it.

    Parameters
    ----------
    path : Path
        The HTML file.
    result : NightResult
    model : str
        Name of the model.
    options : StudyOptions, optional
        What is shown of patients.
    items : tuple of str
        What one of them is called, and several.
    note : str
        A sentence on what the page shows, for its head.

    Returns
    -------
    Path
        The page.
    """
    from ..report.pages import template
    from .pages import SHOWN_AS

    options = options or StudyOptions()
    done, refused = by_doubt(result.outcomes), _refusals(result, options)
    reasons: dict[str, int] = {}
    for row in refused:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    pieces = template("night.html.j2").generate(
        model=model,
        one=items[0],
        many=items[1],
        note=note,
        columns={name: SHOWN_AS[name] for name in options.show},
        done=[_done(o, options, picture=i < _PICTURES) for i, o in enumerate(done)],
        has_doubt=any(o.record["doubt"] for o in done),
        refused=refused,
        reasons=sorted(reasons.items(), key=lambda r: (-r[1], r[0])),
        ignored=sorted(result.ignored.items()),
    )
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.writelines(pieces)
    return path


def _refusals(result: NightResult, options: StudyOptions) -> list[dict[str, Any]]:
    """Rows on what could not be done, those of one reason together."""
    rows = [_refused(o, options) for o in result.outcomes if o.state == "refused"]
    return sorted(rows, key=lambda row: (row["reason"], row["study"]))


def by_doubt(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the studies that are done, in the order in which to look at them."""
    done = [o for o in outcomes if o.state == "done"]
    return sorted(done, key=lambda o: (-_doubt_of(o), -len(o.record["warnings"]), o.id))


def _doubt_of(outcome: Outcome) -> float:
    """Doubt as an order: what is not known is looked at before what is known to be good."""
    doubt = outcome.record["doubt"]
    if not doubt:
        return 0.0
    score = doubt["score"]
    return 1.0 if score is None else float(score)


def _shown(outcome: Outcome, options: StudyOptions) -> dict[str, str]:
    found = dict(outcome.record.get("shown", {}))
    if FOLDER in options.show:
        found[FOLDER] = str(outcome.source or "")
    return {name: found.get(name, "") for name in options.show}


def _done(outcome: Outcome, options: StudyOptions, *, picture: bool) -> dict[str, Any]:
    record = outcome.record
    doubt = record["doubt"] or {}
    reasons = [*(w["text"] for w in record["warnings"]), *doubt.get("reasons", ())]
    some = record["structures"][:_STRUCTURES]
    return {
        "study": outcome.id,
        "page": f"{outcome.id}/report.html",
        "shown": _shown(outcome, options),
        "doubt": doubt.get("score"),
        "reasons": reasons,
        "structures": some,
        "more": len(record["structures"]) - len(some),
        "picture": record["looks"] if picture else None,
    }


def _refused(outcome: Outcome, options: StudyOptions) -> dict[str, Any]:
    record = outcome.record
    row = {"study": outcome.id, "reason": record["reason"], "message": record["message"]}
    return row | {"input": record.get("input", {}), "shown": _shown(outcome, options)}


def _write_quarantine(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what could not be done as JSON and, for spreadsheets, as CSV in which no text is a formula."""
    write_text(folder / "refused.json", json.dumps({"format": 1, "refused": rows}, indent=1) + "\n")
    names = list(rows[0]["shown"]) if rows else []
    path = folder / "refused.csv"
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["study", "reason", "message", "files", *names])
        for row in rows:
            cells = [row["study"], row["reason"], row["message"], row["input"].get("files", "")]
            writer.writerow([_harmless(c) for c in (*cells, *(row["shown"][n] for n in names))])


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell

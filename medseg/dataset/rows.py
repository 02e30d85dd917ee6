"""What a CSV file says of each case: its spacing, group, site, split and tags."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Refused, did_you_mean
from ..io.paths import stem_of
from .cases import Case, some
from .findings import Finding, Problems
from .pairing import relative
from .strictly import Table

__all__ = ["CSV_KEYS", "with_rows"]

CSV_KEYS = ("file", "case", "spacing", "group", "site", "split", "tags")
_log = logging.getLogger(__name__)


def with_rows(table: Table, cases: list[Case], root: Path, problems: Problems) -> list[Case]:
    """Give each case what its row of the file says; every case needs exactly one row."""
    path = root / table.required("file")
    columns, rows = _read(path)
    key = _known(table, "case", table.required("case"), columns)
    single = {
        k: _known(table, k, name, columns) for k in ("group", "site", "split") if (name := table.text(k))
    }
    steps = [_known(table, "spacing", name, columns) for name in _listed(table, "spacing")]
    tags = table.below("tags")
    tag_columns = {k: _known(tags, k, tags.required(k), columns) for k in tags.table}
    row_of = _rows_of(cases, rows, key, path, root, problems)
    found = []
    for case in cases:
        row = row_of.get(case.name)
        if row is None:  # told, and looked at without it
            found.append(case)
            continue
        own: dict[str, Any] = {k: row[column] for k, column in single.items() if row[column]}
        if steps:
            own["spacing"] = _spacing(case, row, steps, path)
        own["tags"] = {**case.tags, **{k: row[column] for k, column in tag_columns.items()}}
        found.append(replace(case, **own))
    return found


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the names of the columns and the rows, without white space around the cells."""
    if not path.is_file():
        raise Refused("not-found", f"no such file '{path}'", do="correct csv.file, or give root")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file, strict=True) if any(line)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise Refused("bad-csv", f"cannot read '{path}'", got=error, expected="commas, UTF-8") from error
    if not lines or len(set(lines[0])) < len(lines[0]):
        got = lines[0] if lines else "an empty file"
        raise Refused("bad-csv", f"'{path}' has no header of different names", got=got)
    uneven = [n for n, line in enumerate(lines, 1) if len(line) != len(lines[0])]
    if uneven:
        raise Refused(
            "bad-csv",
            f"'{path}': row {uneven[0]} does not fit the header",
            got=f"{len(lines[uneven[0] - 1])} cells",
            expected=f"{len(lines[0])}, separated by commas",
        )
    return lines[0], [dict(zip(lines[0], line)) for line in lines[1:]]


def _listed(table: Table, key: str) -> list[str]:
    if key not in table.table:
        return []
    return table.texts(key) if isinstance(table.table[key], list) else [table.required(key)]


def _known(table: Table, key: str, column: str, columns: list[str]) -> str:
    if column not in columns:
        raise Refused(
            "unknown-column",
            f"{table.where}.{key}: the file has no column '{column}'",
            expected=", ".join(f"'{c}'" for c in columns),
            do=did_you_mean(column, columns),
        )
    return column


def _rows_of(
    cases: list[Case], rows: list[dict[str, str]], key: str, path: Path, root: Path, problems: Problems
) -> dict[str, Mapping[str, str]]:
    """Return name of the case -> its row; a row names the case, its image, or the path of its image."""
    names: dict[str, str] = {}
    for case in cases:
        own = {n for f in case.images for n in (f.name, stem_of(f), relative(f, root))}
        for name in (case.name, *sorted(own - {case.name})):
            if names.setdefault(name, case.name) != case.name:
                names[name] = ""  # images of one name in two folders: only their paths tell them apart
    found: dict[str, Mapping[str, str]] = {}
    for row in rows:
        case_name = names.get(row[key], "")
        if not case_name:
            continue
        if case_name in found:
            problems.refuse(
                Refused(
                    "duplicate-case",
                    f"'{path}' has several rows of one case",
                    got=f"'{row[key]}'",
                    do="keep one of them",
                ),
                case_name,
            )
        found[case_name] = row
    lacking = [case.name for case in cases if case.name not in found]
    if lacking:
        each = [
            Finding(
                "error",
                "case-without-row",
                name,
                f"'{relative(path, root)}' has no row for it in column '{key}'.",
                "Complete the file, or leave the image out.",
            )
            for name in lacking
        ]
        refusal = Refused(
            "case-without-row",
            f"'{path}' has no row for {len(lacking)} of {len(cases)} cases",
            got=some(lacking),
            expected=f"the name of the case or of its image in column '{key}'",
            do="complete the file, or leave those images out",
        )
        problems.refuse(refusal, each=each)
    if len(found) < len(rows):
        _log.info("%s: %d rows of other cases", path, len(rows) - len(found))
    return found


def _spacing(case: Case, row: Mapping[str, str], columns: list[str], path: Path) -> tuple[float, ...]:
    """Return the numbers of the columns; a single one holds for the two axes of an image."""
    values = []
    for column in columns:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise Refused(
                "bad-spacing",
                f"'{path}': the spacing of '{case.name}' is no size",
                got=f"'{row[column]}' in column '{column}'",
                expected="a positive number with a decimal point",
            )
        values.append(value)
    return (values[0], values[0]) if len(values) == 1 else tuple(values)

"""What colours stand for in labels that are pictures: from a TOML table, class_dict.csv or labelmap.txt."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Refused
from .cases import Case
from .strictly import Table

__all__ = [
    "CLASS_DICT",
    "LABEL_MAP",
    "Legend",
    "ignored_of",
    "legend_of",
    "read_legend",
    "things_of",
    "with_colours",
]

CLASS_DICT, LABEL_MAP = "class_dict.csv", "labelmap.txt"
_VOID = ("void", "unlabelled", "unlabeled", "ignore", "ignored")
_GROUND = ("background", "_background_")
_IGNORED = 255

Colour = tuple[int, int, int]


class Legend(NamedTuple):
    """Classes with their values, what is ignored, and the value of each colour."""

    classes: dict[str, int]
    ignore: tuple[int, ...]
    colours: tuple[tuple[Colour, int], ...]


def read_legend(path: Path) -> Legend:
    """Read the colours of classes from ``class_dict.csv``, ``labelmap.txt`` (CVAT) or ``label_colors.txt``.

    Classes are numbered from 1 in the order of the file. ``background`` is 0, and ``void``, ``unlabelled`` or
    ``ignore`` is 255. Where there is no background, void is 0, and 0 is ignored: so every class is scored.

    Raises
    ------
    Refused
        ``bad-csv`` for a file without names or colours, or with one twice.
    """
    rows = (_from_csv if path.suffix == ".csv" else _from_label_map)(path)
    parts: tuple[tuple[str, list[object]], ...] = (
        ("name", [name for name, _ in rows]),
        ("colour", [colour for _, colour in rows]),
    )
    for what, given in parts:
        if double := next((one for one in given if given.count(one) > 1), None):
            raise _bad(path, f"the {what} {double} twice", f"different {what}s")
    ground = next((name for name, _ in rows if name.lower() in _GROUND), None)
    void = 0 if ground is None else _IGNORED
    classes: dict[str, int] = {}
    values: dict[str, int] = {}
    for name, _ in rows:
        if name == ground:
            values[name] = 0
        elif name.lower() in _VOID:
            values[name] = void
        else:
            # 255 is taken where there is a background and a void
            number = len(classes) + 1
            values[name] = classes[name] = number + (void == _IGNORED and number >= _IGNORED)
    if not classes:
        raise _bad(path, f"{len(rows)} rows", "at least one class beside background and void")
    ignore = (void,) if ground is None or set(values) - set(classes) - {ground} else ()
    return Legend(classes, ignore, tuple((colour, values[name]) for name, colour in rows))


def _from_csv(path: Path) -> list[tuple[str, Colour]]:
    """Read a table with the columns name, r, g, b."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = [
                {(k or "").strip().lower(): (v or "").strip() for k, v in row.items() if k is not None}
                for row in csv.DictReader(file)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, error, "UTF-8 with commas") from error
    rows = []
    for row in table:
        colour = tuple(row.get(key, "") for key in "rgb")
        if not row.get("name") or not all(c.isdigit() and int(c) < 256 for c in colour):
            raise _bad(path, row, "the columns name, r, g, b, with colours from 0 to 255")
        rows.append((row["name"], (int(colour[0]), int(colour[1]), int(colour[2]))))
    return rows


def _from_label_map(path: Path) -> list[tuple[str, Colour]]:
    """Read lines such as ``car:128,0,0::`` or ``128 0 0 car``."""
    rows = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, rest = line.partition(":")
        parts = rest.partition(":")[0].split(",")
        if not colon:
            *parts, name = line.split(None, 3)
        digits = len(parts) == 3 and all(p.strip().isdigit() and int(p) < 256 for p in parts)
        if not name.strip() or not digits:
            raise _bad(path, line, "lines such as car:128,0,0:: or 128 0 0 car, with colours from 0 to 255")
        rows.append((name.strip(), (int(parts[0]), int(parts[1]), int(parts[2]))))
    return rows


def _bad(path: Path, got: object, expected: str) -> Refused:
    return Refused(
        "bad-csv",
        f"'{path}' does not tell the colours of classes",
        got=got,
        expected=expected,
        do="correct it, or describe the colours in a dataset.toml",
    )


def ignored_of(reader: Table, classes: Mapping[str, int] | None) -> tuple[int, ...]:
    """Return the values of ``ignore`` of a description: a whole number or a list of them."""
    if "ignore" not in reader.table:
        return ()
    value = reader.table["ignore"]
    listed = value if isinstance(value, list) else [value]
    if not all(type(v) is int and v >= 0 for v in listed) or len(set(listed)) < len(listed):
        raise reader.refuse("ignore", value, "a value of the label files, such as 255, or a list of them")
    if both := [name for name, v in (classes or {}).items() if v in listed]:
        raise reader.refuse("ignore", value, f"no value of a class, and '{both[0]}' is one")
    return tuple(listed)


def things_of(reader: Table, classes: Mapping[str, int] | None) -> tuple[str, ...]:
    """Return the names in ``things`` of a description: classes whose objects can be counted."""
    if "things" not in reader.table:
        return ()
    names = reader.texts("things")
    for name in names:
        if name not in (classes or {}):
            raise reader.refuse("things", name, f"names in classes: {', '.join(classes or ())}")
    return tuple(names)


def legend_of(reader: Table, root: Path) -> Legend | None:
    """Return what the file says that ``colours`` of a description names; None where it names none."""
    name = reader.table.get("colours")
    if not isinstance(name, str):
        return None
    for key in ("classes", "ignore"):
        if key in reader.table:
            raise reader.refuse(key, reader.table[key], f"none beside colours = {name!r}, which names them")
    if not (root / name).is_file():
        raise Refused(
            "not-found", f"{reader.where}: no file '{root / name}'", do="correct the path in colours"
        )
    return read_legend(root / name)


def with_colours(
    reader: Table, cases: Iterable[Case], classes: Mapping[str, int] | None, ignore: tuple[int, ...]
) -> list[Case]:
    """Give cases the ``colours`` of a description: name = [red, green, blue] or "#rrggbb", or a list of them.

    The names are those of classes, ``background`` (0) and ``ignore`` (the first ignored value).
    """
    if "colours" not in reader.table:
        return list(cases)
    known = {"background": 0, **({"ignore": ignore[0]} if ignore else {}), **(classes or {})}
    table = reader.below("colours", tuple(known))
    colours = tuple((colour, known[name]) for name in table.table for colour in _colours(table, name))
    if not classes or len({c for c, _ in colours}) < len(colours):
        raise reader.refuse("colours", dict(table.table), "different colours for each name in classes")
    return [replace(case, colours=colours) for case in cases]


def _colours(table: Table, name: str) -> list[Colour]:
    """Return the colours of a name: one, or those of a list."""
    value = table.table[name]
    several = isinstance(value, list) and bool(value) and all(isinstance(one, list | str) for one in value)
    return [_colour(table, name, one) for one in (value if several else [value])]


def _colour(table: Table, name: str, value: Any) -> Colour:
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
        except ValueError:
            pass
    good = isinstance(value, list) and len(value) == 3
    if not good or not all(type(v) is int and 0 <= v <= 255 for v in value):
        raise table.refuse(name, value, '[red, green, blue] from 0 to 255, or "#rrggbb", or a list of such')
    return value[0], value[1], value[2]

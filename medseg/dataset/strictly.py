"""Tables of a TOML file whose keys are known and whose values are asked for by type."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import Refused, did_you_mean, refuse_unknown
from ..io.paths import stem_of
from .cases import Case

__all__ = ["Table", "spacing_of", "spacing_unit"]


class Table:
    """A TOML table whose keys are known and whose values are asked for by type."""

    def __init__(self, table: Mapping[str, Any], where: str, keys: tuple[str, ...] | None = None) -> None:
        self.table = table
        self.where = where
        for key in table if keys is not None else ():
            if key not in (keys or ()):
                error = refuse_unknown("key", key, keys or ())
                raise Refused(
                    "unknown-key", f"{where}: {str(error).split('.')[0]}", do=did_you_mean(key, keys or ())
                )

    def refuse(self, key: str, got: object, expected: str) -> Refused:
        return Refused("bad-value", f"{self.where}: {key}", got=repr(got), expected=expected)

    def text(self, key: str) -> str | None:
        value = self.table.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise self.refuse(key, value, "a text in quotes")
        return value

    def required(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise Refused("missing-key", f"{self.where} has no '{key}'", do=f"add {key} = ...")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.table[key]
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise self.refuse(key, value, "a list of texts in quotes")
        return value

    def flag(self, key: str) -> bool:
        value = self.table.get(key, False)
        if not isinstance(value, bool):
            raise self.refuse(key, value, "true or false")
        return value

    def names(self, key: str, root: Path, known: Collection[str]) -> set[str]:
        """Return the names of a list, or of a text file below ``root``, where of paths the stems count."""
        if not isinstance(self.table[key], str):
            return set(self.texts(key))
        path = root / self.required(key)
        if not path.is_file():
            raise Refused("not-found", f"{self.where}.{key}: no file '{path}'", do="correct the path")
        lines = [line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines()]
        words = [word for line in lines for word in ([line] if line in known else line.split())]
        return {stem_of(word) if "/" in word else word for word in words}

    def below(self, key: str, keys: tuple[str, ...] | None = None) -> Table:
        value = self.table.get(key, {})
        if not isinstance(value, dict):
            raise self.refuse(key, value, "a table")
        return Table(value, f"{self.where} {key}", keys)


def spacing_of(table: Table) -> tuple[float, ...]:
    """Return the value of ``spacing``: two or three positive numbers."""
    value = table.table["spacing"]
    good = isinstance(value, list) and len(value) in (2, 3)
    if not good or not all(type(v) in (int, float) and 0 < v < float("inf") for v in value):
        raise table.refuse("spacing", value, "two or three positive numbers")
    return tuple(float(v) for v in value)


def spacing_unit(table: Table, cases: Iterable[Case]) -> str | None:
    """Return the value of ``unit``, which is there exactly where a spacing is."""
    unit = table.text("unit")
    if "spacing" not in table.table and all(case.spacing is None for case in cases):
        if unit is not None:
            raise table.refuse("unit", unit, "a spacing beside it")
        return None
    if unit not in ("um", "mm"):
        raise table.refuse("unit", unit, '"um" or "mm" beside spacing')
    return unit

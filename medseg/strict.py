"""Dataclasses from tables of a TOML file: unknown keys and wrong types are refused."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from .errors import Refused, did_you_mean, refuse_unknown

__all__ = ["build_strict", "comments", "typed"]


def build_strict(
    cls: type, table: Mapping[str, Any], where: str, *, start: Any = None, kind: str = "plan key"
) -> Any:
    """Make a dataclass from a table, each value checked against its annotation.

    Parameters
    ----------
    cls : type
        The dataclass.
    table : mapping
        Names and values, as ``tomllib`` gives them.
    where : str
        Name of the table, for the refusal.
    start : object, optional
        An instance whose other values are kept.
    kind : str
        What a key is called where it is unknown.

    Raises
    ------
    Refused
        ``unknown-plan-key`` (or as ``kind`` says) or ``bad-value``.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Point:
    ...     x: float = 0.0
    >>> build_strict(Point, {"x": 1}, "point")
    Point(x=1.0)
    """
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise refuse_unknown(kind, f"{where}.{key}", [f"{where}.{name}" for name in hints])
        values[key] = typed(value, hints[key], f"{where}.{key}")
    return dataclasses.replace(start, **values) if start is not None else cls(**values)


def typed(value: Any, hint: Any, key: str) -> Any:
    """Return ``value`` as the annotated type, or refuse it."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        if not any(value == o and type(value) is type(o) for o in options):
            raise Refused(
                "bad-value",
                f"'{key}' cannot be this",
                got=repr(value),
                expected=" or ".join(map(repr, options)),
                do=did_you_mean(value, options) if isinstance(value, str) else None,
            )
        return value
    if origin is tuple:
        inner = typing.get_args(hint)
        fixed = inner[-1] is not Ellipsis
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(inner)):
            raise Refused(
                "bad-value",
                f"'{key}' is a list",
                got=repr(value),
                expected=f"{len(inner)} values in brackets" if fixed else "values in brackets: [1, 2]",
            )
        return tuple(typed(v, inner[0], key) for v in value)
    if isinstance(hint, types.UnionType):
        raise TypeError(f"{key}: unions are not part of the plan format")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise Refused("bad-value", f"'{key}' has the wrong type", got=repr(value), expected=hint.__name__)
    if hint is float and not math.isfinite(value):
        raise Refused("bad-value", f"'{key}' is not a finite number", got=value)
    return value


def comments(text: str) -> dict[str, str]:
    """Collect the comments behind the values of a TOML text's tables.

    Examples
    --------
    >>> comments("[train]\\nlr = 1.0  # by hand")
    {'train.lr': 'by hand'}
    """
    import tomlkit

    found = {}
    for table, content in tomlkit.parse(text).body:
        for key, item in getattr(getattr(content, "value", None), "body", ()):
            if table is None or key is None:  # blank lines have no key
                continue
            if comment := item.trivia.comment.lstrip("# "):
                found[f"{table.key}.{key.key}"] = comment
    return found

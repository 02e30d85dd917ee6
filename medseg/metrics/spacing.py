"""The spacing that metrics in millimetres and millilitres need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import Refused

__all__ = ["checked_spacing", "needed_spacing"]


def checked_spacing(spacing: Sequence[float], ndim: int) -> tuple[float, ...]:
    """Return the size of a pixel along each axis, in mm, or refuse numbers that do not fit."""
    values = tuple(float(value) for value in spacing)
    if len(values) != ndim or not all(math.isfinite(v) and v > 0 for v in values):
        raise Refused(
            "bad-spacing", "the spacing does not fit", got=values, expected=f"{ndim} numbers above 0, in mm"
        )
    return values


def needed_spacing(spacing: Sequence[float] | None, ndim: int, what: str) -> tuple[float, ...]:
    """Return a checked spacing; pixels of unknown size are refused, never taken for millimetres."""
    if spacing is None:
        raise Refused(
            "no-spacing",
            f"{what} needs the size of a pixel",
            got="maps without a spacing",
            expected=f"{ndim} numbers in mm",
            do="give spacing, write the maps in a format that holds it, or score by metrics without units",
        )
    return checked_spacing(spacing, ndim)

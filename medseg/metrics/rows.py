"""The rows of a table of scores, and the text that they are kept in: JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..errors import Refused

__all__ = ["Score", "SummaryRow", "from_csv", "from_json", "to_csv", "to_json"]

FORMAT = "medseg-scores-1"


@dataclass(frozen=True, eq=False)
class Score:
    """One number: what was measured, on which case.

    Attributes
    ----------
    case : str
        Name of the case.
    metric : str
        Lower-case name, such as ``"dice"``.
    label : str
        A class, an IoU threshold such as ``"0.50"``, ``"objects"`` or ``"all"``, a part of these such as
        ``"split"``, or what stands for the case's others: ``"mean"``, ``"all"`` for their sum, ``"absolute"``
        for the mean of their magnitudes.
    value : float
        NaN where there was nothing to score.
    unit : str
        Empty for a fraction.

    Examples
    --------
    >>> from medseg.metrics import Score
    >>> Score("case-1", "dice", "liver", 0.9) == Score("case-1", "dice", "liver", 0.9, unit="")
    True
    """

    case: str
    metric: str
    label: str
    value: float
    unit: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))
        if math.isinf(self.value):
            raise Refused(
                "infinite-score",
                f"{self.metric} of '{self.label}' in case '{self.case}' is infinite",
                expected="a number, or NaN where there is nothing to score",
            )

    def _key(self) -> tuple[str, ...]:
        # two scores that are both NaN are the same score, which comparing the floats would deny
        return (self.case, self.metric, self.label, repr(self.value), self.unit)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Score) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


class SummaryRow(NamedTuple):
    """Statistics of one metric and label over the cases that have a value.

    Attributes
    ----------
    metric, label : str
        What was measured.
    mean, std, median, min, max : float
        Over the `n` cases; NaN without any. `std` divides by n - 1, and is NaN for one case.
    n : int
        Cases with a value.
    absent : int
        Cases with NaN, in which there was nothing to score. They are left out of the numbers.
    unit : str
        Empty for a fraction.
    """

    metric: str
    label: str
    mean: float
    std: float
    median: float
    min: float
    max: float
    n: int
    absent: int
    unit: str


_COLUMNS = tuple(field.name for field in fields(Score))


def to_json(rows: Iterable[Score]) -> str:
    """Strict JSON; NaN is null."""
    scores = [
        {name: None if getattr(row, name) != getattr(row, name) else getattr(row, name) for name in _COLUMNS}
        for row in rows
    ]
    return (
        json.dumps({"format": FORMAT, "scores": scores}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )


def from_json(text: str) -> list[Score]:
    """Read what `to_json` wrote; KeyError or TypeError where the text is something else."""
    content: Any = json.loads(text)
    if content["format"] != FORMAT:
        raise KeyError(f"format '{content['format']}' instead of '{FORMAT}'")
    return [
        Score(
            str(row["case"]),
            str(row["metric"]),
            str(row["label"]),
            math.nan if row["value"] is None else row["value"],
            str(row["unit"]),
        )
        for row in content["scores"]
    ]


def to_csv(rows: Iterable[Score]) -> str:
    """One line a score below a header; NaN is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        value = "" if math.isnan(row.value) else repr(row.value)
        writer.writerow([row.case, row.metric, row.label, value, row.unit])
    return text.getvalue()


def from_csv(text: str) -> list[Score]:
    """Read what `to_csv` wrote; KeyError or ValueError where the text is something else."""
    lines = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(lines.fieldnames or ()) != _COLUMNS:
        raise KeyError(f"columns {lines.fieldnames} instead of {list(_COLUMNS)}")
    rows = []
    for row in lines:
        if None in row or None in row.values():
            raise KeyError(f"line {lines.line_num} has too many or too few columns")
        value = float(row["value"]) if row["value"] else math.nan
        rows.append(Score(row["case"], row["metric"], row["label"], value, row["unit"]))
    return rows

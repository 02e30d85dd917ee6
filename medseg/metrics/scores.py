"""Scores: case x metric x label, with units; summaries, and files that read back exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import Refused, refuse_unknown
from ..files import replacing
from .registry import METRICS
from .rows import Score, SummaryRow, from_csv, from_json, to_csv, to_json

__all__ = ["Scores"]

_WHOLE = ("mean", "absolute", "objects", "all")  # labels of the value of a case, where others are beside it


@dataclass(frozen=True)
class Scores:
    """All scores of an evaluation.

    Parameters
    ----------
    rows : iterable of Score
        At most one for each case, metric and label; one unit for each metric.

    Raises
    ------
    Refused
        A score given twice, or a metric in two units.

    Examples
    --------
    >>> from medseg.metrics import Score, Scores
    >>> scores = Scores([Score("a", "dice", "liver", 0.9), Score("b", "dice", "liver", 0.7)])
    >>> scores.value("b", "dice", "liver"), round(scores.mean("dice"), 3), scores.worst("dice")
    (0.7, 0.8, ['b', 'a'])
    """

    rows: tuple[Score, ...] = ()

    def __init__(self, rows: Iterable[Score] = ()) -> None:
        object.__setattr__(self, "rows", tuple(rows))
        units: dict[str, str] = {}
        seen: set[tuple[str, str, str]] = set()
        for row in self.rows:
            key = (row.case, row.metric, row.label)
            if key in seen:
                raise Refused(
                    "duplicate-score",
                    f"{row.metric} of '{row.label}' in case '{row.case}' is given twice",
                    do="give every case a name of its own",
                )
            seen.add(key)
            if units.setdefault(row.metric, row.unit) != row.unit:
                raise Refused(
                    "mixed-units",
                    f"{row.metric} has two units",
                    got=f"'{units[row.metric]}' and '{row.unit}'",
                    expected="one unit for each metric",
                )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Score]:
        return iter(self.rows)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases, in the order they came."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order they came."""
        return tuple(self._table)

    def labels(self, metric: str) -> tuple[str, ...]:
        """Labels of one metric, in the order they came.

        Raises
        ------
        Refused
            The metric is not among the scores.
        """
        if metric not in self._table:
            raise refuse_unknown("metric", metric, self._table)
        return tuple(self._table[metric])

    def value(self, case: str, metric: str, label: str | None = None) -> float:
        """Return one value; without a label the case's own, or the mean of its labels where it has none.

        Its own is the label "mean", "absolute" of an error with a sign, "all" of a volume, or "objects" or
        "all" of a metric with parts.

        NaN where there was nothing to score.

        Raises
        ------
        Refused
            The case, metric or label is not among the scores.
        """
        if case not in self.cases:
            raise refuse_unknown("case", case, self.cases)
        values = self._values(metric, label)
        if case not in values:
            raise Refused(
                "no-score",
                f"case '{case}' has no {metric}" + (f" of '{label}'" if label else ""),
                do="score it first",
            )
        return values[case]

    def mean(self, metric: str, label: str | None = None) -> float:
        """Mean over cases, NaN left out; without a label, of the cases' means.

        Raises
        ------
        Refused
            The metric or label is not among the scores.
        """
        return _nanmean(self._values(metric, label).values())

    def worst(self, metric: str, label: str | None = None) -> list[str]:
        """Names of the cases from worst to best, those with NaN last.

        Errors and distances are ranked by their magnitude: missing 5 objects is as bad as inventing 5. What
        is neither good nor bad, such as a volume, is ranked from large to small.

        Raises
        ------
        Refused
            The metric or label is not among the scores, or the metric is not in `METRICS`.
        """
        values = self._values(metric, label)
        if metric not in METRICS:
            raise refuse_unknown("metric", metric, METRICS)
        sign = 1 if METRICS[metric].higher_is_better else -1

        def badness(case: str) -> tuple[bool, float]:
            value = values[case]
            if math.isnan(value):
                return (True, 0.0)
            return (False, value if sign > 0 else -abs(value))

        return sorted(values, key=badness)

    def summary(self) -> list[SummaryRow]:
        """Statistics over cases, one row for each metric and label."""
        units = {row.metric: row.unit for row in self.rows}
        return [
            _summarise(metric, label, values.values(), units[metric])
            for metric, by_label in self._table.items()
            for label, values in by_label.items()
        ]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all scores to a ``.json`` or ``.csv`` file, which is there in full or not at all.

        The folder is created.
        NaN is null in JSON and empty in CSV. Numbers are written so that they read back exactly.

        Raises
        ------
        Refused
            Another suffix, or a file that cannot be written.
        """
        path = Path(path)
        suffix = _suffix(path)
        text = to_json(self.rows) if suffix == ".json" else to_csv(self.rows)
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8", newline="")
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Scores:
        """Read what `save` wrote.

        Raises
        ------
        Refused
            No such file, another suffix, or not a file of scores.
        """
        path = Path(path)
        suffix = _suffix(path)
        if not path.is_file():
            raise Refused("not-found", f"no such file '{path}'", do="check the path")
        try:
            text = path.read_bytes().decode("utf-8")
            return Scores(from_json(text) if suffix == ".json" else from_csv(text))
        except Refused:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Refused(
                "not-scores",
                f"'{path}' is not a file of scores",
                got=f"{type(error).__name__} {error}",
                do="give a file that Scores.save wrote",
            ) from error

    @staticmethod
    def join(scores: Iterable[Scores]) -> Scores:
        """Put the scores of several cases or metrics together.

        Raises
        ------
        Refused
            A score given twice, or a metric in two units.
        """
        return Scores(row for one in scores for row in one.rows)

    def __str__(self) -> str:
        """The summary as a table of plain text."""
        header = ("metric", "label", "mean", "std", "median", "min", "max", "n", "absent", "unit")
        lines = [header] + [
            tuple(
                "-" if item != item else f"{item:.4f}" if isinstance(item, float) else str(item)
                for item in row
            )
            for row in self.summary()
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        return "\n".join(
            "  ".join(
                item.ljust(width) if i in (0, 1, 9) else item.rjust(width)
                for i, (item, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        )

    @cached_property
    def _table(self) -> dict[str, dict[str, dict[str, float]]]:
        """The same numbers as metric -> label -> case -> value."""
        table: dict[str, dict[str, dict[str, float]]] = {}
        for row in self.rows:
            table.setdefault(row.metric, {}).setdefault(row.label, {})[row.case] = row.value
        return table

    def _values(self, metric: str, label: str | None) -> dict[str, float]:
        """Case to value of one label, or of the case's mean."""
        labels = self.labels(metric)
        if label is not None:
            if label not in labels:
                raise refuse_unknown("label", label, labels)
            return self._table[metric][label]
        means: dict[str, float] = {}
        for whole in _WHOLE:
            means = {**self._table[metric].get(whole, {}), **means}
        others: dict[str, list[float]] = {}
        for values in self._table[metric].values():
            for case, value in values.items():
                others.setdefault(case, []).append(value)
        return {case: means[case] if case in means else _nanmean(values) for case, values in others.items()}


def _summarise(metric: str, label: str, values: Iterable[float], unit: str) -> SummaryRow:
    given = np.array(list(values))
    known = given[~np.isnan(given)]
    n, absent = len(known), len(given) - len(known)
    if n == 0:
        nan = math.nan
        return SummaryRow(metric, label, nan, nan, nan, nan, nan, n, absent, unit)
    std = float(known.std(ddof=1)) if n > 1 else math.nan
    middle, least, most = float(np.median(known)), float(known.min()), float(known.max())
    return SummaryRow(metric, label, float(known.mean()), std, middle, least, most, n, absent, unit)


def _nanmean(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return math.fsum(known) / len(known) if known else math.nan


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".csv"):
        raise Refused("unknown-suffix", "scores are a .json or .csv file", got=f"'{path.name}'")
    return suffix

"""Calibrating the doubt of a bundle: what its training cases were like, and which signs went with errors."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle_files import DOUBT, SUMS, find_bundle, sha256
from ..dataset import Case, read_case, read_case_label
from ..errors import Refused
from ..files import write_text
from ..plan import Plan
from .doubt import classes_of, normalised
from .reference import PARTS, Reference, Sign, Weight, grown
from .signs import measure_signs

__all__ = ["fit_weights", "found_early", "keep_reference", "sum_up_signs", "take_signs"]

_PENALTY = 1e-3  # keeps parts that say the same from taking all of each other's weight
_FEWEST_CASES, _FEWEST_ERRORS = 5, 10


def take_signs(plan: Plan, cases: Iterable[Case]) -> list[dict[str, float]]:
    """Measure the volumes of a data set with their reference labels, see `measure_signs`.

    Parameters
    ----------
    plan : Plan
        Of the model.
    cases : iterable of Case
        Those that it was trained on.
    """
    rows = []
    for case in cases:
        image, label = read_case(case), np.asarray(read_case_label(case)[0])
        rows.append(measure_signs(normalised(plan, image), label, np.asarray(image.affine), classes_of(plan)))
    return rows


def sum_up_signs(rows: Sequence[Mapping[str, float]]) -> dict[str, Sign]:
    """Return mean, deviation and range of each sign over cases.

    Raises
    ------
    Refused
        ``too-few-cases``: with fewer than 5 the numbers would tell of single patients.

    Examples
    --------
    >>> sum_up_signs([{"grain": float(i)} for i in range(5)])["grain"]
    Sign(mean=2.0, deviation=1.4142135623730951, low=0.2, high=3.8, share=1.0)
    """
    if len(rows) < _FEWEST_CASES:
        raise Refused(
            "too-few-cases",
            "what training cases are like is told from several",
            got=len(rows),
            expected=f"at least {_FEWEST_CASES}",
        )
    known = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = np.array([row[name] for row in rows if math.isfinite(row.get(name, math.nan))])
        if values.size:
            low, high = np.percentile(values, (5, 95))
            known[name] = Sign(
                float(values.mean()), float(values.std()), float(low), float(high), values.size / len(rows)
            )
    return known


def fit_weights(
    parts: Sequence[Mapping[str, float]], dice: ArrayLike, *, counts: ArrayLike | None = None
) -> Reference:
    """Find the weights with which parts tell the error of cases; signs are left out.

    ``doubt = 1 / (1 + exp(-(bias + sum(weight * log(1 + part / unit)))))`` shall be ``1 - dice``. The weights
    minimise the cross-entropy between the two (a logistic regression of shares) and are at least 0: more of a
    part is never less doubt.

    Parameters
    ----------
    parts : sequence of mapping
        Of each case, see `measure_parts`.
    dice : array_like of shape (cases,)
        Against the reference.
    counts : array_like of shape (cases,), optional
        How much each case counts.

    Raises
    ------
    Refused
        ``too-few-cases`` for fewer than 10.

    References
    ----------
    Papke, Wooldridge (1996), Econometric methods for fractional response variables, Journal of Applied
    Econometrics 11, 619-632.

    Examples
    --------
    >>> parts = [{"looks": i / 100, "border": 0.0} for i in range(30)]
    >>> found = fit_weights(parts, [1 - i / 50 for i in range(30)])
    >>> found.parts["looks"].weight > 0.5, found.score({"looks": 0.25, "border": 0.0}) > 0.4
    (True, True)
    """
    from scipy.optimize import minimize

    errors = 1 - np.asarray(dice, np.float64)
    if len(parts) < _FEWEST_ERRORS:
        raise Refused(
            "too-few-cases",
            "weights are found from cases of a known error",
            got=len(parts),
            expected=f"at least {_FEWEST_ERRORS}",
        )
    share = np.ones(len(parts)) if counts is None else np.asarray(counts, np.float64)
    share = share / share.sum()
    names = [name for name in PARTS if any(name in row for row in parts)]
    typical = {n: _median([row.get(n, math.nan) for row in parts], share) for n in names}
    rows = [[grown(n, _or(row.get(n, math.nan), typical[n])) for n in names] for row in parts]
    columns: NDArray[np.float64] = np.array(rows)

    def loss(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = numbers[0] + columns @ numbers[1:]
        value = float((share * (np.logaddexp(0, odds) - errors * odds)).sum())
        off = share * (1 / (1 + np.exp(-odds)) - errors)
        slope = np.concatenate([[off.sum()], columns.T @ off + 2 * _PENALTY * numbers[1:]])
        return value + _PENALTY * float((numbers[1:] ** 2).sum()), slope

    start = np.concatenate([[-2.0], np.full(len(names), 0.3)])
    bounds = [(None, None)] + [(0, None)] * len(names)
    found = minimize(
        loss, start, jac=True, method="SLSQP", bounds=bounds, options={"maxiter": 1000, "ftol": 1e-12}
    ).x
    weights = {n: Weight(float(w) if w > 1e-6 else 0.0, typical[n]) for n, w in zip(names, found[1:])}
    return Reference(parts=weights, bias=float(found[0]))


def found_early(doubts: ArrayLike, errors: ArrayLike, *, worst: float = 0.1, first: float = 0.2) -> float:
    """Return how much of the worst cases is found at the beginning of a list that is sorted by doubt.

    Parameters
    ----------
    doubts, errors : array_like of shape (cases,)
    worst : float
        Share of the cases, of the largest errors; at least one.
    first : float
        Share of the list that is looked at; at least one case. Without any knowledge so much is found.

    Examples
    --------
    >>> found_early([0.9, 0.1, 0.8, 0.2, 0.3], [0.5, 0.0, 0.1, 0.4, 0.1], worst=0.4, first=0.4)
    0.5
    """
    doubts, errors = np.asarray(doubts), np.asarray(errors)
    bad, early = (max(1, round(share * len(errors))) for share in (worst, first))
    looked_at = set(np.argsort(-doubts, kind="stable")[:early].tolist())
    return len(looked_at & set(np.argsort(-errors, kind="stable")[:bad].tolist())) / bad


def keep_reference(path: str | Path, reference: Reference) -> Path:
    """Write what is known of its cases into a bundle, whole or not at all; everything else stays as it is.

    Parameters
    ----------
    path : str or Path
        A bundle's folder, or a run that holds one.
    reference : Reference

    Returns
    -------
    Path
        The bundle's folder.

    Raises
    ------
    Refused
        ``bad-bundle`` for a zip file, ``unwritable``.
    """
    folder = find_bundle(path)
    if not folder.is_dir():
        raise Refused("bad-bundle", f"'{folder}' is a zip file", do="unpack it, and zip it again afterwards")
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise Refused("unwritable", f"cannot write '{folder}'", got=error.strerror) from error
    try:
        fresh = beside / "new"
        shutil.copytree(folder, fresh)
        text = reference.to_toml()
        write_text(fresh / DOUBT, text)
        lines = (fresh / SUMS).read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.partition("  ")[2] != DOUBT]
        write_text(
            fresh / SUMS, "".join(f"{line}\n" for line in [*kept, f"{sha256(text.encode())}  {DOUBT}"])
        )
        folder.replace(beside / "old")
        fresh.replace(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _median(values: Sequence[float], share: NDArray[np.float64]) -> float:
    """Return the median of values that count differently; 0 where none is known."""
    array = np.array(values, np.float64)
    there = ~np.isnan(array)
    if not there.any():
        return 0.0
    order = np.argsort(array[there])
    weight = np.cumsum(share[there][order])
    return float(array[there][order][np.searchsorted(weight, weight[-1] / 2)])


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value

"""Held-out volumes as they are and made worse: their errors and their signs of doubt."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from ..bundle import Bundle
from ..dataset import Case, read_case, read_case_label
from ..errors import Refused
from ..files import write_text
from ..inference import predict
from .calibrating import fit_weights, found_early
from .degrading import DEGRADATIONS, degrade
from .doubt import classes_of, measure_parts
from .looks import take_looks
from .reference import Reference

__all__ = ["CLEAN", "Trial", "calibrate", "found_in_nights", "run_trials"]

CLEAN = "as it is"
_MILDEST = 0.2


@dataclass(frozen=True)
class Trial:
    """One volume that was segmented, as it is or made worse.

    Attributes
    ----------
    case : str
    kind : str
        `CLEAN`, or one of `DEGRADATIONS`.
    severity : float
    dice : float
        Mean over the classes, against the whole reference: what was cropped away is missed, and what a wrong
        spacing stretches lies beside the patient.
    parts : mapping of str to float
        What was measured, see `measure_parts`.
    """

    case: str
    kind: str
    severity: float
    dice: float
    parts: Mapping[str, float]


def run_trials(
    bundle: Bundle,
    cases: Sequence[Case],
    reference: Reference,
    path: str | Path,
    *,
    draws: int = 2,
    on_trial: Callable[[int, int], None] | None = None,
) -> list[Trial]:
    """Segment volumes as they are and made worse in every way, and measure what came out.

    What is drawn follows from the names of case and kind. A run that was stopped goes on.

    Parameters
    ----------
    bundle : Bundle
    cases : sequence of Case
        With labels; none of them may have trained the bundle.
    reference : Reference
        What its training cases were like.
    path : str or Path
        A file of JSON lines, one a trial; those that it holds are not done again.
    draws : int
        How often each case is made worse in each way.
    on_trial : callable, optional
        Called with the number of trials that are done and of all.
    """
    path = Path(path)
    done = {(t.case, t.kind, t.severity): t for t in _load(path)}
    trials: list[Trial] = []
    total = len(cases) * (1 + draws * len(DEGRADATIONS))
    for case in cases:
        image, label = read_case(case), np.asarray(read_case_label(case)[0])
        for kind, rng in _draws(case.name, draws):
            severity = 0.0 if kind == CLEAN else round(float(rng.uniform(_MILDEST, 1)), 6)
            trial = done.get((case.name, kind, severity))
            if trial is None:
                trial = _try(bundle, case.name, (image, label), (kind, severity, rng), reference)
            trials.append(trial)
            if on_trial:
                on_trial(len(trials), total)
        done |= {(t.case, t.kind, t.severity): t for t in trials}
        lines = [json.dumps(dataclasses.asdict(t)) + "\n" for t in done.values()]
        write_text(path, "".join(lines))
    return trials


def _draws(name: str, draws: int) -> Iterator[tuple[str, np.random.Generator]]:
    yield CLEAN, np.random.default_rng(0)
    for draw in range(draws):
        for kind in DEGRADATIONS:
            seeds = [zlib.crc32(name.encode()), zlib.crc32(kind.encode()), draw]
            yield kind, np.random.default_rng(seeds)


def _try(
    bundle: Bundle,
    name: str,
    sample: tuple[MetaTensor, NDArray[np.integer]],
    drawn: tuple[str, float, np.random.Generator],
    reference: Reference,
) -> Trial:
    (image, label), (kind, severity, rng) = sample, drawn
    worse, there = sample if kind == CLEAN else degrade(image, label, kind, severity=severity, rng=rng)
    prediction = predict(bundle, worse, probabilities=True)
    looks = take_looks(bundle, worse, prediction)
    parts, _ = measure_parts(bundle.plan, worse, prediction.labels, prediction.affine, looks, reference)
    shares = []
    for value in classes_of(bundle.plan):
        found = prediction.labels == value
        both, whole = int((found & (there == value)).sum()), int((label == value).sum())
        if found.any() or whole:
            shares.append(2 * both / (int(found.sum()) + whole))
    larger = abs(float(np.linalg.det(np.asarray(worse.affine)) / np.linalg.det(np.asarray(image.affine))))
    inside = 2 * min(1.0, larger) / (1 + larger)  # dice of a body and itself stretched
    return Trial(name, kind, severity, float(np.mean(shares)) * inside if shares else 1.0, parts)


def calibrate(trials: Sequence[Trial], reference: Reference, *, worse: float = 0.2) -> Reference:
    """Return what is known of training cases with weights that were found from trials.

    Parameters
    ----------
    trials : sequence of Trial
    reference : Reference
        Its signs stay.
    worse : float
        Share of the weight that all volumes together have that were made worse: as in a night.

    Raises
    ------
    Refused
        ``too-few-cases``.
    """
    clean = sum(trial.kind == CLEAN for trial in trials)
    if not clean:
        raise Refused("too-few-cases", "no trial is of a volume as it is", got=f"{len(trials)} trials")
    others = max(1, len(trials) - clean)
    counts = [(1 - worse) / clean if trial.kind == CLEAN else worse / others for trial in trials]
    found = fit_weights([trial.parts for trial in trials], [trial.dice for trial in trials], counts=counts)
    return dataclasses.replace(found, signs=reference.signs)


def found_in_nights(
    trials: Sequence[Trial],
    scores: Sequence[float],
    *,
    worse: float = 0.2,
    first: float = 0.2,
    nights: int = 1000,
) -> tuple[float, float]:
    """Return how much of the worst tenth of a night is in the beginning of its list: mean and deviation.

    In each night every case comes once: as it is, or with a probability of ``worse`` as one of its versions
    that were made worse.

    Parameters
    ----------
    trials : sequence of Trial
    scores : sequence of float
        The doubt of each.
    worse : float
    first : float
        Share of the list that is looked at.
    nights : int
        How many are drawn, always the same ones.
    """
    rng = np.random.default_rng(0)
    clean: dict[str, int] = {t.case: i for i, t in enumerate(trials) if t.kind == CLEAN}
    others: dict[str, list[int]] = {case: [] for case in clean}
    for i, trial in enumerate(trials):
        if trial.kind != CLEAN and trial.case in others:
            others[trial.case].append(i)
    errors, doubts = 1 - np.array([t.dice for t in trials]), np.asarray(scores)
    shares = []
    for _ in range(nights):
        night = [
            int(rng.choice(others[case])) if others[case] and rng.random() < worse else index
            for case, index in clean.items()
        ]
        shares.append(found_early(doubts[night], errors[night], first=first))
    return float(np.mean(shares)), float(np.std(shares))


def _load(path: Path) -> list[Trial]:
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Trial(r["case"], r["kind"], r["severity"], r["dice"], {n: _number(v) for n, v in r["parts"].items()})
        for r in rows
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)

"""Calibrate the doubt of a bundle on cases that it never saw, and show what it finds first.

The bundle's split is taken from its plan: its training cases say what is usual, its validation cases and
versions of them that were made worse (noise, motion, blur, uneven coil, another contrast, metal, a wrong
spacing, a turned volume, an organ that is cut off) give the weights, and its test cases say what that is
worth.

Command::

    python pipelines/radiology_triage.py Task04_Hippocampus/ -o triage/ --bundle hippocampus
    python pipelines/radiology_triage.py DATA -o triage/ --bundle run/ --keep    # writes doubt.toml into it

Time: 20 minutes on one core for the hippocampus: 47 volumes in 19 versions, each looked at three times.
Expected numbers: 0.92 of the worst tenth of a night in the first fifth of the list, by chance 0.20; see
``docs/explanation/triage.md``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg import load_bundle, load_dataset
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.files import write_text
from medseg.radiology.calibrating import found_early, keep_reference, sum_up_signs, take_signs
from medseg.radiology.reference import Reference
from medseg.radiology.trials import CLEAN, Trial, calibrate, found_in_nights, run_trials

QUICK_CASES = 12


def main(
    data: Data,
    out: Out,
    *,
    bundle: Annotated[str, typer.Option(help="Run, bundle folder or name.")] = "hippocampus",
    fold: Annotated[int, typer.Option(help="Of the split that trained it.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Write what was found into the bundle.")] = False,
    quick: Quick = False,
) -> None:
    """Calibrate the doubt of a bundle and test it.

    ``out`` gets ``trials.jsonl`` (each volume with its error and its parts of doubt), ``doubt.toml`` (what
    goes into the bundle) and ``triage.json`` (the figures). A run that was stopped goes on.
    """
    out = Path(out)
    model = load_bundle(bundle)
    plan = model.plan
    split = load_dataset(data).split(
        fold=fold, folds=plan.split.folds, test_fraction=plan.split.test_fraction, seed=plan.split.seed
    )
    train, val, test = split.train, split.val, split.test
    if quick:
        train, val, test = train[:QUICK_CASES], val[:QUICK_CASES], test[:QUICK_CASES]
    usual = Reference(signs=sum_up_signs(take_signs(plan, train)))
    with Display() as display:
        seen = display.counter("Looking at volumes")
        trials = run_trials(
            model, (*val, *test), usual, out / "trials.jsonl", draws=1 if quick else 2, on_trial=seen
        )
    names = {case.name for case in val}
    ours, others = ([t for t in trials if (t.case in names) == inside] for inside in (True, False))
    figures = judge(others, calibrate(ours, usual)) if others else {}
    made = (
        f"{len(train)} training cases; {len(val) + len(test)} held-out ones, "
        f"as they are and in {sum(t.kind != CLEAN for t in trials)} versions made worse"
    )
    final = dataclasses.replace(calibrate(trials, usual), made=made)
    write_text(out / "doubt.toml", final.to_toml())
    write_text(out / "triage.json", json.dumps(figures, indent=1))
    for name, value in figures.items():
        typer.echo(f"{name}: {value}")
    if keep:
        keep_reference(bundle, final)


def judge(trials: Sequence[Trial], reference: Reference) -> dict[str, Any]:
    """Return what a calibration is worth on cases that it was not made from."""
    scores = [reference.score(t.parts) for t in trials]
    clean = [i for i, t in enumerate(trials) if t.kind == CLEAN]
    edge = sorted(scores[i] for i in clean)[int(0.95 * len(clean))]
    figures: dict[str, Any] = {"weights": {n: round(w.weight, 2) for n, w in reference.parts.items()}}
    for worse in (0.1, 0.2, 0.3):
        mean, deviation = found_in_nights(trials, scores, worse=worse)
        figures[f"found early, {worse:.0%} made worse"] = [round(mean, 3), round(deviation, 3)]
    for name in reference.parts:
        alone = [t.parts.get(name, 0.0) for t in trials]
        figures[f"found early by {name} alone"] = round(found_in_nights(trials, alone)[0], 3)
    as_they_are = found_early([scores[i] for i in clean], [1 - trials[i].dice for i in clean])
    figures["found early, all as they are"] = round(as_they_are, 3)
    off = [abs(1 - t.dice - s) for t, s in zip(trials, scores)]
    figures["mean difference of doubt and error"] = round(sum(off) / len(off), 3)
    for kind in dict.fromkeys(t.kind for t in trials):
        bad = [s > edge for t, s in zip(trials, scores) if t.kind == kind and t.dice < 0.75]
        figures[f"{kind}: dice under 0.75, of them doubted more than 95% of the usual"] = [len(bad), sum(bad)]
    return figures


if __name__ == "__main__":
    run_script(main)

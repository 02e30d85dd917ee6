"""Measure the circumference of fetal heads in ultrasound images: HC18.

Van den Heuvel et al., Automated measurement of fetal head circumference using 2D ultrasound images, PLoS ONE
13 (2018), doi:10.1371/journal.pone.0200412. A network finds the head, an ellipse is fitted to it, and the
size of its pixels turns its circumference into millimetres.

Data: a TOML file that describes the images, such as ``docs/how-to/hc18.toml``, with one class, a spacing for
each case, and the measured circumference in millimetres as tag ``hc_mm``.

Command::

    python pipelines/train_fetal_head.py hc18.toml -o heads/          # goes on where it was stopped
    python pipelines/train_fetal_head.py hc18.toml -o trial/ --quick

Time: 27 minutes on one core with bfloat16.
Expected numbers: see ``docs/how-to/fetal-head-hc18.md``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medseg import Refused
from medseg.batch import BatchResult, Failure
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.dataset import Case, Dataset, load_dataset
from medseg.io import read_label
from medseg.jobs import report, score_unseen
from medseg.jobs.manifest import Manifest
from medseg.measure import Ellipse, ellipse
from medseg.metrics import Score, Scores
from medseg.planning import make_plan
from medseg.training import fit, open_run

TAG = "hc_mm"
_COLUMNS = (
    "case",
    "hc_mm",
    "measured_mm",
    "difference_mm",
    "semi_axis_1_mm",
    "semi_axis_2_mm",
    "angle_degrees",
)


def check_dataset(dataset: Dataset) -> None:
    """Refuse a data set without pixel sizes in millimetres or without measured circumferences."""
    for case in dataset:
        if case.spacing is None or case.spacing_unit != "mm" or len(case.spacing) != 2:
            raise Refused(
                "bad-spacing",
                f"case '{case.name}' has no pixel size in millimetres",
                do='write [csv] spacing = "COLUMN" and unit = "mm" into the TOML file',
            )
        if _measured(case) is None:
            raise Refused(
                "missing-key",
                f"case '{case.name}' has no measured circumference",
                got=f"tags {dict(case.tags)}",
                expected=f"{TAG}, a number of millimetres",
                do='write [csv] tags = { hc_mm = "COLUMN" } into the TOML file',
            )


def _measured(case: Case) -> float | None:
    text = case.tags.get(TAG, "")
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def head_ellipse(mask_file: Path, case: Case, *, line: float = 0.0) -> Ellipse:
    """Return the ellipse of a mask in millimetres, ``line`` pixels within its outline."""
    found = ellipse(np.asarray(read_label(mask_file)[0]), spacing=case.spacing)
    assert case.spacing is not None, "check_dataset"
    by = -line * math.sqrt(case.spacing[0] * case.spacing[1])
    return found if math.isnan(found.area) else found.grown(max(by, -found.semi_axes[1]))


def width_of_line(cases: Iterable[Case]) -> float:
    """Return by how many pixels the outlines of masks lie outside of what was measured: their median.

    A sonographer measures along the middle of a line, and a mask that is made of the drawn line holds the
    outer half of it. It is the same number of pixels in every image, and is taken from the training cases.
    """
    outside = []
    for case in cases:
        assert isinstance(case.label, Path), "a mask"
        assert case.spacing is not None, "check_dataset"
        more = head_ellipse(case.label, case).circumference - (_measured(case) or math.nan)
        outside.append(more / (2 * math.pi * math.sqrt(case.spacing[0] * case.spacing[1])))
    return float(np.nanmedian(outside))


def measure_heads(folder: Path, cases: Iterable[Case], *, line: float) -> Scores:
    """Measure the maps in a folder of predictions; write ``circumferences.csv``, return the differences."""
    by_name = {case.name: case for case in cases}
    scores, rows = [], []
    for predicted in Manifest.load(folder).cases:
        case = by_name[predicted.case]
        found, measured = head_ellipse(folder / predicted.prediction, case, line=line), _measured(case)
        assert measured is not None, "check_dataset"
        difference = found.circumference - measured
        scores.append(Score(case.name, "hc_difference", "head", difference, "mm"))
        scores.append(Score(case.name, "hc_error", "head", abs(difference), "mm"))
        numbers = (found.circumference, measured, difference, *found.semi_axes, found.angle)
        rows.append([case.name, *("" if math.isnan(n) else f"{n:.2f}" for n in numbers)])
    with (folder / "circumferences.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])
    return Scores(scores)


def main(data: Data, out: Out, *, quick: Quick = False) -> tuple[Scores, BatchResult]:
    """Train on fetal heads, then measure the heads of the exams that were held out.

    ``out`` gets ``run/`` with the model, the maps, scores and ``circumferences.csv``, and ``report.html``.
    """
    out, failures = Path(out), list[Failure]()
    dataset = load_dataset(data)
    check_dataset(dataset)
    with Display() as display:
        plan = make_plan(dataset, progress=display.counter("Reading the data set"))
        if quick:
            small = {
                "network.channels": (8, 16, 32),
                "train.steps": 40,
                "train.warmup_steps": 5,
                "train.lr": 1e-2,
            }
            small |= {"train.validate_every": 20, "train.validate_cases": 4, "train.workers": 0}
            plan = plan.with_values(small, reason="a trial: --quick")
        bundle = fit(plan, dataset, out / "run", on_step=display.step)
    run = open_run(out / "run")
    unseen = run.path / "unseen"
    scores = score_unseen(run, bundle, on_case=lambda _, failure: failures.extend(filter(None, [failure])))
    line = width_of_line(run.split.train)
    heads = measure_heads(unseen, run.split.test or run.split.val, line=line)
    scores = Scores.join([scores, heads])
    scores.save(unseen / "scores.json")
    report(run.path, out / "report.html", title="Fetal heads that were not seen in training")
    return scores, BatchResult(dict.fromkeys(scores.cases), tuple(failures))


if __name__ == "__main__":
    run_script(main)

"""What each idea is worth on touching nuclei: outputs compared, strategies taken away one at a time.

Outputs: two classes with border weights (Ronneberger et al., U-Net, MICCAI 2015, equation 2); interior,
border and background (Caicedo et al., Nature Methods 16, 2019); distances in levels (Bai and Urtasun, CVPR
2017); directions to the middle (Uhrig et al., GCPR 2016). Strategies of the U-Net paper: border weights,
elastic deformation, mirrored context at the image's border. All systems share data, network and steps;
each is trained once a seed; the table gives the mean and the standard deviation over the seeds.

Data: as for ``train_nuclei.py``. An ``index.csv`` with the columns ``id`` and ``kind`` parts the table.

Command::

    python pipelines/ablate_nuclei.py dsb2018/ -o ablation/             # goes on where it was stopped
    python pipelines/ablate_nuclei.py dsb2018/ -o trial/ --quick

Time: 8 minutes a training on one idle core with bfloat16, 18 trainings.
Expected numbers: see docs/explanation/what-strategies-are-worth.md.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from medseg import OverlapTileInferer, Prediction
from medseg.batch import BatchResult, Failure, map_cases
from medseg.bundle import Bundle
from medseg.chains import image_chain
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.dataset import Case, Dataset, load_dataset
from medseg.evaluation import evaluate
from medseg.files import write_text
from medseg.io import read
from medseg.jobs import score_unseen
from medseg.metrics import Scores
from medseg.networks import geometry_of
from medseg.plan import Plan
from medseg.planning import make_plan, target_values
from medseg.training import fit, open_run

BASELINE = "two classes, border weights"
WITHOUT_MIRROR = "without mirrored context"
SYSTEMS: dict[str, dict[str, object]] = {
    BASELINE: {},
    "without border weights": {"target.border_weights": False},
    "without elastic deformation": {"augment.elastic_prob": 0.0},
    "interior, border, background": {"target.name": "interior-border"},
    "levels of distance": {"target.name": "distance-levels"},
    "directions": {"target.name": "centre-directions"},
}
THRESHOLDS = ("0.50", "0.70", "0.80", "0.90")


def main(data: Data, out: Out, *, seeds: int = 3, quick: Quick = False) -> BatchResult:
    """Train every system with every seed, score the unseen images, and write ``table.md``.

    ``out`` gets a run for each system and seed, and the table.
    """
    out, failures = Path(out), list[Failure]()
    dataset = load_dataset(data)
    kinds = _kinds(Path(data) / "index.csv", dataset)
    table: dict[str, list[Scores]] = {}

    def note(_: str, failure: Failure | None) -> None:
        failures.extend([failure] if failure else [])

    with Display() as display:
        base = baseline_plan(dataset, quick=quick)
        for seed in range(1 if quick else seeds):
            for name, values in SYSTEMS.items():
                path = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
                bundle = fit(system_plan(base, values, seed), dataset, path, on_step=display.step)
                run = open_run(path)
                table.setdefault(name, []).append(score_unseen(run, bundle, on_case=note))
                if name == BASELINE:
                    unseen = [(case.name, case) for case in run.split.test or run.split.val]
                    result = map_cases(partial(score_without_mirror, bundle), unseen, on_case=note)
                    table.setdefault(WITHOUT_MIRROR, []).append(Scores.join(list(result.done.values())))
    write_text(out / "table.md", as_table(table, kinds))
    return BatchResult(dict.fromkeys(table), tuple(failures))


def baseline_plan(dataset: Dataset, *, quick: bool = False) -> Plan:
    """Return the plan that all systems share: small enough for a training of minutes."""
    plan = make_plan(dataset).with_values(
        {
            "target.kind": "instances",
            "target.name": "foreground",
            **target_values("foreground"),
            "network.channels": (16, 32, 64, 128),
            "train.steps": 800,
            "train.lr": 3e-3,
            "train.validate_every": 200,
            "train.balance": 0.0,
            "train.workers": 0,
        },
        reason="the same for all systems",
    )
    if not quick:
        return plan
    small = {"train.patch": tuple(min(64, n) for n in plan.train.patch), "network.channels": (4, 8)}
    return plan.with_values(small | {"train.steps": 4, "train.validate_every": 2}, reason="a trial: --quick")


def system_plan(base: Plan, values: Mapping[str, object], seed: int) -> Plan:
    """Return the plan of one system and seed: a target brings its classes, method and loss."""
    values = dict(values)
    if name := values.get("target.name"):
        values |= target_values(str(name))
    return base.with_values(values | {"train.seed": seed}, reason="the system")


def score_without_mirror(bundle: Bundle, case: Case) -> Scores:
    """Score one image around which the network sees zeros instead of the mirrored image."""
    image = read(case.image)
    pixels = image_chain(bundle.plan)({"image": image})["image"]
    pixels = pixels.as_tensor() if isinstance(pixels, MetaTensor) else pixels
    geometry = geometry_of(bundle.network, bundle.plan.input.channels, 2)
    assert geometry.halo is not None, "a U-Net with batch norm has a halo"
    wide = max(geometry.round_up(geometry.halo))
    padded = torch.nn.functional.pad(pixels, (wide,) * 4)
    labels, _ = OverlapTileInferer().labels(padded, bundle.network)
    labels = labels[wide:-wide, wide:-wide]
    prediction = Prediction(labels, None, np.asarray(image.affine), "pixel", bundle.plan)
    return evaluate(prediction, case.label, metrics=("ap",), case=case.name)


def as_table(table: Mapping[str, Sequence[Scores]], kinds: Mapping[str, Sequence[str]]) -> str:
    """Return Markdown: a row a system, mean ap and its deviation over the seeds, a part for each kind."""
    parts = []
    for kind, cases in kinds.items():
        lines = [
            f"| {kind} | " + " | ".join(f"ap {t.rstrip('0')}" for t in THRESHOLDS) + " |",
            "|---" * (len(THRESHOLDS) + 1) + "|",
        ]
        for name, runs in table.items():
            cells = [_mean_and_spread([_mean(scores, cases, t) for scores in runs]) for t in THRESHOLDS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _mean(scores: Scores, cases: Sequence[str], threshold: str) -> float:
    return float(np.mean([scores.value(case, "ap", threshold) for case in scores.cases if case in cases]))


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _kinds(index: Path, dataset: Dataset) -> dict[str, list[str]]:
    """Return kind -> cases, as ``index.csv`` says, or all as one kind."""
    if not index.is_file():
        return {"all": [case.name for case in dataset]}
    kinds: dict[str, list[str]] = {}
    with index.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kinds.setdefault(row["kind"], []).append(row["id"])
    return kinds


if __name__ == "__main__":
    run_script(main)

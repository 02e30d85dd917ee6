"""Train on nuclei that touch: the 2018 Data Science Bowl.

Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, Nature Methods
16 (2019), doi:10.1038/s41592-019-0612-7. Touching nuclei are told apart by a third class, the border: the
interiors are separate, and grow back over their borders.

Data: a folder with ``images/`` and ``labels/`` of equal names; a label is an instance map.

Command::

    python pipelines/train_nuclei.py dsb2018/ -o nuclei/            # goes on where it was stopped
    python pipelines/train_nuclei.py dsb2018/ -o nuclei/ --hour     # what is shipped
    python pipelines/train_nuclei.py dsb2018/ -o trial/ --quick

Time: 25 minutes, or an hour, on two cores with bfloat16; a GPU is used where there is one.
Expected numbers: on the 88 of 590 images that were held out a mean ap at IoU 0.5, 0.7 and 0.9 of 0.77, 0.64
and 0.35, after the hour 0.78, 0.66 and 0.37. The result of the hour is shipped as the bundle ``nuclei``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg import Refused
from medseg.batch import BatchResult, Failure
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.dataset import Dataset, load_dataset
from medseg.jobs import report, score_unseen
from medseg.metrics import Scores
from medseg.plan import Plan
from medseg.planning import make_plan
from medseg.training import fit, open_run


def nuclei_plan(
    dataset: Dataset,
    *,
    hour: bool = False,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan: what the data says, and what touching nuclei of many kinds need.

    With ``hour`` a deeper network, rare kinds of images more often, colours changed at random, and more
    images: a tenth of them chooses the checkpoint, not a fifth.
    """
    plan = make_plan(dataset, progress=progress)
    if plan.target.kind != "instances":
        raise Refused(
            "not-instances",
            f"the labels of '{dataset.name}' are taken for classes",
            got=plan.reasons.get("target.kind"),
            expected="instance maps, one value a nucleus",
            do='number the nuclei, or write kind = "instances" into a dataset.toml',
        )
    plan = plan.with_values({"augment.scale": (0.6, 1.6)}, reason="magnifications within a factor of two")
    plan = plan.with_values(
        {
            "network.channels": (16, 32, 64, 128),
            "train.steps": 4000,
            "train.lr": 3e-3,
            "train.validate_every": 500,
            "train.validate_cases": 24,
        },
        reason="half an hour on two cores",
    )
    if hour:
        longer = {"train.steps": 9000, "train.validate_every": 1000, "train.validate_cases": 30}
        rare = {"train.balance": 0.5, "augment.colour_prob": 0.3, "split.folds": 10}
        deeper = {"network.channels": (16, 32, 64, 128, 256)}
        plan = plan.with_values(longer | rare | deeper, reason="an hour on two cores")
    if not quick:
        return plan
    patch = {"train.patch": tuple(min(64, n) for n in plan.train.patch), "network.channels": (8, 16)}
    steps = {"train.steps": 30, "train.warmup_steps": 5, "train.validate_every": 15, "train.lr": 5e-3}
    return plan.with_values(
        patch | steps | {"train.validate_cases": 4, "train.workers": 0}, reason="a trial: --quick"
    )


def main(data: Data, out: Out, *, hour: bool = False, quick: Quick = False) -> tuple[Scores, BatchResult]:
    """Train on touching nuclei, then segment and score the images that were held out.

    ``out`` gets ``run/`` with the model and the maps and scores of the unseen images, and ``report.html``.
    """
    out, failures = Path(out), list[Failure]()
    dataset = load_dataset(data)
    with Display() as display:
        counter = display.counter("Reading the data set")
        plan = nuclei_plan(dataset, hour=hour, quick=quick, progress=counter)
        bundle = fit(plan, dataset, out / "run", on_step=display.step)
    run = open_run(out / "run")
    scores = score_unseen(run, bundle, on_case=lambda _, failure: failures.extend(filter(None, [failure])))
    report(run.path, out / "report.html", title="Nuclei that were not seen in training")
    return scores, BatchResult(dict.fromkeys(scores.cases), tuple(failures))


if __name__ == "__main__":
    run_script(main)

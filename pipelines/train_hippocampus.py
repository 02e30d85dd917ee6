"""Train on the two parts of the hippocampus in MR: Medical Segmentation Decathlon, task 4.

Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022),
doi:10.1038/s41467-022-30695-9. nnU-Net (Isensee et al., Nature Methods 18, 2021) reports a Dice coefficient
of 0.899 (anterior) and 0.882 (posterior) in five folds after 1,000 epochs.

Data: the folder ``Task04_Hippocampus`` as it is published: ``dataset.json``, ``imagesTr``, ``labelsTr``.

Command::

    python pipelines/train_hippocampus.py Task04_Hippocampus/ -o hippocampus/   # goes on where it was stopped
    python pipelines/train_hippocampus.py Task04_Hippocampus/ -o hippocampus/ --hour   # what is shipped
    python pipelines/train_hippocampus.py Task04_Hippocampus/ -o trial/ --quick

Time: a quarter of an hour, or an hour, on two cores with bfloat16; a GPU is used where there is one.
Expected numbers: a mean Dice coefficient of 0.872, or 0.878, on 30 unseen volumes, see
``docs/how-to/organs-hippocampus.md``. The result of the hour is shipped as the bundle ``hippocampus``.
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

CODES = (
    "",
    *(f"SCT:5366008:Hippocampus + SCT:{part}" for part in ("255549009:Anterior", "255551008:Posterior")),
)


def hippocampus_plan(
    dataset: Dataset,
    *,
    hour: bool = False,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan: what the data says, with a network that two cores train in a quarter of an hour.

    With ``hour`` in an hour, and on more volumes: a tenth of them chooses the checkpoint, not a fifth.
    """
    plan = make_plan(dataset, progress=progress)
    if plan.input.spatial_dims != 3 or plan.target.kind != "semantic":
        raise Refused(
            "not-organs",
            f"'{dataset.name}' holds no label maps of volumes",
            got=f"{plan.target.kind}, {plan.input.spatial_dims} axes",
            do="name the folder Task04_Hippocampus",
        )
    plan = plan.with_values(
        {
            "network.channels": tuple(c // 2 for c in plan.network.channels),
            "train.batch_size": 2,
            "train.lr": 3e-3,
            "train.steps": 3000,
            "train.validate_every": 500,
            "predict.flips": True,
        },
        reason="a quarter of an hour on two cores",
    )
    if plan.target.classes[1:] == ("Anterior", "Posterior"):
        plan = plan.with_values({"target.codes": CODES}, reason="the classes are parts of the hippocampus")
    if hour:
        longer = {"train.steps": 9000, "train.validate_every": 1000, "split.folds": 10}
        plan = plan.with_values(longer, reason="an hour on two cores")
    if not quick:
        return plan
    small = {
        "network.channels": (2, 4),
        "network.strides": plan.network.strides[:1],
        "network.kernels": plan.network.kernels[:2],
        "network.deep_supervision": False,
        "train.patch": tuple(min(16, n) for n in plan.train.patch),
        "train.steps": 6,
        "train.warmup_steps": 1,
        "train.validate_every": 3,
        "train.validate_cases": 2,
        "train.workers": 0,
    }
    return plan.with_values(small, reason="a trial: --quick")


def main(
    data: Data, out: Out, *, fold: int = 0, hour: bool = False, quick: Quick = False
) -> tuple[Scores, BatchResult]:
    """Train on one fold, then segment and score the volumes that were held out.

    ``out`` gets ``run/`` with the model and the maps and scores of the unseen volumes, and ``report.html``.
    The models of several folds are joined by ``medseg bundle join``.
    """
    out, failures = Path(out), list[Failure]()
    dataset = load_dataset(data)
    with Display() as display:
        plan = hippocampus_plan(
            dataset, hour=hour, quick=quick, progress=display.counter("Reading the data set")
        )
        bundle = fit(plan, dataset, out / "run", fold=fold, on_step=display.step)
    run = open_run(out / "run")
    scores = score_unseen(run, bundle, on_case=lambda _, failure: failures.extend(filter(None, [failure])))
    report(run.path, out / "report.html", title="Hippocampi that were not seen in training")
    return scores, BatchResult(dict.fromkeys(scores.cases), tuple(failures))


if __name__ == "__main__":
    run_script(main)

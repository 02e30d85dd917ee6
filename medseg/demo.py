"""The whole job on data that it makes itself: cells that touch, a training, a result, scores, a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .dataset import load_dataset
from .files import write_text
from .io import write
from .jobs import report, score_unseen
from .metrics import Scores
from .phantoms import cells
from .plan import Plan
from .planning import make_plan, target_values
from .training import StepInfo, fit, open_run

__all__ = ["DemoResult", "demo_plan", "make_demo_data", "run_demo"]

TRAINING_SHAPE, TEST_SHAPE = (256, 256), (520, 696)
_DATASET = """# Read by `medseg train`; the format is described in docs/reference/datasets.md
name = "demo cells"
kind = "instances"

[files]
image = "images/{{case}}.tif"
label = "labels/{{case}}.tif"

[splits]
test = [{test}]
"""


@dataclass(frozen=True)
class DemoResult:
    """Where the demo left its things.

    Attributes
    ----------
    data, run : Path
        The data set and the training run.
    page : Path
        The report.
    scores : Scores
        Of the images that the network did not see.
    """

    data: Path
    run: Path
    page: Path
    scores: Scores


def make_demo_data(folder: str | Path, *, train: int = 20, test: int = 3, seed: int = 0) -> Path:
    """Write a data set of touching, unevenly lit, noisy cells.

    The test images are larger than a training patch and have other brightness.

    Examples
    --------
    >>> import tempfile
    >>> folder = make_demo_data(tempfile.mkdtemp() + "/data", train=2, test=1)
    >>> sorted(p.name for p in (folder / "images").iterdir())
    ['test_0.tif', 'train_00.tif', 'train_01.tif']
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    names = [(f"train_{i:02d}", TRAINING_SHAPE) for i in range(train)]
    names += [(f"test_{i}", TEST_SHAPE) for i in range(test)]
    for name, shape in names:
        image, instances = cells(shape, rng=rng, touching=0.6)
        gain = rng.uniform(8000, 50000)
        write(np.round(image * gain + 300).clip(0, 65535).astype(np.uint16), folder / f"images/{name}.tif")
        write(instances.astype(np.uint16), folder / f"labels/{name}.tif")
    unseen = ", ".join(f'"test_{i}"' for i in range(test))
    write_text(folder / "dataset.toml", _DATASET.format(test=unseen))
    return folder


def demo_plan(data: str | Path) -> Plan:
    """Return the plan of the demo: what a data set's plan says, made small enough for two minutes."""
    plan = make_plan(load_dataset(data))
    values = {
        "network.channels": (16, 32, 64),
        "train.patch": (160, 160),
        "train.batch_size": 4,
        "train.steps": 240,
        "train.warmup_steps": 20,
        "train.lr": 3e-3,
        "train.validate_every": 60,
        "train.validate_cases": 4,
    }
    plan = plan.with_values(values, reason="small: the demo takes at most three minutes on two cores")
    # in so short a training two classes with border weights part touching cells better than borders do
    gap = {"target.name": "foreground"} | target_values("foreground")
    return plan.with_values(gap, reason="the U-Net paper's: parts touching cells after few steps")


def run_demo(
    out: str | Path,
    *,
    on_stage: Callable[[str], None] | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
) -> DemoResult:
    """Make the data, train, segment images that were not seen, score them and write the page.

    Parameters
    ----------
    out : path
        The folder; a training that is half done in it goes on.
    on_stage : callable, optional
        Called with one line as each part begins.
    on_step : callable, optional
        See `medseg.fit`.
    """
    out, tell = Path(out), on_stage or (lambda line: None)
    tell("Making 23 images of touching, unevenly lit, noisy cells")
    data = out / "data"
    if not (data / "dataset.toml").is_file():
        make_demo_data(data)
    tell("Training a small U-Net with elastic deformation and border weights")
    bundle = fit(demo_plan(data), load_dataset(data), out / "run", on_step=on_step)
    tell("Segmenting and scoring 3 images that it has not seen")
    run = open_run(out / "run")
    scores = score_unseen(run, bundle)
    tell("Writing the page")
    page = report(run.path, out / "report.html", title="medseg demo: touching cells")
    return DemoResult(data, run.path, page, scores)

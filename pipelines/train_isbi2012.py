"""Membranes of neurons in electron micrographs: the ISBI 2012 challenge with the settings of the U-Net paper.

Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28. Challenge and data:
Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics,
Frontiers in Neuroanatomy 9 (2015), doi:10.3389/fnana.2015.00142.

Data: a folder with ``train-volume.tif`` and ``train-labels.tif`` (30 slices of 512 x 512; 255 inside cells,
0 on membranes), or with one file a slice in ``train/image`` and ``train/label``, in ``image`` and ``label``,
or in ``images`` and ``labels``.

Command::

    python pipelines/train_isbi2012.py isbi2012/ -o membranes/          # goes on where it was stopped
    python pipelines/train_isbi2012.py isbi2012/ -o trial/ --quick

Time: not measured. The paper names 10 hours for its training on one GPU of 6 GB.
Expected numbers: not measured on the slices that are held out here. On the hidden test stack the paper has a
pixel error of 0.0611, a Rand error of 0.0382 and a warping error of 0.000353 (table 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tomlkit

from medseg import Refused
from medseg.batch import BatchResult, Failure, map_cases
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.dataset import load_dataset
from medseg.evaluation import evaluate
from medseg.files import write_text
from medseg.instances import to_instances
from medseg.io import find_images, read, read_label, stem_of, write
from medseg.jobs import Manifest, report, score_unseen
from medseg.jobs.manifest import Predicted
from medseg.metrics import Scores
from medseg.networks import UNet
from medseg.plan import Plan
from medseg.training import fit, open_run

MEMBRANE, CELL = 0, 255
VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
FOLDERS = (("train/image", "train/label"), ("image", "label"), ("images", "labels"))


def main(data: Data, out: Out, *, quick: Quick = False) -> tuple[Scores, BatchResult]:
    """Train on membranes, then segment and score the slices that were held out.

    ``out`` gets ``data/`` with the description of the slices, ``run/`` and ``report.html``.
    """
    out, failures = Path(out), list[Failure]()
    dataset = load_dataset(describe(find_slices(Path(data), out / "data"), out / "data/dataset.toml"))
    shape = tuple(read(dataset.cases[0].image).shape[1:])
    with Display() as display:
        bundle = fit(membrane_plan(shape, quick=quick), dataset, out / "run", on_step=display.step)
    run = open_run(out / "run")
    scores = score_unseen(run, bundle, on_case=lambda _, failure: failures.extend(filter(None, [failure])))
    maps = Manifest.load(run.path / "unseen")
    scores = Scores.join([scores, score_cells(maps)])
    scores.save(maps.folder / "scores.json")  # the page shows what lies there
    report(run.path, out / "report.html", title="ISBI 2012: slices that were not seen in training")
    return scores, BatchResult(dict.fromkeys(scores.cases), tuple(failures))


def membrane_plan(shape: tuple[int, ...], *, quick: bool = False) -> Plan:
    """Return the paper's settings for slices of this shape."""
    channels = (8, 16, 32) if quick else (64, 128, 256, 512, 1024)
    network = UNet(2, 1, 2, channels=channels)
    # the paper's tile, 572 for 388, leaves the rim of a slice out of the loss; with mirrored surroundings the
    # output of one tile covers it all: 700 for 516
    patch = network.input_size(tuple(min(n, 64 if quick else 512) for n in shape))
    paper = {
        "network.channels": channels,
        "network.padding": "valid",
        "network.norm": "none",
        "target.kind": "semantic",
        "target.classes": ("membrane", "cell"),
        "target.values": (MEMBRANE, CELL),
        "target.border_weights": True,
        "target.w0": 10.0,
        "target.sigma": 5.0,
        "augment.elastic_prob": 1.0,
        "augment.elastic_grid": 3,
        "augment.elastic_sigma": 10.0,
        "train.loss": "cross_entropy",
        "train.optimizer": "sgd",
        "train.momentum": 0.99,
        "train.batch_size": 1,
        "predict.flips": True,
    }
    chosen = {
        "network.dropout": 0.5,
        "augment.scale": (1.0, 1.0),
        "train.lr": 1e-3,
        "train.weight_decay": 0.0,
        "train.schedule": "constant",
        "train.steps": 20000,
        "train.validate_every": 500,
    }
    plan = Plan(name="isbi2012").with_values(paper, reason="as in the U-Net paper")
    plan = plan.with_values(chosen, reason="not told in the paper")
    plan = plan.with_values({"train.patch": patch}, reason="the output of one tile covers a slice")
    plan = plan.with_values(
        {"input.normalise": "zscore"},
        reason="without a norm, SGD hardly starts on images that are not around 0",
    )
    if not quick:
        return plan
    trial = {"train.steps": 40, "train.warmup_steps": 5, "train.validate_every": 20, "train.workers": 0}
    return plan.with_values(trial | {"train.lr": 1e-2}, reason="a trial: --quick")


def find_slices(data: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """Return name -> image and label of each slice, in the order of the stack; volumes are split."""
    if (data / VOLUME).is_file() and (data / LABELS).is_file():
        volume, labels = read(data / VOLUME), read_label(data / LABELS)
        if volume.shape != labels.shape or volume.ndim != 4:
            raise Refused(
                "shape-mismatch",
                f"'{data / VOLUME}' and '{LABELS}' are no stack of slices and its labels",
                got=f"{tuple(volume.shape[1:])} and {tuple(labels.shape[1:])}",
                expected="equal shapes (slices, rows, columns)",
            )
        pixels = np.asarray(volume[0]).astype(volume.meta["original_dtype"])
        classes = np.asarray(labels[0]).astype(np.min_scalar_type(int(labels.max())))
        return {
            f"{z:02d}": (write(a, out / f"images/{z:02d}.png"), write(b, out / f"labels/{z:02d}.png"))
            for z, (a, b) in enumerate(zip(pixels, classes))
        }
    for folders in FOLDERS:
        if all((data / folder).is_dir() for folder in folders):
            a, b = ({stem_of(f): f for f in find_images(data / folder)} for folder in folders)
            if alone := sorted(a.keys() ^ b.keys()):
                what = (
                    f"slice '{alone[0]}' lies in only one of the folders {' and '.join(folders)} of '{data}'"
                )
                raise Refused(
                    "image-without-label", what, do="add the other file, or move this one elsewhere"
                )
            return {name: (a[name], b[name]) for name in a}
    raise Refused(
        "unknown-layout" if data.is_dir() else "not-found",
        f"no slices of ISBI 2012 in '{data}'",
        expected=f"{VOLUME} and {LABELS}, or " + ", or ".join(f"{a}/ and {b}/" for a, b in FOLDERS),
        do="check the path",
    )


def describe(slices: Mapping[str, tuple[Path, Path]], file: Path) -> Path:
    """Write the data set's description: the last two sixths of the stack validate and test.

    Neighbouring slices are nearly alike. Blocks keep a slice's neighbours in its own split, and the slices
    that validate lie between those that train and those that test.
    """
    block = max(1, round(len(slices) / 6))
    splits = ["train"] * max(0, len(slices) - 2 * block) + ["val"] * block + ["test"] * block
    cases = [
        {"name": name, "image": str(image.resolve()), "label": str(label.resolve()), "split": split}
        for (name, (image, label)), split in zip(slices.items(), splits)
    ]
    about = {"name": "isbi2012", "kind": "semantic", "classes": {"cell": CELL}, "cases": cases}
    return write_text(file, tomlkit.dumps(about))


def score_cells(maps: Manifest) -> Scores:
    """Score the cells, which are the connected parts between membranes, as objects."""

    def one(case: Predicted) -> Scores:
        return evaluate(
            cells(maps.folder / case.prediction), cells(case.reference[0]), metrics=["ap"], case=case.case
        )

    result = map_cases(one, [(case.case, case) for case in maps.cases])
    return Scores.join(list(result.done.values()))


def cells(path: str | Path) -> np.ndarray:
    """Read a map of membranes and number the cells."""
    return to_instances(np.asarray(read_label(path)[0]) == CELL, method="components", fill_holes=False)


if __name__ == "__main__":
    run_script(main)

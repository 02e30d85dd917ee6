"""What each classic idea is worth: every network and strategy on the same images, in the same time.

Patch network: Ciresan et al., NIPS 2012. FCN-32s, 16s, 8s: Long, Shelhamer, Darrell, CVPR 2015. U-Net, border
weights, elastic deformation, mirrored overlap tiles: Ronneberger et al., MICCAI 2015. DeepLab: Chen et al.,
2017 (version 3), with the fully connected CRF of Kraehenbuehl and Koltun, NIPS 2011.

All systems have the same data, splits, loss and minutes of training, a quarter of their papers' widths and,
but for the U-Net of the paper, batch norm. The loss is cross entropy, with border weights, where objects
are to be found, and what the planner chooses where classes are. They start from fresh weights; the papers'
VGG16 and ResNet began with those of ImageNet. FCN-16s begins with the weights of FCN-32s and FCN-8s with
those of FCN-16s, so they have two and three times the minutes. How many steps fit is measured first and
kept in ``steps.json``.

Data: a folder with ``images/`` and ``labels/``, or any other data set of images that ``medseg plan`` takes.
Of instance maps the networks learn what is object, and objects are parted afterwards.

Command::

    python pipelines/compare_networks.py dsb2018/ -o comparison/         # goes on where it was stopped
    python pipelines/compare_networks.py dsb2018/ -o trial/ --quick
    python pipelines/compare_networks.py dsb2018/ -o longer/ --minutes 4 --only "encoder-decoder,DeepLab"

Time: 30 trainings of a minute and a half, and about as long for reading and scoring: an hour and a half on a
core that is busy with other things, too. Expected numbers: docs/explanation/networks-compared.md. They differ
between machines, on which the minutes buy other numbers of steps.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from medseg import OverlapTileInferer
from medseg.batch import BatchResult, Failure, map_cases
from medseg.bundle import Bundle
from medseg.cli.progress import Display
from medseg.cli.script import Data, Out, Quick, run_script
from medseg.dataset import Case, Dataset, Split, load_dataset, read_case_label
from medseg.errors import Refused, refuse_unknown
from medseg.evaluation import evaluate
from medseg.files import write_text
from medseg.inference import Prediction, predict
from medseg.io import read
from medseg.metrics import nsd
from medseg.networks import build_network, plan_geometry
from medseg.plan import Plan
from medseg.planning import make_plan, target_values, training_bytes
from medseg.report import Column, Shown, System, comparison_markdown, render_comparison
from medseg.training import StepInfo, fit, open_run, start_from
from medseg.transforms import normaliser

BASELINE = "U-Net with batch norm"
NARROWER = 4  # than the papers' networks
TOLERANCE = 2  # pixels within which boundaries agree


class Idea(NamedTuple):
    """A system that is trained: its network, what its plan holds, and which one's weights it begins with."""

    network: str
    values: Mapping[str, object] = MappingProxyType({})
    start: str = ""
    note: str = ""


class Variant(NamedTuple):
    """A system that is another one, predicting in another way."""

    of: str
    predict: Callable[[Bundle, Case], Prediction]
    note: str = ""


def with_values(values: Mapping[str, object], bundle: Bundle, case: Case) -> Prediction:
    """Predict with some numbers of the plan changed."""
    return predict(replace(bundle, plan=bundle.plan.with_values(values)), case)


def without_overlap(bundle: Bundle, case: Case) -> Prediction:
    """Predict tiles of 64 pixels side by side that see nothing of each other."""
    whole = predict(bundle, case)
    image = read(case.image).as_tensor()
    inferer = OverlapTileInferer(tile=64, halo=0, mirror=0)
    labels, _ = inferer.labels(image, bundle.network, prepare=normaliser(image, bundle.plan.input))
    return replace(whole, labels=labels)


PAPER: dict[str, object] = {"network.padding": "valid", "network.norm": "none", "train.lr": 1e-3}
IDEAS: dict[str, Idea] = {
    "patch network": Idea("patch", note="a window around each pixel, classified on its own"),
    "encoder-decoder": Idea("encoder-decoder", note="the U-Net without its skips"),
    "FCN-32s": Idea("fcn32s"),
    "FCN-16s": Idea("fcn16s", start="FCN-32s", note="begins with FCN-32s"),
    "FCN-8s": Idea("fcn8s", start="FCN-16s", note="begins with FCN-16s"),
    "U-Net as in the paper": Idea("unet", PAPER, note="unpadded, without norm"),
    BASELINE: Idea("unet", note="the encoder-decoder with skips"),
    "DeepLab": Idea("deeplab-resnet50", note="version 3 on ResNet-50"),
    "U-Net without border weights": Idea("unet", {"target.border_weights": False}),
    "U-Net without elastic deformation": Idea("unet", {"augment.elastic_prob": 0.0}),
}
with_crf = partial(with_values, {"predict.crf_iterations": 10})
VARIANTS: dict[str, Variant] = {
    "DeepLab with CRF": Variant("DeepLab", with_crf),
    "U-Net with CRF": Variant(BASELINE, with_crf),
    "U-Net without mirrored context": Variant(
        BASELINE, partial(with_values, {"predict.mirror": 0}), note="zeros around the image"
    ),
    "U-Net without overlap": Variant(BASELINE, without_overlap, note="tiles of 64 pixels side by side"),
}
ORDER = (
    *itertools.takewhile(lambda name: name != "U-Net without border weights", IDEAS),
    "DeepLab with CRF",
    "U-Net with CRF",
    "U-Net without border weights",
    "U-Net without elastic deformation",
    "U-Net without mirrored context",
    "U-Net without overlap",
)
REGION, RIM, OBJECTS = ("iou", "dice"), f"nsd {TOLERANCE} px", "ap 0.5"


def main(
    data: Data,
    out: Out,
    *,
    minutes: float = 1.5,
    seeds: int = 3,
    cases: int = 40,
    lr: float = 3e-3,
    only: str = "",
    quick: Quick = False,
) -> BatchResult:
    """Train every system with every seed, score unseen images, and write a page and a table.

    ``out`` gets a run for each system and seed, ``comparison.html`` and ``table.md``. ``cases`` is how many
    unseen images are scored at most, ``lr`` the peak learning rate of all systems that have a norm. ``only``
    names the systems that are trained, parted by commas; by default all are.
    """
    out, failures = Path(out), list[Failure]()
    dataset = load_dataset(data)
    seeds, cases = (1, 3) if quick else (seeds, cases)

    def note(_: str, failure: Failure | None) -> None:
        failures.extend([failure] if failure else [])

    rows: dict[str, list[Rows]] = {}
    bundles: dict[tuple[str, int], Bundle] = {}
    with Display() as display:
        plans = chosen(plans_of(dataset, lr=lr, quick=quick), only)
        steps = dict.fromkeys(plans, 3)
        if not quick:
            steps = steps_within(plans, dataset, out / "steps.json", 60 * minutes)
        unseen: list[Case] = []
        for seed, name in itertools.product(range(seeds), plans):
            values = {"train.steps": steps[name], "train.validate_every": steps[name], "train.seed": seed}
            plan, path = (
                plans[name].with_values(values, reason="the same time for all"),
                run_path(out, name, seed),
            )
            start = IDEAS[name].start
            network = start_from(plan, run_path(out, start, seed)) if start else None
            bundle = fit(plan, dataset, path, network=network, on_step=display.step)
            bundles[name, seed] = bundle
            unseen = unseen or spread(open_run(path).split, cases)
            for system, way in ways_of(name).items():
                file = path / f"{system.replace(' ', '-')}.json"
                rows.setdefault(system, []).append(scored(bundle, unseen, way, file, note))
    objects = next(iter(plans.values())).target.kind == "instances"
    columns = [Column(name, "region") for name in REGION] + [Column(RIM, "boundary")]
    columns += [Column(OBJECTS, "objects")] if objects else []
    systems = [system_of(name, rows[name], plans, minutes) for name in ORDER if name in rows]
    write_text(out / "table.md", comparison_markdown(columns, systems))
    render_comparison(
        out / "comparison.html",
        title=f"What each idea is worth: {dataset.name}",
        lead="The same images, splits and minutes for all; a quarter of the papers' widths, fresh weights.",
        columns=columns,
        systems=systems,
        shown=shown(bundles, rows, unseen),
        facts={
            "data": f"{dataset.name}, {len(unseen)} images that no training saw",
            "training": f"{minutes:g} minutes a stage, {seeds} seeds",
            "steps": ", ".join(f"{name}: {count}" for name, count in steps.items()),
        },
    )
    return BatchResult(dict.fromkeys(rows), tuple(failures))


def plans_of(dataset: Dataset, *, lr: float = 3e-3, quick: bool = False) -> dict[str, Plan]:
    """Return the plan of every idea that the data allow: all but the network and the idea is the same."""
    plans: dict[str, Plan] = {}
    base = make_plan(dataset)
    objects = base.target.kind == "instances"
    if base.input.spatial_dims != 2:
        raise Refused("bad-data", f"'{dataset.name}' holds volumes", do="name a data set of images")
    target: dict[str, Any] = {"target.border_weights": False}
    if objects:
        target = {"target.name": "foreground", **target_values("foreground"), "target.border_weights": True}
    for name, idea in IDEAS.items():
        if not objects and "target.border_weights" in idea.values:
            continue
        plan = make_plan(dataset, network=idea.network)
        wide = {"unet": (64, 128, 256, 512, 1024), "encoder-decoder": (64, 128, 256, 512, 1024)}
        widths = [n // NARROWER for n in wide.get(idea.network, plan.network.channels)]
        common = {
            "network.channels": widths,
            "network.norm": "batch",
            "network.strides": (),
            "network.kernels": (),
            "train.lr": lr,
            "train.validate_cases": 4,
            "train.workers": 0,
            "train.loss": "cross_entropy" if objects else base.train.loss,  # which borders weigh
            "predict.mirror": -1 if idea.network == "unet" else plan.predict.mirror,
        }
        if quick:
            common |= {"network.channels": [max(2, n // 8) for n in widths], "train.batch_size": 2}
        plan = plan.with_values(target | common | dict(idea.values), reason="the same for all systems")
        if idea.network != "patch":
            side = [min(64 if quick else 256, n) for n in base.train.patch]
            geometry = plan_geometry(plan)
            plan = plan.with_values(
                {"train.patch": geometry.round_up([n + c for n, c in zip(side, geometry.shrink)])},
                reason="about the same for all systems, a legal size",
            )
        plans[name] = plan
    return plans


def chosen(plans: dict[str, Plan], only: str) -> dict[str, Plan]:
    """Return the plans of some systems, and of those with whose weights they begin."""
    if not only:
        return plans
    wanted = [name.strip() for name in only.split(",")]
    for name in wanted:  # and of what is added on the way
        if name not in plans:
            raise refuse_unknown("system", name, plans)
        if IDEAS[name].start:
            wanted.append(IDEAS[name].start)
    return {name: plan for name, plan in plans.items() if name in wanted}


def steps_within(plans: Mapping[str, Plan], dataset: Dataset, file: Path, seconds: float) -> dict[str, int]:
    """Return how many steps of each plan fit into some seconds; measured once and kept in a file."""
    if file.is_file():
        known: dict[str, int] = json.loads(file.read_text())
        return known
    steps = {}
    for name, plan in plans.items():
        times: list[float] = []

        def note(info: StepInfo, times: list[float] = times) -> None:
            if info.phase == "training":
                times.append(time.perf_counter())

        tried = plan.with_values({"train.steps": 8, "train.validate_every": 8, "train.validate_cases": 1})
        with tempfile.TemporaryDirectory() as folder:
            fit(tried, dataset, Path(folder) / "run", on_step=note)
        # the first steps are slower, and the last one comes after a validation
        steps[name] = max(10, round(seconds / float(np.median(np.diff(times[1:-1])))))
    write_text(file, json.dumps(steps, indent=1) + "\n")
    return steps


def run_path(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(' ', '-')}-{seed}"


Rows = dict[str, dict[str, float]]


def ways_of(name: str) -> dict[str, Callable[[Bundle, Case], Prediction]]:
    """Return the systems that predict with the weights of an idea, and how each does."""
    own: dict[str, Callable[[Bundle, Case], Prediction]] = {name: predict}
    return own | {other: variant.predict for other, variant in VARIANTS.items() if variant.of == name}


def spread(split: Split, most: int) -> list[Case]:
    """Return unseen cases, at most so many, evenly spread over all of them."""
    cases = split.test or split.val
    return [cases[i * len(cases) // min(most, len(cases))] for i in range(min(most, len(cases)))]


def scored(
    bundle: Bundle,
    cases: Sequence[Case],
    way: Callable[[Bundle, Case], Prediction],
    file: Path,
    note: Callable[[str, Failure | None], None],
) -> Rows:
    """Return case -> score -> value, with the seconds that it took; kept in a file."""
    if file.is_file():
        known: Rows = json.loads(file.read_text())
        return known
    found = map_cases(partial(score, bundle, way), [(case.name, case) for case in cases], on_case=note)
    write_text(file, json.dumps(found.done, indent=1) + "\n")
    return dict(found.done)


def score(bundle: Bundle, way: Callable[[Bundle, Case], Prediction], case: Case) -> dict[str, float]:
    """Score one image: regions, boundaries, and objects where there are some."""
    start = time.perf_counter()
    prediction = way(bundle, case)
    row = {"seconds": time.perf_counter() - start}
    truth = np.asarray(read_case_label(case))[0]
    found, classes = prediction.labels, bundle.plan.target.scored
    if bundle.plan.target.kind == "instances":
        row[OBJECTS] = evaluate(prediction, truth, metrics=("ap",)).value("", "ap", "0.50")
        found, truth, classes = found > 0, truth > 0, {"objects": 1}
    scores = evaluate(found.astype(np.uint8), truth.astype(np.int64), metrics=REGION, classes=classes)
    row |= {name: scores.mean(name) for name in REGION}
    rim = nsd(
        found.astype(np.uint8),
        truth.astype(np.int64),
        spacing=(1, 1),
        tolerance_mm=TOLERANCE,
        classes=list(classes.values()),
    )
    row[RIM] = float(np.nanmean([*rim.values()]))
    return row


def system_of(name: str, rows: Sequence[Rows], plans: Mapping[str, Plan], minutes: float) -> System:
    """Return the row of the table: the mean over the images for each seed, and what the system takes."""
    variant = VARIANTS.get(name)
    trained = variant.of if variant else name
    stages, start = 1, IDEAS[trained].start
    while start:
        stages, start = stages + 1, IDEAS[start].start
    columns = [key for key in next(iter(rows[0].values())) if key != "seconds"]
    network = build_network(plans[trained])
    seconds = np.median([row["seconds"] for seed in rows for row in seed.values()])
    costs = {
        "parameters": f"{sum(p.numel() for p in network.parameters()) / 1e6:.3g} M",
        "minutes": f"{stages * minutes:g}",
        "s an image": f"{seconds:.2f}",
        "GB a step": f"{training_bytes(plans[trained]) / 1e9:.2f}",
    }
    scores = {
        key: [float(np.nanmean([row[key] for row in seed.values()])) for seed in rows] for key in columns
    }
    return System(name, scores, costs, variant.note if variant else IDEAS[trained].note)


def shown(
    bundles: Mapping[tuple[str, int], Bundle], rows: Mapping[str, Sequence[Rows]], cases: Sequence[Case]
) -> Iterator[Shown]:
    """Yield a hard, a middling and an easy image of the baseline, under every system of the first seed."""
    ranked = rows.get(BASELINE, next(iter(rows.values())))[0]
    order = sorted((c for c in cases if c.name in ranked), key=lambda c: ranked[c.name]["iou"])
    for place in sorted({len(order) // 10, len(order) // 2, len(order) * 9 // 10}):
        case = order[place]
        image, truth = read(case.image), np.asarray(read_case_label(case))[0]
        found: dict[str, np.ndarray] = {}
        captions: dict[str, str] = {}
        for name in (name for name in ORDER if name in rows):
            trained = VARIANTS[name].of if name in VARIANTS else name
            prediction = ways_of(trained)[name](bundles[trained, 0], case)
            found[name] = prediction.result()
            captions[name] = f"iou {rows[name][0][case.name]['iou']:.2f}"
        plan = next(iter(bundles.values())).plan
        classes = (
            {value: key for key, value in plan.target.scored.items()}
            if plan.target.kind != "instances"
            else None
        )
        pixels = np.asarray(image).astype(image.meta.get("original_dtype") or np.asarray(image).dtype)
        picture = np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0]
        yield Shown(case.name, picture, truth, found, captions, classes)


if __name__ == "__main__":
    run_script(main)

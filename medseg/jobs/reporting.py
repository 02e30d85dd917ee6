"""The page of a run or of a folder of predictions, worst first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Refused
from ..io import read, read_label
from ..metrics import Scores, without_ignored
from ..report import Panel, Volume, render_report
from ..training import Run, open_run
from .manifest import MANIFEST, Manifest, Predicted
from .scoring import score_manifest
from .unseen import SCORES, UNSEEN

__all__ = ["report"]


def report(folder: str | Path, out: str | Path, *, title: str | None = None) -> Path:
    """Write the page of a run or of a folder of predictions.

    Parameters
    ----------
    folder : path
        A run that ``medseg train`` wrote, or a folder that ``medseg predict`` wrote.
    out : path
        The HTML file.
    title : str, optional
        Heading of the page.

    Raises
    ------
    Refused
        ``not-found``, ``not-a-run``, ``not-predictions``, ``unfinished-run``, ``unwritable``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise Refused(
            "not-found",
            f"no folder '{folder}'",
            do="name a folder that 'medseg predict' or 'medseg train' wrote",
        )
    run = open_run(folder) if (folder / "split.json").is_file() else None
    if run is not None and not (folder / UNSEEN / MANIFEST).is_file():
        raise Refused(
            "unfinished-run",
            f"the run '{folder}' has no predictions yet",
            do="run 'medseg train' again with the same arguments: it goes on to the end",
        )
    manifest = Manifest.load(folder / UNSEEN if run else folder)
    scores = _scores(manifest)
    order = [c.case for c in manifest.cases]
    if len(scores):
        worst = [name for name in scores.worst(scores.metrics[0]) if name in order]
        order = worst + [name for name in order if name not in worst]
    cases = {c.case: c for c in manifest.cases}
    return render_report(
        out,
        title=title or (f"Training run: {run.plan.name}" if run else f"Predictions of {manifest.model}"),
        panels=_panels(manifest, [cases[name] for name in order]),
        scores=scores if len(scores) else None,
        history=run.history if run else None,
        plan=run.plan.to_toml() if run else None,
        facts=_facts(manifest, run),
    )


def _scores(manifest: Manifest) -> Scores:
    stored = manifest.folder / SCORES
    return Scores.load(stored) if stored.is_file() else score_manifest(manifest)[0]


def _facts(manifest: Manifest, run: Run | None) -> dict[str, str]:
    facts = {"cases shown or scored": str(len(manifest.cases))}
    if run:
        split = run.split
        kind = (
            "test cases, never used in training"
            if split.test
            else "validation cases, which chose the checkpoint"
        )
        facts["scored on"] = kind
        facts["cases"] = f"{len(split.train)} trained, {len(split.val)} validated, {len(split.test)} tested"
        facts["data set"] = Path(run.source).name
    if manifest.kind == "instances":
        facts["objects found"] = str(sum(max(c.objects, 0) for c in manifest.cases))
    return facts | manifest.facts


def _panels(manifest: Manifest, cases: list[Predicted]) -> Iterator[Panel | Volume]:
    """Read the cases one by one as the page asks for them."""
    classes = {v: name for name, v in manifest.classes.items()} if manifest.kind == "semantic" else None
    for case in cases:
        prediction, affine, unit = _labels((str(manifest.folder / case.prediction),))
        reference, ignored = None, None
        if case.reference:
            reference = _labels(case.reference, case.colours)[0]
            if manifest.ignore:
                ignored = np.isin(reference, manifest.ignore)
                objects = manifest.kind == "instances"
                prediction, reference, _ = without_ignored(
                    prediction, reference, manifest.ignore, objects=objects
                )
        tensor = read(case.image)
        image, dtype = np.asarray(tensor), tensor.meta.get("original_dtype", "")
        if prediction.ndim == 3:
            note = f"The first of {len(image)} channels." if len(image) > 1 else ""
            yield Volume(case.case, image[0], prediction, reference, affine, unit, note, classes)
            continue
        image = image.astype(dtype or image.dtype)
        shown = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]
        yield Panel(case.case, shown, prediction, reference, classes=classes, ignored=ignored)


def _labels(paths: tuple[str, ...], colours: Any = ()) -> tuple[np.ndarray, np.ndarray, str]:
    """Return a map in the smallest type that holds it, its affine, and the unit of that."""
    tensor = read_label(list(paths) if len(paths) > 1 else paths[0], colours=colours)
    labels = np.asarray(tensor[0])
    small = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
    return small, np.asarray(tensor.affine, np.float64), str(tensor.meta["spacing_unit"])

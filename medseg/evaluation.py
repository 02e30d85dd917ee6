"""Scores of one result against its reference, wherever they lie."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import Refused, refuse_unknown
from .io import read_label
from .metrics import METRICS, Scores, score_arrays

__all__ = ["DEFAULT_METRICS", "evaluate"]

# what is scored where nobody chooses, by the kind of the maps
DEFAULT_METRICS = {
    "instances": ("ap", "seg", "count_error", "dice", "iou"),
    "semantic": ("dice", "iou", "pixel_error"),
}


_TOLERANCE = 0.1  # pixels by which corners of the grids may lie apart: files round their affines


def evaluate(
    prediction: Any,
    reference: Any,
    *,
    metrics: Sequence[str] = ("dice", "iou"),
    spacing: Sequence[float] | None = None,
    classes: Mapping[str, int] | None = None,
    case: str = "",
) -> Scores:
    """Score a result against its reference.

    Parameters
    ----------
    prediction : Prediction, path or array
        A label map, or an instance map where ``metrics`` names metrics of objects.
    reference : path, sequence of paths or array
        The same for the truth; several paths are masks of one object each.
    metrics : sequence of str
        Names in ``medseg.metrics.METRICS``. Where metrics of objects are among them, or a `Prediction` is of
        objects, both maps are instance maps, and metrics of classes compare what is object (not 0) with what
        is not.
    spacing : sequence of float, optional
        Size of a pixel along each axis; by default that of the files.
    classes : mapping of str to int, optional
        Names and values of the classes; by default every value that occurs, and those of a `Prediction`.
    case : str
        Name of the case in the scores.

    Returns
    -------
    Scores

    Raises
    ------
    Refused
        ``unknown-metric``, ``shape-mismatch``, ``different-grids`` (two files whose affines differ), and what
        reading refuses.

    Examples
    --------
    >>> import numpy as np, medseg
    >>> reference = np.zeros((4, 6), int); reference[1:3, 1:5] = 1
    >>> prediction = np.zeros((4, 6), int); prediction[1:3, 1:3] = 1
    >>> medseg.evaluate(prediction, reference).mean("iou")
    0.5
    """
    for name in metrics:
        if name not in METRICS:
            raise refuse_unknown("metric", name, METRICS)
    of_objects = [name for name in metrics if METRICS[name].kind == "instances"]
    of_classes = [name for name in metrics if METRICS[name].kind == "classes"]
    found, grid = _map_of(prediction, bool(of_objects))
    truth, true_grid = _map_of(reference, bool(of_objects))
    _refuse_other_grid(grid, true_grid, found.shape, case)
    known = [g for g in (true_grid, grid) if g is not None]
    if spacing is None and known:
        # a label map without a pixel size, such as a PNG, has that of the prediction
        best = next((g for g in known if not _is_unknown(g, truth.ndim)), known[0])
        spacing = np.linalg.norm(best[:3, : truth.ndim], axis=0).tolist()
    plan = getattr(prediction, "plan", None)
    scores = []
    if of_objects:
        scores.append(score_arrays(found, truth, case=case, metrics=of_objects, spacing=spacing))
    if of_objects or (plan is not None and plan.target.kind == "instances"):
        found, truth, classes = found > 0, truth > 0, {"foreground": 1}
    elif classes is None and plan is not None:
        classes = dict(zip(plan.target.classes[1:], plan.target.values[1:]))
    if of_classes:
        scores.append(
            score_arrays(found, truth, case=case, metrics=of_classes, classes=classes, spacing=spacing)
        )
    return Scores.join(scores)


def _map_of(source: Any, objects: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a map and its affine, where it has one."""
    if hasattr(source, "labels") and hasattr(source, "instances"):
        return np.asarray(source.instances() if objects else source.labels), np.asarray(source.affine)
    is_paths = isinstance(source, list | tuple) and all(isinstance(p, str | Path) for p in source)
    if isinstance(source, str | Path) or is_paths:
        label = read_label(source)
        return np.asarray(label[0]), np.asarray(label.affine)
    array = np.asarray(source)
    if hasattr(source, "affine") and array.ndim > 2 and array.shape[0] == 1:
        array = array[0]  # a MetaTensor is channel first
    return array, None


def _refuse_other_grid(a: np.ndarray | None, b: np.ndarray | None, shape: tuple[int, ...], case: str) -> None:
    """Refuse maps of different places; a file without a known pixel size fits any."""
    axes = len(shape)
    if a is None or b is None or any(_is_unknown(x, axes) for x in (a, b)):
        return
    corners = np.array(
        [[*corner, *[0] * (3 - axes), 1] for corner in itertools.product(*((0, n) for n in shape))]
    )
    apart = np.linalg.norm(corners @ (a - b).T, axis=1).max()
    if apart > _TOLERANCE * np.linalg.norm(b[:3, :axes], axis=0).min():
        raise Refused(
            "different-grids",
            f"prediction and reference{f' of {case}' if case else ''} lie on different grids",
            got=np.round(a, 4).tolist(),
            expected=np.round(b, 4).tolist(),
            do="predict on the image that the reference belongs to",
        )


def _is_unknown(affine: np.ndarray, axes: int) -> bool:
    return bool(np.allclose(np.linalg.norm(affine[:3, :axes], axis=0), 1) and np.allclose(affine[:3, 3], 0))

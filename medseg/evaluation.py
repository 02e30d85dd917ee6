"""Scores of one result against its reference, wherever they lie."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .dataset import Case, read_case_label
from .errors import Refused, refuse_unknown
from .io import IN_MM, read_label
from .io.pixels import MOST_APART, farthest, spacing_from
from .metrics import METRICS, Contingency, Scores, counted, score_arrays

__all__ = ["DEFAULT_METRICS", "count_pixels", "evaluate"]

# what is scored where nobody chooses, by the kind of the maps; volumes are label maps in 3D with a spacing
DEFAULT_METRICS = {
    "instances": ("ap", "seg", "count_error", "dice", "iou"),
    "semantic": ("dice", "iou", "pixel_error"),
    "volumes": ("dice", "hd95_mm", "assd_mm", "nsd", "volume_ml", "volume_error_ml", "pixel_error"),
}


_LEFT_OUT = 255  # of a map of what is object
_SHEAR = 1e-3  # cosine of the angle between two axes, above which pixels are not rectangular


class _Grid(NamedTuple):
    """From indices to mm, or to pixels where the unit is unknown; `is_plain` is what a file without has."""

    affine: np.ndarray
    is_mm: bool
    is_plain: bool


def evaluate(
    prediction: Any,
    reference: Any,
    *,
    metrics: Sequence[str] | None = ("dice", "iou"),
    spacing: Sequence[float] | None = None,
    classes: Mapping[str, int] | None = None,
    case: str = "",
    tolerance_mm: float = 1.0,
    ignore: Collection[int] | None = None,
) -> Scores:
    """Score a result against its reference.

    Parameters
    ----------
    prediction : Prediction, path or array
        A label map, or an instance map where ``metrics`` names metrics of objects.
    reference : path, sequence of paths, Case or array
        The same for the truth; several paths are masks of one object each. Of a case its label is
        taken, with the colours that its data set gives.
    metrics : sequence of str or None
        Names in ``medseg.metrics.METRICS``. Where metrics of objects are among them, or a `Prediction` is of
        objects, both maps are instance maps, and metrics of classes compare what is object (not 0) with what
        is not. None is `DEFAULT_METRICS`: for volumes whose spacing is known those in mm and ml too.
    spacing : sequence of float, optional
        Size of a pixel along each axis, in mm; by default that of the files, or of the images (MetaTensors
        with an affine and a ``spacing_unit``), where they are in mm or micrometres.
    classes : mapping of str to int, optional
        Names and values of the classes; by default every value that occurs, and those of a `Prediction`.
    case : str
        Name of the case in the scores.
    tolerance_mm : float
        Distance within which surfaces agree, for `nsd`.
    ignore : collection of int, optional
        Values of the reference whose pixels do not count, such as ``(255,)``; by default those of the plan of
        a `Prediction`, else none.

    Returns
    -------
    Scores

    Raises
    ------
    Refused
        ``unknown-metric``, ``shape-mismatch``, ``different-grids`` (two files whose affines differ),
        ``no-spacing`` (a metric in mm or ml of pixels of unknown size), and what reading refuses.

    Examples
    --------
    >>> import numpy as np, medseg
    >>> reference = np.zeros((4, 6), int); reference[1:3, 1:5] = 1
    >>> prediction = np.zeros((4, 6), int); prediction[1:3, 1:3] = 1
    >>> medseg.evaluate(prediction, reference).mean("iou")
    0.5
    """
    plan = getattr(prediction, "plan", None)
    is_of_objects = plan is not None and plan.target.kind == "instances"
    if ignore is None:
        ignore = plan.target.ignore if plan is not None else ()
    if metrics is None and is_of_objects:
        metrics = DEFAULT_METRICS["instances"]
    for name in metrics or ():
        if name not in METRICS:
            raise refuse_unknown("metric", name, METRICS)
    objects = any(METRICS[name].kind == "instances" for name in metrics or ())
    found, truth, grids = _maps_of(prediction, reference, objects, case)
    if spacing is None:
        physical = metrics is not None and any(METRICS[name].is_physical for name in metrics)
        spacing = _spacing(grids, truth.ndim, physical)
    if metrics is None:
        metrics = DEFAULT_METRICS["volumes" if truth.ndim == 3 and spacing is not None else "semantic"]
    of_objects = [name for name in metrics if METRICS[name].kind == "instances"]
    of_classes = [name for name in metrics if METRICS[name].kind == "classes"]
    scores = []
    if of_objects:
        scores.append(
            score_arrays(found, truth, case=case, metrics=of_objects, spacing=spacing, ignore=ignore)
        )
    if of_objects or is_of_objects:
        found, classes = found > 0, {"foreground": 1}
        left_out = np.isin(truth, list(ignore))
        truth = np.where(left_out, np.uint8(_LEFT_OUT), np.uint8(truth > 0))
        ignore = (_LEFT_OUT,)
    elif classes is None and plan is not None:
        classes = plan.target.scored
    if of_classes:
        scores.append(
            score_arrays(
                found,
                truth,
                case=case,
                metrics=of_classes,
                classes=classes,
                spacing=spacing,
                tolerance_mm=tolerance_mm,
                ignore=ignore,
            )
        )
    return Scores.join(scores)


def count_pixels(
    prediction: Any, reference: Any, *, case: str = "", ignore: Collection[int] = ()
) -> Contingency:
    """Count the pixels of two label maps, wherever they lie, for `medseg.metrics.score_tables`.

    Parameters and refusals are those of `evaluate`.
    """
    found, truth, _ = _maps_of(prediction, reference, False, case)
    return counted(found, truth, ignore=ignore)


def _maps_of(
    prediction: Any, reference: Any, objects: bool, case: str
) -> tuple[np.ndarray, np.ndarray, tuple[_Grid | None, _Grid | None]]:
    """Return both maps, which lie on one grid, and the grids that they have, the reference's first."""
    found, grid = _map_of(prediction, objects)
    truth, true_grid = _map_of(reference, objects)
    _refuse_other_grid(grid, true_grid, found.shape, case)
    return found, truth, (true_grid, grid)


def _map_of(source: Any, objects: bool) -> tuple[np.ndarray, _Grid | None]:
    """Return a map and its grid, where it has one."""
    if hasattr(source, "labels") and hasattr(source, "instances"):
        array = np.asarray(source.instances() if objects else source.labels)
        return array, _grid(source.affine, source.unit, array.ndim)
    is_paths = isinstance(source, list | tuple) and all(isinstance(p, str | Path) for p in source)
    if isinstance(source, str | Path) or is_paths:
        source = read_label(source)
    if isinstance(source, Case):
        source = read_case_label(source)
    array = np.asarray(source)
    if not hasattr(source, "affine"):
        return array, None
    if array.ndim > 2 and array.shape[0] == 1:
        array = array[0]  # a MetaTensor is channel first
    return array, _grid(source.affine, getattr(source, "meta", {}).get("spacing_unit", "pixel"), array.ndim)


def _grid(affine: Any, unit: str, axes: int) -> _Grid:
    affine = np.array(np.asarray(affine), dtype=float)
    is_plain = np.allclose(np.linalg.norm(affine[:3, :axes], axis=0), 1) and np.allclose(affine[:3, 3], 0)
    affine[:3] *= IN_MM.get(unit, 1.0)
    return _Grid(affine, unit in IN_MM, bool(is_plain) or unit not in IN_MM)


def _spacing(grids: Sequence[_Grid | None], axes: int, needed: bool) -> list[float] | None:
    """Size of a pixel in mm, or None where it is unknown; of a file that may lack its own only at last."""
    known = sorted((g for g in grids if g is not None and g.is_mm), key=lambda g: g.is_plain)
    if not known:
        return None
    columns = known[0].affine[:3, :axes]
    sizes = np.linalg.norm(columns, axis=0)
    cosines = (columns / sizes).T @ (columns / sizes)
    if np.abs(cosines - np.eye(axes)).max() > _SHEAR:
        if needed:
            raise Refused(
                "no-spacing",
                "the axes of the maps are not at right angles",
                got=f"cosines up to {np.abs(cosines - np.eye(axes)).max():.3g} between them",
                expected="rectangular pixels, for metrics in mm or ml",
                do="resample both maps to such a grid",
            )
        return None
    return [float(size) for size in sizes]


def _refuse_other_grid(a: _Grid | None, b: _Grid | None, shape: tuple[int, ...], case: str) -> None:
    """Refuse maps of different places; a file without a known pixel size fits any."""
    if a is None or b is None or a.is_plain or b.is_plain:
        return
    if farthest(a.affine, b.affine, shape) > MOST_APART * min(spacing_from(b.affine, len(shape))):
        raise Refused(
            "different-grids",
            f"prediction and reference{f' of {case}' if case else ''} lie on different grids",
            got=_rounded(a.affine),
            expected=f"{_rounded(b.affine)}, in mm",
            do="predict on the image that the reference belongs to",
        )


def _rounded(affine: np.ndarray) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in affine]

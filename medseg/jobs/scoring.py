"""Score a folder of predictions against a folder or data set of references."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..batch import BatchResult, Failure, map_cases
from ..dataset import load_dataset
from ..dataset.cases import some
from ..errors import Refused, refuse_unknown
from ..evaluation import DEFAULT_METRICS, count_pixels, evaluate
from ..io import IN_MM, find_images, read_label, stem_of
from ..metrics import METRICS, Contingency, Scores, score_tables
from .manifest import MANIFEST, Manifest

__all__ = ["evaluate_files", "list_predictions", "score_manifest"]

_MANY_VALUES, _LOOKED_AT = 20, 10
_log = logging.getLogger(__name__)


class _Reference(NamedTuple):
    """Where a reference lies, and the spacing in mm, the colours and the image that a data set gives."""

    path: Path | tuple[Path, ...]
    spacing: tuple[float, ...] | None = None
    colours: tuple[tuple[tuple[int, int, int], int], ...] = ()
    image: str = ""


def evaluate_files(
    predictions: str | Path,
    references: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    tolerance_mm: float = 1.0,
    ignore: Sequence[int] | None = None,
    together: bool = False,
    on_case: Callable[[str, Failure | None], None] | None = None,
) -> tuple[Scores, BatchResult]:
    """Score predictions against references of the same names.

    A prediction is called as a case of the data set, or as the file of the case's image.

    Parameters
    ----------
    predictions : path
        A file, a folder of maps, or a folder that `predict_files` wrote.
    references : path
        A file, a folder of maps, or a data set, whose labels are taken, and the spacing that it gives.
    metrics : sequence of str, optional
        By default `DEFAULT_METRICS` of the kind of maps; those in mm and ml where a volume has a spacing.
    tolerance_mm : float
        Distance within which surfaces agree, for `nsd`.
    ignore : sequence of int, optional
        Values of references whose pixels do not count; by default those of the data set, or of the model.
    together : bool
        Score all pixels of all cases as one image, see `medseg.metrics.score_tables`; of label maps, by
        default by ``pixel_accuracy`` and ``iou``.
    on_case : callable, optional
        Called after each case with its name, and its `Failure` or None.

    Returns
    -------
    scores : Scores
    result : BatchResult
        Which cases could not be scored.

    Raises
    ------
    Refused
        ``not-found``, ``empty-folder``, ``unknown-metric``, ``prediction-without-reference``; ``mixed-kinds``
        for objects, or metrics of distances, together.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise refuse_unknown("metric", name, METRICS)
    found = list_predictions(predictions)
    truth, kind, void, named = _references(Path(references))
    if len(found) == 1 and len(truth) == 1 and not (Path(predictions).is_dir() and Path(references).is_dir()):
        truth = dict(zip(found, truth.values()))  # two files that were named belong together
    partner = _partners(found, truth)
    lacking = [name for name in found if name not in partner]
    if not partner:
        raise Refused(
            "prediction-without-reference",
            f"no prediction in '{predictions}' has a reference in '{references}'",
            got=f"predictions {some(found)}, references {some(truth)}",
            expected="equal names, but for the suffix",
            do="rename the files, or name one file each",
        )
    unused = [name for name in truth if name not in partner.values()]
    if unused and Path(predictions).is_dir():
        _log.warning("%d of %d references have no prediction: %s", len(unused), len(truth), some(unused))
    pairs = {name: (found[name], truth[other]) for name, other in partner.items()}
    manifest = Manifest.load(predictions) if (Path(predictions) / MANIFEST).is_file() else None
    kind = manifest.kind if manifest else kind or _kind([reference.path for _, reference in pairs.values()])
    classes = (manifest.classes if manifest else named) if kind == "semantic" else None
    if ignore is None:
        ignore = void or (manifest.ignore if manifest else ())
    if together:
        scores, result = _score_together(pairs, kind, metrics, classes, tuple(ignore), on_case)
    else:
        scorer = _scorer(tuple(metrics or ()) or _default(kind), classes, tolerance_mm, tuple(ignore))
        scores, result = _score(pairs, scorer, on_case)
    return scores, BatchResult(result.done, (*result.failed, *(_lacking(n, references) for n in lacking)))


def score_manifest(manifest: Manifest) -> tuple[Scores, BatchResult]:
    """Score the cases of a folder of predictions that have references."""
    pairs = {
        case.case: (
            manifest.folder / case.prediction,
            _Reference(tuple(Path(p) for p in case.reference), colours=case.colours),
        )
        for case in manifest.cases
        if case.reference
    }
    classes = manifest.classes if manifest.kind == "semantic" else None
    return _score(pairs, _scorer(_default(manifest.kind), classes, 1.0, manifest.ignore), None)


def _default(kind: str) -> tuple[str, ...] | None:
    """Metrics where nobody chooses; None for label maps, of which each has those that its spacing allows."""
    return None if kind == "semantic" else DEFAULT_METRICS[kind]


def _scorer(
    metrics: tuple[str, ...] | None,
    classes: dict[str, int] | None,
    tolerance_mm: float,
    ignore: tuple[int, ...],
) -> Callable[[tuple[str, Path, _Reference]], Scores]:
    def one(item: tuple[str, Path, _Reference]) -> Scores:
        name, prediction, reference = item
        return evaluate(
            prediction,
            _read(reference),
            metrics=metrics,
            spacing=reference.spacing,
            classes=classes,
            case=name,
            tolerance_mm=tolerance_mm,
            ignore=ignore,
        )

    return one


def _read(reference: _Reference) -> Any:
    """Return the path or paths of a reference, or its map where colours stand for its values."""
    path = reference.path
    single: Any = path[0] if isinstance(path, tuple) and len(path) == 1 else path
    return read_label(single, colours=reference.colours) if reference.colours else single


def _score_together(
    pairs: Mapping[str, tuple[Path, _Reference]],
    kind: str,
    metrics: Sequence[str] | None,
    classes: dict[str, int] | None,
    ignore: tuple[int, ...],
    on_case: Callable[[str, Failure | None], None] | None,
) -> tuple[Scores, BatchResult]:
    if kind == "instances":
        raise Refused(
            "mixed-kinds",
            "objects of several images are not scored together",
            expected="label maps of classes",
            do="score the cases one by one",
        )
    chosen = tuple(metrics or ()) or ("pixel_accuracy", "iou")
    score_tables((), metrics=chosen)  # refuses a metric before hours of reading

    def one(item: tuple[str, Path, _Reference]) -> Contingency:
        name, prediction, reference = item
        return count_pixels(prediction, _read(reference), case=name, ignore=ignore)

    result = map_cases(one, [(name, (name, *pair)) for name, pair in pairs.items()], on_case=on_case)
    tables = list(result.done.values())
    return score_tables(tables, metrics=chosen, classes=classes) if tables else Scores(), result


def _score(
    pairs: Mapping[str, tuple[Path, _Reference]],
    scorer: Callable[[tuple[str, Path, _Reference]], Scores],
    on_case: Callable[[str, Failure | None], None] | None,
) -> tuple[Scores, BatchResult]:
    result = map_cases(scorer, [(name, (name, *pair)) for name, pair in pairs.items()], on_case=on_case)
    scored: dict[str, Scores] = dict(result.done)
    physical = {name for name, one in scored.items() if any(METRICS[m].is_physical for m in one.metrics)}
    without = [name for name in scored if name not in physical]
    if physical and without:
        _log.warning(
            "%d of %d cases have no spacing, and no scores in mm and ml: %s",
            len(without),
            len(scored),
            some(without),
        )
    return Scores.join(list(scored.values())), result


def list_predictions(path: str | Path) -> dict[str, Path]:
    """Return name -> map of a file, of a folder of maps, or of what `predict_files` wrote."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return {case.case: path / case.prediction for case in Manifest.load(path).cases}
    return _maps(path)


class _Truth(NamedTuple):
    """Name -> reference, and what a data set says of their kind, of what does not count, and of classes."""

    references: dict[str, _Reference]
    kind: str | None = None
    ignore: tuple[int, ...] = ()
    classes: dict[str, int] | None = None


def _references(path: Path) -> _Truth:
    """Find the references in a file, a folder or a data set."""
    if path.is_file() and path.suffix != ".toml":
        return _Truth({stem_of(path): _Reference(path)})
    if not path.exists():
        raise Refused("not-found", f"no file or folder '{path}'", do="check the path")
    try:
        dataset = load_dataset(path)
    except Refused as error:
        if error.reason not in ("unknown-layout", "empty-folder"):
            raise
    else:
        if dataset.labelled:
            labels = {
                case.name: _Reference(
                    case.label,
                    _in_mm(case.spacing, case.spacing_unit),
                    case.colours,
                    stem_of(case.images[0]),
                )
                for case in dataset.cases
                if case.label is not None
            }
            kind = dataset.kind or ("semantic" if dataset.classes else None)
            return _Truth(labels, kind, dataset.ignore, dataset.classes)
    return _Truth({name: _Reference(file) for name, file in _maps(path).items()})


def _partners(found: Mapping[str, Path], truth: Mapping[str, _Reference]) -> dict[str, str]:
    """Return name of a prediction -> name of its reference, for those that have one."""
    images = Counter(reference.image for reference in truth.values())
    by_image = {reference.image: name for name, reference in truth.items() if images[reference.image] == 1}
    partner = {name: name if name in truth else by_image.get(name, "") for name in found}
    return {name: other for name, other in partner.items() if other}


def _in_mm(spacing: tuple[float, ...] | None, unit: str | None) -> tuple[float, ...] | None:
    return None if spacing is None else tuple(size * IN_MM[unit or "mm"] for size in spacing)


def _maps(path: Path) -> dict[str, Path]:
    if path.is_dir():
        files = find_images(path)
        if not files:
            raise Refused("empty-folder", f"no map in '{path}'", do="name a folder of label or instance maps")
        maps: dict[str, Path] = {}
        for file in files:
            other = maps.setdefault(stem_of(file), file)
            if other is not file:
                raise Refused(
                    "duplicate-case",
                    f"two maps in '{path}' are called '{stem_of(file)}'",
                    got=f"'{other.name}' and '{file.name}'",
                    do="keep one of them",
                )
        return maps
    if not path.exists():
        raise Refused("not-found", f"no file or folder '{path}'", do="check the path")
    return {stem_of(path): path}


def _lacking(name: str, references: str | Path) -> Failure:
    refusal = Refused(
        "prediction-without-reference",
        f"no reference of this name in '{references}'",
        do="add it, or leave the prediction out",
    )
    return Failure(name, refusal.reason, str(refusal))


def _kind(references: Sequence[Path | tuple[Path, ...]]) -> str:
    """Tell instance maps from label maps by the number of their values, looking at a few of them."""
    for reference in references[:_LOOKED_AT]:
        if isinstance(reference, tuple):
            return "instances"
        try:
            if len(read_label(reference).unique()) > _MANY_VALUES:
                return "instances"
        except Refused:
            continue  # it is told when its turn comes
    return "semantic"

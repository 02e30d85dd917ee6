"""Score a folder of predictions against a folder or data set of references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..batch import BatchResult, Failure, map_cases
from ..dataset import load_dataset
from ..errors import Refused, refuse_unknown
from ..evaluation import DEFAULT_METRICS, evaluate
from ..io import find_images, read_label, stem_of
from ..metrics import METRICS, Scores
from .manifest import MANIFEST, Manifest

__all__ = ["evaluate_files", "score_manifest"]

_MANY_VALUES = 20


def evaluate_files(
    predictions: str | Path,
    references: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    on_case: Callable[[str, Failure | None], None] | None = None,
) -> tuple[Scores, BatchResult]:
    """Score predictions against references of the same names.

    Parameters
    ----------
    predictions : path
        A file, a folder of maps, or a folder that `predict_files` wrote.
    references : path
        A file, a folder of maps, or a data set, whose labels are taken.
    metrics : sequence of str, optional
        By default `DEFAULT_METRICS` of the kind of maps.
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
        ``not-found``, ``empty-folder``, ``unknown-metric``, ``prediction-without-reference``.
    """
    for name in metrics or ():
        if name not in METRICS:
            raise refuse_unknown("metric", name, METRICS)
    found = _predicted(Path(predictions))
    truth = _references(Path(references))
    if len(found) == 1 and len(truth) == 1:
        pairs = {name: (path, next(iter(truth.values()))) for name, path in found.items()}
    else:
        lacking = [name for name in found if name not in truth]
        if lacking:
            raise Refused(
                "prediction-without-reference",
                f"{len(lacking)} of {len(found)} predictions have no reference",
                got=", ".join(lacking[:3]),
                expected=f"a file of the same name in '{references}'",
            )
        pairs = {name: (path, truth[name]) for name, path in found.items()}
    manifest = Manifest.load(predictions) if (Path(predictions) / MANIFEST).is_file() else None
    kind = manifest.kind if manifest else _kind(next(iter(pairs.values()))[1])
    chosen = tuple(metrics or DEFAULT_METRICS[kind])
    classes = manifest.classes if manifest and kind == "semantic" else None
    return _score(pairs, chosen, classes, on_case)


def score_manifest(manifest: Manifest) -> Scores:
    """Score the cases of a folder of predictions that have references."""
    pairs = {
        case.case: (manifest.folder / case.prediction, tuple(Path(p) for p in case.reference))
        for case in manifest.cases
        if case.reference
    }
    classes = manifest.classes if manifest.kind == "semantic" else None
    return _score(pairs, DEFAULT_METRICS[manifest.kind], classes, None)[0]


def _score(
    pairs: Mapping[str, tuple[Path, Path | tuple[Path, ...]]],
    metrics: Sequence[str],
    classes: dict[str, int] | None,
    on_case: Callable[[str, Failure | None], None] | None,
) -> tuple[Scores, BatchResult]:
    def one(item: tuple[str, Path, Path | tuple[Path, ...]]) -> Scores:
        name, prediction, reference = item
        single = reference[0] if isinstance(reference, tuple) and len(reference) == 1 else reference
        return evaluate(prediction, single, metrics=metrics, classes=classes, case=name)

    result = map_cases(one, [(name, (name, *pair)) for name, pair in pairs.items()], on_case=on_case)
    return Scores.join(list(result.done.values())), result


def _predicted(path: Path) -> dict[str, Path]:
    if (path / MANIFEST).is_file():
        return {case.case: path / case.prediction for case in Manifest.load(path).cases}
    return _maps(path)


def _references(path: Path) -> dict[str, Path | tuple[Path, ...]]:
    if path.is_file() and path.suffix != ".toml":
        return {stem_of(path): path}
    try:
        dataset = load_dataset(path)
    except Refused as error:
        if error.reason not in ("unknown-layout", "empty-folder"):
            raise
        return dict(_maps(path))
    if dataset.labelled:
        return {case.name: case.label for case in dataset.cases if case.label is not None}
    return dict(_maps(path))


def _maps(path: Path) -> dict[str, Path]:
    if path.is_dir():
        files = find_images(path)
        if not files:
            raise Refused("empty-folder", f"no map in '{path}'")
        return {stem_of(file): file for file in files}
    if not path.exists():
        raise Refused("not-found", f"no file or folder '{path}'", do="check the path")
    return {stem_of(path): path}


def _kind(reference: Path | tuple[Path, ...]) -> str:
    """Tell instance maps from label maps by the number of their values."""
    label = read_label(list(reference) if isinstance(reference, tuple) else reference)
    many = isinstance(reference, tuple) or len(label.unique()) > _MANY_VALUES
    return "instances" if many else "semantic"

"""Predict files: maps, sizes and a manifest in one folder."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..batch import BatchResult, Failure, map_cases
from ..bundle import Bundle
from ..dataset import Case, load_dataset
from ..errors import Refused
from ..files import check_writable, replacing
from ..inference import Prediction, open_large, predict, predict_to
from ..instances import object_table
from ..io import IMAGE_SUFFIXES, find_images, stem_of, suffix_of
from ..training import versions
from .manifest import MANIFEST, Manifest, Predicted

__all__ = ["Manifest", "list_images", "predict_files"]

OBJECTS, CLASSES, DATASET, ABOVE = "objects.csv", "classes.csv", "dataset.toml", "dataset.json"
ZARR = (".zarr", ".ome.zarr")
_MOST_IN_PNG = 65535
Row = dict[str, float | int | str]


@dataclass(frozen=True)
class _Done:
    predicted: Predicted
    objects: Iterable[Mapping[str, float | int | str]]
    device: str


def predict_files(
    bundle: Bundle,
    images: Sequence[str | Path] | Mapping[str, Path | Case],
    out: str | Path,
    *,
    max_ram_gb: float | None = None,
    flips: bool = False,
    references: Mapping[str, Path | tuple[Path, ...] | None] | None = None,
    on_case: Callable[[str, Failure | None], None] | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> BatchResult:
    """Segment files and folders of files into one folder.

    Parameters
    ----------
    bundle : Bundle
        The model.
    images : sequence of path, or mapping of str to path or Case
        Images, and folders of images; a case is called as its file, without the suffix. A TOML file, or a
        folder with a ``dataset.toml``, is a data set: its cases, their spacing and their references; so is a
        folder below a ``dataset.json``, such as ``imagesTs``. Or name -> image or case.
    out : path
        The folder. It gets one map an image, ``objects.csv`` with a row an object (instance maps) or
        ``classes.csv`` with a row for each class of an image and its size, and ``predictions.json``, which
        says what lies there.
    max_ram_gb, flips
        See `medseg.predict`.
    references : mapping, optional
        Name -> its reference, for the page and the scores; by default that of the case.
    on_case : callable, optional
        Called after each case with its name, and its `Failure` or None.
    on_tile : callable, optional
        Called with the number of tiles done and of all of the case at hand.

    Returns
    -------
    BatchResult
        Case -> `Predicted`; what could not be done is told, and the rest is done.

    Raises
    ------
    Refused
        ``not-found``, ``empty-folder``, ``duplicate-case``, ``unwritable``, ``bad-argument``,
        ``other-files`` (``out`` holds files of those names that are no predictions, such as the images),
        ``other-model`` (it holds predictions of other cases by another model): before anything is predicted.

    Notes
    -----
    A folder that holds predictions of the same model is added to; cases of the same names are replaced.
    """
    out = Path(out)
    cases = dict(images) if isinstance(images, Mapping) else list_images(images)
    if max_ram_gb is not None and not max_ram_gb > 0:
        raise Refused(
            "bad-argument",
            "max_ram_gb bounds the memory of the process in GB",
            got=max_ram_gb,
            expected="more than 0",
        )
    check_writable(out)
    started = time.strftime("%Y-%m-%d %H:%M")
    kind = bundle.plan.target.kind
    classes = bundle.plan.target.scored
    facts = {"model": bundle.name, "device": str(bundle.device), "time": started} | versions()
    mine = Manifest(out, kind, classes, bundle.name, (), facts, bundle.plan.target.ignore)
    earlier = _earlier(mine, cases)
    if not earlier and not (out / MANIFEST).is_file():
        _refuse_foreign(out, cases)
    one = partial(
        _one, bundle, out, references=references or {}, flips=flips, max_ram_gb=max_ram_gb, on_tile=on_tile
    )
    result = map_cases(one, [(name, (name, path)) for name, path in cases.items()], on_case=on_case)
    done = {name: item.predicted for name, item in result.done.items()}
    if done:
        earlier = tuple(item for item in earlier if item.case not in done)
        replace(mine, cases=(*earlier, *done.values())).save()
        table = out / (OBJECTS if kind == "instances" else CLASSES)
        rows = _earlier_rows(table, {item.case for item in earlier})
        write_csv(table, _Rows(rows, result.done))
    return BatchResult(done, result.failed)


def _earlier(mine: Manifest, cases: Mapping[str, Path | Case]) -> tuple[Predicted, ...]:
    """Return what an earlier call left in the folder; cases by another model that would stay are refused."""
    if not (mine.folder / MANIFEST).is_file():
        return ()
    found = Manifest.load(mine.folder)
    kept = tuple(c for c in found.cases if (mine.folder / c.prediction).exists())
    staying = [c.case for c in kept if c.case not in cases]
    if staying and (found.model, found.kind, found.classes) != (mine.model, mine.kind, mine.classes):
        raise Refused(
            "other-model",
            f"'{mine.folder}' holds predictions by another model",
            got=f"{len(staying)} cases by '{found.model}' that '{mine.model}' would not replace",
            do="choose another folder",
        )
    return kept if staying else ()


def _refuse_foreign(out: Path, cases: Mapping[str, Path | Case]) -> None:
    """Refuse a folder whose images would be overwritten: the data itself, most often."""
    found = [file for file in find_images(out) if stem_of(file) in cases] if out.is_dir() else []
    if found:
        raise Refused(
            "other-files",
            f"'{out}' holds files that a prediction would overwrite",
            got=f"'{found[0].name}'" + (f" and {len(found) - 1} more" if len(found) > 1 else ""),
            expected="a new folder, or one that holds predictions",
            do="choose another folder",
        )


def _earlier_rows(path: Path, cases: set[str]) -> list[Row]:
    if not cases or not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [dict(row) for row in csv.DictReader(file) if row.get("case") in cases]


def list_images(images: Sequence[str | Path]) -> dict[str, Path | Case]:
    """Return name -> image of files, of folders and of data sets; two of one name are refused."""
    found: dict[str, Path | Case] = {}
    for entry in images:
        path = Path(entry)
        # imagesTs of a Decathlon: what its dataset.json says, such as several files an image
        part = path.is_dir() and (path.parent / ABOVE).is_file()
        if path.suffix == ".toml" or (path / DATASET).is_file() or part:
            for case in load_dataset(path):
                _add(found, case.name, case)
            continue
        files = find_images(path) if path.is_dir() and suffix_of(path) not in ZARR else [path]
        if not files:
            raise Refused(
                "empty-folder",
                f"no image in '{path}'",
                expected=f"files such as {' '.join(IMAGE_SUFFIXES)}",
                do="name a folder that holds images; its subfolders are not searched",
            )
        if not path.exists() and len(images) == 1:
            raise Refused("not-found", f"no image or folder '{path}'", do="check the path")
        for file in files:
            _add(found, stem_of(file), file)
    if not found:
        raise Refused("not-found", "no image was named")
    return found


def _add(found: dict[str, Path | Case], name: str, image: Path | Case) -> None:
    if name not in found:
        found[name] = image
    elif os.path.abspath(_path_of(found[name])) != os.path.abspath(_path_of(image)):
        raise Refused(
            "duplicate-case",
            f"two images are called '{name}'",
            got=f"'{_path_of(found[name])}' and '{_path_of(image)}'",
            do="predict them into two folders, or rename one",
        )


def _path_of(image: Path | Case) -> Path:
    return image.path if isinstance(image, Case) else image


class _Rows:
    """The rows of the table, made one at a time: a huge image has hundreds of thousands."""

    def __init__(self, earlier: list[Row], done: Mapping[str, _Done]) -> None:
        self.earlier, self.done = earlier, done

    def __iter__(self) -> Iterator[Row]:
        yield from self.earlier
        for name, item in self.done.items():
            for row in item.objects:
                yield {"case": name, **row}


def write_csv(path: Path, rows: Iterable[Row]) -> Path:
    """Write rows as CSV, whole or not at all; columns in the order of their first appearance.

    The rows are gone through twice.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    return path


def _one(
    bundle: Bundle,
    out: Path,
    case: tuple[str, Path | Case],
    *,
    references: Mapping[str, Path | tuple[Path, ...] | None],
    flips: bool,
    max_ram_gb: float | None,
    on_tile: Callable[[int, int], None] | None,
) -> _Done:
    name, image = case
    files = tuple(str(p.resolve()) for p in (image.images if isinstance(image, Case) else (image,)))
    file, objects, n = _segment(bundle, image, out / name, flips, max_ram_gb, on_tile)
    reference = references.get(name) or (image.label if isinstance(image, Case) else None) or ()
    reference = (reference,) if isinstance(reference, Path) else reference
    predicted = Predicted(
        name,
        files if len(files) > 1 else files[0],
        file.relative_to(out).as_posix(),
        tuple(str(p.resolve()) for p in reference),
        n,
        image.colours if isinstance(image, Case) else (),
    )
    return _Done(predicted, objects, str(bundle.device))


def _segment(
    bundle: Bundle,
    image: Path | Case,
    out: Path,
    flips: bool,
    max_ram_gb: float | None,
    on_tile: Callable[[int, int], None] | None,
) -> tuple[Path, Iterable[Mapping[str, float | int | str]], int]:
    """Write the map of one image, as a whole or in parts; return its file, its rows, and how many objects."""
    is_objects = bundle.plan.target.kind == "instances"
    large = open_large(image, bundle, max_ram_gb)
    if large is not None:
        with large:
            file = out.with_name(out.name + (".zarr" if suffix_of(large.path) in ZARR else ".tif"))
            streamed = predict_to(bundle, large, file, flips=flips, max_ram_gb=max_ram_gb, progress=on_tile)
        found = streamed.objects
        return streamed.path, found or [], len(found) if found is not None else -1
    prediction = predict(bundle, image, flips=flips, max_ram_gb=max_ram_gb, progress=on_tile)
    result = prediction.result()
    suffix = _suffix(_path_of(image), prediction, result)
    file = prediction.write(result, out.with_name(out.name + suffix))
    rows = _sizes(prediction, result) if is_objects else _class_sizes(prediction, result)
    return file, rows, len(rows) if is_objects else -1


def _sizes(prediction: Prediction, instances: np.ndarray) -> list[dict[str, float | int]]:
    if prediction.unit == "pixel":
        return object_table(instances)
    spacing = np.linalg.norm(prediction.affine[:3, : instances.ndim], axis=0)
    return object_table(instances, spacing=spacing.tolist(), unit=prediction.unit)


def _class_sizes(prediction: Prediction, labels: np.ndarray) -> list[dict[str, float | int | str]]:
    """Return the size of each class: of volumes in millimetres in ml, else in the unit's square or cube."""
    target = prediction.plan.target
    counts = np.bincount(labels.ravel(), minlength=max(target.values) + 1)
    of_one = float(np.prod(np.linalg.norm(prediction.affine[:3, : labels.ndim], axis=0)))
    column, scale = f"{('area', 'volume')[labels.ndim - 2]}_{prediction.unit}{labels.ndim}", of_one
    if (prediction.unit, labels.ndim) == ("mm", 3):
        column, scale = "volume_ml", of_one / 1000
    rows: list[dict[str, float | int | str]] = []
    for name, value in target.scored.items():
        rows.append({"class": name, "value": value, "pixels": int(counts[value])})
        if prediction.unit != "pixel":
            rows[-1][column] = counts[value] * scale
    return rows


def _suffix(path: Path, prediction: Prediction, result: np.ndarray) -> str:
    """Return the format of the image where it can hold the map and its geometry, else TIFF."""
    suffix = suffix_of(path)
    if suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        return suffix
    if suffix in ZARR:
        return ".zarr"
    if suffix == ".mhd":
        return ".mha"
    small = (
        result.ndim == 2 and prediction.unit == "pixel" and (result.size == 0 or result.max() <= _MOST_IN_PNG)
    )
    return ".png" if small and suffix not in (".tif", ".tiff", ".ome.tif", ".ome.tiff") else ".tif"

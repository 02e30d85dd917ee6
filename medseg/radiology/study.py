"""One study: read strictly, segmented, measured, doubted, written as a folder that appears whole."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle_files import sha256
from ..errors import Refused
from ..files import check_writable
from ..version import __version__
from .models import check_plan, model_of
from .options import StudyOptions
from .results import WORK, checksums, put_in_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..bundle import Bundle
    from ..inference import Prediction
    from ..io.dicom import DicomVolume, Found, Measurement, Note, Series, SeriesRules

__all__ = [
    "MEASUREMENTS",
    "PAGE",
    "StudyResult",
    "make_study",
    "process_study",
    "rules_of",
    "study_id",
]

MEASUREMENTS, PAGE = "measurements.json", "report.html"
_FORMAT = 1
_ID = 16
_MOST_PROBABILITIES = 0.25  # of the memory that a prediction may take


@dataclass(frozen=True)
class StudyResult:
    """The results of one study.

    Attributes
    ----------
    id : str
        First 16 hexadecimal digits of the sha256 of the study's UID.
    folder : Path
        Of the results.
    record : dict
        What ``measurements.json`` holds; "files": name -> sha256 and bytes; "looks": a small picture.
    """

    id: str
    folder: Path
    record: Mapping[str, Any]

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Name of each structure -> its volume in mL."""
        return {s["name"]: s["volume_ml"] for s in self.record["structures"]}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What deserves a look, a sentence each."""
        return tuple(w["text"] for w in self.record["warnings"])

    @property
    def doubt(self) -> float | None:
        """How much the result is to be doubted, from 0 to 1; None where that was not asked."""
        found: Mapping[str, Any] = self.record["doubt"] or {}
        score: float | None = found.get("score")
        return score


def process_study(
    folder: str | Path | Sequence[str | Path],
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    series: Any = None,
    options: StudyOptions | None = None,
    max_ram_gb: float | None = None,
) -> StudyResult:
    """Segment one study and write its results, in this process.

    Many studies, or those of strangers, are better given to `medseg.radiology.run_studies`, where each has a
    process of its own.

    Parameters
    ----------
    folder : path, or sequence of paths
        Folders or files of one study.
    bundle : Bundle, path or str
        A model that gives the classes of volumes of one channel.
    out : path
        The results appear in a folder below it, whole or not at all; earlier ones of the study are replaced.
    series : SeriesRules, str or int, optional
        Which series, see `medseg.io.dicom.choose_series`; a text that ends in ``.toml`` is a file of rules.
    options : StudyOptions, optional
        What is made.
    max_ram_gb : float, optional
        Bound for the memory of the process while it predicts, see `medseg.predict`.

    Returns
    -------
    StudyResult

    Raises
    ------
    Refused
        What the strict reader refuses; ``several-studies``, ``not-organs``, ``unwritable``,
        ``out-of-memory``; ``changed``, where a file is another one before the results are written.
    """
    from ..bundle import Bundle, load_bundle

    out = Path(out)
    check_writable(out)
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    check_plan(model.plan)
    paths = [folder] if isinstance(folder, str | os.PathLike) else list(folder)
    work = out / WORK / secrets.token_hex(8)
    work.mkdir(parents=True)
    try:
        record = make_study(paths, model, work, series=series, options=options, max_ram_gb=max_ram_gb)
        record["files"] = checksums(work)
        put_in_place(work, out / record["study"])
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if (out / WORK).is_dir() and not any((out / WORK).iterdir()):
            (out / WORK).rmdir()
    return StudyResult(record["study"], out / record["study"], record)


def make_study(
    paths: Sequence[str | Path],
    bundle: Bundle,
    into: Path,
    *,
    series: Any = None,
    options: StudyOptions | None = None,
    max_ram_gb: float | None = None,
    notes: Sequence[Note] = (),
) -> dict[str, Any]:
    """Write the results of a study into an empty folder and return its record, see `StudyResult`.

    The parameters are those of `process_study`; ``notes`` are what is known of the series that its files do
    not say. The same files, model, options and notes give the same bytes.
    """
    from ..inference import predict
    from ..io.dicom import find_series, measure_segments, read_series, segments_of
    from ..io.dicom.changes import unchanged
    from ..io.dicom.identity import shown_facts
    from .pages import write_study_page
    from .writing import write_results

    options = options or StudyOptions()
    heard: list[str] = []
    with _heard(heard):
        found = find_series(paths)
        chosen = _choose(found, rules_of(series))
        chosen = replace(chosen, notes=(*chosen.notes, *notes))
    with unchanged(chosen.instances):  # they are read for pixels, for checksums and for whose they are
        with _heard(heard):
            volume = read_series(chosen)
            shape = volume.image.shape
            most = (max_ram_gb or 4.0) * 1e9 * _MOST_PROBABILITIES
            keeps = options.doubt and 4 * math.prod(shape) * len(bundle.plan.target.classes) <= most
            prediction = predict(
                bundle, volume.image, max_ram_gb=max_ram_gb, flips=options.flips, probabilities=keeps
            )
            segments = segments_of(bundle.plan)
            measured = measure_segments(volume, prediction.labels, segments)
            doubted = _doubt(bundle, volume, prediction, max_ram_gb) if options.doubt else None
        record = {
            "format": _FORMAT,
            "study": study_id(chosen.study_uid),
            "series": _series_facts(volume),
            "input": inputs_facts([instance.path for instance in chosen.instances]),
            "model": {"name": bundle.name, "medseg": __version__} | model_of(bundle.path),
            "options": options.settings(),
            "structures": [_structure(m, chosen.modality, prediction.labels) for m in measured],
            "warnings": _warnings(found, volume, measured, prediction.labels, heard),
            "doubt": doubted,
            "shown": shown_facts(chosen.instances[0].path, options.tags),
        }
        write_results(into, volume, prediction, segments, measured, bundle=bundle, options=options)
        looks = write_study_page(into / PAGE, record, volume, prediction)
        (into / MEASUREMENTS).write_text(
            json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        return record | {"looks": looks}


def study_id(study_uid: str) -> str:
    """Return the name of a study in paths and lists: it tells nobody who the patient is.

    Examples
    --------
    >>> study_id("1.2.3")
    'c47f5b18b8a430e6'
    """
    return hashlib.sha256(study_uid.encode()).hexdigest()[:_ID]


def inputs_facts(paths: Sequence[Path]) -> dict[str, Any]:
    """Return how many files and bytes went in, and the sha256 of the files' sorted sha256, a line each."""
    digests, size = [], 0
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
            size += file.tell()
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    return {"files": len(paths), "bytes": size, "sha256": sha256(lines.encode())}


def rules_of(series: Any) -> SeriesRules | None:
    """Return rules for a series as `process_study` takes them: text, a number, a TOML file or the rules.

    Examples
    --------
    >>> rules_of("modality=CT").modality
    'CT'
    """
    from ..io.dicom import SeriesRules

    if series is None or isinstance(series, SeriesRules):
        return series
    if isinstance(series, int):
        return SeriesRules(number=series)
    if isinstance(series, os.PathLike) or str(series).endswith(".toml"):
        return SeriesRules.from_toml(series)
    return SeriesRules.from_text(str(series))


def _choose(found: Found, rules: SeriesRules | None) -> Series:
    from ..io.dicom import choose_series

    studies = {series.study_uid for series in found.series}
    if len(studies) > 1:
        raise Refused(
            "several-studies",
            f"the files are of {len(studies)} studies",
            expected="one",
            do="give each its own call, or all of them to 'medseg study'",
        )
    return choose_series(found, rules)


def _doubt(
    bundle: Bundle, volume: DicomVolume, prediction: Prediction, max_ram_gb: float | None
) -> dict[str, Any]:
    from .doubt import measure_doubt

    found = measure_doubt(bundle, volume.image, prediction, max_ram_gb=max_ram_gb)
    parts = {
        name: {"value": _number(part.value), "weight": _number(part.weight), "text": part.text}
        for name, part in found.parts.items()
    }
    reasons = found.reasons(absent=False)  # what is absent stands among the warnings
    score = _number(found.score)
    return {"score": score, "calibrated": found.calibrated, "reasons": reasons, "parts": parts}


def _number(value: float) -> float | None:
    """A number as JSON has it: what is not finite is unknown."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _series_facts(volume: DicomVolume) -> dict[str, Any]:
    affine = np.asarray(volume.image.affine, np.float64)
    series = volume.series
    return {
        "id": study_id(series.series_uid),
        "modality": series.modality,
        "orientation": series.orientation,
        "shape": list(volume.image.shape[1:]),
        "spacing_mm": [_number(s) for s in np.linalg.norm(affine[:3, :3], axis=0)],
    }


def _structure(measured: Measurement, modality: str, labels: npt.NDArray[np.integer]) -> dict[str, Any]:
    segment = measured.segment
    return {
        "name": segment.name,
        "value": segment.value,
        "code": str(segment.code),
        "voxels": int((labels == segment.value).sum()),
        "volume_ml": _number(measured.volume_ml),
        "mean": None if measured.mean is None else _number(measured.mean),
        "unit": "HU" if modality == "CT" else "",
    }


def _warnings(
    found: Found,
    volume: DicomVolume,
    measured: Sequence[Measurement],
    labels: npt.NDArray[np.integer],
    notes: Sequence[str],
) -> list[dict[str, str]]:
    """What deserves a look: what was repaired or passed over, what was not found, what may be cut off."""
    told = {note.code: note.text for note in (*volume.series.notes, *volume.notes)}
    counts: dict[str, int] = {}
    for skipped in found.skipped:
        counts[skipped.reason] = counts.get(skipped.reason, 0) + 1
    if counts:
        words = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
        told["files-skipped"] = (
            f"{sum(counts.values())} files of the study are no image that is read: {words}."
        )
    absent = [m.segment.name for m in measured if m.mean is None]
    if absent:
        everything = len(absent) == len(measured)
        told["not-found"] = "Nothing was found." if everything else f"Not found: {', '.join(absent)}."
    ends = {int(v) for end in (labels[..., 0], labels[..., -1]) for v in np.unique(end)}
    cut = [m.segment.name for m in measured if m.segment.value in ends]
    if cut and labels.shape[2] > 1:
        told["cut-off"] = f"Reaches the first or the last plane, and may be cut off: {', '.join(cut)}."
    for note in dict.fromkeys(notes):
        told.setdefault(f"note-{len(told)}", note)
    return [{"code": code, "text": text} for code, text in told.items()]


@contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    """Collect what medseg notes meanwhile, such as tiles that are not exact."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    handler, logger = Notes(logging.WARNING), logging.getLogger("medseg")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

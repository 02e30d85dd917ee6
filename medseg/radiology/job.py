"""What the children of a night do: read headers, and make the results of one study."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from ..errors import Refused
from .options import StudyOptions
from .results import checksums

__all__ = ["StudyJob"]

Say = Callable[..., None]
_SHARE = 0.8  # of a child's memory that may be used while it predicts; the results need some, too
_BEFORE_GB = 1.0  # taken for what is in use before: libraries, model, volume


class StudyJob:
    """The `medseg.radiology.worker.Job` of `medseg.radiology.run_studies`.

    Parameters
    ----------
    setup : mapping
        "bundle", "series" (of `SeriesRules`, or None), "options" (of `StudyOptions`), "device", "threads".
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup = setup
        self.options = StudyOptions(**_as_given(setup["options"]))
        self.bundle: Any = None

    def prepare(self, request: Mapping[str, Any]) -> None:
        """Load the model before the first study; headers are read without it."""
        if request["do"] == "scan" or self.bundle is not None:
            return
        import torch

        from ..bundle import load_bundle

        torch.set_num_threads(self.setup["threads"])
        self.bundle = load_bundle(self.setup["bundle"], device=self.setup["device"])

    def __call__(self, request: Mapping[str, Any], say: Say) -> dict[str, Any]:
        """Answer a request."""
        files = [Path(f) for f in request["files"]]
        if request["do"] == "scan":
            return _scan(files)
        try:
            return self._study(files, request, say)
        finally:
            _give_back()

    def _study(self, files: Sequence[Path], request: Mapping[str, Any], say: Say) -> dict[str, Any]:
        from ..io.dicom import Note, SeriesRules
        from .study import inputs_facts, make_study

        rules = self.setup["series"]
        say("input", input=inputs_facts(files), shown=self._shown(files))
        record = make_study(
            files,
            self.bundle,
            Path(request["work"]),
            series=None if rules is None else SeriesRules(**_as_given(rules)),
            options=self.options,
            max_ram_gb=self._room(request["memory_gb"]),
            notes=[Note(code, text) for code, text in request["notes"]],
        )
        if record["study"] != request["id"]:
            raise Refused("several-studies", "the files are of another study than their headers said before")
        return {"record": record | {"files": checksums(Path(request["work"]))}}

    def _room(self, memory_gb: float) -> float | None:
        """Return the bound for the prediction; on a GPU it has what is free there.

        What is left for tiles does not depend on what earlier studies left in use: tiles of networks that are
        not exact would be others, and so would the result.
        """
        if self.bundle.device.type != "cpu":
            return None
        used = float(psutil.Process().memory_info().rss) / 1e9
        return used + max(_SHARE * memory_gb - _BEFORE_GB, 0.1 * memory_gb)

    def _shown(self, files: Sequence[Path]) -> dict[str, str]:
        """What the lists show of a study that cannot be done: what its first readable image says."""
        from ..io.dicom.identity import shown_facts

        for path in files if self.options.tags else ():
            try:
                return shown_facts(path, self.options.tags)
            except Refused:
                continue
        return {}


def _as_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a dataclass that were JSON, which knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _scan(files: Sequence[Path]) -> dict[str, Any]:
    """Return which study each file belongs to, by number."""
    from ..io.dicom import find_series
    from .study import study_id

    numbers = {path: i for i, path in enumerate(files)}
    found = find_series(files)
    studies: dict[str, list[int]] = {}
    for series in found.series:
        for path in {Path(instance.path) for instance in series.instances}:
            studies.setdefault(study_id(series.study_uid), []).append(numbers[path])
    skipped = [[numbers[Path(s.path)], s.reason, s.text] for s in found.skipped]
    return {"studies": {study: sorted(n) for study, n in studies.items()}, "skipped": skipped}


def _give_back() -> None:
    """Hand freed memory back to the system: the next study has the same room as the first."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)

"""Files that change or vanish between two looks at them: refused with that reason, never a wrong result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_studies import slices, study, threshold_bundle

import medseg
from medseg.bundle import Bundle, load_bundle
from medseg.errors import Refused
from medseg.io.dicom import Series, choose_series, find_series, read_series, reading, write_segmentation
from medseg.io.dicom.codes import Segment, structure_named
from medseg.io.dicom.uids import Algorithm
from medseg.radiology import StudyOptions, process_study
from medseg.radiology.options import RESULTS

FIRST = "000.dcm"
SEGMENTS = [Segment(1, "liver", structure_named("liver"))]


def other(folder: Path, **tags: str) -> bytes:
    """The first slice of another patient, brighter; of the same size where the tags are as long."""
    [first] = slices(2, lift=400)[:1]
    own = slices(1)[0]
    for name, value in tags.items():
        setattr(first, name, getattr(own, name) if value == "same" else value)
    if "SOPInstanceUID" in tags:
        first.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    path = folder / "other"
    first.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def replace(file: Path) -> None:
    """Write other pixels into it; its size and time stay, as where an archive is unpacked again."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-40:] = bytes(40)
    with open(file, "r+b") as same:
        same.write(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def swap(file: Path, **tags: str) -> None:
    """Put another patient's file in its place, of the same size and time."""
    before, data = file.stat(), other(file.parent.parent, **tags)
    beside = file.parent.parent / "beside"
    beside.write_bytes(data)
    os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    beside.replace(file)


def swap_same_uid(file: Path) -> None:
    """The same with the UIDs of the old one: a patient's images under another one's name."""
    swap(file, SOPInstanceUID="same", StudyInstanceUID="same", SeriesInstanceUID="same")


CHANGES = [replace, truncate, Path.unlink, swap, swap_same_uid]


def after(name: str, change: Callable[[Path], None], file: Path, *, call: int = 1) -> Callable[[Any], Any]:
    """Wrap a function: the file changes before one of its calls."""

    def wrap(whole: Any) -> Any:
        calls = []

        def wrapped(*given: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == call:
                time.sleep(0.02)  # longer than the step of the clock of a file system
                change(file)
            return whole(*given, **options)

        return wrapped

    return wrap


def series(folder: Path) -> Series:
    return choose_series(find_series(folder))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("name", "call"),
    [("_header", 1), ("_header", 5), ("_values", 1), ("_stored", 2)],
)
def test_a_file_that_changes_while_a_series_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], name: str, call: int
) -> None:
    found = series(study(tmp_path / "in", 1))
    wrap = after(name, change, tmp_path / "in" / FIRST, call=call)
    monkeypatch.setattr(reading, name, wrap(getattr(reading, name)))
    with pytest.raises(Refused) as refused:
        read_series(found)
    assert refused.value.reason == "changed"
    assert str(tmp_path) not in str(refused.value)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_before_the_patient_is_read_from_it(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    volume = read_series(series(study(tmp_path / "in", 1)))
    time.sleep(0.02)
    change(volume.frames[0].instance.path)
    labels = np.zeros(volume.image.shape[1:], np.uint8)
    algorithm = Algorithm("organs", "0.1.0", "ab" * 32, "cd" * 32)
    with pytest.raises(Refused) as refused:
        write_segmentation(tmp_path / "out/seg.dcm", volume, labels, SEGMENTS, algorithm=algorithm)
    assert refused.value.reason == "changed"
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(threshold_bundle(tmp_path_factory.mktemp("model") / "threshold"), device="cpu")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", ["measure_segments", "write_study_page"])
def test_a_file_that_changes_while_a_study_is_worked_on(
    tmp_path: Path, model: Bundle, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], place: str
) -> None:
    import medseg.io.dicom
    import medseg.radiology.pages

    module: Any = medseg.radiology.pages if place == "write_study_page" else medseg.io.dicom
    source = study(tmp_path / "in", 1)
    wrap = after(place, change, source / "004.dcm")  # one that is read for its pixels and checksum alone
    monkeypatch.setattr(module, place, wrap(getattr(module, place)))
    options = StudyOptions(results=("segmentation",), doubt=False, show=("patient-id",))
    with pytest.raises(Refused) as refused:
        process_study(source, model, tmp_path / "out", options=options)
    assert refused.value.reason == "changed"
    assert list((tmp_path / "out").iterdir()) == []


def test_what_does_not_change_is_read_whatever_happens_beside(tmp_path: Path, model: Bundle) -> None:
    source = study(tmp_path / "in", 1)
    found = series(source)
    (source / "notes.txt").write_text("beside")
    os.rename(source / FIRST, source / "x")
    os.rename(source / "x", source / FIRST)
    volume = read_series(series(source))
    assert len(volume.frames) == len(found.instances) == 9
    assert medseg.read(source).shape == volume.image.shape
    options = StudyOptions(results=tuple(RESULTS))
    assert process_study(source, model, tmp_path / "out", options=options).volumes_ml

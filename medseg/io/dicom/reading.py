"""One series as a volume: right, repaired with a note, or refused."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import ImageReader, MetaTensor

from ...errors import Refused
from ..stored import refuse_larger_than_memory
from .changes import unchanged
from .choosing import SeriesRules, choose_series
from .decoding import LOSSY, check_pixels, stored_values
from .finding import find_series, require_pydicom
from .geometry import Grid, arrange
from .headers import Header, read_header, reading_dicom
from .model import DicomVolume, Frame, Instance, Note, Series
from .planes import Plane, planes_of

__all__ = ["DicomReader", "SeriesCheck", "check_series", "read_series"]

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class _Source:
    """One frame of one file, before anything is decoded."""

    header: Header
    instance: Instance
    frame: int
    plane: Plane


@dataclass(frozen=True)
class _Checked:
    """A series whose headers make a volume; ``copies`` claim to be the source of the same index."""

    sources: list[_Source]
    copies: list[tuple[int, _Source]]
    grid: Grid
    frame_of_reference_uid: str
    notes: list[Note]


@dataclass(frozen=True)
class SeriesCheck:
    """What a series will be as a volume: (columns, rows, planes), its affine, and what is repaired."""

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    notes: tuple[Note, ...]


def read_series(series: Series) -> DicomVolume:
    """Read a series as a volume in the patient's millimetres.

    Slices are sorted along their normal; numbers and names are not looked at. Copies, localizers and small
    differences of orientation are repaired, with a note; everything else that is not one even grid of
    measured values is refused. What is refused and why: ``docs/explanation/dicom-reading.md``.

    Parameters
    ----------
    series : Series
        As `find_series` and `choose_series` give it.

    Returns
    -------
    DicomVolume
        ``image`` is (1, columns, rows, planes), RAS+ millimetres, values rescaled: HU for CT. Integers where
        every slope and intercept is one, else float32.

    Raises
    ------
    Refused
        Before pixels are decoded: ``damaged-file``, ``mixed-frame-of-reference``, ``mixed-patients``,
        ``localizer``, ``incomplete-concatenation``, ``larger-than-memory``, and as of `arrange`,
        `planes_of` and `check_pixels`. Then ``same-uid``, and as of `stored_values`. At any time ``changed``,
        where a file is not what it was when the series was found.
    """
    with unchanged(series.instances):
        checked = _checked(series)
        notes = list(checked.notes)
        values = _values(checked, notes)
    ordered = [checked.sources[i] for i in checked.grid.order]
    image = MetaTensor(
        values,
        affine=checked.grid.affine.copy(),
        meta={"spacing_unit": "mm", "original_dtype": str(values.dtype)},
    )
    return DicomVolume(
        image=image,
        series=series,
        frames=tuple(Frame(s.instance, s.frame + 1) for s in ordered),
        frame_of_reference_uid=checked.frame_of_reference_uid,
        notes=tuple(dict.fromkeys(notes)),
    )


def check_series(series: Series) -> SeriesCheck:
    """Check a series as `read_series` does, without decoding a pixel.

    Raises
    ------
    Refused
        As `read_series` before pixels are decoded.
    """
    with unchanged(series.instances):
        checked = _checked(series)
    plane = checked.sources[0].plane
    return SeriesCheck(
        (plane.columns, plane.rows, len(checked.sources)), checked.grid.affine, tuple(checked.notes)
    )


def _checked(series: Series) -> _Checked:
    require_pydicom()
    if series.damaged:
        reasons = ", ".join(sorted({s.reason for s in series.damaged}))
        raise Refused(
            "damaged-file",
            f"{len(series.damaged)} files beside the series cannot be read, and may be slices of it",
            got=reasons,
            do="send the study again, or take them out if they are none",
        )
    notes = list(series.notes)
    headers = [_header(instance) for instance in series.instances]
    sources = _without_localizers(_sources(headers, series.instances, notes), notes)
    frame_of_reference = _check_identity(headers, notes)
    sources, copies = _apart(sources)
    grid = arrange([s.plane for s in sources])
    return _Checked(sources, copies, grid, frame_of_reference, [*notes, *grid.notes])


def _header(instance: Instance) -> Header:
    header = read_header(instance.path)
    if header.sop_instance_uid != instance.sop_instance_uid:
        raise Refused("changed", "a file of the series was changed since it was found", do="start again")
    return header


def _check_identity(headers: Sequence[Header], notes: list[Note]) -> str:
    """Refuse images of several patients or frames of reference; return the frame of reference."""
    with reading_dicom():
        patients = {_text(h, 0x00100020) for h in headers}
        frames = {_text(h, 0x00200052) for h in headers}
        parts = [_part(h) for h in headers if _text(h, 0x00209161)]
    if len(patients) > 1:
        raise Refused(
            "mixed-patients", "images of several patients in one series", got=len(patients), expected=1
        )
    if len(frames) > 1:
        raise Refused(
            "mixed-frame-of-reference",
            "images in several frames of reference in one series",
            got=len(frames),
            expected=1,
            do="separate them",
        )
    for uid in {uid for uid, _, _ in parts}:
        numbers = {number for other, number, _ in parts if other == uid}
        total = max(total for other, _, total in parts if other == uid)
        if numbers != set(range(1, max(total, *numbers) + 1)):
            raise Refused(
                "incomplete-concatenation",
                "parts of an enhanced object are missing",
                got=len(numbers),
                expected=max(total, *numbers),
                do="send the series again",
            )
    (uid,) = frames
    if not uid:
        notes.append(Note("no-frame-of-reference", "the images name no frame of reference"))
    return uid


def _part(header: Header) -> tuple[str, int, int]:
    """Of which concatenation an object is a part, its number in it, and how many there are, 0 if unsaid."""
    number, total = _text(header, 0x00209162), _text(header, 0x00209163)
    return _text(header, 0x00209161), int(number or 0), int(total or 0)


def _text(header: Header, tag: int) -> str:
    element = header.dataset.get(tag)
    return "" if element is None or element.value is None else str(element.value).strip("\0 ")


def _sources(headers: Sequence[Header], instances: Sequence[Instance], notes: list[Note]) -> list[_Source]:
    """List the frames; every file is checked to be whole before one is decoded."""
    found = []
    for header, instance in zip(headers, instances):
        planes = planes_of(header)
        check_pixels(header, planes[0].rows, planes[0].columns, len(planes))
        found += [_Source(header, instance, k, plane) for k, plane in enumerate(planes)]
    units = {s.plane.unit for s in found if _text(s.header, 0x00080060) == "CT"} - {"", "HU", "US"}
    if units:
        notes.append(Note("not-hounsfield", "the values of this CT are no Hounsfield units, by its header"))
    lossy = sum(_is_lossy(header) for header in headers)
    if lossy:
        notes.append(Note("lossy", f"{lossy} images were compressed with loss; values are not exact"))
    return found


def _is_lossy(header: Header) -> bool:
    return header.transfer_syntax_uid in LOSSY or _text(header, 0x00282110) == "01"


def _without_localizers(sources: list[_Source], notes: list[Note]) -> list[_Source]:
    kept = [s for s in sources if not s.plane.localizer]
    if not kept:
        raise Refused(
            "localizer",
            "the series holds localizers alone",
            got=f"{len(sources)} images",
            do="choose another series",
        )
    if len(kept) < len(sources):
        notes.append(Note("localizers-dropped", f"{len(sources) - len(kept)} localizers are left out"))
    return kept


def _apart(sources: list[_Source]) -> tuple[list[_Source], list[tuple[int, _Source]]]:
    """Part files that carry the UID of another from those: they must turn out to hold the same."""
    first: dict[tuple[str, int], int] = {}
    kept: list[_Source] = []
    copies = []
    for source in sources:
        key = (source.instance.sop_instance_uid, source.frame)
        if key in first:
            copies.append((first[key], source))
            continue
        first[key] = len(kept)
        kept.append(source)
    return kept, copies


def _values(checked: _Checked, notes: list[Note]) -> npt.NDArray[Any]:
    """Decode and rescale: (1, columns, rows, planes)."""
    sources, copies = checked.sources, checked.copies
    plane = sources[0].plane
    place = {index: k for k, index in enumerate(checked.grid.order)}
    whole = all(_is_whole(s.plane.slope) and _is_whole(s.plane.intercept) for s in sources)
    shape = (1, plane.columns, plane.rows, len(sources))
    refuse_larger_than_memory(int(np.prod(shape)) * 4, "the series")
    volume = np.empty(shape, np.int32 if whole else np.float32)
    doubles = defaultdict(list)
    for index, copy in copies:
        doubles[copy.header.path].append((index, copy))
    for _, frames in _by_file(sources):
        stored = _stored(sources[frames[0]])
        for index in frames:
            source = sources[index]
            with np.errstate(over="ignore"):  # infinity is refused below
                volume[0, :, :, place[index]] = _rescaled(stored[source.frame], source.plane, whole)
    for pairs in doubles.values():
        stored = _stored(pairs[0][1])
        for index, copy in pairs:
            same = copy.plane == sources[index].plane and np.array_equal(
                _rescaled(stored[copy.frame], copy.plane, whole), volume[0, :, :, place[index]]
            )
            if not same:
                raise Refused(
                    "same-uid",
                    "two files claim to be the same image, and are not",
                    do="find out which of them belongs to the series",
                )
    if doubles:
        notes.append(Note("copies-dropped", f"{len(doubles)} files hold an image that is there already"))
    if not whole and not np.isfinite(volume).all():
        raise Refused("non-finite", "rescaled values are infinite", do="export the series again")
    if whole and volume.min() >= -(2**15) and volume.max() < 2**15:
        return volume.astype(np.int16)
    return volume


def _by_file(sources: Sequence[_Source]) -> list[tuple[Path, list[int]]]:
    files: dict[Path, list[int]] = defaultdict(list)
    for index, source in enumerate(sources):
        files[source.header.path].append(index)
    return list(files.items())


def _stored(source: _Source) -> npt.NDArray[Any]:
    plane = source.plane
    return stored_values(source.header, plane.rows, plane.columns, source.instance.frames)


def _is_whole(value: float) -> bool:
    return value.is_integer() and abs(value) < 2**30


def _rescaled(stored: npt.NDArray[Any], plane: Plane, whole: bool) -> npt.NDArray[Any]:
    """Rescale (rows, columns) and turn it to (columns, rows)."""
    if whole:
        values = stored.astype(np.int64) * int(plane.slope) + int(plane.intercept)
        if int(values.min()) < -(2**31) or int(values.max()) >= 2**31:
            raise Refused(
                "bad-number",
                "rescaled values are too large",
                got=int(np.abs(values).max()),
                expected="less than 2**31",
            )
        return values.T
    return (stored.astype(np.float64) * plane.slope + plane.intercept).T


class DicomReader(ImageReader):  # type: ignore[misc]
    """Reader of DICOM series for MONAI's LoadImage and LoadImaged: a folder, or the files of one series.

    Parameters
    ----------
    series : SeriesRules, str or int, optional
        Which series, where a folder holds several.

    Examples
    --------
    >>> from monai.transforms import LoadImaged
    >>> from medseg.io import DicomReader
    >>> load = LoadImaged(["image"], reader=DicomReader(series="modality=CT"))
    """

    def __init__(self, *, series: SeriesRules | str | int | None = None) -> None:
        self.series = series

    def verify_suffix(self, filename: AnyPath | Sequence[AnyPath]) -> bool:
        """Tell that folders and files of any name are tried: DICOM files need no suffix."""
        return True

    def read(self, data: AnyPath | Sequence[AnyPath], **kwargs: Any) -> tuple[str, ...]:
        """Hand the paths on; LoadImage swallows what `read` raises, so all is done in `get_data`."""
        if kwargs:
            raise Refused("unknown-option", "DicomReader takes no reading options", got=sorted(kwargs))
        return (
            (os.fspath(data),)
            if isinstance(data, str | os.PathLike)
            else tuple(os.fspath(path) for path in data)
        )

    def get_data(self, img: Sequence[str]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Read the series and return (1, columns, rows, planes) with its metadata."""
        volume = self.volume(img)
        affine = np.asarray(volume.image.affine, np.float64)
        array = volume.image.numpy()
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(array.shape[1:]),
            "original_channel_dim": 0,
            "spacing_unit": "mm",
            "original_dtype": str(array.dtype),
            "notes": [note.text for note in volume.notes],
        }
        return array, meta

    def volume(self, paths: AnyPath | Sequence[AnyPath]) -> DicomVolume:
        """Find, choose and read the series."""
        return read_series(choose_series(find_series(paths), self.series))

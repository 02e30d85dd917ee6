"""The series in a folder, by headers alone: one bad file never hides the others."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from ...errors import Refused
from ..paths import natural_key
from .geometry import orientation_of
from .headers import Header, read_header, reading_dicom
from .model import Instance, Note, Series, SkippedFile
from .planes import Plane, frames_of, planes_of

__all__ = ["Found", "find_series"]

AnyPath = str | os.PathLike[str]

#: Reasons for which a file may be a part of a series all the same.
_DAMAGED = {"truncated", "unreadable", "deflated", "no-file-meta", "oversized-header", "bad-uid"}
#: Modalities of images, PS3.3 C.7.3.1.1.1: what is told of a series is one of them, no free text.
_MODALITIES = {"AR", "BMD", "CR", "CT", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT"}
_MODALITIES |= {"OP", "OPT", "OT", "PA", "PT", "PX", "RF", "RG", "RTIMAGE", "SM", "SMR", "US", "XA", "XC"}
_MADE = "the UIDs of study or series are empty; others are made from those of the images"


@dataclass(frozen=True)
class Found:
    """The series of a folder or of a list of files, and the files that are no part of one."""

    series: tuple[Series, ...]
    skipped: tuple[SkippedFile, ...] = ()


@dataclass(frozen=True)
class _Member:
    """One readable image file: what is kept of its header."""

    header: Header
    instance: Instance
    frame_of_reference_uid: str
    planes: tuple[Plane, ...]
    refusal: str


def find_series(paths: AnyPath | Sequence[AnyPath]) -> Found:
    """Find the series in folders, which are searched with all their subfolders, and in lists of files.

    Parameters
    ----------
    paths : path or sequence of paths
        Folders and files; links to folders are not followed.

    Returns
    -------
    Found
        Series in the order of their UIDs, numbered from 1: images that share study, series and frame of
        reference. Files that are no image, or are damaged, are in ``skipped`` with a reason; a file that is
        there twice, byte for byte, counts once.

    Raises
    ------
    Refused
        ``not-found``, ``no-files``, ``not-installed``; never for what one file holds.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "notes.txt").write_text("nothing here")
    >>> found = find_series(folder)
    >>> found.series, found.skipped[0].reason
    ((), 'not-dicom')
    """
    require_pydicom()
    members: dict[tuple[str, str, str], list[_Member]] = defaultdict(list)
    skipped: list[SkippedFile] = []
    for path in _files([paths] if isinstance(paths, str | os.PathLike) else paths):
        try:
            header = read_header(path)
            member = _member(header)
        except Refused as error:
            skipped.append(SkippedFile(path, error.reason, error.sentence))
        except OSError as error:
            skipped.append(SkippedFile(path, "unreadable", f"the file cannot be read: {error.strerror}."))
        else:
            # without a series UID, the folder is what keeps images together
            folder = "" if header.series_uid else str(path.parent)
            members[header.study_uid, header.series_uid, folder].append(member)
    series: list[Series] = []
    for key in sorted(members):
        kept, copies = _without_copies(members[key])
        skipped += copies
        for group in _by_frame_of_reference(kept):
            series.append(_series(group, len(series) + 1, skipped, len(copies)))
    return Found(tuple(series), tuple(skipped))


def require_pydicom() -> None:
    """Refuse to read DICOM where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise Refused(
            "not-installed", "DICOM needs pydicom", do="install it: pip install 'medseg[dicom]'"
        ) from error


def _files(paths: Sequence[AnyPath]) -> Iterator[Path]:
    """Walk folders and lists in natural order; every file once."""
    if not paths:
        raise Refused("no-files", "an empty list of files", expected="at least one path")
    seen = set()
    for given in paths:
        if not os.path.lexists(given):
            raise Refused("not-found", f"no such file or folder '{os.fspath(given)}'", do="check the path")
        for path in _below(Path(given)):
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield path


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: natural_key(entry.name))
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))
        elif not os.path.isdir(entry.path):  # a link to a folder may lead back to where it lies
            yield Path(entry.path)


def _member(header: Header) -> _Member:
    with reading_dicom():
        element = header.dataset.get(0x00200052)
        frame_of_reference = str(element.value or "").strip("\0 ") if element is not None else ""
    instance = Instance(
        header.path,
        header.sop_class_uid,
        header.sop_instance_uid,
        header.transfer_syntax_uid,
        seen=header.seen,
    )
    try:
        planes = tuple(planes_of(header))
    except Refused as error:
        return _Member(header, instance, frame_of_reference, (), error.reason)
    return _Member(header, replace(instance, frames=frames_of(header)), frame_of_reference, planes, "")


def _without_copies(members: list[_Member]) -> tuple[list[_Member], list[SkippedFile]]:
    """Keep one of the files that are equal byte for byte."""
    copies = []
    count = Counter((m.instance.sop_instance_uid, m.header.size) for m in members)
    seen: set[tuple[str, str]] = set()
    kept = []
    for member in members:
        uid = member.instance.sop_instance_uid
        if count[uid, member.header.size] > 1:
            key = (uid, _digest(member.header.path))
            if key in seen:
                copies.append(SkippedFile(member.header.path, "copy", "the same file is there twice."))
                continue
            seen.add(key)
        kept.append(member)
    return kept, copies


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_frame_of_reference(members: list[_Member]) -> Iterable[list[_Member]]:
    """Part a series whose images lie in several frames of reference; images that name none go with one."""
    groups: dict[str, list[_Member]] = defaultdict(list)
    for member in members:
        groups[member.frame_of_reference_uid].append(member)
    if len(groups) == 2 and "" in groups:
        return [members]
    return [groups[uid] for uid in sorted(groups)]


def _series(members: list[_Member], number: int, skipped: Sequence[SkippedFile], copies: int) -> Series:
    first = members[0].header
    folders = {m.header.path.parent for m in members}
    planes = [plane for m in members for plane in m.planes]
    usable = [plane for plane in planes if not plane.localizer]
    thickness = [p.thickness for p in usable if p.thickness is not None]
    orientations = {orientation_of(p) for p in usable}
    with reading_dicom():
        texts = [_words(first, tag) for tag in (0x00080060, 0x0008103E, 0x00080008)]
    image_type = next((p.traits["image type"] for p in usable if "image type" in p.traits), None)
    beside = [s for s in skipped if s.path.parent in folders]
    seed = sorted(m.instance.sop_instance_uid for m in members)
    made = [] if first.study_uid and first.series_uid else [Note("uids-made", _MADE)]
    return Series(
        study_uid=first.study_uid or _made_uid("study", seed),
        series_uid=first.series_uid or _made_uid("series", seed),
        modality=texts[0] if texts[0] in _MODALITIES else "",
        instances=tuple(m.instance for m in members),
        number=number,
        description=texts[1][:64],
        image_type=image_type or tuple(t for t in texts[2].split("\\") if t),
        orientation=orientations.pop() if len(orientations) == 1 else "",
        thickness_mm=float(median(thickness)) if thickness else None,
        notes=(*made, *_notes(beside, copies)),
        frame_of_reference_uid=next((u for m in members if (u := m.frame_of_reference_uid)), ""),
        no_volume=_no_volume(members),
        damaged=tuple(s for s in skipped if _may_belong(s, folders)),
    )


def _made_uid(what: str, seed: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join((what, *seed)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _words(header: Header, tag: int) -> str:
    element = header.dataset.get(tag)
    text = "" if element is None or element.value is None else str(element.value)
    if not isinstance(getattr(element, "value", ""), str) and element is not None and element.VM > 1:
        text = "\\".join(str(v) for v in element.value)
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _no_volume(members: Sequence[_Member]) -> str:
    """Say why images can be no volume, where that is so for all of them."""
    planes = [plane for m in members for plane in m.planes]
    if planes:
        return "localizer" if all(p.localizer for p in planes) else ""
    if all(m.refusal in ("no-geometry", "no-spacing", "colour", "inverted") for m in members):
        return members[0].refusal
    return ""


def _notes(beside: Sequence[SkippedFile], copies: int) -> tuple[Note, ...]:
    others = Counter(s.reason for s in beside if s.reason != "copy")
    notes = []
    if copies:
        notes.append(Note("copies-dropped", f"{copies} files are there twice, byte for byte"))
    if others:
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(others.items()))
        notes.append(Note("files-skipped", f"{sum(others.values())} files beside are no images: {told}"))
    return tuple(notes)


def _may_belong(skipped: SkippedFile, folders: set[Path]) -> bool:
    """Tell whether a file that cannot be read may be a slice of a series that lies in these folders."""
    damaged = skipped.reason in _DAMAGED or (
        skipped.reason == "empty-file" and skipped.path.suffix.lower() in (".dcm", ".ima", ".dicom")
    )
    return damaged and skipped.path.parent in folders

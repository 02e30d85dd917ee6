"""Which studies there are: files by the study that their headers name, and what belongs to none."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..batch import Failure
from ..errors import Refused

__all__ = ["FoundStudies", "Item", "check_folders", "group", "inputs_of", "list_files"]

_ID = 16  # hexadecimal digits
# file -> (id of its study or "", reason and sentence why there is none)
Scan = Callable[[Sequence[Path]], Iterator[tuple[Path, str, str, str]]]


@dataclass(frozen=True)
class Item:
    """A study to do, or a folder in which there is none.

    Attributes
    ----------
    id : str
        16 hexadecimal digits: of the checksum of the study's UID, or of the folder's path.
    files : tuple of Path
        Those of the study, and those beside them that belong to no study; sorted.
    folder : Path
        The nearest folder that holds them all.
    problem : Failure, optional
        Why it is no study.
    notes : tuple of (str, str)
        What is known of it that its files do not say: codes and sentences, for its results.
    """

    id: str
    files: tuple[Path, ...]
    folder: Path
    problem: Failure | None = None
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class FoundStudies:
    """What the folders hold: items, and how many files, by reason, belong to no item."""

    items: tuple[Item, ...]
    ignored: Mapping[str, int]


def list_files(folders: Sequence[str | Path]) -> dict[Path, list[Path]]:
    """Return each folder with its regular files, those of folders in it, too, in the order of their names.

    Links to folders are not followed; pipes and devices, which may never end, are left out.

    Raises
    ------
    Refused
        ``not-found``, ``not-a-folder``.
    """
    found: dict[Path, list[Path]] = {}
    for root in check_folders(folders):
        files = found.setdefault(root, [])
        for place, below, names in os.walk(root):
            below.sort()
            files += [Path(place, name) for name in sorted(names) if _is_file(os.path.join(place, name))]
    return found


def check_folders(folders: Sequence[str | Path]) -> list[Path]:
    """Return the folders' absolute paths; one that is none is refused.

    Raises
    ------
    Refused
        ``not-found``, ``not-a-folder``.
    """
    for given in folders:
        # the name of the folder is the user's own word; those of what lies in it are never told
        if not Path(given).exists():
            raise Refused("not-found", f"no folder '{given}'", do="check the path")
        if not Path(given).is_dir():
            raise Refused("not-a-folder", f"'{given}' is a file", expected="a folder of DICOM files")
    return [Path(os.path.abspath(given)) for given in folders]


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def group(listed: Mapping[Path, Sequence[Path]], scan: Scan) -> FoundStudies:
    """Group files to studies.

    A file that belongs to no study goes with those in its folder or in the nearest folder above that holds
    some, or with the only one below it. A loose file above several studies is counted. A folder without any
    study in or around it is an item of its own, with a problem: what somebody sent is never left out in
    silence.

    Parameters
    ----------
    listed : mapping of Path to sequence of Path
        From `list_files`.
    scan : callable
        Yields for each file its study.
    """
    studies: dict[str, list[Path]] = {}
    strangers: dict[Path, tuple[str, str]] = {}
    seen: set[Path] = set()
    for files in listed.values():
        for path, study, reason, text in scan([f for f in files if f not in seen]):
            if study:
                studies.setdefault(study, []).append(path)
            else:
                strangers[path] = (reason, text)
        seen.update(files)
    homes: dict[Path, list[str]] = {}  # folder -> studies with files directly in it
    for study, files in studies.items():
        for folder in {f.parent for f in files}:
            homes.setdefault(folder, []).append(study)
    above = {parent for home in homes for parent in (home, *home.parents)}
    lost: dict[Path, list[Path]] = {}
    ignored: dict[str, int] = {}
    for root, files in listed.items():
        for path in files:
            if path not in strangers:
                continue
            near = next((p for p in _up(path.parent, root) if p in homes), None)
            if near is not None:
                for study in homes[near]:
                    studies[study].append(path)
            elif path.parent != root and len(under := _below(path.parent, homes)) == 1:
                studies[under.pop()].append(path)  # such as a list of the series of one study
            elif path.parent in above:  # a loose file above several studies
                reason = strangers[path][0]
                ignored[reason] = ignored.get(reason, 0) + 1
            else:
                lost.setdefault(_highest(path.parent, root, above), []).append(path)
        for folder in _empty(root, homes, files):
            lost.setdefault(folder, [])
    items = [Item(study, tuple(sorted(set(f))), _home(f)) for study, f in studies.items()]
    for folder, those in lost.items():
        study = _id_of(folder)
        problem = _problem(study, [strangers[path] for path in those])
        items.append(Item(study, tuple(sorted(those)), folder, problem))
    return FoundStudies(tuple(sorted(items, key=lambda item: (item.folder, item.id))), ignored)


def _up(folder: Path, root: Path) -> Iterator[Path]:
    """A folder and those above it, up to the one that was named."""
    while True:
        yield folder
        if folder == root:
            return
        folder = folder.parent


def _below(folder: Path, homes: Mapping[Path, Sequence[str]]) -> set[str]:
    """Studies with files in a folder or deeper."""
    return {study for home, those in homes.items() if home.is_relative_to(folder) for study in those}


def _highest(folder: Path, root: Path, above: set[Path]) -> Path:
    """The highest folder in the named one that has no study in it; the named one only where that is all."""
    chain = list(_up(folder, root))
    free = [p for p in chain if p not in above]
    return free[-2] if len(free) == len(chain) > 1 else free[-1]


def _empty(root: Path, homes: Mapping[Path, Sequence[str]], files: Sequence[Path]) -> list[Path]:
    """Folders directly in the named one, or itself, that hold no file at all."""
    holding = {parent for f in files for parent in _up(f.parent, root)}
    if not any(root.iterdir()):
        return [root]
    if root in homes:
        return []  # the folder of one study may have empty folders in it
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.is_symlink() and p not in holding]


def _home(files: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([f.parent for f in files]))


def _id_of(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:_ID]


def _problem(study: str, reasons: Sequence[tuple[str, str]]) -> Failure:
    """What to say of files of which none belongs to a study: how many, by what is wrong with each."""
    if not reasons:
        return Failure(study, "empty-study", "the folder is empty.")
    counts: dict[str, int] = {}
    for reason, _ in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    files = "1 file" if len(reasons) == 1 else f"{len(reasons)} files"
    return Failure(study, "no-study", f"no file of the folder names its study ({files}: {told}).")


def inputs_of(files: Iterable[Path]) -> str:
    """Return what tells whether files have changed: a checksum of their sizes and times.

    A file that is gone counts, too.
    """
    facts = []
    for path in files:
        try:
            about = path.stat()
            facts.append(f"{about.st_size} {about.st_mtime_ns}")
        except OSError:
            facts.append("gone")
    return hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()


def as_request(files: Sequence[Path]) -> dict[str, Any]:
    """Return files as a request holds them."""
    return {"files": [os.fspath(f) for f in files]}

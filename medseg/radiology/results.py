"""Folders of results that appear whole: written beside, made safe on the disk, renamed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import sync_folder

__all__ = ["WORK", "checksums", "is_whole", "put_in_place"]

WORK = ".work"


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> sha256 and bytes of the files of a folder, and let the disk have them.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("whole")
    >>> checksums(folder)["a"]["bytes"]
    5
    """
    found = {}
    for path in sorted(folder.iterdir()):
        with open(path, "rb") as file:
            found[path.name] = {
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                "bytes": path.stat().st_size,
            }
            os.fsync(file.fileno())
    sync_folder(folder)
    return found


def is_whole(folder: Path, files: Mapping[str, Mapping[str, Any]], *, closely: bool = False) -> bool:
    """Tell whether a folder holds these files and no others, by their sizes or, closely, by their content."""
    if not folder.is_dir() or {p.name for p in folder.iterdir()} != set(files):
        return False
    for name, about in files.items():
        path = folder / name
        if path.stat().st_size != about["bytes"]:
            return False
        if closely:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
                    return False
    return True


def put_in_place(work: Path, place: Path) -> None:
    """Rename a finished folder to its place; an earlier one there is taken away.

    Killed between the two renames nothing is at the place, and the finished folder is still there to be
    renamed.
    """
    if place.exists():
        old = work.with_name(work.name + "-old")
        os.rename(place, old)
        os.rename(work, place)
        shutil.rmtree(old)
    else:
        os.rename(work, place)
    sync_folder(place.parent)

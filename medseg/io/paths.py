"""Names of image files: suffixes, stems, natural order, and what is wrong with a path before it is opened."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from ..errors import Refused

__all__ = [
    "IMAGE_SUFFIXES",
    "existing_file",
    "find_images",
    "is_zarr_name",
    "known_suffix",
    "natural_key",
    "stem_of",
    "suffix_of",
]

PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
TIFF_SUFFIXES = (".tif", ".tiff", ".ome.tif", ".ome.tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd")
ZARR_SUFFIXES = (".zarr", ".ome.zarr")  # folders

#: Every suffix that `read` knows, in lower case.
IMAGE_SUFFIXES: tuple[str, ...] = PIL_SUFFIXES + TIFF_SUFFIXES + NIFTI_SUFFIXES + ITK_SUFFIXES + ZARR_SUFFIXES

_LONGEST_FIRST = sorted(IMAGE_SUFFIXES, key=len, reverse=True)
_NOT_IMAGES = {"thumbs.db", "desktop.ini"}


def suffix_of(path: str | os.PathLike[str]) -> str:
    """Return the image suffix of a path in lower case, or ``""`` where it is none that `read` knows.

    Examples
    --------
    >>> from medseg.io import suffix_of
    >>> suffix_of("scan.NII.GZ"), suffix_of("cells.ome.tif"), suffix_of("notes.txt")
    ('.nii.gz', '.ome.tif', '')
    """
    name = os.path.basename(os.fspath(path)).lower()
    return next((s for s in _LONGEST_FIRST if name.endswith(s)), "")


def stem_of(path: str | os.PathLike[str]) -> str:
    """Return the file name without its image suffix, however many dots that has.

    Examples
    --------
    >>> from medseg.io import stem_of
    >>> stem_of("a/scan.01.nii.gz")
    'scan.01'
    """
    name = os.path.basename(os.fspath(path))
    suffix = suffix_of(name)
    return name[: len(name) - len(suffix)] if suffix else os.path.splitext(name)[0]


def natural_key(name: str | os.PathLike[str]) -> tuple[tuple[str | int, ...], str]:
    """Return a sorting key that puts ``a2`` before ``a10``.

    Examples
    --------
    >>> from medseg.io import natural_key
    >>> sorted(["a10.png", "a2.png"], key=natural_key)
    ['a2.png', 'a10.png']
    """
    text = os.fspath(name)
    # split keeps the digits at odd places, so numbers are only ever compared with numbers
    parts = re.split(r"([0-9]+)", text)
    return tuple(int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)), text


def is_image_name(name: str) -> bool:
    """Tell whether a file name is that of an image, hidden files and litter of file managers excepted."""
    return not name.startswith(".") and name.lower() not in _NOT_IMAGES and bool(suffix_of(name))


def is_zarr_name(name: str | os.PathLike[str]) -> bool:
    """Tell whether a name is that of a Zarr image, which is a folder."""
    return suffix_of(name) in ZARR_SUFFIXES


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the images of one folder in natural order; its subfolders are not searched.

    Parameters
    ----------
    folder : path
        The folder. Hidden files, ``Thumbs.db`` and files of unknown suffix are passed over; folders, too,
        but for Zarr images.

    Returns
    -------
    list of Path
        The images, ``a2.png`` before ``a10.png``; empty where there are none.

    Raises
    ------
    Refused
        ``not-found`` or ``not-a-folder``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from medseg.io import find_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b10.png", "b9.tif", ".hidden.png", "notes.txt"):
    ...         pathlib.Path(folder, name).touch()
    ...     [path.name for path in find_images(folder)]
    ['b9.tif', 'b10.png']
    """
    root = existing_folder(folder)
    with os.scandir(root) as entries:
        names = [e.name for e in entries if is_image_name(e.name) and e.is_dir() == is_zarr_name(e.name)]
    return [root / name for name in sorted(names, key=natural_key)]


def existing_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder as a Path, or refuse."""
    root = Path(folder)
    if not root.exists():
        raise Refused("not-found", f"no such folder '{root}'", do="check the path")
    if not root.is_dir():
        raise Refused(
            "not-a-folder", f"'{root}' is a file", expected="a folder", do="give the folder it lies in"
        )
    return root


def known_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of an image path, or refuse with the nearest one that is known."""
    suffix = suffix_of(path)
    if suffix:
        return suffix
    name = os.path.basename(os.fspath(path))
    if os.path.splitext(name.lower().removesuffix(".gz"))[1] in (".hdr", ".img"):
        raise Refused(
            "unknown-suffix",
            f"'{name}' is half of a pair of files, NIfTI or Analyze, which is not read",
            do="convert it from its source to .nii.gz; Analyze does not say which side is left",
        )
    mine = os.path.splitext(name)[1].lower()
    close = difflib.get_close_matches(mine, IMAGE_SUFFIXES, n=1, cutoff=0.6) if mine else []
    raise Refused(
        "unknown-suffix",
        f"cannot tell the format of '{name}' from its name",
        got=f"suffix '{mine}'" if mine else "no suffix",
        expected=f"one of {' '.join(IMAGE_SUFFIXES)}",
        do=f"did you mean '{close[0]}'?" if close else "convert or rename the file",
    )


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of an image file that exists, is no folder and is not empty, or refuse."""
    file = Path(path)
    if is_zarr_name(file) and file.is_dir():
        return file
    if file.is_dir():
        raise Refused(
            "is-a-folder",
            f"'{file}' is a folder",
            expected="one image file",
            do="name a file in it",
        )
    if not file.exists():
        raise Refused("not-found", f"no such image '{file}'", do="check the path")
    known_suffix(file)
    if file.stat().st_size == 0:
        raise Refused("empty-file", f"'{file}' has zero bytes", do="copy it again from its source")
    return file

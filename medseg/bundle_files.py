"""The files of a bundle, wherever they lie: where it is, reading them, and their checksums."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from .errors import Refused, did_you_mean

__all__ = [
    "CARD",
    "DOUBT",
    "GOLDEN",
    "PLAN",
    "SHIPPED",
    "SUMS",
    "WEIGHTS",
    "BundleFiles",
    "bundle_names",
    "find_bundle",
    "is_bundle",
    "sha256",
    "sizes_in_zip",
]

PLAN, WEIGHTS, CARD, GOLDEN, SUMS = (
    "plan.toml",
    "weights.safetensors",
    "card.md",
    "golden.safetensors",
    "sha256sums.txt",
)
DOUBT = "doubt.toml"  # not every bundle has it
SHIPPED = Path(__file__).parent / "bundles"


def bundle_names() -> list[str]:
    """Return the names of the bundles that are shipped with the package.

    Examples
    --------
    >>> isinstance(bundle_names(), list)
    True
    """
    return sorted(p.parent.name for p in SHIPPED.glob(f"*/{PLAN}"))


def find_bundle(path_or_name: str | Path) -> Path:
    """Return the folder or zip file of a bundle: its own path, that of a run which holds it, or its name.

    Raises
    ------
    Refused
        ``unknown-bundle``.

    Examples
    --------
    >>> find_bundle("nuclei").name
    'nuclei'
    """
    path = Path(path_or_name)
    for place in (path, path / "bundle", SHIPPED / path_or_name):
        if (place / PLAN).is_file() and (place / WEIGHTS).is_file():
            return place
    if path.is_file() and zipfile.is_zipfile(path):
        return path
    if path.exists():
        raise Refused(
            "unknown-bundle",
            f"'{path}' is not a bundle",
            expected=f"a folder or zip file with {PLAN} and {WEIGHTS}, or a finished run",
            do="name the folder that 'medseg train' wrote",
        )
    hint = did_you_mean(str(path_or_name), bundle_names())
    raise Refused(
        "unknown-bundle", f"no bundle '{path_or_name}'", do=hint or "name the folder of a bundle or run"
    )


def is_bundle(path_or_name: str | Path) -> bool:
    """Tell whether this is a bundle: its folder or zip file, a run that holds one, or a shipped one's name.

    Examples
    --------
    >>> is_bundle("nuclei"), is_bundle("nuclei.pth")
    (True, False)
    """
    try:
        place = find_bundle(path_or_name)
    except Refused:
        return False
    return place.is_dir() or any(name.rpartition("/")[2] == WEIGHTS for name in sizes_in_zip(place))


def sizes_in_zip(path: Path) -> dict[str, int]:
    """Return the names of what a zip file holds and their bytes; nothing where it is none.

    Examples
    --------
    >>> sizes_in_zip(Path(__file__))
    {}
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return {}


class BundleFiles:
    """The files of a bundle, in a folder or a zip file.

    Parameters
    ----------
    path : Path
        From `find_bundle`.

    Raises
    ------
    Refused
        ``bad-bundle`` where a file is missing, or is not as it was written.

    Examples
    --------
    >>> files = BundleFiles(find_bundle("nuclei"))
    >>> files.check_sums()
    >>> files.text(PLAN).splitlines()[1]
    'format = 1'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: Callable[[str], bytes] = self._from_folder if path.is_dir() else self._from_zip

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        try:
            return self._read(name)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise Refused(
                "bad-bundle", f"'{self.path}' lacks {name}", do="copy the whole bundle again"
            ) from error

    def text(self, name: str) -> str:
        """Return the text of a file."""
        return self.read(name).decode("utf-8")

    def has(self, name: str) -> bool:
        """Tell whether a file belongs to the bundle: it is one of those that have a checksum."""
        return any(line.partition("  ")[2] == name for line in self.text(SUMS).splitlines())

    def check_sums(self) -> None:
        """Refuse a bundle of which a file is not as it was written."""
        for line in self.text(SUMS).splitlines():
            expected, _, name = line.partition("  ")
            if name in (PLAN, WEIGHTS, CARD, GOLDEN, DOUBT) and sha256(self.read(name)) != expected:
                raise Refused(
                    "bad-bundle",
                    f"{name} of '{self.path}' is not as it was written: its checksum differs",
                    do="copy the bundle again, or write a new one after a change",
                )

    def _from_folder(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def _from_zip(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            inside = next(n for n in [*archive.namelist(), name] if n == name or n.endswith("/" + name))
            return archive.read(inside)


def sha256(content: bytes) -> str:
    """Return the checksum of bytes in hexadecimal digits.

    Examples
    --------
    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()

"""Files that appear whole or not at all: write beside, then rename; and secrets that nobody else can read."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import Refused

__all__ = ["check_private", "check_writable", "replacing", "sweep", "sync_folder", "write_text"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it into place when the block ends well.

    Parameters
    ----------
    path : str or Path
        The file that shall appear. Its folder is created.

    Yields
    ------
    Path
        A path with the same suffixes in the same folder, to be written to.

    Raises
    ------
    Refused
        ``unwritable`` where the folder or the file cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as beside:
    ...     _ = beside.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / f".{secrets.token_hex(6)}~{path.name}"
        # made by the system with the permissions of any new file; tempfile's are private
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            yield beside
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        beside.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Refuse a folder that cannot be written to, before the work is done that its files would hold.

    Nothing stays behind: a folder that was made for the trial is taken away again.

    Raises
    ------
    Refused
        ``unwritable``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> check_writable(folder / "new" / "deeper")
    >>> list(folder.iterdir())
    []
    """
    folder = Path(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        for path in made:
            with suppress(OSError):  # somebody else may have put a file there meanwhile
                path.rmdir()


def sweep(path: str | Path) -> None:
    """Delete what writers of a file left beside it that were killed; nobody may be writing it now.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / ".0123456789ab~a.txt").write_text("ha")
    >>> sweep(folder / "a.txt")
    >>> list(folder.iterdir())
    []
    """
    path = Path(path)
    for left in path.parent.glob(".????????????~*"):
        if left.name[14:] == path.name:
            left.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file whole or not at all and return its path.

    Examples
    --------
    >>> import tempfile
    >>> write_text(tempfile.mkdtemp() + "/a.txt", "whole").read_text()
    'whole'
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)


def _unwritable(path: Path, error: OSError) -> Refused:
    why = "a file where a folder is needed" if isinstance(error, FileExistsError) else error.strerror
    why = why or str(error)
    return Refused(
        "unwritable", f"cannot write '{path}'", got=why, do="choose a folder that you may write to"
    )


def sync_folder(folder: Path) -> None:
    """Let the disk have the names in a folder; a file that is renamed is only then in its place."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_private(path: str | Path) -> Path:
    """Refuse a file with a secret that others can read, or that somebody else owns.

    Raises
    ------
    Refused
        ``not-found``, ``open-secret``.

    Examples
    --------
    >>> import tempfile, os
    >>> handle, name = tempfile.mkstemp()
    >>> os.chmod(name, 0o644)
    >>> try:
    ...     check_private(name)
    ... except Refused as refused:
    ...     refused.sentence
    'others can read the file with a secret: got mode 644, expected mode 600 or 400.'
    """
    path = Path(path)
    try:
        found = path.stat()
    except OSError as error:
        raise Refused("not-found", f"cannot open '{path}'", got=error.strerror, do="check the path") from None
    if not stat.S_ISREG(found.st_mode):
        raise Refused("not-found", f"'{path}' is no file", do="check the path")
    if found.st_mode & 0o077:
        raise Refused(
            "open-secret",
            "others can read the file with a secret",
            got=f"mode {stat.S_IMODE(found.st_mode):o}",
            expected="mode 600 or 400",
            do=f"chmod 600 '{path}'",
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise Refused("open-secret", "the file with a secret belongs to another user", do=f"chown '{path}'")
    return path

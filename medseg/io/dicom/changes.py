"""Files that change or vanish between two looks at them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ...errors import Refused
from .model import Instance

__all__ = ["seen_as", "unchanged"]


def seen_as(about: os.stat_result) -> tuple[int, int, int]:
    """Return what tells whether a file is still the one that was seen: its size, and its times in ns.

    The time of the last change of the file's entry is one of them: the slices of a scanner are all of one
    size, and those of an archive often of one time, so that only this tells one that took the place of
    another.
    """
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


@contextmanager
def unchanged(instances: Iterable[Instance]) -> Iterator[None]:
    """Refuse what was read of files in this block unless they are all as they were when they were found.

    Parameters
    ----------
    instances : iterable of Instance
        Those that `find_series` has found; others are taken as they are.

    Raises
    ------
    Refused
        ``changed``: at the end of the block, and instead of what was raised in it, which may come of half a
        file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "1.dcm")
    >>> _ = path.write_text("one")
    >>> with unchanged([Instance(path, "1.2", "1.3", "1.4", seen=seen_as(path.stat()))]):
    ...     path.unlink()
    Traceback (most recent call last):
    medseg.errors.Refused: a file of the series changed or vanished while it was read. Start again.
    """
    instances = list(instances)
    try:
        yield
    except Exception:  # whatever a changed file leads to, the change is the reason; else it is handed on
        _check(instances)
        raise
    _check(instances)


def _check(instances: Iterable[Instance]) -> None:
    for instance in instances:
        if instance.seen is None:
            continue
        try:
            same = seen_as(os.stat(instance.path)) == instance.seen
        except FileNotFoundError:
            same = False
        if not same:
            raise Refused(
                "changed", "a file of the series changed or vanished while it was read", do="start again"
            ) from None

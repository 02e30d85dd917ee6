"""Patterns for paths: globs whose placeholders, such as ``{case}``, take the text that they match."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import Refused
from ..io.paths import is_image_name

__all__ = ["Pattern", "image_paths"]

_TOKEN = re.compile(r"\{([a-z][a-z0-9_]*)\}|\*\*/|\*|\?|\[[^\]]+\]|.", re.DOTALL)


class Pattern:
    """A glob with placeholders.

    ``*`` and ``?`` stand for text without a slash, ``[LR]`` for one of these characters, ``**/`` for any
    folders, ``{name}`` for text without a slash that is kept under that name: as little of it as possible,
    and the same text wherever the name occurs.

    Examples
    --------
    >>> from medseg.dataset.patterns import Pattern
    >>> Pattern("{site}/*/{case}.png").fields("oslo/2019/a1.png")
    {'site': 'oslo', 'case': 'a1'}
    >>> Pattern("{group}_*").fields("010_2HC")
    {'group': '010'}
    """

    def __init__(self, text: str, where: str = "this") -> None:
        self.text = text
        if not text or text.startswith("/") or ".." in text.split("/") or "\\" in text:
            raise Refused(
                "bad-value",
                f"{where} is no pattern",
                got=repr(text),
                expected="a path from the dataset's folder, with forward slashes",
            )
        names: list[str] = []
        parts = []
        for token in _TOKEN.finditer(text):
            name, piece = token[1], token[0]
            if name:
                parts.append(f"(?P={name})" if name in names else f"(?P<{name}>[^/]+?)")
                names += [] if name in names else [name]
            elif piece == "**/":
                parts.append("(?:[^/]+/)*")
            elif piece == "*":
                parts.append("[^/]*")
            elif piece == "?":
                parts.append("[^/]")
            elif piece.startswith("[") and len(piece) > 1:
                parts.append(
                    "["
                    + ("^/" if piece[1] == "!" else "")
                    + re.escape(piece[1:-1].lstrip("!")).replace(r"\-", "-")
                    + "]"
                )
            elif piece in "{}[]":
                raise Refused(
                    "bad-value",
                    f"{where} is no pattern",
                    got=repr(text),
                    expected="placeholders such as {case}",
                )
            else:
                parts.append(re.escape(piece))
        self.names = tuple(names)
        self._regex = re.compile("".join(parts), re.DOTALL)

    def fields(self, path: str) -> dict[str, str] | None:
        """Return what the placeholders stand for, or None where the path does not match."""
        match = self._regex.fullmatch(path)
        return match.groupdict() if match else None

    @property
    def folder(self) -> str:
        """The leading folders without wildcards; a search may start there."""
        plain = []
        for part in self.text.split("/")[:-1]:
            if set(part) & set("*?[{"):
                break
            plain.append(part)
        return "/".join(plain)

    @property
    def depth(self) -> int | None:
        """How many folders lie above a file that matches; None where that is open."""
        return None if "**/" in self.text else self.text.count("/")


def image_paths(root: Path, pattern: Pattern) -> Iterator[str]:
    """Yield the images that may match, as paths from ``root`` with forward slashes."""
    start = root / pattern.folder if pattern.folder else root
    for folder, below, files in os.walk(start, followlinks=pattern.depth is not None):
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        level = prefix.count("/")
        below[:] = [b for b in below if not b.startswith(".")]
        if pattern.depth is not None and level >= pattern.depth:
            below.clear()
        if pattern.depth in (None, level):
            yield from (prefix + name for name in files if is_image_name(name))

"""Patterns for paths: globs whose placeholders, such as ``{case}``, take the text that they match."""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
        refusal = Refused(
            "bad-value",
            f"{where} is no pattern",
            got=repr(text),
            expected="a path from the dataset's folder, with forward slashes and placeholders such as {case}",
        )
        if not text or text.startswith("/") or ".." in text.split("/") or "\\" in text:
            raise refusal
        # (name of the placeholder or "", its text, the regular expression of a wildcard or "")
        self._tokens = [(t[1] or "", t[0], _wildcard(t[0])) for t in _TOKEN.finditer(text)]
        if any(piece in ("{", "}", "[", "]") for _, piece, _ in self._tokens):
            raise refusal
        self.names = tuple(dict.fromkeys(name for name, _, _ in self._tokens if name))
        seen: set[str] = set()
        regex = ""
        for name, piece, wildcard in self._tokens:
            if name:
                regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
                seen.add(name)
            else:
                regex += wildcard or re.escape(piece)
        self._regex = re.compile(regex, re.DOTALL)

    def fields(self, path: str) -> dict[str, str] | None:
        """Return what the placeholders stand for, or None where the path does not match."""
        match = self._regex.fullmatch(path)
        return match.groupdict() if match else None

    def among(self, paths: Sequence[str], fields: Mapping[str, str]) -> list[str]:
        """Return those of the sorted paths that match once the placeholders are filled in."""
        pieces = [(fields[name], "") if name else (piece, wild) for name, piece, wild in self._tokens]
        plain = "".join(p for p, _ in itertools.takewhile(lambda piece: not piece[1], pieces))
        regex = re.compile("".join(wild or re.escape(p) for p, wild in pieces), re.DOTALL)
        found = []
        # all that begin with the text before the first wildcard lie side by side in the sorted list
        for i in range(bisect.bisect_left(paths, plain), len(paths)):
            if not paths[i].startswith(plain):
                break
            if regex.fullmatch(paths[i]):
                found.append(paths[i])
        return found

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


def _wildcard(piece: str) -> str:
    """Return the regular expression of a wildcard, or nothing for plain text."""
    if piece.startswith("[") and len(piece) > 1:
        inner = piece[1:-1]
        negated = inner.startswith("!")
        # everything is taken literally but the hyphen of ranges such as [0-9]
        return f"[{'^/' if negated else ''}{re.escape(inner[negated:]).replace(chr(92) + '-', '-')}]"
    return {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(piece, "")


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

"""Images and labels that belong together, told by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import Refused
from ..io.paths import natural_key, stem_of
from .cases import Case, some, without
from .findings import Finding, Problems

__all__ = ["by_stem", "chosen", "joined", "label_name", "relative"]

_WORDS = "masks?|labels?|d?seg|segmentation|annotation|instances"
# what is labelled, the word for label, who made it: X_seg, X_gmseg_manual, X_label-SC_mask
_LABEL = re.compile(
    rf"(?P<image>.+?)[_-](?P<what>(?:label-[a-z0-9]+_)?[a-z0-9]*?)(?P<word>{_WORDS})(?:[_-](?:manual|auto))?",
    re.IGNORECASE,
)


def label_name(stem: str) -> tuple[str, str] | None:
    """Return the image's stem and what is labelled, if this can be the stem of a label.

    What is labelled is empty for a plain ``_mask``, ``_seg``, ``_label`` and their like.

    Examples
    --------
    >>> from medseg.dataset.pairing import label_name
    >>> label_name("t2_seg-manual"), label_name("t2s_gmseg_manual"), label_name("t2s")
    (('t2', ''), ('t2s', 'gm'), None)
    """
    match = _LABEL.fullmatch(stem)
    return (match["image"], match["what"].rstrip("_").lower()) if match else None


def by_stem(files: Iterable[Path], problems: Problems) -> dict[str, Path]:
    """Return stem -> file; the second of two files of one stem is told."""
    stems: dict[str, Path] = {}
    for file in files:
        other = stems.setdefault(stem_of(file), file)
        if other is not file:
            problems.refuse(
                Refused(
                    "duplicate-case",
                    "two files have the same stem",
                    got=f"'{other}' and '{file.name}'",
                    do="keep one of them",
                ),
                stem_of(file),
            )
    return stems


def relative(path: Path, root: Path) -> str:
    """Return a path as it is named in a sentence: from the data set's folder where it lies in it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def joined(
    root: Path,
    images: Mapping[str, Path | tuple[Path, ...]],
    labels: Mapping[str, Path],
    problems: Problems,
    *,
    label: str,
    groups: Mapping[str, str] | None = None,
) -> tuple[Case, ...]:
    """Pair images and labels by name, telling what is left over on either side.

    Parameters
    ----------
    root : Path
    images, labels : mapping of name to file
    problems : Problems
    label : str
        Where the label of an image is looked for, such as ``"labels/{}.png"``.
    groups : mapping of name to group, optional
        By default each name is a group of its own.

    Returns
    -------
    tuple of Case
        One an image, those without labels too.
    """
    cases = tuple(
        Case(name, image, labels.get(name), group=(groups or {}).get(name, name))
        for name, image in images.items()
    )
    tell_bare(root, cases, len(labels), problems, label)
    orphans = [name for name in labels if name not in images]
    if orphans:
        each = [
            Finding(
                "error",
                "label-without-image",
                name,
                f"the label '{relative(labels[name], root)}' has no image.",
                f"Add the image '{name}', or move the label elsewhere.",
            )
            for name in orphans
        ]
        problems.refuse(without("label", orphans, len(images), len(labels), root), each=each)
    return cases


def tell_bare(root: Path, cases: Iterable[Case], labels: int, problems: Problems, label: str) -> None:
    """Tell of cases without a label."""
    listed = list(cases)
    bare = [case for case in listed if case.label is None]
    if not bare:
        return
    each = [
        Finding(
            "error",
            "image-without-label",
            case.name,
            f"the image '{relative(case.path, root)}' has no label.",
            f"Add '{label.replace('{}', case.name)}', or move the image elsewhere.",
        )
        for case in bare
    ]
    wanted = label.replace("{}", bare[0].name if len(bare) == 1 else "NAME")
    do = f"add '{wanted}', or move the image{'s' if len(bare) > 1 else ''} elsewhere"
    names = [case.name for case in bare]
    problems.refuse(without("image", names, len(listed), labels, root, do=do), each=each)


def chosen(
    root: Path,
    names: Iterable[str],
    labels: Mapping[str, Mapping[str, list[Path]]],
    problems: Problems,
) -> dict[str, Path]:
    """Choose the labels of one kind, where images have labels of several.

    That kind is taken which every image has; or the only one there is. Two such kinds are refused: which
    one is meant cannot be told. Kinds that only some images have are told and left out.

    Parameters
    ----------
    root : Path
    names : iterable of str
        The images.
    labels : mapping of name to mapping of kind to files
    problems : Problems

    Returns
    -------
    dict of name to file
    """
    images = list(names)
    counts = Counter(kind for name in images for kind in labels.get(name, {}))
    whole = [kind for kind, count in counts.items() if count == len(images)] or list(counts)
    found: dict[str, Path] = {}
    if len(whole) > 1:
        example = next(n for n in images if len(labels.get(n, {})) == max(len(v) for v in labels.values()))
        files = sorted((f for kind in labels[example].values() for f in kind), key=natural_key)
        problems.refuse(
            Refused(
                "ambiguous-label",
                f"'{root}' has labels of several kinds",
                got=", ".join(f"'{f.name}'" for f in files)
                if len(files) > 1
                else some(f"{kind or 'plain'} ({n} images)" for kind, n in counts.items()),
                do="say in a dataset.toml which one to use",
            )
        )
    kind = max(whole, key=lambda k: (counts[k], k == "")) if whole else ""
    for name in images:
        files = labels.get(name, {}).get(kind, [])
        if len(files) > 1:
            listed = some(f.name for f in files)
            problems.refuse(
                Refused(
                    "ambiguous-label",
                    f"image '{name}' has several labels",
                    got=listed,
                    do="say in a dataset.toml which one to use",
                ),
                name,
            )
        if files:
            found[name] = files[0]
    unused = [f.name for n in images for k, files in labels.get(n, {}).items() if k != kind for f in files]
    if unused:
        problems.warn(
            "unused-label",
            f"{len(unused)} label{'s are' if len(unused) > 1 else ' is'} not used: {some(unused)}; "
            f"not every image has such a label.",
            "To use them, say so in a dataset.toml.",
        )
    return found

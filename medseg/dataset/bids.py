"""Folders in the Brain Imaging Data Structure: sub-ID/anat/sub-ID_T2w.nii.gz, labels beside or derived."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import Refused
from ..io.paths import find_images, natural_key, stem_of
from .cases import Case, Listing, some
from .findings import Problems
from .pairing import by_stem, chosen, joined, label_name, relative

__all__ = ["from_folder"]

_DEPTH = 3  # sub-ID / ses-ID / anat
# entities that a label has beside those of its image
_OF_LABELS = {"space", "res", "den", "label", "desc", "seg", "atlas", "hemi"}


def from_folder(root: Path, problems: Problems) -> Listing:
    """List the images of every subject whose contrast has labels; a subject is a group.

    A label is named as its image and an ending (``sub-1_T2w_seg-manual``), or has the entities of the only
    image beside it and the suffix ``dseg`` or ``mask`` (``sub-1_label-cord_dseg``).
    """
    files = [*_walk(root), *(f for p in _pipelines(root) for f in _walk(p) if _is_label(f))]
    images = by_stem([f for f in files if not _is_label(f)], problems)
    if not images:
        raise Refused("empty-folder", f"'{root}' has no image in its sub- folders", do="check the path")
    subjects = {_subject(name) for name in images}
    labels: dict[str, dict[str, list[Path]]] = {}
    orphans: dict[str, Path] = {}
    vague = []
    for file in filter(_is_label, files):
        name, kind = _image_of(stem_of(file), images)
        if name:
            labels.setdefault(name, {}).setdefault(kind, []).append(file)
        elif _subject(stem_of(file)) in subjects:
            vague.append(relative(file, root))
        else:
            orphans[stem_of(file)] = file
    if vague:
        problems.warn(
            "unused-label",
            f"{len(vague)} label{'s are' if len(vague) > 1 else ' is'} not used, as the image is not told: "
            f"{some(vague)}.",
            "Name a label as its image, such as sub-1_T2w_seg.nii.gz for sub-1_T2w.nii.gz.",
        )
    contrasts = {_contrast(name) for name in labels}
    names = [name for name in images if not labels or _contrast(name) in contrasts]
    if len(names) < len(images):
        unused = [name for name in images if name not in names]
        problems.warn(
            "unused-image",
            f"{len(unused)} image{'s are' if len(unused) > 1 else ' is'} not used, as no image of that "
            f"contrast has a label: {some(unused)}.",
        )
    groups = {name: _subject(name) for name in names}
    if not labels and not orphans:
        cases = tuple(Case(name, images[name], None, groups[name]) for name in names)
        return Listing(root.name, cases, root, "BIDS without labels", source=root)
    used = chosen(root, names, labels, problems)
    example = next(iter(used.items()), None)
    cases = joined(
        root,
        {name: images[name] for name in names},
        used | orphans,
        problems,
        label=f"{{}}{example[1].name.removeprefix(example[0])}" if example else "{}_seg.nii.gz",
        groups=groups,
    )
    return Listing(root.name, cases, root, "BIDS", source=root)


def _pipelines(root: Path) -> list[Path]:
    """Return the folders whose subfolders may be of subjects."""
    folder = root / "derivatives"
    if not folder.is_dir():
        return []
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "sub-")))
    return [folder, *below]


def _walk(root: Path) -> Iterator[Path]:
    """Yield the images of every subject, in natural order."""
    subjects = [p for p in root.iterdir() if p.name.startswith("sub-") and p.is_dir()]
    for subject in sorted(subjects, key=lambda p: natural_key(p.name)):
        for folder, below, _ in os.walk(subject):
            below.sort(key=natural_key)
            if len(Path(folder).relative_to(root).parts) >= _DEPTH:
                below.clear()
            yield from (f for f in find_images(folder) if f.name.startswith("sub-"))


def _is_label(file: Path) -> bool:
    return label_name(stem_of(file)) is not None


def _subject(stem: str) -> str:
    return stem.split("_")[0]


def _contrast(stem: str) -> str:
    """Return the suffix that BIDS ends a name with, such as T2w."""
    return stem.rsplit("_", 1)[-1]


def _image_of(stem: str, images: Mapping[str, Path]) -> tuple[str, str]:
    """Return name of the image that a label belongs to, or nothing, and what is labelled."""
    for end in range(len(stem) - 1, 0, -1):
        if stem[end] in "_-" and stem[:end] in images:
            ending = label_name(f"X_{stem[end + 1 :]}")
            return stem[:end], ending[1] if ending else stem[end + 1 :]
    parts = stem.split("_")
    if parts[-1] not in ("dseg", "mask"):
        return "", ""
    own = [p for p in parts[:-1] if p.split("-")[0] not in _OF_LABELS]
    fitting = [name for name in images if name.split("_")[:-1] == own]
    what = "_".join(p for p in parts[:-1] if p not in own)
    return (fitting[0], what) if len(fitting) == 1 else ("", "")

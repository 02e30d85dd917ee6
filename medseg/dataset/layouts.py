"""Layouts of folders that are recognised without a description."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Refused
from ..io.paths import find_images, natural_key, stem_of, suffix_of
from . import bids, decathlon
from .cases import Case, Listing, some
from .findings import Problems
from .natural import from_natural, is_natural, with_class_dict
from .pairing import by_stem, chosen, joined, label_name, tell_bare

__all__ = ["from_folder"]

_PAIRS = (("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"))
_IMAGE_ENDINGS = ("_image", "_img")
_KNOWN = (
    "images/ beside labels/ or masks/; imagesTr/ beside labelsTr/; X.png beside X_mask.png; "
    "ID/images/ with ID/masks/; BIDS; PASCAL VOC; Cityscapes; train/ beside train_labels/ with a "
    "class_dict.csv; a folder of images; or a dataset.toml"
)


def from_folder(root: Path, problems: Problems) -> Listing:
    """Recognise the layout of a folder and list its cases."""
    with os.scandir(root) as entries:
        visible = [e for e in entries if not e.name.startswith(".")]
    folders = sorted((e.name for e in visible if e.is_dir()), key=natural_key)
    if not visible:
        raise Refused("empty-folder", f"'{root}' is empty", do="check the path")
    if decathlon.is_part(root):
        return decathlon.images_of_part(root, problems)
    if is_natural(root, folders):
        return from_natural(root, folders, problems)
    pairs = [pair for pair in _PAIRS if set(pair) <= set(folders)]
    if len(pairs) > 1:
        raise Refused(
            "ambiguous-label",
            f"'{root}' has several folders of labels",
            got=" and ".join(f"{labels}/" for _, labels in pairs),
            do="say in a dataset.toml which one to use",
        )
    if "imagesTr" in folders:
        return decathlon.from_folder(root, problems)
    if pairs:
        return _two_folders(root, *pairs[0], problems)
    if "images" in folders:
        return _unlabelled(root, root / "images", "images/ without labels", problems)
    each = [name for name in folders if (root / name / "images").is_dir()]
    if each:
        return _folder_per_case(root, each, problems)
    if any(name.startswith("sub-") for name in folders):
        return bids.from_folder(root, problems)
    files = find_images(root)
    if not files:
        raise Refused(
            "unknown-layout",
            f"'{root}' is in no known layout",
            got=f"folders {some(folders)}" if folders else f"{len(visible)} files, none of them an image",
            expected=_KNOWN,
            do=_within(root, folders) or "arrange the files so, or describe them in a dataset.toml",
        )
    labels, images = _parted(files)
    if labels:
        return _side_by_side(root, images, labels, problems)
    return _unlabelled(root, root, "a folder of images", problems)


def _within(root: Path, folders: list[str]) -> str | None:
    """Name a folder below that is in a layout of natural images, as VOC2012 in VOCdevkit."""
    for name in folders:
        if not os.access(root / name, os.R_OK | os.X_OK):
            continue
        below = [entry.name for entry in (root / name).iterdir() if entry.is_dir()]
        if is_natural(root / name, below):
            return f"name the folder '{root / name}', which is in a known layout"
    return None


def _two_folders(root: Path, images: str, labels: str, problems: Problems) -> Listing:
    image_files, label_files = find_images(root / images), find_images(root / labels)
    if not image_files:
        raise Refused("empty-folder", f"'{root / images}' holds no image", do="check the path")
    suffix = suffix_of((label_files or image_files)[0])
    cases = joined(
        root,
        by_stem(image_files, problems),
        by_stem(label_files, problems),
        problems,
        label=f"{labels}/{{}}{suffix}",
    )
    return with_class_dict(Listing(root.name, cases, root, f"{images}/ and {labels}/", source=root))


def _parted(files: list[Path]) -> tuple[dict[str, dict[str, list[Path]]], list[Path]]:
    """Return the labels by image and kind, and the images; X_gmseg is a label only where there is an X."""
    stems = {stem_of(f) for f in files}
    labels: dict[str, dict[str, list[Path]]] = {}
    images = []
    for file in files:
        name, what = label_name(stem_of(file)) or ("", "")
        if name and (not what or not stems.isdisjoint((name, *(name + e for e in _IMAGE_ENDINGS)))):
            labels.setdefault(name, {}).setdefault(what, []).append(file)
        else:
            images.append(file)
    return labels, images


def _side_by_side(
    root: Path, images: list[Path], labels: dict[str, dict[str, list[Path]]], problems: Problems
) -> Listing:
    """Pair X with X_mask and its like."""
    named = {_case_name(stem, labels): file for stem, file in by_stem(images, problems).items()}
    used = chosen(root, named, labels, problems)
    orphans = {name: next(iter(kinds.values()))[0] for name, kinds in labels.items() if name not in named}
    endings = sorted({stem_of(f)[len(name) :] for name, f in {**used, **orphans}.items()})
    example = next(iter({**used, **orphans}.values()), None)
    cases = joined(
        root,
        named,
        {**used, **orphans},
        problems,
        label=f"{{}}{endings[0]}{suffix_of(example)}" if example else "{}_mask",
    )
    return Listing(
        root.name,
        cases,
        root,
        f"X and X{' or X'.join(endings)} in one folder",
        kind="instances" if {e.lower() for e in endings} == {"_instances"} else None,
        source=root,
    )


def _case_name(stem: str, labels: dict[str, dict[str, list[Path]]]) -> str:
    """Return the stem of an image, or that without ``_image`` where a label is named so."""
    for ending in _IMAGE_ENDINGS:
        if stem.lower().endswith(ending) and stem not in labels and stem[: -len(ending)] in labels:
            return stem[: -len(ending)]
    return stem


def _folder_per_case(root: Path, names: list[str], problems: Problems) -> Listing:
    cases = []
    for name in names:
        images = find_images(root / name / "images")
        if len(images) != 1:
            problems.refuse(
                Refused(
                    "duplicate-case" if images else "empty-folder",
                    f"'{root / name / 'images'}' should hold one image",
                    got=f"{len(images)} images",
                    do="keep one image in each such folder",
                ),
                name,
            )
        folder = root / name / "masks"
        masks = tuple(find_images(folder)) if folder.is_dir() else ()
        cases += [Case(name, images[0], masks or None, group=name)] if images else []
    labels = sum(case.label is not None for case in cases)
    if labels:
        tell_bare(root, cases, labels, problems, "{}/masks/1.png")
    return Listing(
        root.name,
        tuple(cases),
        root,
        "ID/images/ and ID/masks/, one mask an object",
        kind="instances",
        source=root,
    )


def _unlabelled(root: Path, folder: Path, layout: str, problems: Problems) -> Listing:
    images = by_stem(find_images(folder), problems)
    if not images:
        raise Refused("empty-folder", f"'{folder}' holds no image", do="check the path")
    cases = tuple(Case(name, image, None, group=name) for name, image in images.items())
    return Listing(root.name, cases, root, layout, source=root)

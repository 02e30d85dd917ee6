"""Layouts of folders that are recognised without a description."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import Refused
from ..io.paths import find_images, natural_key, stem_of
from .cases import Case, Dataset, some, without

__all__ = ["from_folder"]

_PAIRS = (("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"))
_ENDINGS = ("_masks", "_mask", "_labels", "_label", "_seg", "_annotation", "_instances")
_KNOWN = (
    "images/ beside labels/ or masks/; X.png beside X_mask.png; ID/images/ with ID/masks/; "
    "a folder of images; or a dataset.toml"
)


def from_folder(root: Path) -> Dataset:
    """Recognise the layout of a folder and list its cases."""
    with os.scandir(root) as entries:
        visible = [e for e in entries if not e.name.startswith(".")]
    folders = sorted((e.name for e in visible if e.is_dir()), key=natural_key)
    if not visible:
        raise Refused("empty-folder", f"'{root}' is empty", do="check the path")
    pairs = [pair for pair in _PAIRS if set(pair) <= set(folders)]
    if len(pairs) > 1:
        raise Refused(
            "ambiguous-label",
            f"'{root}' has several folders of labels",
            got=" and ".join(f"{labels}/" for _, labels in pairs),
            do="say in a dataset.toml which one to use",
        )
    if pairs:
        return _two_folders(root, *pairs[0])
    for images in ("images", "imagesTr"):
        if images in folders:
            return _unlabelled(root, root / images, f"{images}/ without labels")
    each = [name for name in folders if (root / name / "images").is_dir()]
    if each:
        return _folder_per_case(root, each)
    files = find_images(root)
    if not files:
        raise Refused(
            "unknown-layout",
            f"'{root}' is in no known layout",
            got=f"folders {some(folders)}" if folders else f"{len(visible)} files, none of them an image",
            expected=_KNOWN,
            do="arrange the files so, or describe them in a dataset.toml",
        )
    if any(_without_ending(stem_of(f)) for f in files):
        return _side_by_side(root, files)
    return _unlabelled(root, root, "a folder of images")


def _by_stem(files: list[Path]) -> dict[str, Path]:
    """Return stem -> file; two files of one stem are refused."""
    stems: dict[str, Path] = {}
    for file in files:
        other = stems.setdefault(stem_of(file), file)
        if other is not file:
            raise Refused(
                "duplicate-case",
                "two files have the same stem",
                got=f"'{other}' and '{file.name}'",
                do="keep one of them",
            )
    return stems


def _joined(root: Path, images: dict[str, Path], labels: dict[str, Path]) -> tuple[Case, ...]:
    """Pair images and labels by name, refusing what is left over on either side."""
    missing = [name for name in images if name not in labels]
    if missing:
        raise without("image", missing, len(images), len(labels), root)
    orphans = [name for name in labels if name not in images]
    if orphans:
        raise without("label", orphans, len(images), len(labels), root)
    return tuple(Case(name, image, labels[name], group=name) for name, image in images.items())


def _two_folders(root: Path, images: str, labels: str) -> Dataset:
    image_files, label_files = find_images(root / images), find_images(root / labels)
    if not image_files:
        raise Refused("empty-folder", f"'{root / images}' holds no image", do="check the path")
    cases = _joined(root, _by_stem(image_files), _by_stem(label_files))
    name, classes = _decathlon(root) if images == "imagesTr" else (None, None)
    return Dataset(
        name=name or root.name,
        cases=cases,
        root=root,
        layout=f"{images}/ and {labels}/",
        classes=classes,
        kind="semantic" if classes else None,
        source=root,
    )


def _decathlon(root: Path) -> tuple[str | None, dict[str, int] | None]:
    """Return name and classes from a dataset.json of the Medical Segmentation Decathlon, if there is one."""
    try:
        table = json.loads((root / "dataset.json").read_text("utf-8"))
        classes = {str(name): int(value) for value, name in table["labels"].items()}
        return str(table["name"]), {n: v for n, v in classes.items() if v}
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(
            "bad-value",
            f"'{root / 'dataset.json'}' does not list its labels",
            got=f"{type(error).__name__}: {error}",
            expected='"name" and "labels": {"1": "liver"}',
            do="correct it or take it away",
        ) from error


def _without_ending(stem: str) -> str | None:
    """Return the image's stem if this is the stem of a label."""
    for ending in _ENDINGS:
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return None


def _side_by_side(root: Path, files: list[Path]) -> Dataset:
    labels: dict[str, Path] = {}
    for file in files:
        name = _without_ending(stem_of(file))
        if name is not None and labels.setdefault(name, file) is not file:
            raise Refused(
                "ambiguous-label",
                f"image '{name}' has several labels",
                got=f"'{labels[name].name}' and '{file.name}'",
                do="say in a dataset.toml which one to use",
            )
    images = _by_stem([f for f in files if _without_ending(stem_of(f)) is None])
    cases = _joined(root, images, labels)
    endings = {stem_of(f)[len(name) :] for name, f in labels.items()}
    return Dataset(
        name=root.name,
        cases=cases,
        root=root,
        layout=f"X and X{' or X'.join(sorted(endings))} in one folder",
        kind="instances" if {e.lower() for e in endings} == {"_instances"} else None,
        source=root,
    )


def _folder_per_case(root: Path, names: list[str]) -> Dataset:
    cases = []
    for name in names:
        images = find_images(root / name / "images")
        if len(images) != 1:
            raise Refused(
                "duplicate-case" if images else "empty-folder",
                f"'{root / name / 'images'}' should hold one image",
                got=f"{len(images)} images",
                do="keep one image in each such folder",
            )
        folder = root / name / "masks"
        masks = tuple(find_images(folder)) if folder.is_dir() else ()
        cases.append(Case(name, images[0], masks or None, group=name))
    return Dataset(
        name=root.name,
        cases=tuple(cases),
        root=root,
        layout="ID/images/ and ID/masks/, one mask an object",
        kind="instances",
        source=root,
    )


def _unlabelled(root: Path, folder: Path, layout: str) -> Dataset:
    images = _by_stem(find_images(folder))
    if not images:
        raise Refused("empty-folder", f"'{folder}' holds no image", do="check the path")
    cases = tuple(Case(name, image, None, group=name) for name, image in images.items())
    return Dataset(name=root.name, cases=cases, root=root, layout=layout, source=root)

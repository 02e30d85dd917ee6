"""dataset.json, as the Medical Segmentation Decathlon and the two versions of nnU-Net write it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused, did_you_mean
from ..io.paths import IMAGE_SUFFIXES, stem_of, suffix_of
from .findings import Problems

__all__ = ["Description", "read_description"]


@dataclass(frozen=True)
class Description:
    """What a dataset.json says.

    ``listed`` is name -> images and label of the cases, None where there is no list; ``ending`` that of all
    files, which only nnU-Net's second version names: there each channel is a file of its own.
    """

    name: str | None = None
    classes: dict[str, int] | None = None
    ignore: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    ending: str | None = None
    count: int | None = None
    listed: dict[str, tuple[tuple[Path, ...], Path | None]] | None = None


def read_description(path: Path, problems: Problems) -> Description:
    """Read a dataset.json.

    Raises
    ------
    Refused
        ``bad-value``; told to ``problems`` ``overlapping-classes``.
    """
    try:
        table = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise _wrong(path, f"{type(error).__name__}: {error}", "valid JSON") from error
    if not isinstance(table, dict) or not isinstance(table.get("labels"), dict) or not table["labels"]:
        got = table.get("labels") if isinstance(table, dict) else type(table).__name__
        raise _wrong(path, f"labels {got}", '"labels": {"background": 0, "liver": 1} or {"1": "liver"}')
    ending = table.get("file_ending")
    if ending is not None and (not isinstance(ending, str) or suffix_of(f"x{ending}") != ending.lower()):
        raise Refused(
            "bad-value",
            f"'{path}' names a file_ending that is not known",
            got=ending,
            expected=f"one of {' '.join(IMAGE_SUFFIXES)}",
            do=did_you_mean(str(ending), IMAGE_SUFFIXES),
        )
    count = table.get("numTraining")
    if count is not None and type(count) is not int:
        raise _wrong(path, f"numTraining {count!r}", "a whole number")
    name = table.get("name")
    classes = _classes(path, table["labels"], problems)
    # nnU-Net's second version: a label of this name is of voxels that nobody looked at
    ignore = (classes.pop("ignore"),) if classes and "ignore" in classes else ()
    return Description(
        name=name if isinstance(name, str) and name else None,
        classes=classes,
        ignore=ignore,
        channels=_channels(path, table),
        ending=ending,
        count=count,
        listed=_listed(path, table),
    )


def _wrong(path: Path, got: object, expected: str) -> Refused:
    return Refused(
        "bad-value",
        f"'{path}' does not describe a data set",
        got=got,
        expected=expected,
        do="correct it or take it away",
    )


def _classes(path: Path, labels: dict[str, Any], problems: Problems) -> dict[str, int] | None:
    """Return the classes without the background, which is 0."""
    regions = [name for name, value in labels.items() if isinstance(value, list)]
    if regions:
        problems.refuse(
            Refused(
                "overlapping-classes",
                f"'{path}' has classes that are several values (regions)",
                got=f"'{regions[0]}' = {labels[regions[0]]}",
                expected="one value a class",
                do="name each value in 'labels', such as \"oedema\": 2; regions are not supported",
            )
        )
        return None
    classes: dict[str, int] = {}
    for key, value in labels.items():
        # {"1": "liver"} in the Decathlon, {"liver": 1} in nnU-Net's second version
        name, number = (value, key) if key.isdigit() and isinstance(value, str) else (key, value)
        if not (type(number) is int and number >= 0) and not (isinstance(number, str) and number.isdigit()):
            raise _wrong(path, f"label {key!r}: {value!r}", 'a name and a whole number, such as "liver": 1')
        if name in classes or int(number) in classes.values():
            raise _wrong(path, f"'{name}' or {number} twice in labels", "different names and values")
        classes[name] = int(number)
    return {name: number for name, number in classes.items() if number}


def _channels(path: Path, table: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the channels in the order of their numbers."""
    named = table.get("channel_names", table.get("modality"))
    if named is None:
        return ()
    expected = '"channel_names": {"0": "T1", "1": "T2"}'
    if isinstance(named, list):
        named = {str(i): name for i, name in enumerate(named)}
    if not isinstance(named, dict) or not all(isinstance(v, str) and v for v in named.values()):
        raise _wrong(path, f"channels {named!r}", expected)
    if not named or sorted(named) != sorted(str(i) for i in range(len(named))):
        raise _wrong(path, f"channels numbered {', '.join(map(str, named))}", expected)
    return tuple(named[str(i)] for i in range(len(named)))


def _listed(path: Path, table: dict[str, Any]) -> dict[str, tuple[tuple[Path, ...], Path | None]] | None:
    """Return the cases of "training" (a list) or "dataset" (by name), where there is one."""
    entries: Any = table.get("dataset") or table.get("training")
    expected = '"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]'
    if not entries or not isinstance(entries, list | dict):
        return None
    rows = list(entries.items()) if isinstance(entries, dict) else [("", entry) for entry in entries]
    listed: dict[str, tuple[tuple[Path, ...], Path | None]] = {}
    for name, entry in rows:
        images = entry.get("images", entry.get("image")) if isinstance(entry, dict) else None
        images = [images] if isinstance(images, str) else images
        label = entry.get("label") if isinstance(entry, dict) else None
        if (
            not isinstance(images, list)
            or not images
            or not all(isinstance(i, str) and i for i in images)
            or not (label is None or isinstance(label, str))
        ):
            raise _wrong(path, f"the entry {entry!r}", expected)
        name = name or stem_of(images[0])
        if name in listed:
            raise _wrong(path, f"case '{name}' twice", "each case once")
        listed[name] = (
            tuple(_below(path, i) for i in images),
            _below(path, label) if label else None,
        )
    return listed


def _below(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent / name))

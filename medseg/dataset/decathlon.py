"""The folders of the Medical Segmentation Decathlon and of nnU-Net: imagesTr, labelsTr and dataset.json."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ..errors import Refused
from ..io.paths import find_images, natural_key, stem_of, suffix_of
from .cases import Case, Listing, some
from .findings import Finding, Problems
from .json_description import Description, read_description
from .pairing import by_stem, joined, relative

__all__ = ["from_folder", "images_of_part", "is_part"]

IMAGES, LABELS, DESCRIPTION = "imagesTr", "labelsTr", "dataset.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")

Images = dict[str, Path | tuple[Path, ...]]


def is_part(folder: Path) -> bool:
    """Tell whether a folder is imagesTr, imagesTs or their like below a dataset.json."""
    return (
        re.fullmatch(r"images[A-Z][a-z]", folder.name) is not None
        and (folder.parent / DESCRIPTION).is_file()
        and bool(find_images(folder))
    )


def images_of_part(folder: Path, problems: Problems) -> Listing:
    """List the images of one folder, such as imagesTs, without labels; their channels as in dataset.json."""
    root = folder.parent
    about = read_description(root / DESCRIPTION, problems)
    images, _ = _images(root, folder.name, about, set(), problems)
    return Listing(
        name=about.name or root.name,
        cases=tuple(Case(name, image, None, group=name) for name, image in images.items()),
        root=root,
        layout=f"{folder.name}/ of a {DESCRIPTION}",
        classes=about.classes,
        kind="semantic" if about.classes else None,
        source=folder,
        channels=about.channels,
        ignore=about.ignore,
    )


def from_folder(root: Path, problems: Problems) -> Listing:
    """List the training cases; images of imagesTs are none."""
    described = (root / DESCRIPTION).is_file()
    about = read_description(root / DESCRIPTION, problems) if described else Description()
    labels = by_stem(_files(root / LABELS, about, problems), problems)
    images, several = _images(root, IMAGES, about, set(labels), problems)
    if about.listed is not None:
        images, labels = _obey(root, about.listed, images, labels, problems)
    if not images and not labels:
        raise Refused("empty-folder", f"'{root / IMAGES}' holds no image", do="check the path")
    ending = about.ending or suffix_of(next(iter(labels.values()), None) or _first(images))
    if about.count is not None and about.count != len(images):
        problems.warn(
            "count-differs",
            f"'{DESCRIPTION}' says numTraining = {about.count}, and there are {len(images)} images.",
            "Add what is missing, or correct numTraining.",
        )
    layout = f"{IMAGES}/ and {LABELS}/" + (", one file a channel" if several else "")
    layout += f"{',' if several else ''} with {DESCRIPTION}" if described else ""
    return Listing(
        name=about.name or root.name,
        cases=joined(root, images, labels, problems, label=f"{LABELS}/{{}}{ending}"),
        root=root,
        layout=layout,
        classes=about.classes,
        kind="semantic" if about.classes else None,
        source=root,
        channels=about.channels,
        ignore=about.ignore,
    )


def _first(images: Images) -> Path:
    image = next(iter(images.values()))
    return image[0] if isinstance(image, tuple) else image


def _files(folder: Path, about: Description, problems: Problems) -> list[Path]:
    """List the images of a folder; where the description names an ending, others are told."""
    if not folder.is_dir():
        return []
    files = find_images(folder)
    if about.ending is None:
        return files
    other = [f for f in files if not f.name.endswith(about.ending)]
    if other:
        problems.warn(
            "other-ending",
            f"{len(other)} of {len(files)} files in '{folder.name}/' do not end in '{about.ending}', as "
            f"'{DESCRIPTION}' says, and are not used: {some(f.name for f in other)}.",
            "Convert them, or correct file_ending.",
        )
    return [f for f in files if f.name.endswith(about.ending)]


def _images(
    root: Path, folder: str, about: Description, labels: set[str], problems: Problems
) -> tuple[Images, bool]:
    """Return name -> file or files of channels, and whether files are channels.

    They are where the description is of nnU-Net's second version, and where every name ends in four digits
    and none is that of a label.
    """
    files = _files(root / folder, about, problems)
    matches = {f: _CHANNEL.fullmatch(stem_of(f)) for f in files}
    loose = bool(files) and all(matches.values()) and labels.isdisjoint(stem_of(f) for f in files)
    if about.ending is None and not loose:
        return dict(by_stem(files, problems)), False
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    for file, match in matches.items():
        if match is None:
            problems.refuse(
                Refused(
                    "missing-channel",
                    f"'{relative(file, root)}' does not say which channel it is",
                    expected=f"a name such as '{stem_of(file)}_0000{suffix_of(file)}'",
                    do="rename it",
                ),
                stem_of(file),
            )
            continue
        mine, number = channels[match["case"]], int(match["channel"])
        if mine.setdefault(number, file) is not file:
            problems.refuse(
                Refused(
                    "duplicate-case",
                    "two files have the same stem",
                    got=f"'{mine[number]}' and '{file.name}'",
                    do="keep one of them",
                ),
                match["case"],
            )
    _tell_channels(root / folder, channels, about, problems)
    return {
        name: tuple(mine[i] for i in sorted(mine)) if len(mine) > 1 else next(iter(mine.values()))
        for name, mine in sorted(channels.items(), key=lambda item: natural_key(item[0]))
    }, True


def _tell_channels(
    folder: Path, channels: Mapping[str, Mapping[int, Path]], about: Description, problems: Problems
) -> None:
    """Tell of cases that lack a channel or have one too many."""
    count = len(about.channels) or 1 + max((i for mine in channels.values() for i in mine), default=0)
    for reason, what, do in (
        ("missing-channel", "lacks", "add the file, or leave the case out"),
        ("unknown-channel", "has", f"name the channel in {DESCRIPTION}, or move the file elsewhere"),
    ):
        each = []
        for name, mine in channels.items():
            wrong = set(range(count)) - set(mine) if what == "lacks" else set(mine) - set(range(count))
            suffix = suffix_of(next(iter(mine.values())))
            files = ", ".join(f"'{folder.name}/{name}_{i:04d}{suffix}'" for i in sorted(wrong))
            named = [
                f"{i} ({about.channels[i]})" if i < len(about.channels) else str(i) for i in sorted(wrong)
            ]
            if wrong:
                sentence = f"the image {what} channel {', '.join(named)}: {files}."
                each.append(Finding("error", reason, name, sentence, f"{do[0].upper()}{do[1:]}."))
        if each:
            first = each[0]
            more = f" and {len(each) - 1} more" if len(each) > 1 else ""
            refusal = Refused(
                reason,
                f"'{folder}': {len(each)} of {len(channels)} cases {'lack' if what == 'lacks' else 'have'} "
                f"channels",
                got=f"'{first.case}'{more}: {first.sentence.rstrip('.')}",
                expected=f"{count} channels",
                do=do,
            )
            problems.refuse(refusal, each=each)


def _obey(
    root: Path,
    listed: Mapping[str, tuple[tuple[Path, ...], Path | None]],
    images: Images,
    labels: dict[str, Path],
    problems: Problems,
) -> tuple[Images, dict[str, Path]]:
    """Take what the description lists; tell of files that are absent, and of those that are not listed."""
    found: Images = {}
    mine: dict[str, Path] = {}
    absent: list[Finding] = []
    for name, (files, label) in listed.items():
        missing = [f for f in files if not f.exists()]
        if missing and name not in images:
            sentence = f"'{DESCRIPTION}' lists '{relative(missing[0], root)}', which does not exist."
            fix = "Add the file, or take the case off the list."
            absent.append(Finding("error", "not-found", name, sentence, fix))
            continue
        # CASE.nii.gz is listed by nnU-Net, too, where CASE_0000.nii.gz and others are there
        found[name] = images[name] if missing else files if len(files) > 1 else files[0]
        if label is not None and label.exists():
            mine[name] = label
    if absent:
        refusal = Refused(
            "not-found",
            f"'{root / DESCRIPTION}' lists images that do not exist",
            got=f"{len(absent)} of {len(listed)}: {some(f.case for f in absent)}",
            do="add the files, or take those cases off the list",
        )
        problems.refuse(refusal, each=absent)
    extra = [name for name in images if name not in listed and name in labels]
    if extra:
        problems.warn(
            "unlisted-case",
            f"{len(extra)} case{'s are' if len(extra) > 1 else ' is'} not listed in '{DESCRIPTION}' and not "
            f"used: {some(extra)}.",
            "Add them to the list, or move them elsewhere.",
        )
    # what is neither listed nor one of a pair is left over, and told so
    found |= {n: f for n, f in images.items() if n not in listed and n not in labels}
    mine |= {n: f for n, f in labels.items() if n not in listed and n not in images}
    return {n: found[n] for n in sorted(found, key=natural_key)}, mine

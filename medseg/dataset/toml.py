"""Datasets described in one TOML file, read strictly."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path

from ..errors import Refused, did_you_mean
from ..io.paths import natural_key, stem_of
from .cases import SPLITS, Case, Listing, some, without
from .colours import ignored_of, legend_of, things_of, with_colours
from .findings import Finding, Problems
from .pairing import relative, tell_bare
from .patterns import Pattern, image_paths
from .rows import CSV_KEYS, with_rows
from .strictly import Table, spacing_of, spacing_unit

__all__ = ["from_toml"]

_KEYS = (
    "name",
    "root",
    "kind",
    "classes",
    "ignore",
    "colours",
    "things",
    "channels",
    "spacing",
    "unit",
    "files",
    "csv",
    "splits",
    "tags",
    "cases",
)
_FILE_KEYS = ("image", "label", "group", "only_labelled")
_CASE_KEYS = ("name", "image", "label", "group", "split", "site", "spacing", "tags")
_OWN_FIELDS = ("case", "group", "site", "split")


def from_toml(path: Path, root: Path | None, problems: Problems) -> Listing:
    """Read a dataset's description; relative paths start at ``root``, or where the file says.

    The file has these keys, of which ``files`` or ``cases`` is needed::

        name = "fetal heads"                # otherwise the file's name
        root = "hc18"                       # where relative paths start, from the folder of the file
        kind = "semantic"                   # or "instances"
        classes = { head = 255 }            # name = value in the label files
        ignore = 255                        # or a list: values of pixels that do not count
        things = ["head"]                   # classes whose objects can be counted
        colours = { head = [255, 0, 0] }    # where labels are pictures: also background and ignore
        channels = ["T1", "T2"]             # names of the channels of an image
        spacing = [0.07, 0.07]              # in the place of the files' own, along the array axes
        unit = "mm"                         # or "um"; with spacing only

        [files]                             # patterns: see medseg.dataset.patterns.Pattern
        image = "{case}.png"                # {group}, {site} and {split} too; any other name becomes a tag;
                                            # a list means one file a channel, in that order
        label = "{case}_Annotation.png"     # such files are never images; a list means one mask an object
        group = "{group}_*"                 # matched with the name of the case

        [csv]                               # a file with a row a case
        file = "sizes.csv"
        case = "filename"                   # the column that names the case or its image
        spacing = "pixel size (mm)"         # also group, site, split, and tags = { hc = "column" }

        [splits]                            # names of cases or groups
        test = ["010", "012"]

        [tags.quality]
        poor = ["010_2HC"]

        [[cases]]                           # in the place of [files]
        image = "a.png"
        label = "a_mask.png"                # also name, group, split, site, tags
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused("bad-toml", f"'{path}' is not valid TOML", got=error, do="correct that line") from error
    reader = Table(table, f"'{path.name}'", _KEYS)
    root = Path(os.path.abspath(path.parent / (reader.text("root") or "."))) if root is None else root
    if not root.is_dir():
        raise Refused("not-found", f"no such folder '{root}'", do=f"check root in '{path.name}'")
    if ("files" in table) == ("cases" in table):
        raise Refused(
            "missing-key",
            f"'{path.name}' lists {'no cases' if 'files' not in table else 'its cases twice'}",
            expected="either [files] or [[cases]]",
        )
    cases = (_from_patterns if "files" in table else _from_list)(reader, root, problems)
    cases.sort(key=lambda c: natural_key(c.name))
    if "csv" in table:
        cases = with_rows(reader.below("csv", CSV_KEYS), cases, root, problems)
    cases = _assign(reader, cases, root, problems)
    unit = spacing_unit(reader, cases)
    cases = [c if c.spacing is None else replace(c, spacing_unit=unit) for c in cases]
    classes: dict[str, int] | None
    if legend := legend_of(reader, root):
        classes, ignore = legend.classes, legend.ignore
        cases = [replace(case, colours=legend.colours) for case in cases]
    else:
        classes = _classes(reader)
        ignore = ignored_of(reader, classes)
        cases = with_colours(reader, cases, classes, ignore)
    kind = reader.text("kind")
    if kind not in (None, "instances", "semantic"):
        raise reader.refuse("kind", kind, '"instances" or "semantic"')
    return Listing(
        name=reader.text("name") or path.stem,
        cases=tuple(cases),
        root=root,
        layout="TOML",
        classes=classes,
        kind=kind,
        spacing=spacing_of(reader) if "spacing" in table else None,
        spacing_unit=unit,
        source=path,
        channels=tuple(reader.texts("channels")) if "channels" in table else (),
        ignore=ignore,
        things=things_of(reader, classes),
    )


def _from_patterns(reader: Table, root: Path, problems: Problems) -> list[Case]:
    """Match all files with the patterns and join images with labels on the placeholders they share."""
    files = reader.below("files", _FILE_KEYS)
    image, *others = _patterns(files, "image")
    if "case" not in image.names:
        raise files.refuse("image", image.text, "a pattern with {case}")
    several = isinstance(files.table.get("label"), list)
    patterns = _patterns(files, "label") if "label" in files.table else []
    for key, pattern in [("label", p) for p in patterns] + [("image", p) for p in others]:
        if not {"case"} <= set(pattern.names) <= set(image.names):
            raise files.refuse(key, pattern.text, f"{{case}} and placeholders of {image.text}")
    candidates = {n: f for n in sorted(image_paths(root, image)) if (f := image.fields(n)) is not None}
    beside = sorted({n for p in patterns + others for n in image_paths(root, p)})
    labels = {
        name: [n for n in dict.fromkeys(n for p in patterns for n in p.among(beside, fields)) if n != name]
        for name, fields in candidates.items()
    }
    used = {n for mine in labels.values() for n in mine}
    channels = {
        name: [[n for n in p.among(beside, fields) if n not in used] for p in others]
        for name, fields in candidates.items()
    }
    further = {n for name, mine in channels.items() for found in mine for n in found if n != name}
    images = {n: fields for n, fields in candidates.items() if n not in used and n not in further}
    if not images:
        raise Refused(
            "empty-folder",
            f"no image in '{root}' matches {files.where}.image",
            got=image.text,
            do="correct the pattern",
        )
    cases = [
        _matched(
            fields,
            _channels(root, name, channels[name], others, problems, fields["case"]),
            _one_label(labels[name], fields["case"], root, several, problems),
            files,
        )
        for name, fields in images.items()
    ]
    if patterns:
        if files.flag("only_labelled"):
            cases = [case for case in cases if case.label is not None] or cases
        tell_bare(root, cases, len(used), problems, patterns[0].text.replace("{case}", "{}"))
        orphans = [n for n in beside if n not in used | further and n not in images]
        _tell_orphans(
            root, [n for n in orphans if any(p.fields(n) for p in patterns)], images, used, problems
        )
    return cases


def _patterns(files: Table, key: str) -> list[Pattern]:
    """Return the pattern of a key, or those of its list."""
    texts = files.texts(key) if isinstance(files.table.get(key), list) else [files.required(key)]
    if not texts:
        raise files.refuse(key, texts, "at least one pattern")
    return [Pattern(text, f"{files.where}.{key}") for text in texts]


def _channels(
    root: Path, first: str, found: list[list[str]], patterns: list[Pattern], problems: Problems, case: str
) -> Path | tuple[Path, ...]:
    """Return the file of the first channel with those of the others, where there are others."""
    for pattern, names in zip(patterns, found):
        if len(names) != 1:
            problems.refuse(
                Refused(
                    "missing-channel" if not names else "unknown-channel",
                    f"case '{case}' has {len(names) or 'no'} files for a channel",
                    got=some(names) if names else "no file",
                    expected=pattern.text,
                    do="add the file, or leave the case out" if not names else "narrow the pattern",
                ),
                case,
            )
    paths = (root / first, *(root / names[0] for names in found if names))
    return paths if len(paths) > 1 else paths[0]


def _tell_orphans(root: Path, orphans: list[str], images: Sized, used: Sized, problems: Problems) -> None:
    """Tell of labels that belong to no image."""
    if orphans:
        each = [
            Finding(
                "error",
                "label-without-image",
                stem_of(name),
                f"the label '{name}' has no image.",
                "Add the image, or move the label elsewhere.",
            )
            for name in orphans
        ]
        refusal = without("label", orphans, len(images), len(used) + len(orphans), root)
        problems.refuse(refusal, each=each)


def _one_label(
    names: list[str], case: str, root: Path, several: bool, problems: Problems
) -> Path | tuple[Path, ...] | None:
    if not names:
        return None
    if several:
        return tuple(root / n for n in sorted(names, key=natural_key))
    if len(names) > 1:
        problems.refuse(
            Refused(
                "ambiguous-label",
                f"case '{case}' has {len(names)} labels",
                got=some(names),
                do='narrow the pattern; label = ["..."] in brackets means one mask an object',
            ),
            case,
        )
    return root / names[0]


def _matched(
    fields: dict[str, str],
    image: Path | tuple[Path, ...],
    label: Path | tuple[Path, ...] | None,
    files: Table,
) -> Case:
    """Make a case of what the placeholders took."""
    name = fields["case"]
    group = fields.get("group", name)
    rule = files.text("group")
    if rule is not None:
        pattern = Pattern(rule, f"{files.where}.group")
        if pattern.names != ("group",) or "group" in fields:
            raise files.refuse("group", rule, "a pattern with {group} alone, which image does not have")
        match = pattern.fields(name)
        if match is None:
            raise Refused(
                "bad-value",
                f"{files.where}.group does not match case '{name}'",
                got=rule,
                do="widen the pattern",
            )
        group = match["group"]
    return Case(
        name,
        image,
        label,
        group,
        split=fields.get("split"),
        site=fields.get("site"),
        tags={k: v for k, v in fields.items() if k not in _OWN_FIELDS},
    )


def _from_list(reader: Table, root: Path, problems: Problems) -> list[Case]:
    """Read [[cases]]."""
    value = reader.table["cases"]
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise reader.refuse("cases", type(value).__name__, "[[cases]] tables")
    cases = []
    for number, entry in enumerate(value, 1):
        row = Table(entry, f"{reader.where} case {number}", _CASE_KEYS)
        several = isinstance(entry.get("image"), list)
        paths = tuple(root / text for text in (row.texts("image") if several else [row.required("image")]))
        if not paths:
            raise row.refuse("image", [], "at least one path")
        image = paths if len(paths) > 1 else paths[0]
        name = row.text("name") or stem_of(paths[0])
        label: Path | tuple[Path, ...] | None = None
        if isinstance(entry.get("label"), list):
            label = tuple(root / text for text in row.texts("label")) or None
        elif "label" in entry:
            label = root / row.required("label")
        tags = row.below("tags")
        cases.append(
            Case(
                name,
                image,
                label,
                row.text("group") or name,
                split=row.text("split"),
                site=row.text("site"),
                tags={key: tags.required(key) for key in tags.table},
                spacing=spacing_of(row) if "spacing" in entry else None,
            )
        )
    listed = [path for case in cases for path in (*case.images, *case.labels)]
    missing = [path for path in listed if not path.exists()]
    if missing:
        each = [
            Finding(
                "error",
                "not-found",
                case.name,
                f"{reader.where} names '{relative(path, root)}', which does not exist.",
                "Correct the path, or give root=.",
            )
            for case in cases
            for path in (*case.images, *case.labels)
            if path in missing
        ]
        refusal = Refused(
            "not-found",
            f"{reader.where} names files that do not exist",
            got=f"{len(missing)} of {len(listed)}: {some(map(str, missing))}",
            do="correct the paths, or give root=",
        )
        problems.refuse(refusal, each=each)
    return [c for c in cases if all(path.exists() for path in (*c.images, *c.labels))]


def _assign(reader: Table, cases: list[Case], root: Path, problems: Problems) -> list[Case]:
    """Give cases the splits and tags that are listed by name of case or group."""
    splits = reader.below("splits", SPLITS)
    split_of: dict[str, str] = {}
    for split in splits.table:
        for name in _named(splits, split, cases, root):
            if split_of.setdefault(name, split) != split:
                problems.refuse(
                    Refused(
                        "group-in-two-splits",
                        f"{splits.where}: case '{name}' is in two splits",
                        got=f"{split_of[name]} and {split}",
                        do="name it in one of them",
                    ),
                    name,
                )
    tags: dict[str, dict[str, str]] = {}
    every = reader.below("tags")
    for key in every.table:
        one = every.below(key)
        for value in one.table:
            for name in _named(one, value, cases, root):
                if tags.setdefault(name, {}).setdefault(key, value) != value:
                    raise one.refuse(value, name, f"one value for a case, it has {tags[name][key]}")
    return [
        replace(c, split=split_of.get(c.name, c.split), tags={**c.tags, **tags.get(c.name, {})})
        for c in cases
    ]


def _named(table: Table, key: str, cases: list[Case], root: Path) -> set[str]:
    """Return the names of the cases that a list names, by their own name or by that of their group."""
    known = {c.name for c in cases} | {c.group for c in cases}
    listed = table.names(key, root, known)
    strange = sorted(listed - known)
    if strange:
        raise Refused(
            "unknown-case",
            f"{table.where}.{key} names what is neither case nor group",
            got=some(strange),
            do=did_you_mean(strange[0], known) if len(known) < 1000 else None,
        )
    return {c.name for c in cases if c.name in listed or c.group in listed}


def _classes(reader: Table) -> dict[str, int] | None:
    if "classes" not in reader.table:
        return None
    classes = reader.below("classes").table
    good = all(type(v) is int and v >= 0 for v in classes.values())
    if not classes or not good or len(set(classes.values())) < len(classes):
        raise reader.refuse("classes", classes, "names of different whole numbers, such as { liver = 1 }")
    return dict(classes)

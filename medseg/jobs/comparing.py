"""What is wrong with a data set as a whole, from what is known of its cases."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from ..dataset import Finding, Listing
from ..dataset.cases import some
from ..dataset.pairing import relative
from ..io import stem_of, suffix_of
from .examining import Facts

__all__ = ["compare", "kind_of", "patient_of"]

_MANY_VALUES = 20
_FEW_CASES = 3
_LEAST_GROUPS = 3
_GROUND = ("background", "_background_", "ground", "bg", "other", "others", "none", "clear label")
_VOID = "If 255 is void, write ignore = 255 beside the classes. "
_OUTLIER = 10.0
# a number, then what tells images of one patient apart: 010_2HC, Image_01L
_NUMBERED = re.compile(r"(\D*\d+)(?:[_\-. ].*|[lrLR])")


def kind_of(listing: Listing, facts: Sequence[Facts]) -> str:
    """Return what the labels are, as declared or as their values look: objects or classes."""
    if listing.kind:
        return listing.kind
    if listing.classes:
        return "semantic"
    if any(isinstance(case.label, tuple) for case in listing.cases):
        return "instances"
    maps = [sorted(f.counts) for f in facts if f.counts]
    if len({v for values in maps for v in values}) > _MANY_VALUES:
        return "instances"
    numbered = all(values == list(range(1, len(values) + 1)) for values in maps)
    counts = {len(values) for values in maps}
    return "instances" if numbered and len(counts) > 1 and max(counts) > 2 else "semantic"


def compare(listing: Listing, facts: Sequence[Facts], *, told: bool = False) -> list[Finding]:
    """Return what can only be seen by looking at several cases; ``told``: that labels lack is known."""
    return [
        *_groups(listing, told),
        *_copies(facts),
        *_mixed(listing, facts),
        *_spacings(facts),
        *_labels(listing, facts),
    ]


def patient_of(name: str) -> str | None:
    """Return the part of a name that several images of one patient may share, or None.

    Examples
    --------
    >>> patient_of("010_2HC"), patient_of("Image_01L"), patient_of("hippocampus_001")
    ('010', 'Image_01', None)
    """
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else None


def _groups(listing: Listing, told: bool) -> list[Finding]:
    found = []
    labelled = [case for case in listing.cases if case.label is not None]
    if not labelled and listing.cases and not told:
        found.append(
            Finding(
                "warning",
                "no-labels",
                "",
                f"no case has a label (layout: {listing.layout}): they can be predicted, not trained on.",
                _advice(listing),
            )
        )
    groups = {case.group for case in listing.cases}
    if labelled and len(groups) < _LEAST_GROUPS:
        have = "there is one group" if len(groups) == 1 else f"there are {len(groups)} groups"
        found.append(
            Finding(
                "warning",
                "too-few-groups",
                "",
                f"{have}, {some(groups)}: training, validation and test need one each.",
                "Add cases of other patients, or go without a test: split.test_fraction=0."
                if len(groups) == _LEAST_GROUPS - 1
                else "Add cases of other patients.",
            )
        )
    patients = [patient_of(case.name) for case in listing.cases]
    known = {p for p in patients if p is not None}
    alone = len(groups) == len(listing.cases)
    if alone and all(patients) and 1 < len(known) < len(listing.cases):
        first = Counter(patients).most_common(1)[0][0]
        together = [case.name for case in listing.cases if patient_of(case.name) == first]
        found.append(
            Finding(
                "warning",
                "maybe-one-patient",
                "",
                f"each case is a group of its own, and names begin alike, such as {some(together, 2)} "
                f"({len(known)} beginnings of {len(listing.cases)} names): images of one patient in training "
                f"and validation make scores too good.",
                f"If they are of one patient, say so in a dataset.toml: {_line(listing)}.",
            )
        )
    return found


def _advice(listing: Listing) -> str:
    """Say how labels could be told, where the names of files show a pattern."""
    names = {case.name: case for case in listing.cases}
    endings: Counter[str] = Counter()
    for name in names:
        for cut in range(1, len(name)):
            if name[cut] in "_-" and name[:cut] in names:
                endings[name[cut:]] += 1
    images = len(names) - sum(endings.values())
    frequent = [ending for ending, n in endings.items() if n >= max(2, images // 2)]
    if not frequent:
        return "Add labels in a known layout, or describe where they are in a dataset.toml."
    ending = min(frequent)
    label = next(case.path for name, case in names.items() if name.endswith(ending))
    image = names[stem_of(label).removesuffix(ending)].path
    others = " or ".join(repr(e) for e in sorted(frequent) if e != ending)
    move = f"move those in {others} elsewhere and " if others and suffix_of(image) == suffix_of(label) else ""
    return (
        f"If files that end in {' or '.join(repr(e) for e in sorted(frequent))} are labels, {move}write a "
        f"dataset.toml: files = {{ "
        f'image = "{{case}}{suffix_of(image)}", label = "{{case}}{ending}{suffix_of(label)}" }}.'
    )


def _line(listing: Listing) -> str:
    """Return the line of a dataset.toml that gives cases whose names begin alike one group."""
    rests = [case.name[len(patient_of(case.name) or "") :] for case in listing.cases]
    after = {rest[0] for rest in rests}
    group = (
        f"{{group}}{after.pop()}*"
        if len(after) == 1
        else "{group}[LR]"
        if after <= set("LR")
        else "{group}_*"
    )
    patterns = []
    for key in ("image", "label"):
        paths = [p for case in listing.cases for p in (case.images if key == "image" else case.labels)]
        named = {relative(p, listing.root).replace(c.name, "{case}") for p, c in zip(paths, listing.cases)}
        if len(named) == 1 and len(paths) == len(listing.cases):
            patterns.append(f'{key} = "{named.pop()}"')
    if len(patterns) < 2:
        return f'group = "{group}" in its [files]'
    return f'files = {{ {", ".join(patterns)}, group = "{group}" }}'


def _copies(facts: Sequence[Facts]) -> list[Finding]:
    """Tell of images and labels that are there twice."""
    found = []
    images: dict[bytes, Facts] = {}
    labels: dict[bytes, Facts] = {}
    for mine in facts:
        other = images.setdefault(mine.image_hash, mine) if mine.image_hash else mine
        if other is not mine:
            differ = mine.label_hash != other.label_hash and mine.case.labels and other.case.labels
            parted = mine.case.group != other.case.group
            found.append(
                Finding(
                    "error" if parted or differ else "warning",
                    "duplicate-image",
                    mine.case.name,
                    f"the image is that of '{other.case.name}'"
                    + (", with another label." if differ else ".")
                    + (" The two may come into training and validation." if parted else ""),
                    "Keep the right label, and take the other case away."
                    if differ
                    else "Take one of the two away.",
                )
            )
            continue
        other = labels.setdefault(mine.label_hash, mine) if mine.label_hash else mine
        if other is not mine and mine.case.group != other.case.group:
            found.append(
                Finding(
                    "error",
                    "duplicate-label",
                    mine.case.name,
                    f"the label is that of '{other.case.name}', voxel by voxel, and the images differ.",
                    "Find out which image it belongs to, and give the other its own.",
                )
            )
    return found


def _mixed(listing: Listing, facts: Sequence[Facts]) -> list[Finding]:
    """Tell of axes, channels and directions that differ from case to case."""
    found = []
    axes = {f.case.name: f"{len(f.shape)}D" for f in facts if f.shape}
    if len(set(axes.values())) > 1:
        found.append(
            Finding("error", "mixed-dimensions", "", _shares(axes, "images"), "Make a data set of each.")
        )
    channels = {f.case.name: str(f.channels) for f in facts if f.channels}
    counts = {int(n) for n in channels.values()}
    if listing.channels and counts and counts != {len(listing.channels)}:
        wrong = {n: c for n, c in channels.items() if int(c) != len(listing.channels)}
        sentence = (
            f"{len(listing.channels)} channels are declared ({', '.join(listing.channels)}), and "
            f"{len(wrong)} of {len(channels)} images have another number, such as '{next(iter(wrong))}' with "
            f"{next(iter(wrong.values()))}."
        )
        found.append(
            Finding("error", "channel-mismatch", "", sentence, "Correct the description or the images.")
        )
    elif len(counts) > 1:
        grey = counts <= {1, 3}
        sentence = _shares(channels, "channels")
        fix = "" if grey else "Give every image the same channels, or make a data set of each."
        found.append(Finding("note" if grey else "error", "mixed-channels", "", sentence, fix))
    directions = {f.case.name: f.orientation for f in facts if f.orientation}
    if len(set(directions.values())) > 1:
        found.append(Finding("note", "mixed-orientations", "", _shares(directions, "directions of the axes")))
    return found


def _shares(of: dict[str, str], what: str) -> str:
    """Say how often each value occurs, with the names where they are few."""
    counts = Counter(of.values()).most_common()
    parts = []
    for number, (value, count) in enumerate(counts):
        names = [name for name, v in of.items() if v == value]
        parts.append(
            f"{value} in {count} case{'s' if count > 1 else ''}" + (f" ({some(names)})" if number else "")
        )
    return f"the {what} are not all alike: {', '.join(parts)}."


def _spacings(facts: Sequence[Facts]) -> list[Finding]:
    """Tell of pixels of a size that is likely a wrong unit, and of images without a size among others."""
    found = []
    units = {f.case.name: "no unit" if f.unit == "pixel" else f.unit for f in facts if f.spacing}
    if len(set(units.values())) > 1:
        found.append(
            Finding(
                "warning",
                "mixed-units",
                "",
                _shares(units, "pixel sizes"),
                "Give the spacing in a dataset.toml.",
            )
        )
    sizes: dict[tuple[str, int], list[Facts]] = defaultdict(list)
    for mine in facts:
        if mine.spacing and mine.unit != "pixel":
            sizes[mine.unit, len(mine.spacing)].append(mine)
    for (unit, _), group in sizes.items():
        # axes may be in another order: the sorted sizes are compared
        table = np.sort([f.spacing for f in group], axis=1)
        middle = np.median(table, axis=0)
        for mine, row in zip(group, table):
            if np.maximum(row / middle, middle / row).max() > _OUTLIER:
                found.append(
                    Finding(
                        "warning",
                        "spacing-outlier",
                        mine.case.name,
                        f"a pixel is {sizes_of(mine.spacing)} {unit}, and the median of the data set is "
                        f"{sizes_of(middle)} {unit}: more than {_OUTLIER:g} times apart, likely a "
                        f"wrong unit.",
                        "Correct the header, or give the spacing in a dataset.toml.",
                    )
                )
    return found


def sizes_of(sizes: Sequence[float] | np.ndarray | None) -> str:
    """Return sizes as they are read."""
    return " x ".join(f"{s:.4g}" for s in (sizes if sizes is not None else ()))


def _zero(name: str) -> Finding:
    return Finding(
        "warning",
        "class-zero",
        "",
        f"class '{name}' has the value 0, which is the background's: no score counts it.",
        f"If it is a class as the others, number the classes from 1 and say which grey each is: colours = {{ "
        f"{name!r} = [0, 0, 0], ... }}.".replace("'", '"'),
    )


def _labels(listing: Listing, facts: Sequence[Facts]) -> list[Finding]:
    """Tell of classes that are missing or rare, and of gaps in numbers that nobody declared."""
    known = [f for f in facts if f.counts is not None]
    if not known or kind_of(listing, facts) == "instances":
        return []
    occurs = Counter(value for f in known for value in f.counts or ())
    found = []
    values = sorted(occurs)
    if not listing.classes and len(values) > 1 and values != list(range(1, len(values) + 1)):
        missing = sorted(set(range(1, values[-1])) - set(values))
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        found.append(
            Finding(
                "warning",
                "label-gap",
                "",
                f"the labels hold {', '.join(map(str, values[:8]))}{' ...' if len(values) > 8 else ''}, "
                f"and not {', '.join(map(str, missing[:5]))}{more}.",
                f"{_VOID if values[-1] == 255 else ''}If that is meant, name the classes in a dataset.toml; "
                f"otherwise correct the labels.",
            )
        )
    classes = listing.classes or {str(v): v for v in values}
    for name, value in classes.items():
        called = f"'{name}' ({value})" if listing.classes else str(value)
        if not value:
            found += [] if name.lower() in _GROUND else [_zero(name)]
        elif not occurs[value]:
            found.append(
                Finding(
                    "warning",
                    "absent-class",
                    "",
                    f"class {called} occurs in none of {len(known)} labels.",
                    "Add cases that show it, or take it out of the description.",
                )
            )
        elif occurs[value] < _FEW_CASES <= len(known):
            where = [f.case.name for f in known if value in (f.counts or ())]
            found.append(
                Finding(
                    "warning",
                    "rare-class",
                    "",
                    f"class {called} occurs in {occurs[value]} of {len(known)} labels ({some(where)}): "
                    f"training, validation and test cannot all have it.",
                    "Add cases that show it.",
                )
            )
    return found

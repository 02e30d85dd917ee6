"""Check a data set: every defect, with its remedy, before hours are spent on it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dataset import Dataset, Finding, Listing, list_dataset
from .comparing import compare, kind_of, sizes_of
from .examining import Facts, examine

__all__ = ["CheckReport", "check_dataset"]

_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class CheckReport:
    """What a data set holds and what is wrong with it.

    Attributes
    ----------
    dataset : str
        Its name.
    source : Path
        Its folder or TOML file.
    layout : str
        How its cases were found.
    cases, groups : int
    facts : dict of str to str
        What the files hold, for people: ``images``, ``spacing``, ``axes``, ``labels``.
    findings : tuple of Finding
        Errors first; of one severity, those of the whole data set first, then in the order of the cases.
    """

    dataset: str
    source: Path
    layout: str
    cases: int
    groups: int
    facts: dict[str, str]
    findings: tuple[Finding, ...]

    def of(self, severity: str) -> tuple[Finding, ...]:
        """Return the findings of one severity: "error", "warning" or "note"."""
        return tuple(f for f in self.findings if f.severity == severity)

    @property
    def defective(self) -> tuple[str, ...]:
        """The names of the cases with an error, sorted."""
        return tuple(sorted({f.case for f in self.of("error") if f.case}))

    @property
    def exit_code(self) -> int:
        """0 where there is no error, else 2."""
        return 2 if self.of("error") else 0

    def __str__(self) -> str:
        lines = [f"{self.dataset}: {_n(self.cases, 'case')}, {_n(self.groups, 'group')}; {self.layout}"]
        lines += [f"  {name:9}{text}" for name, text in self.facts.items()]
        if self.findings:
            names = [f.case or "(data set)" for f in self.findings]
            wide = min(max(map(len, names)), 40)
            lines += [""]
            lines += [
                f"{f.severity:8} {name:{wide}}  {' '.join(p for p in (f.sentence, f.fix) if p)} [{f.reason}]"
                for f, name in zip(self.findings, names)
            ]
        return "\n".join([*lines, "", self.summary])

    @property
    def summary(self) -> str:
        """One line: how many findings of which kind."""
        told = []
        for severity in _ORDER:
            found = self.of(severity)
            reasons = ", ".join(
                f"{n} {reason}" for reason, n in Counter(f.reason for f in found).most_common()
            )
            told += [f"{_n(len(found), severity)} ({reasons})"] if found else []
        if not told:
            return f"No defect in {_n(self.cases, 'case')}."
        text = "; ".join(told)
        if not self.of("error"):
            text = f"No error; {text}"
        return f"{text}. Defective: {len(self.defective)} of {_n(self.cases, 'case')}."


def check_dataset(
    dataset: Dataset | str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    on_case: Callable[[str, tuple[Finding, ...]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read every file of a data set and tell all that is wrong with it.

    One case is in memory at a time.

    Parameters
    ----------
    dataset : Dataset or path
        A path may be of a data set that `medseg.load_dataset` refuses, as an image has no label.
    root : path, optional
        As for `medseg.load_dataset`.
    on_case : callable, optional
        Called after each case with its name and what was found in its files.
    progress : callable, optional
        Called with the number of cases that are done and of all.

    Returns
    -------
    CheckReport

    Raises
    ------
    Refused
        Where no case can be listed: ``not-found``, ``empty-folder``, ``unknown-layout``, ``bad-toml`` and
        other mistakes in a description.

    Notes
    -----
    Errors: ``image-without-label``, ``label-without-image``, ``ambiguous-label``, ``missing-channel``,
    ``not-found``, ``duplicate-case``, ``group-in-two-splits``, what reading an image or label refuses
    (``unreadable``, ``non-finite``, ``not-whole-numbers`` ...), ``shape-mismatch``, ``affine-mismatch`` (more
    than a tenth of a voxel), ``unknown-label-value``, ``duplicate-image``, ``duplicate-label``,
    ``mixed-dimensions``, ``mixed-channels``, ``channel-mismatch``. Warnings: ``empty-label``,
    ``all-ignored``, ``constant-image``, ``one-slice``, ``spacing-outlier``, ``mixed-units``, ``label-gap``,
    ``absent-class``, ``rare-class``, ``class-zero``, ``too-few-groups``, ``maybe-one-patient``,
    ``no-labels``, ``count-differs``, ``unlisted-case``, ``unused-label``. Notes: ``mixed-orientations``.

    Copies are found by a hash of the voxels (BLAKE2b); two images that are each of one value are no copies.

    Examples
    --------
    >>> import pathlib, tempfile, numpy, medseg
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "cells")
    >>> for i in range(2):
    ...     image = numpy.arange(600, dtype="uint8").reshape(20, 30) + i
    ...     _ = medseg.write(image, folder / f"images/{i}.png")
    ...     _ = medseg.write((image > 99).astype("uint8")[: 20 - i], folder / f"labels/{i}.png")
    >>> report = medseg.jobs.check_dataset(folder)
    >>> print(report.findings[0])
    error: 1: the label 'labels/1.png' has another shape than its image: got 19 x 30, expected 20 x 30. \
Pair each image with its own label, or resample the label to the image's grid. [shape-mismatch]
    """
    if isinstance(dataset, Dataset):
        listing: Listing = dataset
        told: tuple[Finding, ...] = ()
    else:
        listing, told = list_dataset(dataset, root=root)
    classes = listing.classes if listing.kind != "instances" else None
    facts: list[Facts] = []
    for case in listing.cases:
        facts.append(examine(case, listing.root, classes, listing.ignore))
        if on_case:
            on_case(case.name, tuple(facts[-1].findings))
        if progress:
            progress(len(facts), len(listing))
    bare = any(finding.reason == "image-without-label" for finding in told)
    more = compare(listing, facts, told=bare)
    findings = [*told, *(f for one in facts for f in one.findings), *more]
    place = {case.name: number for number, case in enumerate(listing.cases)}
    return CheckReport(
        dataset=listing.name,
        source=Path(listing.source or listing.root),
        layout=listing.layout,
        cases=len(listing.cases),
        groups=len(listing.groups),
        facts=_facts(listing, facts),
        findings=tuple(
            sorted(
                findings,
                key=lambda f: (_ORDER.index(f.severity), place.get(f.case, len(place)) if f.case else -1),
            )
        ),
    )


def _n(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _facts(listing: Listing, facts: Sequence[Facts]) -> dict[str, str]:
    """Say what the files hold."""
    found: dict[str, str] = {}
    for axes in sorted({len(f.shape) for f in facts if f.shape}):
        mine = [f for f in facts if f.shape and len(f.shape) == axes]
        shapes = np.array([f.shape for f in mine])
        low, high = shapes.min(axis=0), shapes.max(axis=0)
        size = sizes_of(low) + ("" if (low == high).all() else f" to {sizes_of(high)}")
        channels = sorted({f.channels for f in mine if f.channels})
        names = f" ({', '.join(listing.channels)})" if listing.channels else ""
        counted = " or ".join(map(str, channels)) + (" channel" if channels == [1] else " channels")
        text = f"{len(mine)} x {axes}D, {counted}{names}, {size} {'voxels' if axes == 3 else 'pixels'}"
        found["images"] = f"{found['images']}; {text}" if "images" in found else text
        for unit in sorted({f.unit for f in mine if f.spacing} - {"pixel"}):
            table = np.array([f.spacing for f in mine if f.spacing and f.unit == unit])
            low, high = table.min(axis=0), table.max(axis=0)
            same = np.allclose(low, high, rtol=1e-3)
            text = f"{sizes_of(np.median(table, axis=0))} {unit}"
            text += "" if same else f" (median; {sizes_of(low)} to {sizes_of(high)})"
            found["spacing"] = f"{found['spacing']}; {text}" if "spacing" in found else text
    if directions := Counter(f.orientation for f in facts if f.orientation).most_common():
        parts = [f"{codes} {n}" if len(directions) > 1 else str(codes) for codes, n in directions]
        found["axes"] = ", ".join(parts)
    if labels := _labels(listing, facts):
        found["labels"] = labels
    if listing.ignore:
        share = [f.ignored / math.prod(f.shape) for f in facts if f.shape and f.counts is not None]
        values = ", ".join(map(str, listing.ignore))
        found["ignored"] = f"value{'s' if len(listing.ignore) > 1 else ''} {values}" + (
            f": {np.mean(share):.1%} of an image" if share else ""
        )
    return found


def _labels(listing: Listing, facts: Sequence[Facts]) -> str:
    known = [f.counts for f in facts if f.counts is not None]
    if not known:
        return ""
    if kind_of(listing, facts) == "instances":
        counts = [len(c) for c in known]
        return f"instance maps, {min(counts)} to {max(counts)} objects an image"
    occurs = Counter(value for counts in known for value in counts)
    classes = listing.classes or {f"value {v}": v for v in sorted(occurs)}
    shown = [f"{n}{f' = {v}' if listing.classes else ''} in {occurs[v]}" for n, v in classes.items() if v]
    return f"classes in {_n(len(known), 'label map')}: {', '.join(shown[:12])}" + (
        " ..." if len(shown) > 12 else ""
    )

"""What the files of one case hold, and what is wrong with them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..dataset import Case, Finding
from ..dataset.pairing import relative
from ..errors import Refused
from ..io import axis_codes
from ..io.labels import LabelReader
from ..io.pixels import IN_MM, MOST_APART, Pixels, farthest, finite, spacing_from
from ..io.readers import load, same_grid

__all__ = ["Facts", "examine"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_PATIENT = ("NIfTI", "NRRD", "MetaImage")  # formats whose axes have directions in the patient
_ROUNDED = 0.01  # pixels by which programs that round lie apart; more is worth a word
_MOST_VALUES = 1000


@dataclass
class Facts:
    """What is known of a case after its files were read; None where they could not be."""

    case: Case
    findings: list[Finding] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    channels: int | None = None
    spacing: tuple[float, ...] | None = None
    unit: str = "pixel"
    orientation: str | None = None
    image_hash: bytes | None = None
    label_hash: bytes | None = None
    counts: dict[int, int] | None = None
    """Voxels of each value of the label but 0 and those ignored, of at most 1000 values."""
    ignored: int = 0
    """Voxels of the label that do not count."""

    def tell(self, severity: str, reason: str, sentence: str, fix: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(severity, reason, self.case.name, sentence, fix))


def examine(case: Case, root: Path, classes: Mapping[str, int] | None, ignore: Collection[int] = ()) -> Facts:
    """Read image and label of a case, one file after the other, and tell what is wrong.

    Parameters
    ----------
    case : Case
    root : Path
        The data set's folder; its files are named from there.
    classes : mapping of name to value, or None
        The values that labels may hold beside 0; None where any may be.
    ignore : collection of int
        Values whose pixels do not count.
    """
    facts = Facts(case)
    grid = _examine_image(facts, root)
    if case.labels:
        _examine_label(facts, root, grid, classes, ignore)
    short = f"{root}/"
    facts.findings = [
        Finding(f.severity, f.reason, f.case, f.sentence.replace(short, ""), f.fix.replace(short, ""))
        for f in facts.findings
    ]
    return facts


def _attempt(facts: Facts, function: Callable[..., T], *inputs: Any) -> T | None:
    """Return what a function gives, or None and a finding where it refuses or fails."""
    try:
        return function(*inputs)
    except Refused as error:
        facts.findings.append(Finding.of(error, facts.case.name))
    except MemoryError:
        facts.tell("error", "out-of-memory", "the files do not fit into memory.", "Use a larger machine.")
    except Exception as error:  # a check goes on after whatever a library says of one file
        _log.debug("case %s", facts.case.name, exc_info=True)
        first = (str(error).splitlines() or ["no message"])[0]
        sentence = f"unexpected {type(error).__name__}: {first.rstrip('.')}."
        facts.tell("error", "unexpected", sentence, "Check that the files open in another program.")
    return None


def _examine_image(facts: Facts, root: Path) -> Pixels | None:
    """Read the files of the image; return the grid of the first, without its pixels."""
    digest = hashlib.blake2b(digest_size=16)
    first: Pixels | None = None
    channels, complete, plain = 0, True, True
    for path in facts.case.images:
        pixels = _attempt(facts, load, path)
        if pixels is None:
            complete = False
            continue
        if _attempt(facts, finite, pixels, path):
            flat = [i for i, c in enumerate(pixels.array) if c.size and c.min() == c.max()]
            plain = plain and len(flat) == len(pixels.array)
            if flat:
                _tell_constant(facts, relative(path, root), flat, pixels)
        _add(digest, pixels.array)
        channels += len(pixels.array)
        grid = Pixels(
            np.broadcast_to(np.zeros(1, np.uint8), (1, *pixels.array.shape[1:])),
            pixels.affine,
            pixels.unit,
            pixels.dtype,
            pixels.format,
        )
        if first is None:
            first = grid
        else:
            _attempt(facts, same_grid, grid, first, path, facts.case.path)
    if first is None:
        return None
    facts.shape = first.array.shape[1:]
    facts.unit, facts.spacing = first.unit, spacing_from(first.affine, len(facts.shape))
    if facts.case.spacing is not None:
        facts.unit, facts.spacing = facts.case.spacing_unit or "mm", facts.case.spacing
        if len(facts.spacing) != len(facts.shape):
            facts.tell(
                "error",
                "bad-spacing",
                f"the data set gives {len(facts.spacing)} sizes of a pixel, the image has "
                f"{len(facts.shape)} axes.",
                "Give one an axis.",
            )
            facts.spacing = None
    if first.format in _PATIENT and len(facts.shape) == 3:
        facts.orientation = axis_codes(first.affine)
    if len(facts.shape) == 3 and 1 in facts.shape:
        facts.tell(
            "warning",
            "one-slice",
            f"the volume is one slice thick: {_by(facts.shape)} voxels.",
            "Give the whole volume, or part such cases from the others as 2D images.",
        )
    facts.channels = channels if complete else None
    # two images without content are alike, and no copies
    facts.image_hash = digest.digest() if complete and not plain else None
    return first


def _tell_constant(facts: Facts, name: str, flat: list[int], pixels: Pixels) -> None:
    every = len(flat) == len(pixels.array)
    which = "" if every else f" in channel {', '.join(map(str, flat))}"
    facts.tell(
        "warning",
        "constant-image",
        f"'{name}' holds one value{which}: {pixels.array[flat[0]].flat[0]:.6g}.",
        "Export it again, or leave the case out.",
    )


def _add(digest: Any, array: npt.NDArray[Any]) -> None:
    """Add the content of an array, plane by plane: a copy of the whole may not fit."""
    digest.update(f"{array.shape} {array.dtype.str}".encode())
    for channel in array:
        for plane in channel:
            digest.update(np.ascontiguousarray(plane))


def _examine_label(
    facts: Facts,
    root: Path,
    image: Pixels | None,
    classes: Mapping[str, int] | None,
    ignore: Collection[int],
) -> None:
    paths = facts.case.labels
    label = _attempt(facts, LabelReader(colours=facts.case.colours).pixels, tuple(map(str, paths)))
    if label is None:
        return
    name = relative(paths[0], root) if len(paths) == 1 else f"{len(paths)} masks"
    values, counts = np.unique(label.array, return_counts=True)
    every = {int(v): int(n) for v, n in zip(values, counts)}
    facts.ignored = sum(every.pop(value, 0) for value in ignore)
    if not every:
        facts.tell(
            "warning",
            "all-ignored",
            f"every pixel of the label '{name}' is ignored.",
            "Leave the case out: nothing can be learnt from it.",
        )
    ground = every.pop(0, 0)
    found = every
    if not found and ground:
        facts.tell(
            "warning",
            "empty-label",
            f"the label '{name}' is 0 everywhere.",
            "Check that nothing is to be found in this image.",
        )
    facts.counts = dict(list(found.items())[:_MOST_VALUES])
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, label.array)
    facts.label_hash = digest.digest() if found else None
    if classes is not None and (strange := sorted(set(found) - set(classes.values()))):
        told = ", ".join(f"{v} ({found[v]} voxel{'s' if found[v] > 1 else ''})" for v in strange[:6])
        more = f" and {len(strange) - 6} more" if len(strange) > 6 else ""
        expected = ", ".join(map(str, sorted({0, *classes.values(), *ignore})))
        facts.tell(
            "error",
            "unknown-label-value",
            f"the label '{name}' holds values that no class has: {told}{more}, expected {expected}.",
            "Correct the label, or name the class in the description of the data set.",
        )
    if image is not None:
        _compare_grids(facts, name, image, label)


def _compare_grids(facts: Facts, name: str, image: Pixels, label: Pixels) -> None:
    """Tell where image and label do not lie on one grid."""
    ours, theirs = label.array.shape[1:], image.array.shape[1:]
    if ours != theirs:
        turned = sorted(ours) == sorted(theirs)
        facts.tell(
            "error",
            "shape-mismatch",
            f"the label '{name}' has another shape than its image: got {_by(ours)}, expected {_by(theirs)}.",
            "The axes are in another order: export the label on the grid of the image."
            if turned
            else "Pair each image with its own label, or resample the label to the image's grid.",
        )
        return
    if label.unit not in IN_MM or image.unit not in IN_MM:
        return  # a file that does not know its pixel size fits any
    scale = IN_MM[image.unit]
    apart = farthest(image.affine * scale, label.affine * IN_MM[label.unit], ours)
    smallest = min(spacing_from(image.affine, len(ours))) * scale
    if apart > _ROUNDED * smallest:
        size = f"{apart:.3g} mm" if image.unit == "mm" else f"{apart * 1e3:.3g} um"
        facts.tell(
            "error" if apart > MOST_APART * smallest else "warning",
            "affine-mismatch",
            f"the label '{name}' and its image lie up to {size} apart ({apart / smallest:.2g} voxels), "
            f"though their shapes are equal.",
            "If the label was drawn on this image, give it the image's header; otherwise pair it anew.",
        )


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

"""What the files of a data set hold: sizes, spacings, channels, what the labels are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dataset import Case, Dataset, read_case, read_case_label
from ..errors import Refused
from ..looks import look_of
from ..transforms import is_grey
from .thickness import Pieces, finest, measure_pieces
from .volumes import VolumePrint, Volumes

__all__ = ["Fingerprint", "take_fingerprint"]

_MOST_IMAGES, _MOST_LABELS = 1000, 100
_MANY_VALUES = 20


@dataclass(frozen=True)
class Fingerprint:
    """What the files of a data set hold.

    Attributes
    ----------
    spatial_dims : int
        Axes of an image.
    shape : tuple of int
        Median size an axis.
    coloured : int
        Images whose channels differ, out of ``images``.
    channels : int
        Channels of the images; 3 where any is coloured.
    images, labels : int
        How many files were looked at.
    spacing : tuple of float
        Median spacing an axis.
    unit : str
        Its unit.
    values : tuple of int
        Values in the labels, at most a few more than tell the kind.
    kind : {"instances", "semantic"}
        What the labels are.
    why : str
        How the kind was told.
    diameter : float
        Median diameter of an object (area or volume as a disc or ball) in pixels; NaN where there is none.
    thickness : float
        How thick the objects of the finest class are, in pixels; NaN where there are none.
    dark : float
        Share of images whose foreground is darker than their background.
    volumes : VolumePrint or None
        Of volumes whose files place them in a patient, in millimetres.
    """

    spatial_dims: int
    shape: tuple[int, ...]
    coloured: int
    channels: int
    images: int
    labels: int
    spacing: tuple[float, ...]
    unit: str
    values: tuple[int, ...]
    kind: str
    why: str
    diameter: float
    thickness: float
    dark: float
    volumes: VolumePrint | None = None


def take_fingerprint(dataset: Dataset, *, progress: Callable[[int, int], None] | None = None) -> Fingerprint:
    """Read a data set and tell what its files hold; of a large one, evenly spread files."""
    if not dataset.labelled:
        raise Refused(
            "no-labels", f"data set '{dataset.name}' has no labels", do="a plan is made for training"
        )
    images = _spread(dataset.cases, _MOST_IMAGES)
    labelled = {id(case) for case in _spread(images, _MOST_LABELS)}
    shapes, channels, spacings, units, objects, looks = [], [], [], [], [], []
    coloured = 0
    values: set[int] = set()
    evidence: list[_LabelEvidence] = []
    pieces: list[Pieces] = []
    volumes = Volumes(dataset.channels)
    for done, case in enumerate(images, start=1):
        image = read_case(case)
        shapes.append(tuple(image.shape[1:]))
        channels.append(image.shape[0])
        coloured += image.shape[0] == 3 and not is_grey(image)
        spacings.append(np.linalg.norm(np.asarray(image.affine)[:3, : image.ndim - 1], axis=0))
        units.append(str(image.meta.get("spacing_unit", "pixel")))
        label = None
        if id(case) in labelled:
            label = np.asarray(read_case_label(case)[0])
            if dataset.ignore:
                label = np.where(np.isin(label, dataset.ignore), 0, label)
            found = _look_at(label)
            evidence.append(found)
            values |= set(found.values[: _MANY_VALUES + 1])
            objects += found.diameters
            pieces.append(measure_pieces(label, found.values))
            if label.shape != image.shape[1:]:
                raise Refused(
                    "shape-mismatch",
                    f"the label of '{case.path}' has another shape",
                    got=label.shape,
                    expected=tuple(image.shape[1:]),
                    do="pair each image with its own label",
                )
            looks.append(look_of(image, label))
        if image.ndim == 4 and units[-1] == "mm":
            volumes.add(image, label)
        if progress:
            progress(done, len(images))
    dims = {len(s) for s in shapes}
    if len(dims) > 1:
        raise Refused("mixed-dimensions", f"data set '{dataset.name}' mixes 2D and 3D images", do="part them")
    kind, why = _kind(dataset, evidence, values)
    dark = [" dark " in look for look in looks if "objects" in look]
    found_channels = {c for c in channels if c not in (1, 3)}
    return Fingerprint(
        spatial_dims=dims.pop(),
        shape=tuple(int(n) for n in np.median(shapes, axis=0)),
        coloured=coloured,
        channels=max(found_channels) if found_channels else (3 if coloured else 1),
        images=len(images),
        labels=len(evidence),
        spacing=tuple(float(s) for s in np.median(spacings, axis=0)),
        unit=max(set(units), key=units.count),
        values=tuple(sorted(values)),
        kind=kind,
        why=why,
        diameter=float(np.median(objects)) if objects else math.nan,
        thickness=finest(pieces, objects=kind == "instances"),
        dark=float(np.mean(dark)) if dark else 0.0,
        volumes=volumes.result() if len(volumes.spacings) == len(images) else None,
    )


@dataclass(frozen=True)
class _LabelEvidence:
    values: tuple[int, ...]
    single: float
    diameters: list[float]


def _look_at(label: np.ndarray) -> _LabelEvidence:
    """Values of a label map, how many of them are one connected piece, and how large the pieces are."""
    from scipy import ndimage

    found, counts = np.unique(label, return_counts=True)
    pieces = 0
    some = [int(v) for v in found if v > 0][:_MANY_VALUES]
    for value in some:
        pieces += ndimage.label(label == value)[1] == 1
    if len(some) == 1:  # a mask: its pieces are the objects
        counts = np.bincount(ndimage.label(label > 0)[0].ravel())
        sizes = counts[1:]
    else:
        sizes = counts[found > 0]
    ball = 4 / 3 * math.pi if label.ndim == 3 else math.pi
    diameters = (2 * (sizes / ball) ** (1 / label.ndim)).tolist()
    values = tuple(int(v) for v in found if v > 0)
    return _LabelEvidence(values, pieces / len(some) if some else 1.0, diameters)


def _kind(dataset: Dataset, evidence: list[_LabelEvidence], values: set[int]) -> tuple[str, str]:
    """Tell instance maps from label maps."""
    if dataset.kind:
        return dataset.kind, "declared by the data set"
    if dataset.classes:
        return "semantic", "the data set declares classes"
    if any(isinstance(case.label, tuple) for case in dataset.cases):
        return "instances", "one mask file an object"
    if len(values) > _MANY_VALUES:
        return "instances", f"more than {_MANY_VALUES} values in the labels"
    counts = {len(e.values) for e in evidence}
    numbered = all(e.values == tuple(range(1, len(e.values) + 1)) for e in evidence)
    single = float(np.mean([e.single for e in evidence]))  # an object may be cut in two by another
    if max(counts, default=0) > 2 and len(counts) > 1 and numbered and single > 0.9:
        return "instances", "labels count 1, 2, 3 ... differently far in each image, each value in one piece"
    return "semantic", f"the labels hold the values {sorted(values)}"


def _spread(cases: Any, most: int) -> list[Case]:
    """Return at most so many items, evenly spread."""
    every: list[Case] = list(cases)
    if len(every) <= most:
        return every
    return [every[i] for i in np.linspace(0, len(every) - 1, most).round().astype(int)]

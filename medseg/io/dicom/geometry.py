"""Planes in space made a grid: sorted along the normal, checked, and refused where no grid fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from .model import Note
from .planes import CONSTANT, Plane

__all__ = ["Grid", "arrange", "orientation_of"]

Array = npt.NDArray[np.float64]

_SAME_PLACE = 1e-3  # mm: two images are at one position
_JITTER = 1e-4  # of direction cosines: scanners and viewers round them
_UNIT = 2e-4  # how far directions may be from unit length, and from a right angle
_QUIET = 0.01  # mm: positions are written with so many digits at least
_ROUNDED = 0.06  # mm: positions rounded to 0.1 mm are off by nearly this, and are taken with a note
_FRACTION = 0.1  # of the step or pixel, where that is less than _ROUNDED


@dataclass(frozen=True)
class Grid:
    """The order of planes along the normal, and the affine of (column, row, plane) to RAS+ millimetres."""

    order: tuple[int, ...]
    affine: Array
    notes: tuple[Note, ...] = ()


def arrange(planes: Sequence[Plane]) -> Grid:
    """Sort planes along their normal and find the grid that they lie on.

    Instance numbers, file names and the order of frames are not looked at: scanners, PACS and exports number
    as they like. The position of every plane must be that of the grid to 0.06 mm, or a tenth of a step or
    pixel where that is less; above 0.01 mm it is noted.

    Raises
    ------
    Refused
        ``mixed-sizes``, ``mixed-spacing``, ``mixed-orientation``, ``bad-orientation``, ``several-volumes``,
        ``doubled-position``, ``mixed-images``, ``missing-slices``, ``uneven-spacing``, ``gantry-tilt``,
        ``shifted-slices``, ``one-plane``.

    Examples
    --------
    >>> planes = [Plane((0, 0, z), (1, 0, 0), (0, 1, 0), (0.9, 0.7), 4, 5) for z in (5.0, 0.0, 2.5)]
    >>> grid = arrange(planes)
    >>> grid.order
    (1, 2, 0)
    >>> np.diag(grid.affine)
    array([-0.7, -0.9,  2.5,  1. ])
    """
    notes: list[Note] = []
    spacing = _same_grid_in_plane(planes)
    row, column = _axes(planes, notes)
    normal = np.cross(row, column)
    places = np.array([p.position for p in planes], np.float64)
    heights = places @ normal
    order = np.argsort(heights, kind="stable")
    heights, places = heights[order], places[order]
    sorted_planes = [planes[i] for i in order]
    _refuse_doubled(sorted_planes, heights)
    _refuse_mixed(sorted_planes)
    step, shift = _step(sorted_planes, heights, notes)
    _refuse_shifted(places, heights, normal, min(spacing), notes)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], normal * step
    affine[:3, 3] = places[0] + shift * normal
    return Grid(tuple(int(i) for i in order), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, tuple(notes))


def orientation_of(plane: Plane) -> str:
    """Say what a plane is: axial, coronal or sagittal within 20 degrees, else oblique.

    Examples
    --------
    >>> orientation_of(Plane((0, 0, 0), (1, 0, 0), (0, 0, -1), (1, 1), 4, 5))
    'coronal'
    """
    normal = np.abs(np.cross(plane.row, plane.column))
    length = np.linalg.norm(normal)
    if not length or normal.max() < np.cos(np.radians(20)) * length:
        return "oblique"
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def _same_grid_in_plane(planes: Sequence[Plane]) -> tuple[float, float]:
    sizes = sorted({(p.rows, p.columns) for p in planes})
    if len(sizes) > 1:
        raise Refused(
            "mixed-sizes",
            "images of different sizes in one series",
            got=", ".join(f"{r} x {c}" for r, c in sizes[:4]),
            expected="one size",
            do="separate them",
        )
    spacings = np.array([p.spacing for p in planes])
    if (np.ptp(spacings, axis=0) > 1e-4 * spacings.min(axis=0)).any():
        raise Refused(
            "mixed-spacing",
            "images of different pixel size in one series",
            got=f"{spacings.min(axis=0).tolist()} to {spacings.max(axis=0).tolist()} mm",
            expected="one",
            do="separate them",
        )
    return planes[0].spacing


def _axes(planes: Sequence[Plane], notes: list[Note]) -> tuple[Array, Array]:
    """Return the directions of a row and of a column, of unit length and at right angles."""
    axes = np.array([[p.row, p.column] for p in planes], np.float64)
    lengths = np.linalg.norm(axes, axis=2)
    dots = np.einsum("nk,nk->n", axes[:, 0], axes[:, 1])
    if np.abs(lengths - 1).max() > _UNIT or np.abs(dots).max() > _UNIT:
        raise Refused(
            "bad-orientation",
            "directions of rows and columns that are no unit vectors at right angles",
            got=f"lengths {lengths.min():.5g} to {lengths.max():.5g}, cosine {np.abs(dots).max():.3g}",
            do="export the series again",
        )
    middle = np.median(axes, axis=0)
    off = np.abs(axes - middle).max(axis=(1, 2))
    if off.max() > _JITTER:
        turned = int((off > _JITTER).sum())
        raise Refused(
            "mixed-orientation",
            "images of different orientation in one series",
            got=f"{turned} of {len(planes)} by up to {_degrees(axes, middle):.3g} degrees",
            expected=f"direction cosines within {_JITTER:g}",
            do="separate them",
        )
    if off.max() > 1e-7:
        notes.append(
            Note(
                "orientation-jitter", f"direction cosines differ by up to {off.max():.1e}; the mean is taken"
            )
        )
    row, column = axes.mean(axis=0) if off.max() > 1e-7 else axes[0]
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _degrees(axes: Array, middle: Array) -> float:
    cosines = np.einsum("nak,ak->na", axes, middle / np.linalg.norm(middle, axis=1, keepdims=True))
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))


def _refuse_doubled(planes: Sequence[Plane], heights: Array) -> None:
    """Refuse several images at one position, and say what tells them apart."""
    edges = np.flatnonzero(np.diff(heights) > _SAME_PLACE) + 1
    groups = np.split(np.arange(len(planes)), edges)
    counts = {len(g) for g in groups}
    if counts == {1}:
        return
    names = {name for p in planes for name in p.traits}
    apart = [
        name
        for name in (*CONSTANT, *sorted(names - set(CONSTANT)))
        if all(len({planes[i].traits.get(name) for i in g}) == len(g) for g in groups)
    ]
    if len(counts) == 1 and len(planes) > max(counts):
        raise Refused(
            "several-volumes",
            "the series holds several volumes at one place, such as phases, echoes or b-values",
            got=f"{max(counts)} images at each of {len(groups)} positions"
            + (f", told apart by {' and '.join(apart[:2])}" if apart else ""),
            expected="one image a position",
            do="export the one that you want as a series of its own",
        )
    doubled = sum(len(g) > 1 for g in groups)
    raise Refused(
        "doubled-position",
        "several different images at one position",
        got=f"{doubled} of {len(groups)} positions",
        expected="one image a position",
        do="find out which of them belong to the series",
    )


def _refuse_mixed(planes: Sequence[Plane]) -> None:
    for name in CONSTANT:
        found = {p.traits.get(name) for p in planes}
        if len(found) > 1:
            raise Refused(
                "mixed-images",
                f"images that differ in their {name} in one series",
                got=f"{len(found)} kinds in {len(planes)} images",
                expected="one kind",
                do="separate them",
            )


def _step(planes: Sequence[Plane], heights: Array, notes: list[Note]) -> tuple[float, float]:
    """Return the distance between planes, and how far the grid begins above the first; or refuse gaps."""
    if len(planes) == 1:
        thickness = planes[0].step or planes[0].thickness
        if thickness is None:
            raise Refused(
                "one-plane", "the series is one image of unknown thickness", expected="SliceThickness"
            )
        notes.append(Note("one-plane", f"the series is one image, {thickness:g} mm thick by its header"))
        return thickness, 0.0
    steps = np.diff(heights)
    step = float((heights[-1] - heights[0]) / (len(heights) - 1))
    shift = 0.0
    off = float(np.abs(heights - heights[0] - step * np.arange(len(heights))).max())
    if off > _QUIET:  # the best grid, because the first and the last may be rounded as the others are
        step, shift = (float(v) for v in np.polyfit(np.arange(len(heights)), heights - heights[0], 1))
        off = float(np.abs(heights - heights[0] - shift - step * np.arange(len(heights))).max())
    if off > min(_ROUNDED, _FRACTION * step) + 1e-9:
        raise _uneven(steps, heights)
    if off > _QUIET:
        notes.append(Note("rounded-positions", f"slices lie up to {off:.2g} mm beside an even grid"))
    _refuse_skipped(planes[0], step, len(planes))
    return step, shift


def _uneven(steps: Array, heights: Array) -> Refused:
    smallest = float(steps.min())
    ratio = steps / smallest
    whole = np.round(ratio)
    where = float(heights[int(np.argmax(steps > 1.5 * smallest))] - heights[0])
    if (np.abs(ratio - whole) <= 0.05 * whole).all() and whole.max() > 1:
        missing = int((whole - 1).sum())
        return Refused(
            "missing-slices",
            "slices are missing from the series",
            got=f"{missing} missing of {len(heights) + missing}, the first {where:.4g} mm above the lowest",
            expected=f"one every {smallest:.4g} mm",
            do="send the series again",
        )
    return Refused(
        "uneven-spacing",
        "the slices are not evenly spaced",
        got=f"steps of {steps.min():.4g} to {steps.max():.4g} mm",
        expected="one step",
        do="separate the parts, or have the series reconstructed evenly",
    )


def _refuse_skipped(plane: Plane, step: float, count: int) -> None:
    """Refuse slices that are evenly too far apart, where the header knows how far they should be.

    Some scanners write the gap between slices there, which is less than their thickness; it proves nothing.
    """
    told = plane.step
    if told is None or (plane.thickness is not None and told < 0.99 * plane.thickness):
        return
    times = step / told
    if round(times) >= 2 and abs(times - round(times)) < 0.02 * times:
        raise Refused(
            "missing-slices",
            f"only every {_ordinal(round(times))} slice is there",
            got=f"{count} slices {step:.4g} mm apart",
            expected=f"one every {told:.4g} mm, as their headers say",
            do="send the series again",
        )


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _refuse_shifted(places: Array, heights: Array, normal: Array, pixel: float, notes: list[Note]) -> None:
    """Refuse slices that do not lie straight above each other, such as those of a tilted gantry."""
    beside = places - places[0] - np.outer(heights - heights[0], normal)
    far = np.linalg.norm(beside, axis=1)
    if far.max() <= min(_ROUNDED, _FRACTION * pixel) + 1e-9:
        if far.max() > _QUIET:
            notes.append(Note("rounded-positions", f"slices lie up to {far.max():.2g} mm beside each other"))
        return
    rise = heights - heights[0]
    shear: Any = rise @ beside / (rise @ rise)
    rest = np.linalg.norm(beside - np.outer(rise, shear), axis=1).max()
    if rest <= max(_ROUNDED, 0.02 * far.max()):
        raise Refused(
            "gantry-tilt",
            "the slices are sheared, as with a tilted gantry: they are no box",
            got=f"{np.degrees(np.arctan(np.linalg.norm(shear))):.3g} degrees",
            expected="slices straight above each other",
            do="resample the series to a box first",
        )
    raise Refused(
        "shifted-slices",
        "the slices are shifted beside each other",
        got=f"up to {far.max():.3g} mm",
        expected="slices straight above each other",
        do="separate the parts of the series",
    )

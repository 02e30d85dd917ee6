"""Planes cut through a volume: picture, contours, sides of the patient, scale."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..io.encode import encode_jpeg, encode_png
from ..palettes import MIXED, PREDICTION, REFERENCE
from .place import Mask, bounding_box

__all__ = ["Plane", "Scene", "cut_planes"]

MARGIN = 0.3  # shown around the objects, of their size
LEAST_PART = 0.2  # of the whole, however small the objects are
SMALL_PICTURE = 40_000  # pixels up to which a plane is stored without loss
REACH = 0.04  # of a plane's longer side: what lies so near to an object is its surroundings
WIDER = 0.35  # on both sides, of the grey values that matter

# name of a plane, the axis it is cut across, its columns, its rows; letters at its left, right, top and
# bottom: radiologists look from the feet, from the front and from the left
PLANES = (("axial", 2, 0, 1, "RLAP"), ("coronal", 1, 0, 2, "RLSI"), ("sagittal", 0, 1, 2, "APSI"))
SECTIONS = (("x, y", 2, 0, 1, ""), ("x, z", 1, 0, 2, ""), ("y, z", 0, 1, 2, ""))

Picture = NDArray[np.uint8]
Cut = tuple[str, int, int, int, str]


@dataclass(frozen=True, eq=False)
class Scene:
    """A volume turned so that its axes are the columns and rows of the planes.

    Attributes
    ----------
    image, prediction, reference : ndarray, shape (X, Y, Z)
        Of a patient x runs to the left, y to the back and z down.
    wrong : ndarray of bool, optional
        Where the prediction is wrong.
    spacing : tuple of float
        Size of a voxel along each axis.
    centre : tuple of int
        The voxel that all planes go through.
    patient : bool
        Whether the axes are those of a patient.
    """

    image: NDArray[Any]
    prediction: NDArray[Any]
    reference: NDArray[Any] | None
    wrong: Mask | None
    spacing: tuple[float, ...]
    centre: tuple[int, ...]
    patient: bool


@dataclass(frozen=True)
class Plane:
    """One plane made ready for the page; lengths in the unit of the spacing.

    Attributes
    ----------
    name, where : str
        Such as "axial", and which plane of how many.
    letters : str
        The patient's sides at the left, right, top and bottom; empty where there is no patient.
    width, height : float
        Of the whole plane.
    part, whole : tuple of float
        Squares to look at: left, top, width and height; all planes of a case have squares of one size.
    bars : tuple of float
        Lengths of the scale bars of both.
    image, tint : str
        Data URIs; `tint` marks wrong voxels, and is empty without a reference.
    outlines : tuple of (str, int, str)
        "p" or "r", value (0 for all objects), and the path of the contours in halves of `step`.
    step : tuple of float
        Half a pixel of the contours, across and down.
    cross : tuple of float
        Where the other planes cut it.
    """

    name: str
    where: str
    letters: str
    width: float
    height: float
    part: tuple[float, float, float, float]
    whole: tuple[float, float, float, float]
    bars: tuple[float, float]
    image: str
    tint: str
    outlines: tuple[tuple[str, int, str], ...]
    step: tuple[float, float]
    cross: tuple[float, float]


def cut_planes(scene: Scene, *, by_value: bool, max_side: int) -> tuple[tuple[Plane, ...], str]:
    """Cut the three planes through the centre of a scene.

    Parameters
    ----------
    scene : Scene
        The volume. Only the planes are copied and converted.
    by_value : bool
        Whether each value has contours of its own, as classes have; else all objects share a layer.
    max_side : int
        Longest side of a picture in pixels.

    Returns
    -------
    planes : tuple of Plane
        Three, or one of a volume that is a single plane.
    window : str
        Which values are black and white.
    """
    every = PLANES if scene.patient else SECTIONS
    cuts = [c for c in every if min(scene.prediction.shape[c[2]], scene.prediction.shape[c[3]]) > 1]
    cuts = cuts or [every[0]]
    sizes = [[scene.prediction.shape[a] * scene.spacing[a] for a in (c[2], c[3])] for c in cuts]
    whole = max(max(size) for size in sizes)
    parts = [_objects_box(scene, cut) for cut in cuts]
    part = max(high - low for box in parts for low, high in box) * (1 + 2 * MARGIN)
    part = min(max(part, LEAST_PART * whole), whole)
    squares = [
        [_interval((low + high) / 2, part, size) for (low, high), size in zip(box, sizes[i])]
        for i, box in enumerate(parts)
    ]
    low, high, said = _window(scene, cuts)
    planes = []
    for cut, size, (left, top) in zip(cuts, sizes, squares):
        name, across, column, row, letters = cut
        image, tint, outlines, shape = _pictures(scene, cut, (low, high), by_value, max_side)
        planes.append(
            Plane(
                name=name,
                where=f"{scene.centre[across] + 1} of {scene.prediction.shape[across]}",
                letters=letters,
                width=size[0],
                height=size[1],
                part=(left, top, part, part),
                whole=((size[0] - whole) / 2, (size[1] - whole) / 2, whole, whole),
                bars=(_round_length(part / 3), _round_length(whole / 3)),
                image=image,
                tint=tint,
                outlines=outlines,
                step=(size[0] / shape[1] / 2, size[1] / shape[0] / 2),
                cross=(
                    (scene.centre[column] + 0.5) * scene.spacing[column],
                    (scene.centre[row] + 0.5) * scene.spacing[row],
                ),
            )
        )
    return tuple(planes), said


def _slice(volume: NDArray[Any], cut: Cut, centre: Sequence[int]) -> NDArray[Any]:
    """Return rows x columns of one plane, a view."""
    _, across, column, row, _ = cut
    plane: NDArray[Any] = np.moveaxis(volume, (across, row, column), (0, 1, 2))[centre[across]]
    return plane


def _union(scene: Scene, cut: Cut) -> Mask:
    """Where a plane has anything predicted, or in the reference."""
    there = _slice(scene.prediction, cut, scene.centre) > 0
    if scene.reference is not None:
        there |= _slice(scene.reference, cut, scene.centre) > 0
    return there


def _objects_box(scene: Scene, cut: Cut) -> list[tuple[float, float]]:
    """Extent of the objects and the centre in a plane, across and down."""
    found = bounding_box(_union(scene, cut))
    if found is None:
        return [(0.0, scene.prediction.shape[a] * scene.spacing[a]) for a in (cut[2], cut[3])]
    box = []
    for part, axis in zip(found[::-1], (cut[2], cut[3])):
        start, stop = min(part.start, scene.centre[axis]), max(part.stop, scene.centre[axis] + 1)
        box.append((start * scene.spacing[axis], stop * scene.spacing[axis]))
    return box


def _interval(middle: float, length: float, size: float) -> float:
    """Start of an interval about a middle that stays inside 0..size, or is centred where it cannot."""
    if length >= size:
        return (size - length) / 2
    return min(max(middle - length / 2, 0.0), size - length)


def _round_length(length: float) -> float:
    """Largest of 1, 2 and 5 times a power of ten that is no longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= length * (1 + 1e-9))


def _window(scene: Scene, cuts: Sequence[Cut]) -> tuple[float, float, str]:
    """Black and white: one window for all planes, from what the objects and their surroundings are like.

    Of a whole CT, air and bone would decide, and organs would all be one grey.
    """
    inside, around, every = [], [], []
    for cut in cuts:
        plane, there = _slice(scene.image, cut, scene.centre), _union(scene, cut)
        reach = max(2, round(REACH * max(there.shape)))
        near = ndimage.maximum_filter(there, size=2 * reach + 1) & ~there
        inside.append(plane[there])
        around.append(plane[near])
        every.append(plane.ravel())
    lows: list[float] = []
    highs: list[float] = []
    for parts, (few, most) in ((inside, (2, 98)), (around, (20, 80)), (every, (1, 99.5))):
        values = np.concatenate(parts).astype(np.float64)
        values = values[np.isfinite(values)]
        if values.size and (parts is not every or not lows):
            lows.append(float(np.percentile(values, few)))
            highs.append(float(np.percentile(values, most)))
    if not lows:
        return 0.0, 1.0, "no finite values"
    low, high = min(lows), max(highs)
    if high <= low:
        return low - 1, low + 1, f"all {low:.3g}"
    low, high = max(low - WIDER * (high - low), _least(every)), high + WIDER * (high - low)
    form = ".0f" if max(abs(low), abs(high)) >= 100 else ".3g"
    minus = "\N{MINUS SIGN}"
    return low, high, f"black {low:{form}}, white {high:{form}}".replace("-", minus)


def _least(parts: Sequence[NDArray[Any]]) -> float:
    return min(float(np.nanmin(part)) for part in parts)


def _pictures(
    scene: Scene, cut: Cut, window: tuple[float, float], by_value: bool, max_side: int
) -> tuple[str, str, tuple[tuple[str, int, str], ...], tuple[int, int]]:
    """Image, tint of wrong voxels and contours of a plane, and the shape that contours are in."""
    plane = _slice(scene.image, cut, scene.centre)
    grid = _fewer(plane.shape, max_side)
    low, high = window
    values = np.nan_to_num(plane.astype(np.float64), nan=low, posinf=high, neginf=low)
    grey = (np.clip((values - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    shape = (len(grid[0]), len(grid[1]))
    if shape != plane.shape:
        from skimage.transform import resize

        grey = resize(grey, shape, order=1, anti_aliasing=True, preserve_range=True).round().astype(np.uint8)
    maps = {"p": _slice(scene.prediction, cut, scene.centre)[np.ix_(*grid)]}
    tint = ""
    if scene.reference is not None and scene.wrong is not None:
        maps["r"] = _slice(scene.reference, cut, scene.centre)[np.ix_(*grid)]
        wrong = _slice(scene.wrong, cut, scene.centre)[np.ix_(*grid)]
        tint = _data(_tint(maps["p"] > 0, maps["r"] > 0, wrong), "png")
    outlines = tuple(
        (who, value, path) for who, labels in maps.items() for value, path in outline(labels, by_value)
    )
    return _data(grey, "png" if grey.size <= SMALL_PICTURE else "jpeg"), tint, outlines, shape


def _fewer(shape: tuple[int, ...], max_side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns to keep so that no side is longer than asked."""
    rows, columns = (
        ((np.arange(n) + 0.5) * s / n).astype(np.intp)
        for s in shape
        for n in [min(s, max(1, round(s * max_side / max(max(shape), max_side))))]
    )
    return rows, columns


def _tint(predicted: Mask, there: Mask, wrong: Mask) -> Picture:
    layer = np.zeros((*wrong.shape, 4), np.uint8)
    for which, colour in ((there & ~predicted, REFERENCE), (predicted & ~there, PREDICTION),
                          (predicted & there, MIXED)):  # fmt: skip
        layer[wrong & which] = (*colour, 90)
    return layer


def outline(labels: NDArray[Any], by_value: bool) -> list[tuple[int, str]]:
    """Contours of the objects of a plane as SVG paths.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        A plane of a label map or instance map.
    by_value : bool
        Whether each value has a path of its own; else all share one, of value 0.

    Returns
    -------
    list of (int, str)
        Value and path. Coordinates are whole halves of a pixel from the corner of the first pixel: contours
        run midway between the centres of pixels inside and outside.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.report.planes import outline
    >>> outline(np.array([[0, 5, 5]]), True)
    [(5, 'M5 2l-2 0l-1 -1l1 -1l2 0l1 1z')]
    """
    from skimage.measure import find_contours

    values, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape) + 1  # find_objects leaves out 0
    paths: dict[int, list[str]] = {}
    for i, box in enumerate(ndimage.find_objects(dense)):
        if values[i] == 0 or box is None:
            continue
        mask = np.pad(dense[box] == i + 1, 1).astype(np.float32)
        corner = np.array([box[0].start - 1, box[1].start - 1])
        for line in find_contours(mask, 0.5):
            points = np.round(2 * (line + corner) + 1).astype(np.int64)[:, ::-1]
            paths.setdefault(int(values[i]) if by_value else 0, []).append(_path(points))
    return [(value, "".join(path)) for value, path in paths.items()]


def _path(points: NDArray[np.int64]) -> str:
    """Closed path of points whose last is the first; points on a straight line are left out."""
    steps = np.diff(points, axis=0)
    turns = np.flatnonzero((steps[1:] != steps[:-1]).any(axis=1)) + 1
    corners = points[np.concatenate([[0], turns])]
    moves = "".join(f"l{x} {y}" for x, y in np.diff(corners, axis=0).tolist())
    return f"M{corners[0, 0]} {corners[0, 1]}{moves}z"


def _data(picture: Picture, kind: str) -> str:
    content = encode_png(picture) if kind == "png" else encode_jpeg(picture, quality=88)
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()

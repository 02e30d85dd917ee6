"""What one case looks like on the page: the image and the layers that lie over it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import Refused
from ..io.encode import encode_jpeg, encode_png
from ..metrics import contingency
from ..palettes import (
    IGNORED_COLOUR,
    MIXED,
    PREDICTION,
    REFERENCE,
    class_colour,
    hexadecimal,
    instance_table,
)
from .differences import Comparison, compare

__all__ = ["Panel", "View", "draw"]

# smaller images are enlarged by a whole factor, so that contours stay thin beside a pixel
SMALLEST_SIDE = 640
_RIGHT = (190, 190, 190)

Ids = NDArray[np.int32]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """One case of the gallery: a 2D image or a slice of a volume, with what was predicted on it.

    Attributes
    ----------
    case : str
        Name of the case, as in the scores.
    image : ndarray, shape (H, W) or (H, W, 3)
        Any real type; shown stretched between the percentiles 0.5 and 99.8, 8-bit colour as it is.
    prediction : ndarray of int or bool, shape (H, W)
        A label map or instance map; 0 is background.
    reference : ndarray of int or bool, shape (H, W), optional
        The same for the reference.
    note : str
        One line to show under the name.
    classes : mapping of int to str, optional
        Names of the values, where the maps are label maps; without it a value stands for one object.
    ignored : ndarray of bool, shape (H, W), optional
        Pixels of the reference that do not count; both maps are 0 there.
    """

    case: str
    image: NDArray[Any]
    prediction: NDArray[Any]
    reference: NDArray[Any] | None = None
    note: str = ""
    classes: Mapping[int, str] | None = None
    ignored: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class View:
    """A panel made ready for the page: data URIs, sizes and sentences.

    Instance maps are judged by their objects, ``comparison``; label maps by their pixels, ``sums``: the tree
    of a vessel is neither found nor missed as a whole.
    """

    case: str
    note: str
    width: int
    height: int
    image: str
    prediction: str
    prediction_colours: str
    reference: str | None
    reference_colours: str | None
    difference: str | None
    facts: str
    n_prediction: int
    n_reference: int | None
    comparison: Comparison | None
    sums: tuple[tuple[str, str], ...]
    classes: tuple[tuple[str, str], ...]


def draw(panel: Panel, *, max_side: int = 1024) -> View:
    """Make the pictures of one panel.

    Parameters
    ----------
    panel : Panel
        The case.
    max_side : int
        Longest side of the pictures in pixels; larger images are scaled down before contours are drawn.

    Raises
    ------
    Refused
        ``bad-panel`` for shapes or types that do not fit.
    """
    image, prediction, reference = _checked(panel)
    objects, values = _objects(prediction, panel.classes)
    grid = _grid(image.shape[:2], max_side)
    grey, window = _stretched(image)
    small = _resized(grey, grid)
    thick = max(1, round(max(small.shape[:2]) / 340))
    bright = float(np.median(small)) > 100
    shown = objects[np.ix_(*grid)]
    comparison = difference = colours = contours = None
    n_reference: int | None = None
    sums: tuple[tuple[str, str], ...] = ()
    if reference is not None:
        truth, truth_values = _objects(reference, panel.classes)
        shown_truth = truth[np.ix_(*grid)]
        n_reference = len(truth_values)
        if panel.classes is None:
            comparison = compare(contingency(objects, truth))
        else:
            sums = _sums(prediction, reference)
        contours = _uri(_contours(shown_truth, REFERENCE, thick, halo=bright))
        filled = _colours(shown_truth, truth_values, panel.classes)
        if panel.ignored is not None:
            filled[panel.ignored[np.ix_(*grid)]] = (*IGNORED_COLOUR, 200)
        colours = _uri(filled)
        difference = _tinted(prediction[np.ix_(*grid)], reference[np.ix_(*grid)], panel.classes is not None)
        if comparison is None:
            difference[_outline(shown_truth, 1) & (difference[..., 3] == 0)] = (*_RIGHT, 255)
        else:
            _draw_objects(difference, shown, shown_truth, comparison, thick)
    return View(
        case=panel.case,
        note=panel.note,
        width=len(grid[1]),
        height=len(grid[0]),
        image="data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small)).decode(),
        prediction=_uri(_contours(shown, PREDICTION, thick, halo=bright)),
        prediction_colours=_uri(_colours(shown, values, panel.classes)),
        reference=contours,
        reference_colours=colours,
        difference=None if difference is None else _uri(difference),
        facts=f"{image.shape[0]} \N{MULTIPLICATION SIGN} {image.shape[1]}, {image.dtype}, {window}",
        n_prediction=len(values),
        n_reference=n_reference,
        comparison=comparison,
        sums=sums,
        classes=_legend(panel),
    )


def _checked(panel: Panel) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    image = np.asarray(panel.image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise _refusal(panel, "image", image.shape, "(H, W) or (H, W, 3)", "give one slice of a volume")
    if image.dtype.kind not in "buif":
        raise _refusal(panel, "image", image.dtype, "real numbers", "convert it first")
    maps = []
    for name, given in (("prediction", panel.prediction), ("reference", panel.reference)):
        if given is None:
            continue
        array = np.asarray(given)
        if array.shape != image.shape[:2]:
            raise _refusal(panel, name, array.shape, image.shape[:2], "give one slice, on the image's grid")
        if array.dtype.kind not in "bui" or (array.size and array.min() < 0):
            raise _refusal(panel, name, array.dtype, "integers from 0 up", "give a label map or instance map")
        maps.append(array)
    return image, maps[0], maps[1] if len(maps) > 1 else None


def _refusal(panel: Panel, name: str, got: object, expected: object, do: str) -> Refused:
    return Refused(
        "bad-panel", f"the {name} of case '{panel.case}' cannot be shown", got=got, expected=expected, do=do
    )


def _objects(labels: NDArray[Any], classes: Mapping[int, str] | None) -> tuple[Ids, NDArray[np.int64]]:
    """Map with ids 1..n, and the value each of them had; of a label map the connected pieces of a class."""
    if classes is not None:
        from skimage.measure import label

        pieces = label(labels.astype(np.int64), background=0, connectivity=1).astype(np.int32)
        values = np.zeros(int(pieces.max(initial=0)) + 1, np.int64)
        values[pieces] = labels
        return pieces, values[1:]
    found, dense = np.unique(labels, return_inverse=True)
    background = int(found[0] == 0)
    ids = (dense.reshape(labels.shape) + (1 - background)).astype(np.int32)
    return ids, found[background:].astype(np.int64)


def _grid(shape: tuple[int, ...], max_side: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which row and column of the image each row and column of the picture shows."""
    longest = max(shape)
    if longest > max_side:
        sides = [max(1, round(s * max_side / longest)) for s in shape]
    else:
        factor = max(1, min(-(-SMALLEST_SIDE // longest), max_side // longest))
        sides = [s * factor for s in shape]
    rows, columns = (((np.arange(n) + 0.5) * s / n).astype(np.intp) for n, s in zip(sides, shape))
    return rows, columns


def _stretched(image: NDArray[Any]) -> tuple[Picture, str]:
    """Image as 8 bits, and a sentence that says how."""
    if image.ndim == 3 and image.dtype == np.uint8:
        return image, "as it is"
    values = image.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.8)) if finite.size else (0.0, 0.0)
    if high <= low:
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high <= low:
        return np.full(image.shape, 60, np.uint8), f"all {low:.3g}"
    span = high - low
    scaled = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / span, 0, 1)
    return (scaled * 255).round().astype(np.uint8), f"black {low:.3g}, white {high:.3g}" if abs(
        high
    ) < 1000 else f"black {low:.0f}, white {high:.0f}"


def _resized(picture: Picture, grid: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Picture:
    shape = (len(grid[0]), len(grid[1]))
    if shape[0] >= picture.shape[0] and shape[1] >= picture.shape[1]:
        return picture[np.ix_(*grid)]  # whole factors: pixels are shown as what they are
    from skimage.transform import resize

    out = resize(picture, (*shape, *picture.shape[2:]), order=1, anti_aliasing=True, preserve_range=True)
    return np.asarray(np.clip(out, 0, 255).round(), dtype=np.uint8)


def _outline(ids: Ids, thick: int) -> NDArray[np.bool_]:
    """Pixels of an object that are at most `thick` away from another object or background."""
    size = 2 * thick + 1
    edge = (ndimage.maximum_filter(ids, size) != ids) | (ndimage.minimum_filter(ids, size) != ids)
    return np.asarray(edge & (ids > 0))


def _contours(ids: Ids, colour: tuple[int, int, int], thick: int, *, halo: bool) -> Picture:
    layer = np.zeros((*ids.shape, 4), np.uint8)
    outline = _outline(ids, thick)
    if halo:  # light colours are lost on a light image
        layer[ndimage.binary_dilation(outline, iterations=thick)] = (0, 0, 0, 170)
    layer[outline] = (*colour, 255)
    return layer


def _colours(ids: Ids, values: NDArray[np.int64], classes: Mapping[int, str] | None) -> Picture:
    """Objects filled with colours that differ wherever two of them touch, classes each with its own."""
    table = np.zeros((len(values) + 1, 4), np.uint8)
    if classes is None:
        table[:, :3] = instance_table(ids)[: len(values) + 1]
    elif len(values):
        table[1:, :3] = [class_colour(int(value)) for value in values]
    table[1:, 3] = 130
    return table[ids]


def _sums(prediction: NDArray[Any], reference: NDArray[Any]) -> tuple[tuple[str, str], ...]:
    """Say which share of the pixels of two label maps is wrong, as (kind, text)."""
    mine, theirs = prediction > 0, reference > 0
    both = mine & theirs
    said = [
        (kind, f"{100 * wrong.sum() / of.sum():.2g}% {text}")
        for kind, wrong, of, text in (
            ("missed", theirs & ~mine, theirs, "of the reference missed"),
            ("false", mine & ~theirs, mine, "of the prediction false"),
            ("mixed", both & (prediction != reference), both, "of what both hold of another class"),
        )
        if wrong.any()
    ]
    return tuple(said or [("plain", "no pixel is wrong")])


def _tinted(prediction: NDArray[Any], reference: NDArray[Any], classes: bool) -> Picture:
    """Wrong pixels as a tint, which is denser where it is all there is to see."""
    layer = np.zeros((*prediction.shape, 4), np.uint8)
    layer[(reference > 0) & (prediction == 0)] = (*REFERENCE, 190 if classes else 110)
    layer[(prediction > 0) & (reference == 0)] = (*PREDICTION, 190 if classes else 110)
    if classes:
        layer[(prediction != reference) & (prediction > 0) & (reference > 0)] = (*MIXED, 190)
    return layer


def _draw_objects(
    layer: Picture, prediction: Ids, reference: Ids, comparison: Comparison, thick: int
) -> None:
    """Outline objects, boldly those that are missed, false, merged or split."""

    def ink(ids: Ids, which: NDArray[np.bool_], colour: tuple[int, int, int], width: int) -> None:
        kept = np.where(np.concatenate([[False], which])[ids], ids, 0).astype(np.int32)
        layer[_outline(kept, width)] = (*colour, 255)

    ink(reference, comparison.found, _RIGHT, thick)
    ink(reference, comparison.swallowed, MIXED, thick)
    ink(prediction, comparison.fragment, MIXED, thick)
    ink(prediction, comparison.merged, MIXED, 2 * thick + 1)
    ink(reference, comparison.split, MIXED, 2 * thick + 1)
    ink(reference, comparison.missed, REFERENCE, 2 * thick + 1)
    ink(prediction, comparison.false, PREDICTION, 2 * thick + 1)


def _legend(panel: Panel) -> tuple[tuple[str, str], ...]:
    named = {name: class_colour(value) for value, name in (panel.classes or {}).items() if value > 0}
    if panel.ignored is not None and panel.ignored.any():
        named["ignored"] = IGNORED_COLOUR
    return tuple((name, hexadecimal(colour)) for name, colour in named.items())


def _uri(layer: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(layer)).decode()

"""What a volume looks like on the page: planes through its largest error, and its surfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Refused
from ..io.orientation import axis_codes, turn_to
from ..metrics import contingency
from ..palettes import PREDICTION, REFERENCE, class_colour, hexadecimal
from .differences import Comparison, compare
from .place import Place, telling_place, wrong_voxels
from .planes import Plane, Scene, cut_planes
from .surfaces import Solid, solid

__all__ = ["Layer", "Volume", "VolumeView", "draw_volume"]

MOST_SOLID_CLASSES = 8
TILTED = 2.0  # degrees from which it is said
MINUS, TIMES, SPACE = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"

Labels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Volume:
    """One case of the gallery in three dimensions.

    Attributes
    ----------
    case : str
        Name of the case, as in the scores.
    image : ndarray, shape (X, Y, Z)
        Any real type; shown stretched between percentiles of what is around the objects.
    prediction : ndarray of int or bool, shape (X, Y, Z)
        A label map or instance map; 0 is background.
    reference : ndarray of int or bool, shape (X, Y, Z), optional
        The same for the reference.
    affine : ndarray, shape (4, 4), optional
        From voxels to world coordinates, RAS+ where `unit` is "mm"; by default voxels are 1 wide.
    unit : {"mm", "um", "pixel"}
        Of the affine. In "mm" the axes are a patient's, and the planes axial, coronal and sagittal; others
        are named by x, y and z.
    note : str
        One line to show under the name.
    classes : mapping of int to str, optional
        Names of the values, where the maps are label maps; without it a value stands for one object.
    """

    case: str
    image: NDArray[Any]
    prediction: Labels
    reference: Labels | None = None
    affine: NDArray[Any] | None = None
    unit: str = "mm"
    note: str = ""
    classes: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Layer:
    """What can be shown and hidden: a class, or all objects, of prediction ("p") or reference ("r")."""

    who: str
    value: int
    text: str
    colour: str

    @property
    def name(self) -> str:
        """The layer's name on the page, such as "p1"."""
        return f"{self.who}{self.value}"


@dataclass(frozen=True)
class VolumeView:
    """A volume made ready for the page: planes, layers to choose from, surfaces and sentences."""

    case: str
    note: str
    facts: str
    planes: tuple[Plane, ...]
    layers: tuple[Layer, ...]
    solid: Solid | None
    solid_note: str
    place: str
    sums: tuple[tuple[str, str], ...]
    comparison: Comparison | None
    n_prediction: int
    n_reference: int | None
    unit: str
    patient: bool

    @property
    def colours(self) -> dict[str, str]:
        """Colour of each layer by its name."""
        return {layer.name: layer.colour for layer in self.layers}


def draw_volume(volume: Volume, *, max_side: int = 1024, surfaces: bool = True) -> VolumeView:
    """Cut three planes through the largest error of a volume, and make its surfaces.

    Without a reference, the planes go through the largest object. The planes are those of the voxel grid,
    the nearest to the patient's own; nothing is resampled.

    Parameters
    ----------
    volume : Volume
        The case.
    max_side : int
        Longest side of a plane's picture in pixels.
    surfaces : bool
        Whether to make the 3D view.

    Raises
    ------
    Refused
        ``bad-panel`` for shapes or types that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.report.volumes import Volume, draw_volume
    >>> reference = np.zeros((8, 10, 6), np.uint8)
    >>> reference[2:6, 3:7, 2:5] = 1
    >>> prediction = reference * (np.arange(6) < 4)
    >>> view = draw_volume(Volume("a", reference * 9.0, prediction, reference, classes={1: "liver"}))
    >>> view.place.partition(". ")[0]
    'Largest wrong region: 0.016 ml, all that is wrong, missed liver'
    >>> [(plane.name, plane.letters, plane.where) for plane in view.planes][0]
    ('axial', 'RLAP', '2 of 6')
    """
    given = _checked(volume)
    affine = np.eye(4) if volume.affine is None else np.asarray(volume.affine, np.float64)
    order, flipped = turn_to(affine, "LPI" if volume.unit == "mm" else "RAS")
    image, prediction, reference = (None if a is None else _turned(a, order, flipped) for a in given)
    assert image is not None
    assert prediction is not None
    turned = affine @ _back(order, flipped, given[1].shape)
    spacing = tuple(float(s) for s in np.linalg.norm(turned[:3, :3], axis=0))
    table = wrong = None
    if reference is not None:
        table = None if volume.classes is not None else contingency(prediction, reference)
        wrong = wrong_voxels(prediction, reference, table)
    place = telling_place(prediction > 0 if wrong is None else wrong, spacing)
    centre, planted = place.index, place
    if wrong is not None and not place.size:  # nothing is wrong: show what there is
        centre = telling_place(prediction > 0, spacing).index
    scene = Scene(image, prediction, reference, wrong, spacing, centre, volume.unit == "mm")
    planes, window = cut_planes(scene, by_value=volume.classes is not None, max_side=max_side)
    layers = _layers(volume.classes, prediction, reference)
    shown, note = None, ""
    if surfaces and min(image.shape) > 1:
        chosen = _most_wrong(layers, scene)
        maps = {"p": prediction, "r": reference}
        values = {la.name: (maps[la.who], la.value or None) for la in layers if la.value in chosen}
        shown = solid({n: (m, v) for n, (m, v) in values.items() if m is not None}, turned, centre)
        total = len({layer.value for layer in layers})
        note = f"the {len(chosen)} of {total} classes with most errors" if len(chosen) < total else ""
    return VolumeView(
        case=volume.case,
        note=volume.note,
        facts=f"{_grid(volume, affine, given[1].shape)}; {image.dtype}, {window}",
        planes=planes,
        layers=layers,
        solid=shown,
        solid_note=note,
        place=_where(volume, scene, planted, turned, order, flipped),
        sums=_sums(volume, scene),
        comparison=None if table is None else compare(table),
        n_prediction=len([la for la in layers if la.who == "p"])
        if table is None
        else len(table.prediction_ids),
        n_reference=None if table is None else len(table.reference_ids),
        unit="" if volume.unit == "pixel" else _unit(volume.unit),
        patient=scene.patient,
    )


def _checked(volume: Volume) -> tuple[NDArray[Any], Labels, Labels | None]:
    image = np.asarray(volume.image)
    if image.ndim != 3 or image.size == 0:
        raise _refusal(volume, "image", image.shape, "(X, Y, Z)", "give one channel")
    if image.dtype.kind not in "buif":
        raise _refusal(volume, "image", image.dtype, "real numbers", "convert it first")
    maps: list[Labels | None] = []
    for name, given in (("prediction", volume.prediction), ("reference", volume.reference)):
        if given is None:
            maps.append(None)
            continue
        array = np.asarray(given)
        if array.shape != image.shape:
            raise _refusal(volume, name, array.shape, image.shape, "give it on the image's grid")
        if array.dtype.kind not in "bui" or array.min() < 0:
            raise _refusal(
                volume, name, array.dtype, "integers from 0 up", "give a label map or instance map"
            )
        maps.append(array.view(np.uint8) if array.dtype == bool else array)
    if volume.affine is not None:
        matrix = np.asarray(volume.affine)
        if matrix.shape != (4, 4) or abs(np.linalg.det(matrix)) < 1e-12:
            raise _refusal(volume, "affine", matrix.shape, "4 x 4, invertible", "give that of the image")
    assert maps[0] is not None
    return image, maps[0], maps[1]


def _refusal(volume: Volume, name: str, got: object, expected: object, do: str) -> Refused:
    return Refused(
        "bad-panel", f"the {name} of case '{volume.case}' cannot be shown", got=got, expected=expected, do=do
    )


def _turned(array: NDArray[Any], order: tuple[int, ...], flipped: tuple[bool, ...]) -> NDArray[Any]:
    """Axes in another order and direction: a view."""
    return array.transpose(order)[tuple(slice(None, None, -1 if back else 1) for back in flipped)]


def _back(order: tuple[int, ...], flipped: tuple[bool, ...], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Matrix from indices of the turned array to indices of the array as given."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, (source, back) in enumerate(zip(order, flipped)):
        matrix[source, axis] = -1 if back else 1
        matrix[source, 3] = shape[source] - 1 if back else 0
    return matrix


def _present(labels: Labels) -> set[int]:
    """Values above 0, found a plane at a time."""
    return {int(v) for plane in labels for v in np.unique(plane)} - {0}


def _layers(
    classes: Mapping[int, str] | None, prediction: Labels, reference: Labels | None
) -> tuple[Layer, ...]:
    """What the page can show: of several classes each has a colour, paler for the reference."""
    maps = {"p": prediction} | ({} if reference is None else {"r": reference})
    if classes is None:
        found = {who: {0} if (labels > 0).any() else set() for who, labels in maps.items()}
    else:
        found = {who: _present(labels) for who, labels in maps.items()}
    values = sorted(set().union(*found.values()))
    layers = []
    for value in values:
        text = "objects" if classes is None else classes.get(value, f"value {value}")
        own = np.array(class_colour(value))
        colours = (
            {"p": own, "r": (own + 2 * 255.0) / 3} if len(values) > 1 else {"p": PREDICTION, "r": REFERENCE}
        )
        layers += [Layer(who, value, text, hexadecimal(colours[who])) for who in maps if value in found[who]]
    return tuple(layers)


def _most_wrong(layers: tuple[Layer, ...], scene: Scene) -> set[int]:
    """Values whose surfaces are drawn: all of them, or those with most wrong voxels."""
    values = {layer.value for layer in layers}
    if len(values) <= MOST_SOLID_CLASSES:
        return values
    counts = dict.fromkeys(values, 0)
    within = slice(None) if scene.wrong is None else scene.wrong
    for labels in (scene.prediction, scene.reference):
        if labels is not None:
            for value, n in zip(*np.unique(labels[within], return_counts=True)):
                if int(value) in counts:
                    counts[int(value)] += int(n)
    return set(sorted(counts, key=lambda v: (-counts[v], v))[:MOST_SOLID_CLASSES])


def _grid(volume: Volume, affine: NDArray[np.float64], shape: tuple[int, ...]) -> str:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    text = f" {TIMES} ".join(map(str, shape)) + " voxels"
    if volume.unit == "pixel":
        return text
    text += " of " + f" {TIMES} ".join(f"{s:.3g}" for s in spacing) + f" {_unit(volume.unit)}"
    if volume.unit != "mm":
        return text
    cosines = np.abs(affine[:3, :3] / spacing)
    tilt = float(np.degrees(np.arccos(np.clip(cosines.max(axis=0), 0, 1))).max())
    text += f", axes {axis_codes(affine)}"
    return text + (f", tilted by up to {tilt:.0f}\N{DEGREE SIGN}" if tilt >= TILTED else "")


def _unit(unit: str) -> str:
    return {"um": "\N{MICRO SIGN}m"}.get(unit, unit)


def _amount(voxels: int, volume: Volume, scene: Scene) -> str:
    """Number of voxels as a volume."""
    size = voxels * float(np.prod(scene.spacing))
    if volume.unit == "mm":
        return f"{size / 1000:.3g} ml" if size < 1e6 else f"{size / 1000:,.0f} ml"
    if volume.unit == "um":
        return f"{size:,.0f} \N{MICRO SIGN}m\N{SUPERSCRIPT THREE}"
    return f"{voxels:,} voxel{'' if voxels == 1 else 's'}"


def _sums(volume: Volume, scene: Scene) -> tuple[tuple[str, str], ...]:
    """How much is wrong, as (kind, text)."""
    if scene.wrong is None or scene.reference is None:
        return (
            ("plain", f"{_amount(int((scene.prediction > 0).sum()), volume, scene)} predicted; no reference"),
        )
    mine, theirs = scene.prediction[scene.wrong] > 0, scene.reference[scene.wrong] > 0
    parts = [("missed", int((~mine).sum()), "missed"), ("false", int((~theirs).sum()), "false")]
    other = "in an object that does not match" if volume.classes is None else "of another class"
    parts.append(("mixed", int((mine & theirs).sum()), other))
    said = [(kind, f"{_amount(n, volume, scene)} {text}") for kind, n, text in parts if n]
    return tuple(said) or (("plain", "every voxel is as in the reference"),)


def _where(
    volume: Volume,
    scene: Scene,
    place: Place,
    affine: NDArray[np.float64],
    order: tuple[int, ...],
    flipped: tuple[bool, ...],
) -> str:
    """Return the sentence on where the planes cross, and why there."""
    voxel = (_back(order, flipped, np.asarray(volume.prediction).shape) @ (*scene.centre, 1))[:3]
    at = "voxel " + ", ".join(f"{v:.0f}" for v in voxel)
    if volume.unit != "pixel":
        world = (affine @ (*scene.centre, 1))[:3]
        sides = [f"{side[int(w < 0)]}{SPACE}{abs(w):.0f}" for side, w in zip(("RL", "AP", "SI"), world)]
        numbers = [f"{w:.4g}".replace("-", MINUS) for w in world]
        at = f"{', '.join(sides if scene.patient else numbers)}{SPACE}{_unit(volume.unit)} ({at})"
    if scene.wrong is None:
        told = (
            f"Largest object: {_amount(place.size, volume, scene)}."
            if place.size
            else "Nothing is predicted."
        )
        return f"{told} The planes cross at {at}."
    if not place.size:
        return f"The planes cross at {at}."
    assert scene.reference is not None
    total = int(scene.wrong.sum())
    share = "all that is wrong" if place.size == total else f"{place.size / total:.0%} of what is wrong"
    what = _what(
        volume.classes, scene.prediction[place.box][place.region], scene.reference[place.box][place.region]
    )
    amount = _amount(place.size, volume, scene)
    return f"Largest wrong region: {amount}, {share}, {what}. The planes cross in it at {at}."


def _what(classes: Mapping[int, str] | None, predicted: Labels, there: Labels) -> str:
    """Name what most of a wrong region is."""
    names = dict(classes or {})
    if classes is None:  # ids mean nothing; only whether there is one
        predicted, there = predicted > 0, there > 0
    width = int(there.max()) + 1
    pairs, counts = np.unique(predicted.astype(np.int64) * width + there, return_counts=True)
    p, r = divmod(int(pairs[counts.argmax()]), width)
    mostly = "" if len(counts) == 1 else "mostly "
    if classes is None:
        kind = "missed" if p == 0 else "false" if r == 0 else "objects that do not match"
        return mostly + kind
    if p == 0 or r == 0:
        return f"{mostly}{'missed' if p == 0 else 'false'} {names.get(p or r, f'value {p or r}')}"
    return f"{mostly}{names.get(r, f'value {r}')} taken for {names.get(p, f'value {p}')}"

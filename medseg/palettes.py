"""Colours of classes and objects, in one place: report, pictures and palette files have the same."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLASSES",
    "IGNORED_COLOUR",
    "MIXED",
    "OBJECTS",
    "PREDICTION",
    "REFERENCE",
    "class_colour",
    "class_table",
    "hexadecimal",
    "instance_table",
    "legend",
    "panoptic_picture",
    "voc_palette",
]

Colour = tuple[int, int, int]
Table = NDArray[np.uint8]

# Okabe and Ito (2008), "Color Universal Design": told apart with every kind of colour vision, and on grey,
# black and pink images
PREDICTION: Colour = (230, 159, 0)
REFERENCE: Colour = (86, 180, 233)
MIXED: Colour = (224, 102, 190)
_OKABE_ITO: tuple[Colour, ...] = (
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Tol (2021), "Colour Schemes", technical note SRON/EPS/TN/09-002, of the scheme "muted"
_TOL: tuple[Colour, ...] = (
    (51, 34, 136),
    (221, 204, 119),
    (17, 119, 51),
    (136, 204, 238),
    (136, 34, 85),
    (68, 170, 153),
    (153, 153, 51),
    (204, 102, 119),
)
CLASSES: tuple[Colour, ...] = (*_OKABE_ITO, PREDICTION, REFERENCE, *_TOL)
"""Of the values 1 to 15, in this order; the first two colours of the report come late."""
OBJECTS: tuple[Colour, ...] = (PREDICTION, REFERENCE, *_OKABE_ITO, (255, 255, 255))
IGNORED_COLOUR: Colour = (224, 224, 192)
"""Of pixels that do not count: that of void in PASCAL VOC, which no class has."""

_GOLDEN = 0.61803398875  # steps of it around the circle of hues come never close to an earlier one


def class_colour(value: int) -> Colour:
    """Return the colour of a class by its value in label maps; 0 is black.

    Values above 15 have colours that look random, and are always the same.

    Examples
    --------
    >>> from medseg.palettes import class_colour
    >>> class_colour(0), class_colour(1), class_colour(40)
    ((0, 0, 0), (0, 158, 115), (114, 57, 230))
    """
    if value <= 0:
        return 0, 0, 0
    if value <= len(CLASSES):
        return CLASSES[value - 1]
    saturation, light = (0.5, 0.75, 0.95)[value % 3], (0.68, 0.9)[value // 3 % 2]
    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN % 1, saturation, light)
    return round(red * 255), round(green * 255), round(blue * 255)


def class_table(ignore: Collection[int] = (), *, size: int = 256) -> Table:
    """Return the colour of each value of a label map, for `medseg.write` and for pictures.

    Parameters
    ----------
    ignore : collection of int
        Values that do not count, which all have `IGNORED_COLOUR`.
    size : int
        Number of rows.

    Returns
    -------
    ndarray of uint8, shape (size, 3)

    Examples
    --------
    >>> from medseg.palettes import class_table
    >>> class_table(ignore=(255,))[[0, 1, 255]].tolist()
    [[0, 0, 0], [0, 158, 115], [224, 224, 192]]
    """
    table = np.array([class_colour(value) for value in range(size)], np.uint8)
    table[[value for value in ignore if 0 <= value < size]] = IGNORED_COLOUR
    return table


def instance_table(instances: NDArray[np.integer]) -> Table:
    """Return a colour for each object of an instance map; objects that are near each other differ.

    The colours are `OBJECTS`, spread so that they look random; the same map has the same colours. Objects at
    most two pixels apart along an axis have different ones, as long as eight are enough.

    Parameters
    ----------
    instances : ndarray of int, shape (Y, X) or (Z, Y, X)
        Objects 1 to n; 0 is the background.

    Returns
    -------
    ndarray of uint8, shape (n + 1, 3)
        Row 0 is black.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.palettes import instance_table
    >>> instance_table(np.array([[1, 1, 0, 2, 2]])).tolist()
    [[0, 0, 0], [240, 228, 66], [204, 121, 167]]
    """
    n = int(instances.max(initial=0))
    pairs = []
    for axis in range(instances.ndim):
        for step in (1, 2):
            size = instances.shape[axis]
            first = np.take(instances, np.arange(0, max(size - step, 0)), axis=axis)
            second = np.take(instances, np.arange(min(step, size), size), axis=axis)
            meet = (first != second) & (first > 0) & (second > 0)
            pairs.append(np.stack([first[meet], second[meet]], axis=1))
    near: dict[int, set[int]] = {}
    for a, b in np.unique(np.concatenate(pairs), axis=0).tolist():
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    count = len(OBJECTS)
    chosen = np.full(n + 1, -1, np.int64)
    for i in range(1, n + 1):
        taken = {int(chosen[j]) for j in near.get(i, ())}
        order = [(i * 3 + k) % count for k in range(count)]
        chosen[i] = next((c for c in order if c not in taken), order[0])
    table = np.zeros((n + 1, 3), np.uint8)
    table[1:] = np.array(OBJECTS, np.uint8)[chosen[1:]]
    return table


def voc_palette(size: int = 256) -> Table:
    """Return the palette of PASCAL VOC, in which the bits of a number are dealt out to red, green and blue.

    Bit ``3k`` of the number is bit ``7 - k`` of red, bit ``3k + 1`` of green, and bit ``3k + 2`` of blue.

    Returns
    -------
    ndarray of uint8, shape (size, 3)

    References
    ----------
    Everingham et al. (2012), "The PASCAL Visual Object Classes Challenge 2012 development kit", section 4.2.

    Examples
    --------
    >>> from medseg.palettes import voc_palette
    >>> voc_palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    number = np.arange(size)[:, None]
    bits = [(number >> (3 * k + np.arange(3)) & 1) << (7 - k) for k in range(8)]
    table: Table = np.sum(bits, axis=0).astype(np.uint8)
    return table


def legend(classes: Mapping[str, int], ignore: Collection[int] = ()) -> list[dict[str, float | int | str]]:
    """Return what the colours of `class_table` mean: a row for each class and each ignored value.

    Examples
    --------
    >>> from medseg.palettes import legend
    >>> [(row["value"], row["name"], row["colour"]) for row in legend({"car": 1}, ignore=[255])]
    [(1, 'car', '#009e73'), (255, 'ignored', '#e0e0c0')]
    """
    named = [(value, name, class_colour(value)) for name, value in classes.items()]
    named += [(value, "ignored", IGNORED_COLOUR) for value in ignore]
    return [
        {"value": value, "name": name, "red": c[0], "green": c[1], "blue": c[2], "colour": hexadecimal(c)}
        for value, name, c in named
    ]


def hexadecimal(colour: Colour | NDArray[np.uint8]) -> str:
    """Return a colour as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*(int(part) for part in colour))


def panoptic_picture(
    labels: NDArray[np.integer], instances: NDArray[np.integer], *, ignore: Collection[int] = ()
) -> Table:
    """Draw a panoptic result: the colour of the class, of each object lighter or darker than its neighbours.

    Parameters
    ----------
    labels, instances : ndarray of int, shape (Y, X)
        Of a `medseg.instances.Panoptic`.
    ignore : collection of int
        Values of labels that do not count, which all have `IGNORED_COLOUR`.

    Returns
    -------
    ndarray of uint8, shape (Y, X, 3)

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.palettes import panoptic_picture
    >>> panoptic_picture(np.array([[1, 1, 0]]), np.array([[0, 0, 0]])).tolist()
    [[[0, 158, 115], [0, 158, 115], [0, 0, 0]]]
    """
    values, place = np.unique(labels, return_inverse=True)
    colours = [IGNORED_COLOUR if value in ignore else class_colour(int(value)) for value in values]
    base = np.array(colours, np.uint8).reshape(-1, 3)
    picture = base[place.reshape(labels.shape)].astype(np.float64)
    pairs = np.stack([labels.ravel(), instances.ravel()])
    _, number = np.unique(pairs, axis=1, return_inverse=True)
    objects = np.where(instances > 0, number.reshape(labels.shape) + 1, 0)
    _, objects = np.unique(objects, return_inverse=True)
    if not (instances > 0).any():
        return np.asarray(picture, np.uint8)
    objects = objects.reshape(labels.shape) + int(instances.min() > 0)
    shade = _shades(objects)[objects][..., None]
    lighter, darker = picture + (255 - picture) * shade, picture * (1 + shade)
    return np.asarray(np.where(shade > 0, lighter, darker).round(), np.uint8)


def _shades(objects: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return for each object how much lighter (above 0) or darker it is; neighbours differ."""
    colours = instance_table(objects)
    steps = np.linspace(-0.4, 0.6, len(OBJECTS))
    order = {colour: steps[i] for i, colour in enumerate(OBJECTS)}
    return np.array([0.0, *(order[int(r), int(g), int(b)] for r, g, b in colours[1:])])

"""Class indices made from an instance map: the targets a network can be given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import Refused
from .touching import checked_map, half_neighbourhood, neighbour_pairs, part_touching

IGNORED = -100
"""Class index of a pixel that does not count, in samples and targets. It is PyTorch's ``ignore_index``, so
that a loss of PyTorch ignores such pixels as well."""


def foreground(instances: NDArray[Any]) -> NDArray[np.uint8]:
    """Make the two-class target of the U-Net paper: background and gaps 0, objects 1.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (*spatial)
        Instance map; touching objects are parted by :func:`part_touching`.

    Returns
    -------
    ndarray of uint8, shape (*spatial)
        Label map.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import foreground
    >>> foreground(np.array([[7, 7, 7, 2, 2, 0, 5]]))
    array([[1, 1, 0, 1, 1, 0, 1]], dtype=uint8)
    """
    target: NDArray[np.uint8] = (part_touching(instances) != 0).astype(np.uint8)
    return target


def interior_border(instances: NDArray[Any], *, width: int = 1) -> NDArray[np.uint8]:
    """Make a three-class target: background 0, interior 1, border 2.

    A border pixel is a pixel of an object within ``width`` pixels (Euclidean, between centres) of another
    object or of background. The edge of the image is no border: an object goes on behind it.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (*spatial)
        Instance map; a mask is split into connected components.
    width : int
        Thickness of the border in pixels.

    Returns
    -------
    ndarray of uint8, shape (*spatial)
        Label map.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import interior_border
    >>> interior_border(np.array([[7, 7, 7, 2, 2, 2, 0]]))
    array([[1, 1, 2, 2, 1, 2, 0]], dtype=uint8)
    """
    if width < 1:
        raise Refused("bad-value", "width", got=width, expected="1 or more pixels")
    labels = checked_map(instances)
    border = np.zeros(labels.shape, bool)
    for here, there in neighbour_pairs(labels.shape, half_neighbourhood(labels.ndim, width)):
        differs = labels[here] != labels[there]
        border[here] |= differs
        border[there] |= differs
    return np.where(labels != 0, border.astype(np.uint8) + np.uint8(1), np.uint8(0))


def distance_levels(instances: NDArray[Any], *, n_levels: int = 4) -> NDArray[np.uint8]:
    """Make a target of levels that rise from the rim of each object to its middle: background 0, then 1 to n.

    A level is a step of the distance to the nearest pixel of anything else, as a fraction of the largest such
    distance in the object; so small and large objects both have a summit. The edge of the image is no rim.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (*spatial)
        Instance map; a mask is split into connected components.
    n_levels : int
        How many steps; each is a class.

    Returns
    -------
    ndarray of uint8, shape (*spatial)
        Label map.

    References
    ----------
    Bai and Urtasun, Deep watershed transform for instance segmentation, CVPR 2017: energy in steps, learnt as
    classes (there of the distance in pixels).

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import distance_levels
    >>> distance_levels(np.array([[7, 7, 7, 7, 2, 2, 2, 0]]), n_levels=2)
    array([[2, 2, 1, 1, 1, 2, 1, 0]], dtype=uint8)
    """
    if not 1 <= n_levels <= 255:
        raise Refused("bad-value", "n_levels", got=n_levels, expected="1 to 255 steps")
    labels = checked_map(instances)
    out = np.zeros(labels.shape, np.uint8)
    for number, box in _boxes(labels):
        # a border of other pixels on all sides, but not beyond the image's edge
        wide = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        mask = labels[wide] == number
        if mask.all():  # it fills the image: no rim is seen
            out[wide] = n_levels
            continue
        distance = ndimage.distance_transform_edt(mask)
        step = np.ceil(distance / distance.max() * n_levels - 1e-6)  # a whole step stays one
        out[wide][mask] = step[mask].astype(np.uint8)
    return out


def centre_directions(instances: NDArray[Any]) -> NDArray[np.uint8]:
    """Make a target of nine classes: background 0, and the direction to the middle of the object.

    1 points to the next column, the others follow counter-clockwise in steps of 45 degrees (3 points up). The
    middle is the centre of mass.

    Parameters
    ----------
    instances : ndarray of int or bool, shape (Y, X)
        Instance map; a mask is split into connected components.

    Returns
    -------
    ndarray of uint8, shape (Y, X)
        Label map.

    References
    ----------
    Uhrig et al., Pixel-level encoding and depth layering for instance-level semantic labeling, GCPR 2016:
    directions to the centre as classes. Graham et al., HoVer-Net, Medical Image Analysis 58 (2019): distances
    to the centre of mass.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.targets import centre_directions
    >>> centre_directions(np.array([[7, 7, 7, 0], [7, 7, 7, 0], [7, 7, 7, 0]]))[0]
    array([8, 7, 6, 0], dtype=uint8)
    """
    labels = checked_map(instances)
    if labels.ndim != 2:
        raise Refused(
            "bad-dimensions", "directions are told in a plane", got=f"{labels.ndim} axes", expected="(Y, X)"
        )
    ids, number = np.unique(labels, return_inverse=True)
    number = number.ravel()
    count = np.bincount(number, minlength=len(ids))
    up, right = (
        np.bincount(number, at.ravel(), len(ids))[number] / count[number] - at.ravel()
        for at in np.indices(labels.shape)
    )
    eighth = np.rint(np.arctan2(-up, right) / (np.pi / 4)).astype(np.int64) % 8
    return np.where(labels != 0, (eighth + 1).reshape(labels.shape), 0).astype(np.uint8)


def _boxes(labels: NDArray[Any]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Give the numbers of the objects and their bounding boxes, whatever the numbers are."""
    ids, compact = np.unique(labels, return_inverse=True)
    first = int(ids[0] == 0) if len(ids) else 0
    for number, box in zip(
        ids[first:], ndimage.find_objects(compact.reshape(labels.shape) + (1 - first), len(ids))
    ):
        if box is not None:
            yield int(number), box


@dataclass(frozen=True)
class Target:
    """A way to make class indices from an instance map; call it with the map.

    Attributes
    ----------
    make : callable
        Function from an instance map to a label map of uint8.
    classes : tuple of str
        Names of the classes, in the order of their numbers.
    method : str
        How objects are made of such a label map: a name from ``medseg.instances.METHODS``.
    border_weights : bool
        Whether the border weight map belongs to it.
    """

    make: Callable[[NDArray[Any]], NDArray[np.uint8]]
    classes: tuple[str, ...]
    method: str = "watershed"
    border_weights: bool = False

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.classes)

    def __call__(self, instances: NDArray[Any]) -> NDArray[np.uint8]:
        return self.make(instances)


TARGETS: dict[str, Target] = {
    "foreground": Target(foreground, ("background", "object"), border_weights=True),
    "interior-border": Target(interior_border, ("background", "interior", "border")),
    "distance-levels": Target(
        distance_levels, ("background", "rim", "outer", "inner", "middle"), method="levels"
    ),
    "centre-directions": Target(
        centre_directions,
        ("background", "E", "NE", "N", "NW", "W", "SW", "S", "SE"),
        method="directions",
    ),
}

"""Class indices made from an instance map: the targets a network can be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Refused
from .touching import checked_map, half_neighbourhood, neighbour_pairs, part_touching


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


@dataclass(frozen=True)
class Target:
    """A way to make class indices from an instance map; call it with the map.

    Attributes
    ----------
    make : callable
        Function from an instance map to a label map of uint8.
    classes : tuple of str
        Names of the classes, in the order of their numbers.
    """

    make: Callable[[NDArray[Any]], NDArray[np.uint8]]
    classes: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.classes)

    def __call__(self, instances: NDArray[Any]) -> NDArray[np.uint8]:
        return self.make(instances)


TARGETS: dict[str, Target] = {
    "foreground": Target(foreground, ("background", "object")),
    "interior-border": Target(interior_border, ("background", "interior", "border")),
}

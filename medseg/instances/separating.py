"""From a label map to an instance map: which pixels are one object, how many there are, and how large."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import Refused, refuse_unknown
from .fields import directions, levels
from .necks import components, watershed
from .numbering import Instances, relabel

__all__ = ["METHODS", "bad_shape", "steps_of", "to_instances"]


def to_instances(
    prediction: Any,
    *,
    method: str = "watershed",
    min_size: int = 0,
    fill_holes: bool = True,
    neck: float = 0.92,
    threshold: float | None = None,
    spacing: Sequence[float] | None = None,
    border: int | None = None,
) -> Instances:
    """Tell the objects of a segmentation apart.

    Parameters
    ----------
    prediction : Prediction or array_like
        An object with `labels` (label map) and, where `threshold` is given, `probabilities` of shape (C,
        \\*spatial); or a label map or mask itself, of shape (Y, X) or (Z, Y, X). Every class above 0 is
        foreground, and objects of different classes are never joined. A channel axis of length 1 is dropped
        from tensors, which have one; a NumPy array (1, Y, X) is a volume of one plane and stays so.
    method : {"watershed", "components", "levels", "directions"}
        ``"components"``: pixels that are connected by their faces are one object. ``"watershed"``: these are
        divided further at their necks. ``"levels"``: the labels are levels of height, 1 at the rim of an
        object and highest in its middle (`medseg.targets.distance_levels`), and each summit is an object.
        ``"directions"``: the labels name the neighbour that lies towards the middle of the object
        (`medseg.targets.centre_directions`), and pixels that lead to the same place are an object.
    min_size : int
        Objects with fewer pixels are removed.
    fill_holes : bool
        Fill background that a single object encloses. A gap around another object is not filled.
    neck : float
        Only for ``"watershed"``: divide where the neck between two parts is narrower than about this fraction
        of the narrower part; in 0..1, and 0 divides nothing. Being a fraction it fits small and large
        objects, and long objects of even width stay whole. Widths of few pixels need deeper necks, since
        their outlines are rough.
    threshold : float, optional
        Foreground is where the probability of all classes above 0 together is at least this; the class is the
        most probable of them. By default the `labels` as they are.
    spacing : sequence of float, optional
        Size of a pixel along each axis in any one unit, for widths in anisotropic images. By default 1.
    border : int, optional
        Value of a class that is the rim of objects: objects are told apart without it and then grow into it.
        By default the `border` of a `Prediction`.

    Returns
    -------
    ndarray of int32, spatial shape of the input
        0 for background, objects 1 to n in the order in which a scan in C order meets them.

    Raises
    ------
    Refused
        An unknown method, an input that is no label map, a threshold without probabilities, or an option out
        of range.

    References
    ----------
    Meyer and Beucher (1990), "Morphological segmentation", Journal of Visual Communication and Image
    Representation 1, 21-46; seeds are the h-maxima of Soille (2003), "Morphological Image Analysis", section
    6.3.5, of the logarithm of the distance transform.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg import to_instances
    >>> to_instances(np.array([[1, 1, 0, 2], [0, 0, 0, 2], [1, 0, 0, 0]]))
    array([[1, 1, 0, 2],
           [0, 0, 0, 2],
           [3, 0, 0, 0]], dtype=int32)
    """
    if method not in METHODS:
        raise refuse_unknown("method", method, METHODS)
    if not 0 <= neck <= 1:
        raise Refused("bad-option", "neck is out of range", got=neck, expected="a fraction in 0..1")
    if min_size < 0:
        raise Refused("bad-option", "min_size is out of range", got=min_size, expected="pixels, 0 or more")
    labels = _label_map(prediction, threshold)
    steps = steps_of(spacing, labels.ndim)
    border = getattr(prediction, "border", None) if border is None else border
    instances = METHODS[method](labels, border=border, spacing=steps, neck=neck, fill_holes=fill_holes)
    if fill_holes:
        instances = _fill_holes(instances)
    if min_size > 1:
        sizes = np.bincount(instances.ravel())
        small = sizes < min_size
        small[0] = False
        if small.any():
            instances = np.where(small[instances], 0, instances)
            if fill_holes:  # what enclosed a removed object has a hole now
                instances = _fill_holes(instances)
    return relabel(instances)


METHODS: dict[str, Callable[..., NDArray[Any]]] = {
    "components": components,
    "watershed": watershed,
    "levels": levels,
    "directions": directions,
}


def _fill_holes(instances: NDArray[Any]) -> NDArray[Any]:
    """Give background that touches a single object, and not the image's edge, to that object.

    Objects are connected by faces, so background is connected by corners too. Working on the regions of the
    background instead of on each object's mask takes one pass whatever the number of objects, and shows by
    itself whether a hole holds another object.
    """
    holes, n = ndimage.label(instances == 0, structure=np.ones((3,) * instances.ndim))
    # smallest and largest id that touches each region; they are equal where it is one object's hole
    smallest = np.full(n + 1, np.iinfo(np.int64).max)
    largest = np.zeros(n + 1, dtype=np.int64)
    open_to_edge = np.zeros(n + 1, dtype=bool)
    open_to_edge[0] = True
    for axis in range(instances.ndim):
        hole, ids = np.moveaxis(holes, axis, 0), np.moveaxis(instances, axis, 0)
        open_to_edge[hole[:1]] = True
        open_to_edge[hole[-1:]] = True
        for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            touch = (hole[here] > 0) & (ids[there] > 0)
            np.minimum.at(smallest, hole[here][touch], ids[there][touch])
            np.maximum.at(largest, hole[here][touch], ids[there][touch])
    owner = np.where(~open_to_edge & (smallest == largest), largest, 0)
    return np.where(holes > 0, owner[holes], instances) if owner.any() else instances


def _label_map(prediction: Any, threshold: float | None) -> NDArray[Any]:
    """The label map of any accepted input, in spatial shape."""
    probabilities = getattr(prediction, "probabilities", None)
    if threshold is not None:
        if probabilities is None:
            raise Refused(
                "no-probabilities",
                "a threshold needs probabilities",
                got="labels only",
                do="keep the probabilities when predicting, or leave out the threshold",
            )
        return _thresholded(np.asarray(probabilities), threshold)
    source = getattr(prediction, "labels", prediction)
    labels = np.asarray(source)
    if labels.dtype != bool and not np.issubdtype(labels.dtype, np.integer):
        raise Refused(
            "not-integer",
            "objects are told apart in a label map or a mask",
            got=labels.dtype,
            expected="integers or booleans",
            do="threshold or take the argmax of probabilities first, or convert with .astype(int)",
        )
    has_channel = labels.ndim == 4 or (labels.ndim == 3 and not isinstance(source, np.ndarray))
    if probabilities is not None:
        has_channel = labels.ndim == np.ndim(probabilities)
    if has_channel and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim not in (2, 3):
        raise bad_shape(labels.shape)
    if labels.size and labels.min() < 0:
        raise Refused("negative-label", "the label map holds negative values", got=labels.min())
    return labels


def _thresholded(probabilities: NDArray[Any], threshold: float) -> NDArray[Any]:
    if not 0 < threshold < 1:
        raise Refused("bad-option", "threshold is out of range", got=threshold, expected="between 0 and 1")
    if probabilities.ndim not in (3, 4):
        raise bad_shape(probabilities.shape)
    if len(probabilities) == 1:
        return np.asarray(probabilities[0] >= threshold)
    classes = probabilities[1:]
    labels: NDArray[Any] = np.where(classes.sum(0) >= threshold, classes.argmax(0) + 1, 0)
    return labels


def steps_of(spacing: Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    steps = (1.0,) * ndim if spacing is None else tuple(float(s) for s in spacing)
    if len(steps) != ndim or not all(math.isfinite(s) and s > 0 for s in steps):
        raise Refused(
            "bad-spacing", "the spacing does not fit", got=steps, expected=f"{ndim} numbers above 0"
        )
    return steps


def bad_shape(shape: tuple[int, ...]) -> Refused:
    return Refused("bad-dimensions", "not 2D or 3D", got=f"shape {shape}", expected="(Y, X) or (Z, Y, X)")

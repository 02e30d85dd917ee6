"""Panoptic results: for every pixel its class, and which object of that class it belongs to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused, refuse_unknown
from .separating import to_instances

__all__ = ["DIVISOR", "Panoptic", "to_panoptic"]

DIVISOR = 1000
"""An encoded pixel is ``class * DIVISOR + object``."""


@dataclass(frozen=True, eq=False)
class Panoptic:
    """A panoptic result: two maps of one shape.

    Attributes
    ----------
    labels : ndarray of int32, shape (Y, X) or (Z, Y, X)
        Value of the class of each pixel; 0 where nothing is claimed.
    instances : ndarray of int32, same shape
        Number of the object among those of its class, from 1; 0 for stuff and where nothing is claimed.
    things : tuple of int
        Values of the classes whose objects are told apart.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.instances import Panoptic
    >>> both = Panoptic.decoded(np.array([[7000, 26001, 26002, 0]]), things=[26])
    >>> both.labels.tolist(), both.instances.tolist()
    ([[7, 26, 26, 0]], [[0, 1, 2, 0]])
    """

    labels: NDArray[np.int32]
    instances: NDArray[np.int32]
    things: tuple[int, ...] = ()

    def encoded(self, *, divisor: int = DIVISOR) -> NDArray[np.int32]:
        """Return one map of ``class * divisor + object``, as Cityscapes and Panoptic-DeepLab have it.

        Stuff ends in 000; 0 is where nothing is claimed.

        Raises
        ------
        Refused
            ``too-many-objects`` where a class has ``divisor`` objects or more, or a number does not fit.
        """
        most = int(self.instances.max(initial=0))
        if most >= divisor or int(self.labels.max(initial=0)) > np.iinfo(np.int32).max // divisor - 1:
            raise Refused(
                "too-many-objects",
                "class and object do not fit into one number",
                got=f"{most} objects of a class, classes up to {int(self.labels.max(initial=0))}",
                expected=f"fewer than {divisor}",
                do="give a larger divisor, or keep the two maps",
            )
        return self.labels * np.int32(divisor) + self.instances

    @classmethod
    def decoded(cls, encoded: ArrayLike, *, things: Sequence[int] = (), divisor: int = DIVISOR) -> Panoptic:
        """Return the two maps of an encoded one; the classes that have objects are things at any rate."""
        codes = _integers(encoded, "the panoptic map")
        labels, instances = (part.astype(np.int32) for part in np.divmod(codes, divisor))
        found = np.unique(labels[instances > 0]).tolist()
        return cls(labels, instances, tuple(sorted({*things, *found})))

    def segments(self) -> list[tuple[int, int, int]]:
        """Return class, object and number of pixels of each segment, in the order of classes and objects."""
        pairs = np.stack([self.labels.ravel(), self.instances.ravel()])
        found, counts = np.unique(pairs, axis=1, return_counts=True)
        return [(int(c), int(i), int(n)) for (c, i), n in zip(found.T, counts) if c]


def to_panoptic(
    prediction: Any,
    instances: ArrayLike | None = None,
    *,
    things: Sequence[int | str] | None = None,
    stuff: Sequence[int | str] | None = None,
    method: str | None = None,
    min_size: int | None = None,
    min_stuff: int = 0,
    ignore: Collection[int] | None = None,
) -> Panoptic:
    """Merge classes and objects into one panoptic result.

    Without ``instances`` the objects of each thing class are told apart by `to_instances`; of a model of
    objects, those that it found are the one class of things, 1. Given objects take
    the class that most of their thing pixels have, and the whole object becomes it: where a thing and stuff
    both claim a pixel, the thing has it. An object without a thing pixel is dropped, and a thing pixel
    without an object becomes 0, for nobody can say which object it is.

    Parameters
    ----------
    prediction : Prediction or array_like of int, shape (Y, X) or (Z, Y, X)
        Classes: a prediction of a semantic model, or a label map.
    instances : array_like of int, same shape, optional
        Objects with any numbers from 1 up, such as those of another model or of an annotation.
    things : sequence of int or str, optional
        Values of the classes whose objects are counted; of a `Prediction` also names. By default
        ``target.things`` of its plan.
    stuff : sequence of int or str, optional
        The classes that are kept as regions without number; by default all others. What is neither becomes 0.
    method, min_size
        As for `to_instances`; by default those of the plan, else ``"components"`` and 0.
    min_stuff : int
        A stuff class with fewer pixels in the image becomes 0.
    ignore : collection of int, optional
        Values that are kept as they are, such as 255 in a reference; no object reaches there. By default
        those of the plan.

    Returns
    -------
    Panoptic

    Raises
    ------
    Refused
        ``no-things``, ``unknown-class``, ``shape-mismatch``, ``not-integer``, and what
        `to_instances` refuses.

    References
    ----------
    Kirillov et al. (2019), "Panoptic Segmentation", CVPR, section 7: things come before stuff. Cheng et al.
    (2020), "Panoptic-DeepLab", CVPR, section 3.4: an object's class is the majority of its pixels; small
    stuff is left out.

    Examples
    --------
    >>> import numpy as np, medseg
    >>> labels = np.array([[7, 7, 26, 26], [7, 7, 7, 7], [26, 7, 7, 23]])
    >>> medseg.to_panoptic(labels, things=[26]).encoded()
    array([[ 7000,  7000, 26001, 26001],
           [ 7000,  7000,  7000,  7000],
           [26002,  7000,  7000, 23000]], dtype=int32)
    """
    plan = getattr(prediction, "plan", None)
    target = getattr(plan, "target", None)
    labels = _integers(getattr(prediction, "labels", prediction), "the label map").astype(np.int32)
    if target is not None and target.kind == "instances":
        instances = prediction.instances() if instances is None else instances
        labels, things, target = (np.asarray(instances) > 0).astype(np.int32), [1], None
    if things is None and target is not None:
        things = target.things
    if not things and instances is None:
        raise Refused(
            "no-things",
            "no class is said to be one of things",
            do="pass things=, or set target.things of the plan; without things a label map is enough",
        )
    names = dict(zip(target.classes, target.values)) if target is not None else {}
    countable = _values(things or (), names)
    kept = None if stuff is None else _values(stuff, names)
    if both := sorted(set(countable) & {0, *(kept or ())}):
        raise Refused("unknown-class", "a class is either things or stuff, and 0 is neither", got=both)
    void = np.isin(labels, list(ignore if ignore is not None else target.ignore if target else ()))
    is_thing = np.isin(labels, countable) & ~void
    if instances is None:
        how = method or (plan.predict.method if plan is not None else "components")
        least = min_size if min_size is not None else plan.predict.min_size if plan is not None else 0
        # a hole in a thing is what the labels say it is
        alone = np.where(is_thing, labels, 0)
        objects = to_instances(alone, method=how, min_size=least, fill_holes=False)
    else:
        objects = _integers(instances, "the instance map")
        if objects.shape != labels.shape:
            raise Refused(
                "shape-mismatch",
                "classes and objects lie on one grid",
                got=objects.shape,
                expected=labels.shape,
            )
        objects = np.where(void, 0, objects)
    classes, numbers = _voted(objects, np.where(is_thing, labels, 0), countable)
    rest = (classes == 0) & ~is_thing & ~void
    for value in np.unique(labels[rest]).tolist():
        here = rest & (labels == value)
        if value and (kept is None or value in kept) and np.count_nonzero(here) >= min_stuff:
            classes[here] = value
    classes[void] = labels[void]
    return Panoptic(classes, numbers, tuple(sorted(countable)))


def _voted(
    objects: NDArray[Any], labels: NDArray[np.int32], countable: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the class of each object, and its number within it, in the order of the objects' numbers."""
    ids, place = np.unique(objects, return_inverse=True)
    place = place.reshape(objects.shape)
    order = sorted(countable)
    width = len(order) + 1
    column = np.zeros(labels.shape, np.intp)
    for number, value in enumerate(order, start=1):
        column[labels == value] = number
    votes = np.bincount((place * width + column).ravel(), minlength=len(ids) * width).reshape(-1, width)
    votes[:, 0] = 0
    won = np.where(votes.max(axis=1) > 0, votes.argmax(axis=1), 0)
    if len(ids) and ids[0] == 0:
        won[0] = 0
    numbers = np.zeros(len(ids), np.int32)
    for number in range(1, len(order) + 1):
        numbers[won == number] = np.arange(1, np.count_nonzero(won == number) + 1)
    values = np.array([0, *order], np.int32)[won]
    return values[place], numbers[place]


def _values(classes: Sequence[int | str], names: dict[str, int]) -> list[int]:
    """Return the values of classes that are given by value or by name."""
    for one in classes:
        if isinstance(one, str) and one not in names:
            raise refuse_unknown("class", one, names)
    return [names[one] if isinstance(one, str) else int(one) for one in classes]


def _integers(array: Any, what: str) -> NDArray[Any]:
    found = np.asarray(array)
    if not np.issubdtype(found.dtype, np.integer) and found.dtype != bool:
        raise Refused("not-integer", f"{what} holds no integers", got=found.dtype)
    if found.size and found.dtype.kind == "i" and found.min() < 0:
        raise Refused("negative-label", f"{what} holds negative values", got=int(found.min()))
    return found

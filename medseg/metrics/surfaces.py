"""Metrics of the distances between surfaces, in millimetres; the distances are derived once for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ..errors import Refused
from .contingency import check_pair
from .spacing import needed_spacing

__all__ = ["SurfaceDistances", "assd_mm", "hd95_mm", "nsd", "surface_distances"]

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

# voxels that a distance transform does in the time in which a tree finds the nearest of a place near or far
_VOXELS_A_PLACE, _VOXELS_A_FAR_PLACE = 4, 300
_MOST_VOXELS = 10**8  # of a distance transform, which takes 20 bytes for each
_NEAR = 8  # steps of the largest spacing, beyond which a place is far
_SLACK = 1e-4  # of the tolerance: files round their spacing, and one pixel of 1 mm is within 1 mm


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """How far the surfaces of each class lie apart, pixel by pixel of the surface.

    Attributes
    ----------
    to_reference : dict of int to ndarray of float64, shape (N,)
        Class to the distance of each surface pixel of the prediction to the surface of the reference, in mm;
        of no pixel where the prediction lacks the class, infinite where the reference does.
    to_prediction : dict of int to ndarray of float64, shape (M,)
        The same from the reference to the prediction.
    diagonal : float
        Of the whole map from corner to corner, in mm: longer than any distance in it.

    Examples
    --------
    >>> from medseg.metrics import surface_distances
    >>> found = surface_distances([[1, 1, 0, 0]], [[1, 1, 1, 0]], spacing=(1, 0.5))
    >>> found.to_reference[1], found.to_prediction[1]
    (array([0., 0.]), array([0. , 0. , 0.5]))
    """

    to_reference: dict[int, Floats]
    to_prediction: dict[int, Floats]
    diagonal: float

    def of(self, value: int) -> tuple[Floats, Floats]:
        """Distances of one class to the reference and to the prediction; empty where it has no pixel."""
        nothing = np.empty(0)
        return self.to_reference.get(value, nothing), self.to_prediction.get(value, nothing)


def surface_distances(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] | None,
    classes: Iterable[int] | None = None,
) -> SurfaceDistances:
    """Measure the distances between the surfaces of each class in two label maps.

    A pixel of a class is on its surface where a neighbour through a face (4 in 2D, 6 in 3D) is something
    else, or where it lies at the border of the map: the mask minus its erosion, as in MONAI. The distance of
    a surface pixel is that from its centre to the nearest centre of a pixel on the other surface.

    One pass over each map finds the surfaces of all classes, and only surface pixels are measured, by a
    k-d tree: many classes in a large volume cost little more than one. Surfaces that are large and far apart
    are measured by a distance transform of the box around both.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    spacing : sequence of float
        Size of a pixel along each axis, in mm.
    classes : iterable of int, optional
        Classes to measure. By default every class other than 0 that occurs in either map.

    Returns
    -------
    SurfaceDistances

    Raises
    ------
    Refused
        ``no-spacing`` for None; ``bad-spacing``; what `contingency` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import surface_distances
    >>> reference = np.zeros((5, 8), int)
    >>> reference[1:4, 1:4] = 1
    >>> found = surface_distances(np.roll(reference, 2, axis=1), reference, spacing=(1, 0.25))
    >>> float(found.to_reference[1].max())
    0.5
    """
    maps = check_pair(prediction, reference)
    size = np.array(needed_spacing(spacing, maps[0].ndim, "a distance between surfaces"))
    wanted = None if classes is None else {int(value) for value in classes}
    found, truth = (_surfaces(labels, wanted) for labels in maps)
    values = sorted(found.keys() | truth.keys())
    nowhere = np.empty((0, len(size)), dtype=np.int64)
    to_reference, to_prediction = {}, {}
    for value in values:
        here, there = found.get(value, nowhere), truth.get(value, nowhere)
        to_reference[value] = _distances(here, there, size)
        to_prediction[value] = _distances(there, here, size)
    return SurfaceDistances(to_reference, to_prediction, math.hypot(*(size * maps[0].shape)))


def hd95_mm(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    classes: Iterable[int] | None = None,
    distances: SurfaceDistances | None = None,
) -> dict[int, float]:
    """95 % Hausdorff distance of each class, in mm.

    The larger of two percentiles: below it are 95 % of the distances from the prediction's surface to the
    reference's, and 95 % of those back. The percentile interpolates between distances, as in NumPy. Some
    programs take one percentile of the distances of both directions together, which is usually smaller.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    spacing : sequence of float
        Size of a pixel along each axis, in mm.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    distances : SurfaceDistances, optional
        ``surface_distances(prediction, reference, spacing=...)``, where they are known already.

    Returns
    -------
    dict of int to float
        Class to distance in mm; 0 is best. A class that is in neither map has NaN: there was nothing to
        score, and means leave it out. One that is in one map only has no distance; it gets the diagonal of
        the map, which is longer than any distance, so that no mean passes over a failure.

    Raises
    ------
    Refused
        ``no-spacing``, and what `surface_distances` refuses.

    References
    ----------
    Huttenlocher et al. (1993), IEEE Trans. Pattern Analysis and Machine Intelligence 15, 850-863;
    Maier-Hein et al. (2024), "Metrics reloaded", Nature Methods 21, 195-212.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import hd95_mm
    >>> hd95_mm([[0, 0, 0, 1]], [[1, 0, 0, 0]], spacing=(1, 0.5), classes=[1, 2])
    {1: 1.5, 2: nan}
    """
    found = distances or surface_distances(prediction, reference, spacing=spacing, classes=classes)

    def larger(there: Floats, back: Floats) -> float:
        return max(float(np.percentile(side, 95)) for side in (there, back))

    return _per_class(found, classes, larger, found.diagonal)


def assd_mm(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    classes: Iterable[int] | None = None,
    distances: SurfaceDistances | None = None,
) -> dict[int, float]:
    """Average symmetric surface distance of each class, in mm.

    The mean of the distances of all surface pixels of both maps, each to the other map's surface.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    spacing : sequence of float
        Size of a pixel along each axis, in mm.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    distances : SurfaceDistances, optional
        ``surface_distances(prediction, reference, spacing=...)``, where they are known already.

    Returns
    -------
    dict of int to float
        Class to distance in mm; 0 is best. NaN for a class that is in neither map, the diagonal of the map
        for one that is in one map only, as in `hd95_mm`.

    Raises
    ------
    Refused
        ``no-spacing``, and what `surface_distances` refuses.

    References
    ----------
    Heimann et al. (2009), IEEE Trans. Medical Imaging 28, 1251-1265.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import assd_mm
    >>> assd_mm([[1, 1, 0]], [[1, 1, 1]], spacing=(1, 0.5))
    {1: 0.1}
    """
    found = distances or surface_distances(prediction, reference, spacing=spacing, classes=classes)

    def mean(there: Floats, back: Floats) -> float:
        return float((there.sum() + back.sum()) / (len(there) + len(back)))

    return _per_class(found, classes, mean, found.diagonal)


def nsd(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 1.0,
    classes: Iterable[int] | None = None,
    distances: SurfaceDistances | None = None,
) -> dict[int, float]:
    """Normalised surface distance of each class: the share of the surfaces that agree within a tolerance.

    Surface pixels of both maps that lie within the tolerance of the other map's surface, divided by all
    surface pixels of both; also called surface Dice. Pixels are counted, as by MONAI without subvoxels, not
    the areas of the surface that they stand for.

    Parameters
    ----------
    prediction, reference : array_like of int, shape (Y, X) or (Z, Y, X)
        Label maps; booleans count as 0 and 1.
    spacing : sequence of float
        Size of a pixel along each axis, in mm.
    tolerance_mm : float
        Largest distance that counts as agreement, in mm; best the distance by which experts differ. A
        ten-thousandth of it is allowed for spacings that files round.
    classes : iterable of int, optional
        Classes to score. By default every class other than 0 that occurs in either map.
    distances : SurfaceDistances, optional
        ``surface_distances(prediction, reference, spacing=...)``, where they are known already.

    Returns
    -------
    dict of int to float
        Class to share in 0..1; 1 is best. A class that is in one map only has 0; one that is in neither has
        NaN, as in `dice`.

    Raises
    ------
    Refused
        ``no-spacing``; ``bad-argument`` for a tolerance below 0; what `surface_distances` refuses.

    References
    ----------
    Nikolov et al. (2018), "Deep learning to achieve clinically applicable segmentation of head and neck
    anatomy for radiotherapy", arXiv:1809.04430.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.metrics import nsd
    >>> nsd([[1, 1, 0, 0]], [[1, 1, 1, 1]], spacing=(1, 0.75))
    {1: 0.8333333333333334}
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise Refused(
            "bad-argument", "the tolerance of nsd", got=tolerance_mm, expected="a number from 0 up, in mm"
        )
    found = distances or surface_distances(prediction, reference, spacing=spacing, classes=classes)
    reach = tolerance_mm * (1 + _SLACK)

    def share(there: Floats, back: Floats) -> float:
        near = np.count_nonzero(there <= reach) + np.count_nonzero(back <= reach)
        return float(near / (len(there) + len(back)))

    return _per_class(found, classes, share, 0.0)


def _surfaces(labels: NDArray[Any], wanted: set[int] | None) -> dict[int, Places]:
    """Class to the indices of its surface pixels, shape (N, axes); classes without a pixel lack."""
    if labels.flags.fnc:  # columns first, as in NIfTI: its transpose lies in memory as it is gone through
        found = _surfaces(labels.T, wanted)
        return {value: places[:, ::-1] for value, places in found.items()}
    border = np.zeros_like(labels, dtype=bool)
    for axis in range(labels.ndim):
        before = (*[slice(None)] * axis, slice(None, -1))
        after = (*[slice(None)] * axis, slice(1, None))
        differs = labels[before] != labels[after]
        border[before] |= differs
        border[after] |= differs
        for end in (slice(None, 1), slice(-1, None)):
            border[(*[slice(None)] * axis, end)] = True
    if wanted is None or 0 not in wanted:
        border &= labels != 0
    places, values = np.argwhere(border), labels[border]
    order = np.argsort(values, kind="stable")
    classes, starts = np.unique(values[order], return_index=True)
    groups = np.split(places[order], starts[1:])
    by_class = {int(value): group for value, group in zip(classes.tolist(), groups)}
    return {value: group for value, group in by_class.items() if wanted is None or value in wanted}


def _distances(of: Places, to: Places, size: Floats) -> Floats:
    """Distance in mm of each place to the nearest of others; infinite where there are none."""
    if not len(of) or not len(to):
        return np.full(len(of), math.inf)
    if _is_quicker_transformed(of, to, _VOXELS_A_PLACE):
        return _transformed(of, to, size)
    # places on a grid are spread evenly: splitting at the middle is as good as at the median, and quicker
    tree = cKDTree(to * size, balanced_tree=False, compact_nodes=False)
    nearest: Floats = tree.query(of * size, distance_upper_bound=_NEAR * size.max())[0]
    far = np.flatnonzero(np.isinf(nearest))
    if len(far):
        # far from a wide surface much of it is nearly equally near, and a tree has to look at all that
        rest = of[far]
        if _is_quicker_transformed(rest, to, _VOXELS_A_FAR_PLACE):
            nearest[far] = _transformed(rest, to, size)
        else:
            nearest[far] = tree.query(rest * size)[0]
    return nearest


def _box(of: Places, to: Places) -> tuple[Places, Places]:
    """First voxel and shape of the box around all places."""
    low = np.minimum(of.min(axis=0), to.min(axis=0))
    return low, np.maximum(of.max(axis=0), to.max(axis=0)) - low + 1


def _is_quicker_transformed(of: Places, to: Places, voxels_a_place: int) -> bool:
    return bool(_box(of, to)[1].prod() <= min(voxels_a_place * len(of), _MOST_VOXELS))


def _transformed(of: Places, to: Places, size: Floats) -> Floats:
    """The same by a distance transform of the box around all places."""
    low, shape = _box(of, to)
    elsewhere = np.ones(shape, dtype=bool)
    elsewhere[tuple((to - low).T)] = False
    # where the nearest one is, not how far: the distance is needed in few places
    where = ndimage.distance_transform_edt(
        elsewhere, sampling=size, return_distances=False, return_indices=True
    )
    places = of - low
    steps = (places - where[(slice(None), *places.T)].T) * size
    distances: Floats = np.sqrt((steps**2).sum(axis=1))
    return distances


def _per_class(
    found: SurfaceDistances,
    classes: Iterable[int] | None,
    measure: Callable[[Floats, Floats], float],
    missing: float,
) -> dict[int, float]:
    """Measure each class that both maps have; one in one map only gets `missing`, one in neither NaN."""
    values = {}
    for value in found.to_reference if classes is None else map(int, classes):
        there, back = found.of(value)
        if len(there) and len(back):
            values[value] = measure(there, back)
        else:
            values[value] = missing if len(there) or len(back) else math.nan
    return values

"""Sizes and places of objects."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike
from skimage import measure

from ..errors import Refused
from .numbering import numbered
from .separating import bad_shape, steps_of

__all__ = ["columns", "object_table"]


def object_table(
    instances: ArrayLike, *, spacing: Sequence[float] | None = None, unit: str | None = None
) -> list[dict[str, float | int]]:
    """Measure each object: one row of numbers an object, ready for a CSV.

    Parameters
    ----------
    instances : array_like of int, shape (Y, X) or (Z, Y, X)
        Instance map with any ids; 0 is background.
    spacing : sequence of float, optional
        Size of a pixel along each axis, in `unit`. By default everything is in pixels.
    unit : str, optional
        Unit of the spacing for the names of the columns, such as "um" or "mm".

    Returns
    -------
    list of dict
        In the order in which a scan meets the objects: ``id``; ``area_px`` (or ``area_um2``, ``volume_mm3``);
        ``centroid_y_px`` and so on, from the centre of the first pixel; ``equivalent_diameter_px``, of the
        circle or ball of equal size; and the bounding box ``y_start_px``, ``y_stop_px`` and so on, always in
        pixels, its stop excluded.

    Raises
    ------
    Refused
        The type is not integer, not 2D or 3D, or one of spacing and unit without the other.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.instances import object_table
    >>> row = object_table(np.array([[0, 5, 5], [0, 5, 5]]), spacing=(2.0, 0.5), unit="um")[0]
    >>> row["id"], row["area_um2"], row["centroid_y_um"], row["x_start_px"], row["x_stop_px"]
    (5, 4.0, 1.0, 1, 3)
    """
    ids, compact = numbered(instances)
    if compact.ndim not in (2, 3):
        raise bad_shape(compact.shape)
    if (spacing is None) != (unit is None):
        raise Refused(
            "bad-option",
            "spacing and unit belong together",
            got=f"spacing {spacing}, unit {unit}",
            do="give both, or neither for pixels",
        )
    names = columns(compact.ndim, unit)
    rows: list[dict[str, float | int]] = []
    for region in measure.regionprops(compact, spacing=steps_of(spacing, compact.ndim)):
        box = [int(region.bbox[i + at]) for i in range(compact.ndim) for at in (0, compact.ndim)]
        centre = [float(c) for c in region.centroid]
        found = [int(ids[region.label - 1]), float(region.area), *centre]
        rows.append(dict(zip(names, [*found, float(region.equivalent_diameter_area), *box])))
    return rows


def columns(ndim: int, unit: str | None) -> list[str]:
    """Return the names of the columns: id, size, centroid, diameter, start and stop along each axis.

    Examples
    --------
    >>> columns(2, "um")[:3]
    ['id', 'area_um2', 'centroid_y_um']
    """
    axes = ("z", "y", "x")[3 - ndim :]
    power = "" if unit is None else str(ndim)
    unit = unit or "px"
    size = f"{'area' if ndim == 2 else 'volume'}_{unit}{power}"
    centroid = [f"centroid_{axis}_{unit}" for axis in axes]
    box = [f"{axis}_{end}_px" for axis in axes for end in ("start", "stop")]
    return ["id", size, *centroid, f"equivalent_diameter_{unit}", *box]

"""Sizes and places of objects."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike
from skimage import measure

from ..errors import Refused
from .numbering import numbered
from .separating import bad_shape, steps_of

__all__ = ["object_table"]


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
    axes = ("z", "y", "x")[3 - compact.ndim :]
    power = "" if unit is None else str(compact.ndim)
    unit = unit or "px"
    size = f"{'area' if compact.ndim == 2 else 'volume'}_{unit}{power}"
    rows: list[dict[str, float | int]] = []
    for region in measure.regionprops(compact, spacing=steps_of(spacing, compact.ndim)):
        row: dict[str, float | int] = {"id": int(ids[region.label - 1]), size: float(region.area)}
        row.update({f"centroid_{axis}_{unit}": float(c) for axis, c in zip(axes, region.centroid)})
        row[f"equivalent_diameter_{unit}"] = float(region.equivalent_diameter_area)
        for i, axis in enumerate(axes):
            row[f"{axis}_start_px"] = int(region.bbox[i])
            row[f"{axis}_stop_px"] = int(region.bbox[i + compact.ndim])
        rows.append(row)
    return rows

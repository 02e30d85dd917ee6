"""Another spacing for an image whose file holds none, or a wrong one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import Refused
from .pixels import IN_MM

__all__ = ["with_spacing"]


def with_spacing(
    image: MetaTensor, spacing: Sequence[float], unit: str, *, name: str = "the image"
) -> MetaTensor:
    """Return an image with another size of its pixels; its values and the directions of its axes stay.

    Parameters
    ----------
    image : MetaTensor
        ``(C, *spatial)``.
    spacing : sequence of float
        Size of a pixel along each spatial axis of the array, in ``unit``.
    unit : {"um", "mm"}
        Unit of the world from here on.
    name : str
        What the image is called in a refusal.

    Returns
    -------
    MetaTensor
        The place of the first pixel stays, in the new unit; where the file had no unit it is the origin.

    Raises
    ------
    Refused
        ``bad-spacing``, ``bad-unit``.

    Examples
    --------
    >>> import torch
    >>> from monai.data import MetaTensor
    >>> image = with_spacing(MetaTensor(torch.zeros(1, 4, 6)), (0.5, 0.25), "mm")
    >>> image.affine.diagonal().tolist(), image.meta["spacing_unit"]
    ([0.5, 0.25, 1.0, 1.0], 'mm')
    """
    axes = image.ndim - 1
    steps = np.array([float(s) for s in spacing])
    if steps.shape != (axes,) or not np.isfinite(steps).all() or (steps <= 0).any():
        raise Refused(
            "bad-spacing",
            f"the spacing does not fit {name}",
            got=list(spacing),
            expected=f"{axes} numbers above 0",
        )
    if unit not in IN_MM:
        raise Refused("bad-unit", "the unit of the spacing", got=unit, expected="um or mm")
    affine = np.asarray(image.affine, np.float64).copy()
    affine[:3, :axes] *= steps / np.linalg.norm(affine[:3, :axes], axis=0)
    before = str(image.meta.get("spacing_unit", "pixel"))
    affine[:3, 3] *= IN_MM[before] / IN_MM[unit] if before in IN_MM else 0.0
    meta = {key: value for key, value in image.meta.items() if key != "affine"} | {"spacing_unit": unit}
    return MetaTensor(image.as_tensor(), affine=torch.from_numpy(affine), meta=meta)

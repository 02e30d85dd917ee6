"""Images as a model takes them: read as a whole, or left in their files where they are large."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..bundle import Bundle
from ..dataset import Case
from ..errors import Refused
from ..io import LazyImage, open_lazy, suffix_of, with_spacing
from ..networks import geometry_of
from ..plan import Plan
from ..transforms import with_channels
from .memory import free_bytes

__all__ = [
    "INSTANCE_BYTES",
    "check_axes",
    "held_bytes",
    "host_bound",
    "open_image",
    "open_large",
    "open_volume",
    "with_model_channels",
]

#: Bytes a pixel while objects are told apart: label numbers, distances and the queue of the watershed.
#: Measured 75 to 81 on crowded cells.
INSTANCE_BYTES = 100
_LABEL_BYTES = 12  # the map, what is written of it, what is read back
_LAZY = (".tif", ".tiff", ".ome.tif", ".ome.tiff", ".zarr", ".ome.zarr")
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
_SHARE = 0.75  # of the memory that is free, which the tiles of the network need, too


def held_bytes(image: LazyImage, plan: Plan) -> float:
    """Estimate the bytes of a prediction that holds image, label map and objects as a whole.

    The larger of two times: while tiles are computed the image as it is stored and as it is computed with
    and the label map, while objects are told apart 100 bytes a pixel. Known before a pixel is read.
    """
    pixels = math.prod(image.shape[1:])
    stored = pixels * len(set(image.picks)) * image.stored_dtype.itemsize
    later = INSTANCE_BYTES if plan.target.kind == "instances" else _LABEL_BYTES
    return float(max(image.nbytes + stored + pixels, later * pixels))


def open_large(image: Any, bundle: Bundle, max_ram_gb: float | None) -> LazyImage | None:
    """Open an image in its file if a prediction of the whole needs more than three quarters of the memory.

    None for what is small, is no file, or has a format that is read as a whole; for networks that see their
    whole input, whose tiles are blended in memory; and where only the largest part of a class is kept.
    The memory is what ``max_ram_gb`` leaves, or without it half of what is free and at most 4 GB.
    """
    plan = bundle.plan
    path = image.image if isinstance(image, Case) else image
    if not isinstance(path, str | Path) or suffix_of(path) not in _LAZY or plan.predict.largest:
        return None
    try:
        lazy = open_image(image, plan)
    except Refused as error:
        if error.reason == "not-lazy":
            return None
        raise
    room = free_bytes(torch.device("cpu"), host_bound(bundle, max_ram_gb))
    # last, because a network that does not tell its geometry is measured for it
    if held_bytes(lazy, plan) > _SHARE * room and _is_local(bundle):
        return lazy
    lazy.close()
    return None


def open_volume(image: Any, plan: Plan) -> LazyImage | None:
    """Open a volume in its file, in the type that it is stored in; None for what is no file of a volume."""
    path = image.image if isinstance(image, Case) else image
    if not isinstance(path, str | Path) or plan.input.spatial_dims != 3 or suffix_of(path) not in _VOLUMES:
        return None
    return open_image(image, plan)


def _is_local(bundle: Bundle) -> bool:
    plan = bundle.plan
    return geometry_of(bundle.network, plan.input.channels, plan.input.spatial_dims).halo is not None


def host_bound(bundle: Bundle, max_ram_gb: float | None) -> float | None:
    """Return the bound for the process: on a GPU ``max_ram_gb`` is for what is used there."""
    return max_ram_gb if bundle.device.type == "cpu" else None


def open_image(image: Any, plan: Plan) -> LazyImage:
    """Return an image in its file with the channels of the model; refuse other axes and what is not finite.

    Parameters
    ----------
    image : path, Case or LazyImage
        Of a case the spacing is that of its data set.
    plan : Plan
        Of the model.
    """
    path = image.image if isinstance(image, Case) else image
    if isinstance(path, tuple):
        raise Refused(
            "not-lazy",
            f"the channels of '{path[0]}' lie in {len(path)} files",
            expected="one file",
            do="join them in one TIFF or Zarr",
        )
    lazy = path if isinstance(path, LazyImage) else open_lazy(path)
    try:
        if isinstance(image, Case) and image.spacing is not None:
            # a tensor without memory of its own carries the geometry
            grid = MetaTensor(
                torch.zeros(1).expand(lazy.shape), affine=lazy.affine, meta={"spacing_unit": lazy.unit}
            )
            grid = with_spacing(grid, image.spacing, image.spacing_unit or "mm", name=f"'{lazy.path}'")
            lazy = replace(lazy, affine=np.asarray(grid.affine), unit=grid.meta["spacing_unit"])
        check_axes(lazy, plan, f"'{lazy.path}'")
        return lazy
    except BaseException:  # Ctrl-C, too, must not leave the file open; it is handed on
        if lazy is not path:
            lazy.close()
        raise


def with_model_channels(lazy: LazyImage, plan: Plan) -> LazyImage:
    """Give an image the model's channels; goes through it once where floats or colours have to be checked."""
    lazy.check_finite()
    return with_channels(lazy, plan.input.channels, f"'{lazy.path}'")


def check_axes(image: Any, plan: Plan, name: str) -> None:
    """Refuse an image, a tensor or one in its file, with another number of axes than the model's, or none.

    Raises
    ------
    Refused
        ``too-many-dimensions``, ``too-few-dimensions``, ``empty-image``.
    """
    if image.ndim != plan.input.spatial_dims + 1:
        raise Refused(
            "too-many-dimensions" if image.ndim > plan.input.spatial_dims + 1 else "too-few-dimensions",
            f"{name} does not have the model's axes",
            got=f"shape {tuple(image.shape)}",
            expected=f"channels and {plan.input.spatial_dims} axes",
            do="save each plane as its own file, or use a model for volumes"
            if image.ndim > plan.input.spatial_dims + 1
            else "use a model for planes, or give the whole volume as one file",
        )
    if 0 in image.shape:
        raise Refused("empty-image", f"{name} has no pixels", got=tuple(image.shape))

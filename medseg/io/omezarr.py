"""Zarr arrays and OME-Zarr images, version 2 and 3 in, OME-Zarr 0.5 out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from ..scratch import Window, boxes
from .lazy import LazyImage
from .pixels import MICROMETRES, Pixels, decoding, raster_affine
from .tiff import axes_order, axes_text

__all__ = ["chunk_windows", "create", "load", "open_zarr"]

_CHUNK = 1024  # pixels along rows and columns of what is written


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read a Zarr array or the largest level of an OME-Zarr image as a whole."""
    image = open_zarr(path)
    array = image.raw([slice(0, n) for n in image.shape[1:]])
    return Pixels(array, image.affine, image.unit, str(image.stored_dtype), image.format)


def open_zarr(path: Path) -> LazyImage:
    """Open a Zarr array or an OME-Zarr image without reading its pixels."""
    zarr = _library(path)
    with decoding(path, "Zarr"):
        node = zarr.open(path, mode="r")
        attributes = dict(node.attrs)
        if isinstance(node, zarr.Group):
            multiscale = _multiscale(attributes, path)
            array = node[multiscale["datasets"][0]["path"]]
            axes, spacing = _axes_of(multiscale, array.ndim)
            about = f"OME-Zarr {axes_text(axes, array.shape)}"
        else:
            array, spacing = node, {}
            axes = _guessed(array, attributes, path)
            about = f"Zarr {axes_text(axes, array.shape)}"
        if array.dtype.kind not in "biuf":
            raise Refused("pixel-type", f"'{path}' holds no numbers", got=array.dtype)
        order = axes_order(axes, array.shape, path)
    places = tuple(order.places)
    spatial = [axes[place] for place in places[1:] if place is not None]
    known = [spacing.get(axis) for axis in spatial]
    size = [float(s) for s in known if s is not None]
    if len(size) < len(spatial):
        size = [1.0] * len(spatial)
    channels = 1 if places[0] is None else array.shape[places[0]]
    if places[0] is not None and axes[places[0]] == "S" and channels == 4:
        channels = 3  # the fourth is opacity
    return LazyImage(
        path=path,
        stored=_Chunked(array),
        places=places,
        picks=tuple(range(channels)),
        affine=raster_affine(size),
        unit="um" if None not in known else "pixel",
        format=about,
    )


class _Chunked:
    """A zarr array; a chunk is decoded for each pixel that is read of it."""

    held_bytes = 0

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self.piece_bytes = math.prod(array.chunks) * self.dtype.itemsize

    def __getitem__(self, window: Window) -> npt.NDArray[Any]:
        part = np.asarray(self.array[window])
        return part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))


def _library(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise Refused(
            "not-installed",
            f"'{path}' is Zarr, and the package zarr is not installed",
            do="install it with: pip install 'medseg[zarr]'",
        ) from error
    return zarr


def _multiscale(attributes: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the description of the image of a group: of version 0.5 under "ome", before at the top."""
    found = attributes.get("ome", attributes)
    multiscales = found.get("multiscales") or []
    if len(multiscales) != 1:
        collection = "plate" in found or "bioformats2raw.layout" in found or len(multiscales) > 1
        raise Refused(
            "several-series" if collection else "unreadable",
            f"'{path}' is a Zarr group that is not one image",
            got="several images" if collection else "no multiscales in its attributes",
            expected="an array, or an OME-Zarr image",
            do="name one image in it",
        )
    return dict(multiscales[0])


def _axes_of(multiscale: dict[str, Any], ndim: int) -> tuple[str, dict[str, float | None]]:
    """Return the axes as letters, and the pixel size in micrometres along those whose unit is known."""
    given = multiscale.get("axes") or "tczyx"[-ndim:]  # before version 0.3 they had no names
    axes = [a if isinstance(a, dict) else {"name": a} for a in given]
    scale = np.ones(ndim)
    levels = [multiscale["datasets"][0], multiscale]
    for transform in [t for level in levels for t in level.get("coordinateTransformations") or []]:
        if transform.get("type") == "scale":
            scale = scale * np.asarray(transform["scale"], float)
    factors = [MICROMETRES.get(str(a.get("unit", "")).strip().lower()) for a in axes]
    letters = "".join(str(a["name"]).upper()[:1] for a in axes)
    return letters, {a: float(s) * f if f else None for a, s, f in zip(letters, scale, factors)}


def _guessed(array: Any, attributes: dict[str, Any], path: Path) -> str:
    """Return the axes of an array without OME: by the names that it gives them, or by its shape."""
    names = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS") or ()
    letters = "".join(str(n or "?").upper()[:1] for n in names)
    if letters and set(letters) <= set("TCZYXS") and len(set(letters)) == array.ndim:
        return letters
    if not 2 <= array.ndim <= 5:
        raise Refused(
            "too-many-dimensions" if array.ndim > 5 else "too-few-dimensions",
            f"'{path}' is no image",
            got=f"shape {tuple(array.shape)}",
            expected="2 to 5 axes",
        )
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8:
        return "YXS"
    return {2: "YX", 3: "ZYX", 4: "CZYX", 5: "TCZYX"}[array.ndim]


def create(path: Path, shape: tuple[int, ...], dtype: Any, *, affine: npt.NDArray[Any], unit: str) -> Any:
    """Make an OME-Zarr 0.5 label image of one level, and return its array, which is empty.

    Parameters
    ----------
    path : Path
        A folder that does not exist.
    shape : tuple of int
        Rows and columns, or planes, rows and columns.
    dtype : numpy dtype
        An integer type.
    affine : ndarray of shape (4, 4)
        Of which the pixel size is kept.
    unit : {"um", "mm", "pixel"}
    """
    zarr = _library(path)
    names = ["z", "y", "x"][-len(shape) :]
    size = np.linalg.norm(affine[:3, : len(shape)], axis=0) if unit != "pixel" else np.ones(len(shape))
    axes: list[dict[str, str]] = [{"name": name, "type": "space"} for name in names]
    for axis in axes:
        if unit != "pixel":
            axis["unit"] = {"um": "micrometer", "mm": "millimeter"}[unit]
    scale = {"type": "scale", "scale": [float(s) for s in size]}
    about: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": path.stem,
                "axes": axes,
                "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
            }
        ],
    }
    if np.dtype(dtype).kind in "iu":
        about["image-label"] = {}
    group = zarr.create_group(path, zarr_format=3, attributes={"ome": about})
    chunks = tuple(min(n, _CHUNK) for n in shape[-2:])
    return group.create_array(
        "0",
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=(1,) * (len(shape) - 2) + chunks,
        dimension_names=names,
        fill_value=0,
    )


def chunk_windows(array: Any) -> list[Window]:
    """Return windows that are whole chunks: parts of a chunk would be read, changed and written again."""
    grid = [-(-n // c) for n, c in zip(array.shape, array.chunks)]
    return [
        tuple(slice(s.start * c, min(s.stop * c, n)) for s, c, n in zip(box, array.chunks, array.shape))
        for box in boxes(grid, 1)
    ]

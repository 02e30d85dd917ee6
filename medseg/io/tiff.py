"""TIFF, OME-TIFF and ImageJ TIFF: planes, channels and pixel size in, OME-TIFF out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from .pixels import MICROMETRES, Pixels, decoding, raster_affine

__all__ = [
    "Layout",
    "axes_order",
    "axes_text",
    "kept_channels",
    "layout_of",
    "load",
    "ome_size",
    "save",
    "through_palette",
]

logger = logging.getLogger(__name__)

_REFUSED_COLOURS = {
    "SEPARATED": "CMYK",
    "CIELAB": "CIELAB",
    "ICCLAB": "ICCLAB",
    "ITULAB": "ITULAB",
    "CFA": "CFA",
}


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read a TIFF; with ``label`` a palette's indices are kept, otherwise they become RGB."""
    import tifffile

    with decoding(path, "TIFF"), tifffile.TiffFile(path) as tiff:
        held = layout_of(tiff, path)
        stored = held.series.asarray(squeeze=False)
        array = held.order.arrange(stored)
        if held.colour == "PALETTE" and not label and held.page.colormap is not None:
            array = through_palette(array, held.page.colormap)
        else:
            array = _without_alpha(array, held.page, path)
    ndim = array.ndim - 1
    return Pixels(
        array=array,
        affine=raster_affine(held.spacing or (1.0,) * ndim),
        unit="um" if held.spacing else "pixel",
        dtype=str(stored.dtype.newbyteorder("=")),
        format=held.format,
    )


@dataclass(frozen=True)
class Layout:
    """What the tags of a TIFF say about its one image.

    ``series`` and ``page`` are tifffile's, ``axes`` and ``shape`` those of the series with axes of length
    one; ``order`` makes (channels, \\*spatial) of them.
    """

    series: Any
    page: Any
    axes: str
    shape: tuple[int, ...]
    order: _Order
    colour: str
    spacing: tuple[float, ...] | None
    format: str


def layout_of(tiff: Any, path: Path) -> Layout:
    """Read the tags of an open TIFF; what is no single image, or is truncated, is refused."""
    if len(tiff.series) != 1:
        shapes = ", ".join(str(s.shape) for s in tiff.series[:4])
        raise Refused(
            "several-series",
            f"'{path}' holds {len(tiff.series)} images of different grids",
            got=f"shapes {shapes}",
            expected="one",
            do="export the one that you want",
        )
    series = tiff.series[0].levels[0]
    page = series.keyframe
    _refuse_truncated(series, path)
    colour = page.photometric.name if hasattr(page.photometric, "name") else str(page.photometric)
    if colour in _REFUSED_COLOURS:
        raise Refused(
            "colour-mode",
            f"'{path}' is {_REFUSED_COLOURS[colour]}",
            expected="grey or RGB",
            do="convert it to RGB",
        )
    axes, shape = series.get_axes(squeeze=False), tuple(series.get_shape(squeeze=False))
    order = axes_order(axes, shape, path)
    family = "OME-TIFF" if tiff.is_ome else "ImageJ TIFF" if tiff.is_imagej else "TIFF"
    spacing = _pixel_size(tiff, page, planes=order.has_planes)
    return Layout(series, page, axes, shape, order, colour, spacing, f"{family} {axes_text(axes, shape)}")


def axes_text(axes: str, shape: tuple[int, ...]) -> str:
    """Return the axes that are longer than one, rows and columns always."""
    return "".join(a for a, n in zip(axes, shape) if n > 1 or a in "YX")


class _Order:
    """How tifffile's axes become (channels, [planes,] rows, columns)."""

    def __init__(self, axes: str, shape: tuple[int, ...], planes: str, channels: str) -> None:
        self.has_planes = bool(planes)
        keep = channels + planes + "YX"
        self._squeeze = tuple(i for i, a in enumerate(axes) if a not in keep)
        left = [a for a in axes if a in keep]
        self._transpose = [left.index(a) for a in keep]
        self._add_channel = not channels
        # of each axis of the result its place in the file; None for a channel axis that the file has not
        self.places = ([] if channels else [None]) + [axes.index(a) for a in keep]

    def arrange(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = np.squeeze(array, axis=self._squeeze).transpose(self._transpose)
        return array[None] if self._add_channel else array


def axes_order(axes: str, shape: tuple[int, ...], path: Path) -> _Order:
    """Decide which axis is planes and which is channels; refuse what has time or more axes than an image."""
    long = {a: n for a, n in zip(axes, shape) if n > 1 and a not in "YX"}
    if "T" in long:
        raise Refused(
            "too-many-dimensions",
            f"'{path}' is a time series",
            got=f"{long['T']} time points, axes {axes_text(axes, shape)}",
            expected="one time point",
            do="save each time point as its own file",
        )
    # Q, I and R: pages in sequence, which the file does not name; a stack of planes is what they are in
    # practice
    planes = [a for a in long if a in "ZQIR"]
    channels = [a for a in long if a in "CS"]
    others = [a for a in long if a not in "ZQIRCS"]
    doubled = len(axes) != len(set(axes) | {"Y", "X"}) and any(axes.count(a) > 1 for a in long)
    if others or doubled or len(planes) > 1 or len(channels) > 1 or "Y" not in axes or "X" not in axes:
        raise Refused(
            "too-many-dimensions",
            f"'{path}' has more axes than an image",
            got=f"axes {axes_text(axes, shape)}, shape {tuple(shape)}",
            expected="YX, ZYX, CYX or CZYX",
            do="save each part as its own file",
        )
    return _Order(axes, shape, "".join(planes), "".join(channels))


def _refuse_truncated(series: Any, path: Path) -> None:
    """Refuse a file that ends before its last strip: a decoder may leave the rest black without a word."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            continue
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts)]
        if ends and max(ends) > size:
            raise Refused(
                "unreadable",
                f"'{path}' is truncated",
                got=f"{size} bytes",
                expected=f"at least {max(ends)}",
                do="copy it again from its source",
            )


def through_palette(index: npt.NDArray[Any], colormap: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Replace indices of shape (1, *spatial) by the palette's colours, (3, *spatial)."""
    # TIFF keeps 16 bits a colour; an 8-bit palette is stored as value * 257 or value * 256, and >> 8 undoes
    # both
    colours: npt.NDArray[np.uint8] = (np.asarray(colormap) >> 8).astype(np.uint8)
    return colours[:, index[0]]


def kept_channels(channels: int, page: Any) -> int:
    """Count the channels without samples that the file calls alpha; unspecified extra samples stay."""
    extra = [getattr(e, "name", str(e)) for e in (page.extrasamples or ())]
    alpha = sum(e in ("ASSOCALPHA", "UNASSALPHA") for e in extra)
    return channels - alpha if channels == page.samplesperpixel else channels


def _without_alpha(array: npt.NDArray[Any], page: Any, path: Path) -> npt.NDArray[Any]:
    """Drop samples that the file itself calls alpha."""
    keep = kept_channels(array.shape[0], page)
    if keep == array.shape[0]:
        return array
    if np.ptp(array[keep:]) > 0:
        logger.info("%s: the alpha channel is not constant, and is dropped", path)
    return array[:keep]


def _pixel_size(tiff: Any, page: Any, *, planes: bool) -> tuple[float, ...] | None:
    """Return the pixel size in micrometres along the spatial axes, or None where it is not fully known."""
    if tiff.is_ome:
        size = _ome_size(tiff.ome_metadata)
    elif tiff.is_imagej:
        size = _imagej_size(tiff.imagej_metadata or {}, page)
    else:
        size = (None, *_resolution_tags(page))
    wanted = size if planes else size[1:]
    if all(s is not None and math.isfinite(s) and s > 0 for s in wanted):
        return tuple(float(s) for s in wanted if s is not None)
    if any(s is not None for s in wanted):
        logger.warning("%s: the pixel size is known for some axes only; pixels are the unit", tiff.filename)
    return None


def _ome_size(xml: str) -> tuple[float | None, float | None, float | None]:
    """Return (z, y, x) in micrometres from OME's Pixels element, whose unit is micrometres by default."""
    root = ElementTree.fromstring(xml)
    pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None, None, None

    def along(axis: str) -> float | None:
        value = pixels.get(f"PhysicalSize{axis}")
        factor = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip().lower())
        return float(value) * factor if value and factor else None

    return along("Z"), along("Y"), along("X")


def _imagej_size(meta: dict[str, Any], page: Any) -> tuple[float | None, float | None, float | None]:
    """Return (z, y, x) in micrometres: ImageJ keeps pixels per unit in the tags, the unit in its own text."""
    factor = MICROMETRES.get(str(meta.get("unit", "pixel")).strip().lower())
    if factor is None:
        return None, None, None
    per_unit = [_ratio(page, tag) for tag in ("YResolution", "XResolution")]
    y, x = (factor / r if r else None for r in per_unit)
    # ImageJ leaves the depth out where it is exactly one unit
    return float(meta.get("spacing", 1.0)) * factor, y, x


def _resolution_tags(page: Any) -> tuple[float | None, float | None]:
    """Return (y, x) in micrometres from plain TIFF tags; a resolution of 1 is a writer's placeholder."""
    tag = page.tags.get("ResolutionUnit")
    factor = {2: 25400.0, 3: 1e4}.get(int(tag.value)) if tag is not None else None
    if factor is None:
        return None, None
    y, x = (_ratio(page, name) for name in ("YResolution", "XResolution"))
    return (factor / y if y and y != 1 else None), (factor / x if x and x != 1 else None)


def _ratio(page: Any, name: str) -> float | None:
    tag = page.tags.get(name)
    if tag is None:
        return None
    numerator, denominator = tag.value
    return numerator / denominator if numerator and denominator else None


def save(path: Path, pixels: Pixels) -> None:
    """Write OME-TIFF with zlib compression, and the pixel size where the image has one."""
    import tifffile

    array, ndim = pixels.array, pixels.array.ndim - 1
    # three 8-bit channels in the plane are colour to every viewer; the values are the same either way
    colour = ndim == 2 and array.shape[0] == 3 and array.dtype == np.uint8
    axes = "YXS" if colour else ("C" if array.shape[0] > 1 else "") + "ZYX"[-ndim:]
    data = np.moveaxis(array, 0, -1) if colour else array if array.shape[0] > 1 else array[0]
    tifffile.imwrite(
        path,
        data,
        ome=True,
        compression="zlib",
        photometric="rgb" if colour else "minisblack",
        metadata={"axes": axes, **ome_size(pixels)},
    )


def ome_size(pixels: Pixels) -> dict[str, Any]:
    """Return the pixel size in the words of OME; nothing where it is not known."""
    meta: dict[str, Any] = {}
    if pixels.unit != "pixel":
        sizes = np.linalg.norm(pixels.affine[:3, : pixels.array.ndim - 1], axis=0)
        for axis, size in zip("XYZ", sizes[::-1]):
            meta[f"PhysicalSize{axis}"] = float(size)
            meta[f"PhysicalSize{axis}Unit"] = "µm" if pixels.unit == "um" else pixels.unit
    return meta

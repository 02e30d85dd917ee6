"""PNG, JPEG and BMP as grey or RGB, exactly as stored: no rotation, no rescaling, palettes on purpose."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from .paths import suffix_of
from .pixels import Pixels, decoding, raster_affine

__all__ = ["load", "save"]

logger = logging.getLogger(__name__)

_FORMATS = {".png": ("PNG",), ".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".bmp": ("BMP", "DIB")}
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey + alpha", 6: "RGBA"}  # PNG's colour types


def load(path: Path, *, label: bool = False) -> Pixels:
    """Read a PNG, JPEG or BMP; with ``label`` a palette's indices are kept, otherwise they become RGB.

    A resolution in dots per inch is not taken for a pixel size: in these formats it is that of a printer. The
    EXIF orientation is not applied, so that a label map drawn on the stored pixels fits.
    """
    from PIL import Image

    with decoding(path, suffix_of(path)[1:].upper()), Image.open(path) as image:
        if image.format not in _FORMATS[suffix_of(path)]:
            raise Refused(
                "unreadable",
                f"'{path}' is not what its suffix says",
                got=f"a {image.format} file",
                do="rename or convert it",
            )
        frames = int(getattr(image, "n_frames", 1))
        if image.format == "PNG" and frames > 1:
            raise Refused(
                "too-many-dimensions",
                f"'{path}' is animated",
                got=f"{frames} frames",
                do="save each frame as its own file",
            )
        bits, colour = _png_header(path) if image.format == "PNG" else (8, -1)
        if bits == 16 and colour != 0:
            array = _deep_png(path)  # Pillow would throw the lower byte away
        else:
            array = _decode(image, path, label=label)
            if label and colour == 0 and bits in (2, 4):
                array = array // (
                    255 // (2**bits - 1)
                )  # the decoder stretches them to 0..255; labels are what was stored
        mode = f"{bits}-bit {_COLOURS.get(colour, image.mode)}" if image.format == "PNG" else image.mode
        name = image.format
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    array = _without_alpha(array, path)
    dtype = str(array.dtype.newbyteorder("="))
    return Pixels(
        array=array, affine=raster_affine((1.0, 1.0)), unit="pixel", dtype=dtype, format=f"{name} {mode}"
    )


def _decode(image: Any, path: Path, *, label: bool) -> npt.NDArray[Any]:
    """Return (rows, columns) or (rows, columns, channels)."""
    mode = image.mode
    if mode == "P" and label:
        return np.asarray(image)
    if mode in ("P", "PA"):
        return np.asarray(image.convert("RGB"))
    if mode == "1":
        return np.asarray(image).astype(np.uint8)
    if mode in ("L", "LA", "RGB", "RGBA", "I", "F") or mode.startswith("I;16"):
        return np.asarray(image)
    raise Refused(
        "colour-mode",
        f"'{path}' has colour mode {mode}",
        expected="grey, palette or RGB",
        do="convert it to RGB",
    )


def _png_header(path: Path) -> tuple[int, int]:
    """Return bit depth and colour type, bytes 24 and 25 of every PNG (W3C PNG specification, 11.2.1)."""
    with open(path, "rb") as file:
        head = file.read(26)
    return head[24], head[25]


def _deep_png(path: Path) -> npt.NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


def _without_alpha(array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Drop the last of two or four channels, which is alpha in these formats."""
    if array.shape[0] not in (2, 4):
        return array
    if np.ptp(array[-1]) > 0:
        logger.info("%s: the alpha channel is not constant, and is dropped", path)
    return array[:-1]


def save_palette(path: Path, pixels: Pixels, colours: npt.NDArray[np.uint8]) -> None:
    """Write a PNG of 8 bits whose values are indices into colours, an array of shape (256, 3)."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels.array[0]))
    picture.putpalette(colours.tobytes())
    picture.save(path, optimize=True)


def save(path: Path, pixels: Pixels) -> None:
    """Write a grey or RGB PNG of 8 or 16 bits."""
    import imagecodecs

    array = pixels.array
    data = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(data)))

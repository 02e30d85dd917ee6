"""Label maps: integers that are classes or objects, from palettes, disguised floats and single masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor

from ..errors import Refused
from .loading import load_image
from .paths import ITK_SUFFIXES, NIFTI_SUFFIXES, suffix_of
from .pixels import Pixels, finite
from .readers import AnyPath, FileReader, load, same_grid

__all__ = ["LabelReader", "read_label"]

logger = logging.getLogger(__name__)

Values = Collection[int] | Mapping[int, int]
Colours = Sequence[tuple[tuple[int, int, int], int]]


class LabelReader(FileReader):
    """Reader of label maps of every format for LoadImage; several files are masks of one object each.

    Parameters
    ----------
    values : collection or mapping of int, optional
        The values that may occur beside 0; a mapping also says what they become.
    colours : sequence of ((red, green, blue), value), optional
        What each colour of a colour picture stands for.

    Examples
    --------
    >>> from monai.transforms import LoadImaged
    >>> from medseg.io import LabelReader
    >>> load = LoadImaged(["label"], reader=LabelReader(values={255: 1}), dtype=None)
    """

    def __init__(self, *, values: Values | None = None, colours: Colours = ()) -> None:
        self.values, self.colours = values, colours

    def pixels(self, paths: tuple[str, ...]) -> Pixels:
        """Read the files as one label map of shape (1, \\*spatial), int32 where that is enough."""
        if self.colours and len(paths) == 1:
            pixels = _from_colours(paths[0], self.colours)
        else:
            pixels = _label_map(paths[0]) if len(paths) == 1 else _merged(paths)
        if self.values is not None:
            pixels = replace(pixels, array=_mapped(pixels.array, self.values, paths[0]))
        wide = pixels.array.size and int(pixels.array.max()) > np.iinfo(np.int32).max
        return replace(pixels, array=np.ascontiguousarray(pixels.array, dtype=np.int64 if wide else np.int32))


def read_label(
    path_or_paths: AnyPath | Sequence[AnyPath], *, values: Values | None = None, colours: Colours = ()
) -> MetaTensor:
    """Read a label map or an instance map: integers of shape (1, \\*spatial), with its affine.

    Parameters
    ----------
    path_or_paths : path or sequence of paths
        One file holds the values. Several files hold one object each: they become an instance map 1..n in
        their order; where masks overlap, the first keeps the pixel.
    values : collection or mapping of int, optional
        The values that may occur beside 0. A mapping also says what they become: ``{255: 1}``.
    colours : sequence of ((red, green, blue), value), optional
        What each colour of one file, a colour picture or one with a palette, stands for; no other colour may
        occur.

    Returns
    -------
    MetaTensor
        int32 (int64 where a value needs it). A palette's index is the value, RGB with three equal channels is
        one channel, floats that are whole numbers are integers.

    Raises
    ------
    Refused
        As `read`, and ``colour-coded-label``, ``unknown-colour``, ``lossy-label``, ``several-channels``,
        ``not-whole-numbers``, ``negative-label``, ``unknown-label-value``, ``not-one-object``,
        ``shape-mismatch``.

    Examples
    --------
    >>> import tempfile, pathlib, numpy, medseg
    >>> from medseg.io import read_label
    >>> mask = numpy.zeros((2, 4), "uint8")
    >>> mask[:, 1:3] = 255
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = medseg.write(mask, pathlib.Path(folder, "mask.png"))
    ...     print(read_label(path, values={255: 1})[0].numpy())
    [[0 1 1 0]
     [0 1 1 0]]
    """
    reader = LabelReader(values=values, colours=colours)
    return load_image(reader.read(path_or_paths), reader)


def _label_map(path: str) -> Pixels:
    """Read one file as whole numbers of shape (1, *spatial)."""
    _refuse_jpeg(path)
    pixels = load(path, label=True)
    array = pixels.array
    if array.shape[0] != 1:
        # three equal channels are grey saved as colour; in a volume they are three label maps
        if array.ndim == 4 and suffix_of(path) in NIFTI_SUFFIXES + ITK_SUFFIXES:
            raise _several(array, path)
        array = _one_channel(array, path)
    finite(replace(pixels, array=array), path)
    if array.dtype.kind == "f":
        array = _whole(array, path)
    elif array.dtype.kind not in "iub":
        raise Refused("pixel-type", f"'{path}' has labels of a type that is not supported", got=array.dtype)
    if array.dtype.kind == "i" and int(array.min()) < 0:
        raise Refused(
            "negative-label",
            f"'{path}' has negative labels",
            got=int(array.min()),
            expected="0 and up",
            do="recode them",
        )
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise Refused(
            "pixel-type", f"'{path}' has labels above 2**63 - 1", got=int(array.max()), do="recode them"
        )
    return replace(pixels, array=array)


def _one_channel(array: npt.NDArray[Any], path: str) -> npt.NDArray[Any]:
    """Return the first channel if all are equal; colours and one-hot channels are refused."""
    if all(np.array_equal(array[0], other) for other in array[1:]):
        return array[:1]
    if array.shape[0] != 3:
        raise _several(array, path)
    colours = np.unique(array.reshape(3, -1), axis=1)
    shown = ", ".join(str(tuple(c.tolist())) for c in colours.T[:4])
    raise Refused(
        "colour-coded-label",
        f"'{path}' codes its labels as colours",
        got=f"{colours.shape[1]} colours, such as {shown}",
        expected="one channel whose values are the labels",
        do="name the colours in a dataset.toml, or recode each as a number and save a grey image",
    )


def _from_colours(path: str, colours: Colours) -> Pixels:
    """Read a colour picture whose colours stand for values."""
    _refuse_jpeg(path)
    pixels = load(path)
    array = pixels.array
    if array.shape[0] not in (1, 3) or array.dtype.kind not in "ub" or int(array.max(initial=0)) > 255:
        raise Refused(
            "several-channels",
            f"'{path}' is no colour picture",
            got=f"{array.shape[0]} channels of {array.dtype}",
            expected="one or three channels of 8 bits",
            do="export the labels as 8-bit RGB",
        )
    red, green, blue = (array[i % len(array)].astype(np.int64) for i in range(3))
    found, inverse = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    known = {r << 16 | g << 8 | b: value for (r, g, b), value in colours}
    strange = [int(code) for code in found if int(code) not in known]
    if strange:
        shown = ", ".join(f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in strange[:3])
        raise Refused(
            "unknown-colour",
            f"'{path}' shows colours that stand for nothing",
            got=f"{len(strange)} such as {shown}" if len(strange) > 1 else shown,
            expected=f"the {len(known)} colours of the data set",
            do="name the colour, or export without smoothing: edges must not be blended",
        )
    values = np.array([known[int(code)] for code in found], np.int64)
    return replace(pixels, array=values[inverse].reshape(1, *array.shape[1:]))


def _refuse_jpeg(path: str) -> None:
    if suffix_of(path) in (".jpg", ".jpeg"):
        raise Refused(
            "lossy-label",
            f"'{path}' is a JPEG, which changes values at every edge",
            do="save the labels as PNG or TIFF",
        )


def _several(array: npt.NDArray[Any], path: str) -> Refused:
    return Refused(
        "several-channels",
        f"'{path}' has {array.shape[0]} channels",
        expected="one channel whose values are the labels",
        do="merge them into one label map",
    )


def _whole(array: npt.NDArray[Any], path: str) -> npt.NDArray[np.int64]:
    """Return whole numbers that were stored as floats; anything between them is refused."""
    odd = array != np.round(array)
    if odd.any():
        first = tuple(int(i) for i in np.argwhere(odd)[0])
        raise Refused(
            "not-whole-numbers",
            f"'{path}' has labels that are not whole numbers",
            got=f"{int(odd.sum())} of them, the first {array[first]} at {first[1:]}",
            do="threshold probabilities, or resample labels with nearest neighbours",
        )
    return array.astype(np.int64)


def _merged(paths: tuple[str, ...]) -> Pixels:
    """Merge masks of one object each into an instance map 1..n; the first mask keeps a shared pixel."""
    first: Pixels | None = None
    for path in paths:
        mask = _label_map(path)
        if first is None:
            first, merged, count = mask, np.zeros(mask.array.shape, np.int32), 0
        same_grid(mask, first, path, paths[0])
        inside = mask.array > 0
        if np.unique(mask.array[inside]).size > 1:
            raise Refused(
                "not-one-object",
                f"'{path}' holds several values",
                got=np.unique(mask.array)[:6].tolist(),
                expected="0 and one other, as it is one of several masks",
                do="give one label map, or one mask an object",
            )
        fresh = inside & (merged == 0)
        if fresh.any():
            count += 1
            merged[fresh] = count
        else:
            logger.info("%s: no pixel is left of this object", path)
    assert first is not None  # paths are never empty
    return replace(first, array=merged)


def _mapped(array: npt.NDArray[Any], values: Values, path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Refuse values that are not listed, and recode them where ``values`` is a mapping."""
    found, inverse = np.unique(array, return_inverse=True)
    allowed = {0, *(int(v) for v in values)}
    strange = [int(v) for v in found if int(v) not in allowed]
    if strange:
        raise Refused(
            "unknown-label-value",
            f"'{path}' has labels that are not declared",
            got=strange[:6],
            expected=sorted(allowed),
            do="add them to the classes or correct the file",
        )
    if not isinstance(values, Mapping):
        return array
    recoded = np.array([values.get(int(v), 0 if v == 0 else int(v)) for v in found], dtype=np.int64)
    return recoded[inverse].reshape(array.shape)

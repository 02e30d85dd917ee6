"""Write images beside their place, read them back, compare, and only then put them in their place."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from ..errors import Refused
from . import itk, nifti, raster, tiff
from .opening import open_lazy
from .paths import TIFF_SUFFIXES, known_suffix
from .pixels import Pixels, check_affine, farthest, finite, raster_affine, spacing_from
from .readers import load

__all__ = ["same_place", "storable", "write"]

logger = logging.getLogger(__name__)

_SAVERS: dict[str, Callable[[Path, Pixels], None]] = {
    ".png": raster.save,
    **dict.fromkeys(TIFF_SUFFIXES, tiff.save),
    ".nii": nifti.save,
    ".nii.gz": nifti.save,
    ".nrrd": itk.save,
    ".mha": itk.save,
}
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def write(
    image: npt.NDArray[Any] | torch.Tensor,
    path: str | os.PathLike[str],
    *,
    like: Any = None,
    colours: npt.ArrayLike | None = None,
) -> Path:
    """Write an image or a label map; the format is that of the suffix.

    The file is written under a temporary name in the same folder, read back, and compared in shape, values
    and affine before it takes its name. A file that cannot be written leaves nothing behind, and an older
    file as it was.

    Parameters
    ----------
    image : ndarray or tensor
        A MetaTensor, any other torch tensor or an array of four axes is channel first, (C, \\*spatial). A
        numpy array of two or three axes is spatial and has one channel.
    path : path
        ``.png`` (uint8 or uint16, grey or RGB; holds no spacing), ``.tif``, ``.tiff``, ``.ome.tif``
        (OME-TIFF, zlib, with pixel size; holds no position), ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha``.
        Missing folders are made.
    like : MetaTensor or path, optional
        The image whose spatial shape and affine the result must have; it lends its affine to an array that
        has none.
    colours : array_like of uint8, shape (up to 256, 3), optional
        For a label map in a PNG: the colour in which a viewer shows each value, such as
        ``medseg.palettes.class_table()``. The file holds the values themselves, with these as its palette.

    Returns
    -------
    Path
        Where it was written.

    Notes
    -----
    Integers keep their type where the format has it. Otherwise, and where ``original_dtype`` in the metadata
    names a type that holds every value, a type that holds every value is taken. bool is written as uint8,
    float16 as float32.

    Raises
    ------
    Refused
        ``unknown-suffix``, ``not-written`` (a format that is only read), ``shape-mismatch``,
        ``affine-mismatch``, ``no-geometry``, ``pixel-type``, ``too-many-labels``, ``too-many-dimensions``,
        ``ambiguous-axes``, ``affine-not-held``, ``non-finite``, ``unwritable``, ``not-read-back``,
        ``not-a-palette``.

    Examples
    --------
    >>> import tempfile, pathlib, numpy, medseg
    >>> labels = numpy.arange(6, dtype="uint16").reshape(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = medseg.write(labels, pathlib.Path(folder, "new", "labels.tif"))
    ...     medseg.read(path)[0].tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    target = Path(path)
    suffix = known_suffix(target)
    if suffix not in _SAVERS:
        raise Refused(
            "not-written",
            f"'{target.name}' has a format that is read but not written",
            expected=f"one of {' '.join(_SAVERS)}",
            do={".mhd": "use .mha", ".jpg": "use .png, which is lossless"}.get(suffix, "use .tif"),
        )
    pixels = _placed(image, suffix, like)
    finite(pixels, target)
    pixels = storable(replace(pixels, array=_typed(image, pixels.array, suffix, target)), suffix, target)
    if colours is None:
        _write_checked(pixels, target, suffix, _SAVERS[suffix])
    else:
        table = _checked_colours(colours, pixels, target, suffix)
        _write_checked(pixels, target, suffix, lambda path, held: raster.save_palette(path, held, table))
    return target


def _checked_colours(
    colours: npt.ArrayLike, pixels: Pixels, target: Path, suffix: str
) -> npt.NDArray[np.uint8]:
    """Return a palette of 256 colours, of which those that were not given are black."""
    if suffix != ".png" or pixels.array.shape[0] != 1 or pixels.array.dtype != np.uint8:
        raise Refused(
            "not-a-palette",
            f"'{target.name}' cannot have a palette",
            got=f"{suffix}, {pixels.array.dtype}, values up to {pixels.array.max()}",
            expected="a label map with values up to 255 in a .png",
            do="leave colours out, or draw the map as a picture of colours",
        )
    given = np.asarray(colours)
    in_range = given.dtype.kind in "iu" and given.size and given.min() >= 0 and given.max() <= 255
    if given.ndim != 2 or given.shape[1] != 3 or len(given) > 256 or not in_range:
        raise Refused(
            "not-a-palette",
            "colours are rows of red, green and blue",
            got=f"{given.dtype} of shape {given.shape}",
            expected="0 to 255, in at most 256 rows of three",
        )
    if int(pixels.array.max()) >= len(given):
        raise Refused(
            "not-a-palette",
            "a value has no colour",
            got=f"values up to {pixels.array.max()} and {len(given)} colours",
            do="give a colour for each value from 0 up",
        )
    table = np.zeros((256, 3), np.uint8)
    table[: len(given)] = given
    return table


def _placed(image: npt.NDArray[Any] | torch.Tensor, suffix: str, like: Any) -> Pixels:
    """Return the image channel first on its grid: its own, that of ``like``, or none."""
    array, ndim = _channel_first(image, suffix)
    own = _geometry(image, ndim) if isinstance(image, MetaTensor) else None
    if like is None:
        if own is not None:
            return Pixels(array, *own, str(array.dtype), suffix)
        if _SAVERS[suffix] in (nifti.save, itk.save):
            raise Refused(
                "no-geometry",
                f"an array without an affine cannot be written as {suffix}",
                do="pass like=, or a MetaTensor with its affine",
            )
        return Pixels(array, raster_affine((1.0,) * ndim), "pixel", str(array.dtype), suffix)
    if isinstance(like, MetaTensor):
        shape, name = tuple(like.shape[1:]), "like"
        model = _geometry(like, len(shape))
    elif isinstance(like, str | os.PathLike):
        shape, model = _grid_of(like)
        name = f"'{os.fspath(like)}'"
    else:
        raise Refused(
            "bad-like", "like has no affine", got=type(like).__name__, expected="a MetaTensor or a path"
        )
    if array.shape[1:] != shape:
        raise Refused(
            "shape-mismatch",
            f"the image does not lie on the grid of {name}",
            got=array.shape[1:],
            expected=tuple(shape),
        )
    if own is not None and (own[1] != model[1] or not _same_affine(own[0], model[0], shape)):
        raise Refused(
            "affine-mismatch",
            f"the image does not lie on the grid of {name}",
            got=f"{np.round(own[0], 4).tolist()} in {own[1]}",
            expected=f"{np.round(model[0], 4).tolist()} in {model[1]}",
            do="resample it, or give the image the affine it was made on",
        )
    return Pixels(array, *model, str(array.dtype), suffix)


def _grid_of(
    path: str | os.PathLike[str],
) -> tuple[tuple[int, ...], tuple[npt.NDArray[np.float64], str]]:
    """Return shape, affine and unit of a file, of which no pixel is read where its format allows that."""
    try:
        with open_lazy(path) as image:
            return image.shape[1:], (image.affine, image.unit)
    except Refused as error:
        if error.reason != "not-lazy":
            raise
    held = load(path)
    return held.array.shape[1:], (held.affine, held.unit)


def _channel_first(image: npt.NDArray[Any] | torch.Tensor, suffix: str) -> tuple[npt.NDArray[Any], int]:
    """Return (C, *spatial) and the number of spatial axes."""
    if isinstance(image, torch.Tensor):
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        plain = plain.detach().cpu()
        array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    else:
        array = np.asarray(image)
        colour = array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8
        if colour and _SAVERS[suffix] in (raster.save, tiff.save):
            raise Refused(
                "ambiguous-axes",
                "an array of shape (rows, columns, 3) could be colour or a volume",
                got=array.shape,
                do="pass colour as array.transpose(2, 0, 1) in a MetaTensor",
            )
        if array.ndim in (2, 3):
            array = array[None]
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise Refused(
            "bad-shape",
            "this is not an image",
            got=f"{type(image).__name__} of shape {tuple(array.shape)}",
            expected="(C, *spatial), or an array of two or three spatial axes",
        )
    return array, array.ndim - 1


def _geometry(image: MetaTensor, ndim: int) -> tuple[npt.NDArray[np.float64], str]:
    """Return affine and unit of a MetaTensor; without a unit, identity is pixels, anything else mm."""
    given = np.asarray(torch.as_tensor(image.affine).cpu(), np.float64)
    affine = np.eye(4)
    n = given.shape[0] - 1
    affine[:n, :n], affine[:n, 3] = given[:n, :n], given[:n, n]
    check_affine(affine, ndim, "the image")
    if image.meta.get("space") == "LPS":  # MONAI's ITKReader can be told to leave ITK's own coordinates
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    unit = image.meta.get("spacing_unit") or ("pixel" if np.array_equal(affine, np.eye(4)) else "mm")
    if unit not in ("um", "mm", "pixel"):
        raise Refused(
            "bad-unit", "unknown spacing_unit in the metadata", got=unit, expected="um, mm or pixel"
        )
    return affine, str(unit)


def _same_affine(a: npt.NDArray[Any], b: npt.NDArray[Any], shape: tuple[int, ...]) -> bool:
    """Tell whether no pixel moves by more than a thousandth of the smallest pixel."""
    return farthest(a, b, shape) <= 1e-3 * min(spacing_from(a, len(shape)))


def _typed(image: Any, array: npt.NDArray[Any], suffix: str, target: Path) -> npt.NDArray[Any]:
    """Return the array in a pixel type that the format has, with every value unchanged."""
    if array.dtype.kind == "f":
        if suffix == ".png":
            raise Refused(
                "pixel-type",
                f"'{target.name}': PNG holds no floats",
                got=array.dtype,
                do="convert to uint8 or uint16, or use .tif",
            )
        return array.astype(np.float32) if array.dtype == np.float16 else array
    if array.dtype.kind not in "iub":
        raise Refused(
            "pixel-type",
            f"cannot write '{target.name}'",
            got=array.dtype,
            expected="integers, floats or bool",
        )
    low, high = int(array.min()), int(array.max())
    held = {".png": ("uint8", "uint16")}.get(suffix, _INTEGERS[:6] if suffix in TIFF_SUFFIXES else ())
    wanted = [str(array.dtype)]
    if isinstance(image, MetaTensor):
        wanted.insert(0, str(image.meta.get("original_dtype", "")))
    wanted += held or ("uint8",)
    for name in wanted:
        if (
            name in _INTEGERS
            and (not held or name in held)
            and np.iinfo(name).min <= low
            and high <= np.iinfo(name).max
        ):
            return array.astype(name)
    raise Refused(
        "too-many-labels" if suffix == ".png" and low >= 0 else "pixel-type",
        f"'{target.name}' cannot hold these values",
        got=f"{low} to {high}",
        expected=" or ".join(held),
        do="use .tif" if suffix == ".png" else "use .nii.gz",
    )


def storable(pixels: Pixels, suffix: str, target: Path) -> Pixels:
    """Refuse axes and affines that the format cannot hold; turn the unit into the format's."""
    channels, ndim = pixels.array.shape[0], pixels.array.ndim - 1
    if suffix == ".png" and (ndim != 2 or channels not in (1, 3)):
        raise Refused(
            "too-many-dimensions",
            f"'{target.name}': PNG holds one grey or RGB plane",
            got=f"shape {pixels.array.shape}",
            do="use .tif",
        )
    if suffix in (".nii", ".nii.gz") and ndim == 2 and channels > 1:
        raise Refused(
            "too-many-dimensions",
            f"'{target.name}': NIfTI cannot tell channels of a plane from slices",
            got=f"shape {pixels.array.shape}",
            do="use .tif or .nrrd",
        )
    if suffix in TIFF_SUFFIXES:
        if ndim == 3 and pixels.array.shape[1] == 1:
            raise Refused(
                "too-many-dimensions",
                f"'{target.name}': TIFF cannot tell a volume of one plane from a plane",
                got=f"shape {pixels.array.shape}",
                do="drop the axis, or use .nii.gz",
            )
        axes = raster_affine(spacing_from(pixels.affine, ndim))[:3, :ndim]
        if pixels.unit != "pixel" and not np.allclose(axes, pixels.affine[:3, :ndim], rtol=1e-5, atol=1e-6):
            raise Refused(
                "affine-not-held",
                f"'{target.name}': TIFF holds a pixel size, but no directions",
                got=np.round(pixels.affine[:3, :3], 4).tolist(),
                do="use .nii.gz",
            )
    if suffix in (".nrrd", ".mha") and pixels.unit == "um":
        millimetres = pixels.affine.copy()
        millimetres[:3] /= 1000.0
        return replace(pixels, affine=millimetres, unit="mm")
    return pixels


def _write_checked(pixels: Pixels, target: Path, suffix: str, save: Callable[[Path, Pixels], None]) -> None:
    """Write beside the target, read back, compare, replace."""
    # the name keeps the suffix, by which the libraries choose the format, and is hidden from find_images
    beside = target.with_name(f".{uuid.uuid4().hex[:12]}{suffix}")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(f"'{target}' is a folder")
            save(beside, pixels)
        except (OSError, RuntimeError) as error:  # SimpleITK has RuntimeError for everything
            raise Refused(
                "unwritable",
                f"cannot write '{target}'",
                got=" ".join(str(error).split())[-200:] or type(error).__name__,
                do="check the folder, its rights and the free space",
            ) from error
        _compare(pixels, load(beside, label=save is not _SAVERS[suffix]), target, suffix)
        os.replace(beside, target)
    finally:
        if beside.parent.is_dir():
            beside.unlink(missing_ok=True)


def _compare(sent: Pixels, held: Pixels, target: Path, suffix: str) -> None:
    """Refuse a file that does not hold what was sent."""
    what = None
    if held.array.shape != sent.array.shape:
        what = f"shape {held.array.shape}, sent {sent.array.shape}"
    elif held.dtype != str(sent.array.dtype):
        what = f"type {held.dtype}, sent {sent.array.dtype}"
    elif not np.array_equal(held.array, sent.array):
        what = f"{int((held.array != sent.array).sum())} pixels that differ"
    elif suffix != ".png" and not same_place(sent, held, suffix):
        what = f"affine {np.round(held.affine, 4).tolist()}, sent {np.round(sent.affine, 4).tolist()}"
    if what:
        raise Refused(
            "not-read-back", f"'{target}' does not hold what was written", got=what, do="use another format"
        )


def same_place(sent: Pixels, held: Pixels, suffix: str) -> bool:
    """Compare affines in the unit of the file, leaving out what the format does not hold."""
    if suffix in TIFF_SUFFIXES and sent.unit == "pixel":
        return held.unit == "pixel"
    affine = sent.affine.copy()
    if suffix in TIFF_SUFFIXES:
        affine[:3, 3] = 0.0
    scale = {("mm", "um"): 1000.0, ("um", "mm"): 1e-3}.get((sent.unit, held.unit), 1.0)
    affine[:3] *= scale
    return _same_affine(affine, held.affine, sent.array.shape[1:])

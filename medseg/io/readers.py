"""Readers for MONAI's LoadImage and LoadImaged in the conventions of medseg, and `read`, which uses them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import ImageReader, MetaTensor

from ..errors import Refused
from . import itk, nifti, omezarr, raster, tiff
from .loading import load_image
from .paths import (
    IMAGE_SUFFIXES,
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    PIL_SUFFIXES,
    TIFF_SUFFIXES,
    ZARR_SUFFIXES,
    existing_file,
    is_zarr_name,
    suffix_of,
)
from .pixels import Pixels, farthest, finite, portable, spacing_from

__all__ = ["FileReader", "NiftiReader", "RasterReader", "SimpleITKReader", "load", "read", "reader_for"]

AnyPath = str | os.PathLike[str]

_SAME = 0.05  # of a pixel: two programs round the same geometry to less

_LOADERS = {
    **dict.fromkeys(PIL_SUFFIXES, raster.load),
    **dict.fromkeys(TIFF_SUFFIXES, tiff.load),
    **dict.fromkeys(NIFTI_SUFFIXES, nifti.load),
    **dict.fromkeys(ITK_SUFFIXES, itk.load),
    **dict.fromkeys(ZARR_SUFFIXES, omezarr.load),
}


def load(path: AnyPath, *, label: bool = False) -> Pixels:
    """Read one file of any known format as it is; `finite` and `portable` are the caller's."""
    file = existing_file(path)
    pixels = _LOADERS[suffix_of(file)](file, label=label)
    if 0 in pixels.array.shape:
        raise Refused(
            "empty-image", f"'{file}' has no pixels", got=f"shape {pixels.array.shape}", do="export it again"
        )
    return pixels


class FileReader(ImageReader):  # type: ignore[misc]
    """One of MONAI's image readers, for every format that medseg knows; the subclasses take one family each.

    The array is channel first, (C, \\*spatial), and says so in ``original_channel_dim``, so that LoadImage
    gives the same with and without ``ensure_channel_first``. Several files become channels of one image if
    they share a grid.
    """

    suffixes: tuple[str, ...] = IMAGE_SUFFIXES

    def verify_suffix(self, filename: AnyPath | Sequence[AnyPath]) -> bool:
        """Tell whether this reader knows the suffix of every file."""
        return all(suffix_of(name) in self.suffixes for name in _listed(filename))

    def read(self, data: AnyPath | Sequence[AnyPath], **kwargs: Any) -> tuple[str, ...]:
        """Hand the paths on; the files are opened in `get_data`.

        LoadImage swallows what `read` raises and tries MONAI's own readers next, which transpose rasters: a
        file that was refused here would come back in another convention.
        """
        if kwargs:
            raise Refused(
                "unknown-option", f"{type(self).__name__} takes no reading options", got=sorted(kwargs)
            )
        return tuple(os.fspath(p) for p in _listed(data))

    def get_data(self, img: Sequence[str]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Read the files and return the array with its metadata."""
        pixels = self.pixels(tuple(img))
        affine = np.asarray(pixels.affine, np.float64)
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "spatial_shape": np.asarray(pixels.array.shape[1:]),
            "original_channel_dim": 0,
            "spacing_unit": pixels.unit,
            "original_dtype": pixels.dtype,
        }
        return pixels.array, meta

    def pixels(self, paths: tuple[str, ...]) -> Pixels:
        """Read the files as one image of checked, portable pixels."""
        parts = []
        for path in paths:
            existing_file(path)
            if suffix_of(path) not in self.suffixes:
                raise Refused(
                    "wrong-reader",
                    f"{type(self).__name__} does not read '{path}'",
                    expected=f"one of {' '.join(self.suffixes)}",
                    do=f"use {type(reader_for(path)).__name__}",
                )
            parts.append(portable(finite(load(path), path), path))
        for path, part in zip(paths[1:], parts[1:]):
            same_grid(part, parts[0], path, paths[0])
        return (
            parts[0] if len(parts) == 1 else replace(parts[0], array=np.concatenate([p.array for p in parts]))
        )


class RasterReader(FileReader):
    """Reader of PNG, JPEG, BMP, TIFF and Zarr for LoadImage: rows before columns, as scikit-image has them.

    Examples
    --------
    >>> from monai.transforms import LoadImaged
    >>> from medseg.io import RasterReader
    >>> load = LoadImaged(["image"], reader=RasterReader())
    """

    suffixes = PIL_SUFFIXES + TIFF_SUFFIXES + ZARR_SUFFIXES


class NiftiReader(FileReader):
    """Reader of NIfTI for LoadImage: channel first, refusing headers that contradict themselves.

    MONAI's own NibabelReader takes one of two geometries without a word, and nibabel a spacing of 1 for one
    that is missing.
    """

    suffixes = NIFTI_SUFFIXES


class SimpleITKReader(FileReader):
    """Reader of NRRD and MetaImage for LoadImage: axes (x, y, z), affine RAS+, as from MONAI's ITKReader."""

    suffixes = ITK_SUFFIXES


def _listed(data: AnyPath | Sequence[AnyPath]) -> tuple[AnyPath, ...]:
    if isinstance(data, str | os.PathLike):
        return (data,)
    if not data:
        raise Refused("no-files", "an empty list of files", expected="at least one path")
    return tuple(data)


def same_grid(part: Pixels, first: Pixels, path: AnyPath, first_path: AnyPath) -> None:
    """Refuse two files that do not lie on one grid."""
    if part.array.shape[1:] != first.array.shape[1:]:
        raise Refused(
            "shape-mismatch",
            f"'{path}' and '{first_path}' have different shapes",
            got=part.array.shape[1:],
            expected=first.array.shape[1:],
        )
    shape = first.array.shape[1:]
    apart = farthest(part.affine, first.affine, shape)
    if part.unit != first.unit or apart > _SAME * min(spacing_from(first.affine, len(shape))):
        raise Refused(
            "affine-mismatch",
            f"'{path}' and '{first_path}' lie on different grids",
            got=f"voxels up to {apart:.3g} {first.unit} apart" if part.unit == first.unit else part.unit,
            expected=None if part.unit == first.unit else first.unit,
            do="resample one to the other",
        )


def reader_for(path: AnyPath) -> FileReader:
    """Return the reader of a file's suffix, for ``LoadImaged(keys, reader=...)``.

    Raises
    ------
    Refused
        ``unknown-suffix``.

    Examples
    --------
    >>> from medseg.io import reader_for
    >>> type(reader_for("cells.png")).__name__
    'RasterReader'
    """
    from .paths import known_suffix

    suffix = known_suffix(path)
    return next(r() for r in (RasterReader, NiftiReader, SimpleITKReader) if suffix in r.suffixes)


def read(path: AnyPath | Sequence[AnyPath], *, series: str | None = None) -> MetaTensor:
    """Read one image: (C, \\*spatial), with its affine.

    Parameters
    ----------
    path : path or sequence of paths
        A PNG, JPEG, BMP, TIFF, OME-TIFF, NIfTI, NRRD or MetaImage file; a Zarr array or OME-Zarr image; a
        folder with a DICOM series, its files, or one DICOM file. Several files on one grid become the
        channels of one image, in their order; those of DICOM become its planes, in that of the patient.
    series : str, optional
        Which series of a DICOM folder, where it holds several: its number as ``medseg info FOLDER`` shows it,
        its UID, or rules such as ``"modality=CT,thickness_mm=1:3"``, see `medseg.io.SeriesRules`.

    Returns
    -------
    MetaTensor
        Shape (C, rows, columns) or (C, planes, rows, columns) for PNG, JPEG, BMP, TIFF and Zarr, with an
        affine to (x, y, z) in micrometres where the file knows its pixel size, else in pixels; (C, x, y[, z])
        with an affine to RAS+ millimetres for NIfTI, NRRD, MetaImage and DICOM. Values are those of the
        file: uint16 comes as int32, uint32 as int64, alpha is dropped, a palette becomes RGB, an EXIF
        orientation is not applied. ``meta`` holds ``spacing_unit`` ("um", "mm" or "pixel"),
        ``filename_or_obj`` and ``original_dtype``. Values of DICOM are rescaled, HU for CT, and
        ``meta["notes"]`` says what was repaired.

    Raises
    ------
    Refused
        ``not-found``, ``is-a-folder``, ``unknown-suffix``, ``empty-file``, ``unreadable``, ``non-finite``,
        ``too-many-dimensions``, ``too-few-dimensions``, ``several-series``, ``colour-mode``, ``pixel-type``,
        ``no-spacing``, ``two-geometries``, ``bad-affine``, ``bad-unit``, ``larger-than-memory``; of several
        files ``shape-mismatch``, ``affine-mismatch``; of DICOM as `medseg.io.dicom.choose_series` and
        `medseg.io.dicom.read_series`.

    Examples
    --------
    >>> import tempfile, pathlib, numpy, medseg
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = medseg.write(numpy.zeros((20, 30), "uint8"), pathlib.Path(folder, "black.png"))
    ...     image = medseg.read(path)
    >>> tuple(image.shape), image.meta["spacing_unit"]
    ((1, 20, 30), 'pixel')
    """
    if _is_dicom(path):
        return _read_dicom(path, series)
    if series is not None:
        raise Refused(
            "series-of-a-file",
            "only DICOM has series",
            got="a file of another format",
            do="leave series out",
        )
    if not isinstance(path, str | os.PathLike):
        reader = FileReader()
        return load_image(reader.read(path), reader)
    file = existing_file(path)
    return load_image(file, reader_for(file))


def _is_dicom(path: AnyPath | Sequence[AnyPath]) -> bool:
    """Tell whether a path, or the first of several, is a folder or a DICOM file of any name."""
    from .dicom.headers import is_dicom

    if not isinstance(path, str | os.PathLike):
        return len(path) > 0 and not suffix_of(path[0]) and is_dicom(path[0])
    if Path(path).is_dir():
        return not is_zarr_name(path)
    return not suffix_of(path) and is_dicom(path)


def _read_dicom(path: AnyPath | Sequence[AnyPath], series: str | None) -> MetaTensor:
    from .dicom import DicomReader, find_series

    if isinstance(path, str | os.PathLike) and Path(path).is_dir():
        found = find_series(path)
        if not found.series and {s.reason for s in found.skipped} <= {"not-dicom", "empty-file"}:
            raise Refused(
                "is-a-folder",
                f"'{path}' is a folder without DICOM files",
                expected="an image file, or a folder of a DICOM series",
                do="name a file in it",
            )
    reader = DicomReader(series=series)
    return load_image(reader.read(path), reader)

"""Segmentations of anybody, read on the grid of an image: nothing is resampled, no overlap is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from ...plan.codes import ANATOMICAL, Code, Structure
from .codes import UNCODED_SCHEME, Segment
from .model import DicomVolume
from .sources import Grid, grid_of

__all__ = ["Overlap", "ReadSegmentation", "read_segmentation"]

SEGMENTATIONS = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_OFF_GRID = 0.05  # of a voxel: files state positions with few digits


@dataclass(frozen=True)
class Overlap:
    """Two segments that share voxels."""

    first: int
    second: int
    voxels: int


@dataclass(frozen=True, eq=False)
class ReadSegmentation:
    """A segmentation on the grid of an image.

    Attributes
    ----------
    segments : tuple of Segment
        Their values are the segment numbers of the file.
    layers : tuple of ndarray, shape (columns, rows, planes)
        Label maps; together they hold every voxel of every segment. There is one where none overlap.
    overlaps : tuple of Overlap
        Segments that share voxels.
    """

    segments: tuple[Segment, ...]
    layers: tuple[npt.NDArray[np.uint16], ...]
    overlaps: tuple[Overlap, ...]

    @property
    def labels(self) -> npt.NDArray[np.uint16]:
        """The label map; refused as ``overlapping-segments`` where one voxel has two labels."""
        if self.overlaps:
            one = self.overlaps[0]
            raise Refused(
                "overlapping-segments",
                f"segments {one.first} and {one.second} share {one.voxels} voxels, a label map cannot",
                do="ask for each segment with mask(number)",
            )
        return self.layers[0]

    def mask(self, number: int) -> npt.NDArray[np.bool_]:
        """Return one segment as booleans."""
        if number not in [segment.value for segment in self.segments]:
            raise Refused(
                "unknown-class",
                f"there is no segment {number}",
                expected=", ".join(f"{s.value} ({s.name})" for s in self.segments),
            )
        found = np.zeros(self.layers[0].shape, bool)
        for layer in self.layers:
            found |= layer == number
        return found


def read_segmentation(
    path: str | os.PathLike[str], like: DicomVolume, *, threshold: float | None = None
) -> ReadSegmentation:
    """Read a DICOM segmentation, ours or another's, on the grid of an image.

    Parameters
    ----------
    path : path
        A segmentation of the type BINARY, LABELMAP or FRACTIONAL.
    like : DicomVolume
        The image. Each plane of the segmentation lies in one of its planes, pixel on pixel, in any order,
        flipped or turned; planes that the file leaves out are empty.
    threshold : float, optional
        From which fraction on (0 to 1) a voxel belongs to a segment of the type FRACTIONAL.

    Raises
    ------
    Refused
        ``not-found``, ``not-a-segmentation``, ``deflated``, ``truncated``, ``another-study``,
        ``another-frame-of-reference``, ``off-grid``, ``fractional``, ``unknown-label-value``.
    """
    dataset = _open(Path(path))
    grid = grid_of(like)
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise _no_segmentation(f"SegmentationType {kind or 'missing'}")
    if (kind == "FRACTIONAL") != (threshold is not None):
        raise Refused(
            "fractional",
            "fractions become a mask at a threshold that somebody has to choose"
            if threshold is None
            else f"a threshold is for fractions, and this segmentation is {kind}",
            do="pass threshold=0.5, or another" if threshold is None else "leave threshold out",
        )
    _same_place(dataset, like)
    described = {int(item.SegmentNumber): item for item in dataset.get("SegmentSequence") or []}
    described = {number: item for number, item in described.items() if kind != "LABELMAP" or number}
    places: dict[int, list[npt.NDArray[np.int64]]] = {number: [] for number in described}
    lowest = (threshold or 0.0) * float(dataset.get("MaximumFractionalValue", 1) or 1)
    padding = dataset.get("PixelPaddingValue")
    for frame, pixels in _frames(dataset):
        lies = _on_grid(dataset, frame, pixels.shape, grid)
        if kind == "LABELMAP":
            numbers = [int(n) for n in np.unique(pixels) if n and (n in described or n != padding)]
            masks = [(number, pixels == number) for number in numbers]
        else:
            wanted = pixels > 0 if kind == "BINARY" else pixels >= max(lowest, 1e-9)
            masks = [(_segment_number(dataset, frame), wanted)]
        for number, mask in masks:
            if number not in places:
                raise Refused(
                    "unknown-label-value",
                    f"a frame belongs to segment {number}, which is not described",
                    expected=", ".join(map(str, described)),
                )
            places[number].append(_voxels(mask, lies, grid.shape))
    segments = tuple(_segment(number, item) for number, item in sorted(described.items()))
    return ReadSegmentation(segments, *_layers(places, grid.shape))


def _open(path: Path) -> Any:
    """Read the file, after a look at what it says it is."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    if not path.is_file():
        raise Refused("not-found", "there is no such file", got=f"'{path}'", do="check the path")
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax.startswith(("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8")):
            raise Refused("deflated", "the file is deflated, and is not inflated", do="export it again")
        if str(meta.get("MediaStorageSOPClassUID", "")) not in SEGMENTATIONS:
            raise _no_segmentation("another class of objects")
        dataset = pydicom.dcmread(path)
        if str(dataset.get("SOPClassUID", "")) not in SEGMENTATIONS:
            raise _no_segmentation("another class of objects")
    except (InvalidDicomError, EOFError, AttributeError, NotImplementedError, OSError) as error:
        raise _no_segmentation(type(error).__name__) from error
    missing = [
        name
        for name in ("Rows", "Columns", "NumberOfFrames", "PerFrameFunctionalGroupsSequence", "PixelData")
        if name not in dataset
    ]
    if missing:
        raise Refused(
            "truncated", "the segmentation is not whole", got=f"no {missing[0]}", do="copy it again"
        )
    return dataset


def _no_segmentation(got: str) -> Refused:
    return Refused("not-a-segmentation", "the file is no DICOM segmentation", got=got)


def _same_place(dataset: Any, like: DicomVolume) -> None:
    """Refuse a segmentation of another study or another frame of reference."""
    ours, theirs = like.series.study_uid, str(dataset.get("StudyInstanceUID", ""))
    if theirs and ours and theirs != ours:
        raise Refused("another-study", "the segmentation is of another study than the image")
    ours, theirs = like.frame_of_reference_uid, str(dataset.get("FrameOfReferenceUID", ""))
    if theirs and ours and theirs != ours:
        raise Refused(
            "another-frame-of-reference",
            "the segmentation has another frame of reference than the image",
            do="give the series that it was made on",
        )


def _frames(dataset: Any) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    """Yield the functional groups and the pixels of each frame."""
    from pydicom.pixels import iter_pixels

    groups = dataset.PerFrameFunctionalGroupsSequence
    count, rows, columns = int(dataset.NumberOfFrames or 0), int(dataset.Rows), int(dataset.Columns)
    bits = int(dataset.get("BitsAllocated", 0) or 0)
    if len(groups) != count or not 0 < rows <= 65535 or not 0 < columns <= 65535 or bits not in (1, 8, 16):
        raise Refused(
            "truncated",
            "the segmentation contradicts itself",
            got=f"{len(groups)} places for {count} frames of {columns} x {rows}, {bits} bits",
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        for group, pixels in zip(groups, iter_pixels(dataset, raw=True), strict=True):
            yield group, pixels
        return
    data, size = dataset.PixelData, rows * columns * bits
    if len(data) * 8 < size * count:
        raise Refused(
            "truncated",
            "the segmentation ends too early",
            got=len(data),
            expected=f"{size * count // 8} bytes",
        )
    order = "<" if syntax.is_little_endian else ">"
    for index, group in enumerate(groups):
        first, last = size * index, size * (index + 1)
        part = data[first // 8 : -(-last // 8)]
        if bits == 1:  # frames follow each other bit by bit, the lowest bit of a byte first
            pixels = np.unpackbits(np.frombuffer(part, np.uint8), bitorder="little")
            pixels = pixels[first % 8 : first % 8 + rows * columns]
        else:
            pixels = np.frombuffer(part, f"{order}u{bits // 8}")
        yield group, pixels.reshape(rows, columns)


def _group(dataset: Any, frame: Any, name: str) -> Any:
    """Return a functional group of a frame, or the one that all share."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    for groups in (frame, shared):
        if found := groups.get(name):
            return found[0]
    raise Refused("truncated", "a frame of the segmentation does not say where it lies", got=f"no {name}")


def _segment_number(dataset: Any, frame: Any) -> int:
    return int(_group(dataset, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _on_grid(
    dataset: Any, frame: Any, shape: tuple[int, ...], grid: Grid
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the voxel of a frame's first pixel, and the steps to its next row and next column."""
    try:
        position = [float(x) for x in _group(dataset, frame, "PlanePositionSequence").ImagePositionPatient]
        orientation = [
            float(x) for x in _group(dataset, frame, "PlaneOrientationSequence").ImageOrientationPatient
        ]
        between = [float(x) for x in _group(dataset, frame, "PixelMeasuresSequence").PixelSpacing]
        if (len(position), len(orientation), len(between)) != (3, 6, 2):
            raise ValueError("the wrong count of numbers")
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused("truncated", "a frame of the segmentation does not say where it lies") from error
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    inverse = np.linalg.inv(grid.affine)
    first = inverse[:3, :3] @ np.array(position) + inverse[:3, 3]
    down = inverse[:3, :3] @ (along_column * between[0])
    right = inverse[:3, :3] @ (along_row * between[1])
    exact = np.array([first + down * r + right * c for r in (0, shape[0] - 1) for c in (0, shape[1] - 1)])
    whole = np.rint(first), np.rint(down), np.rint(right)
    meant = np.array(
        [whole[0] + whole[1] * r + whole[2] * c for r in (0, shape[0] - 1) for c in (0, shape[1] - 1)]
    )
    steps = np.abs(np.stack(whole[1:])).sum(axis=1)
    off = float(np.abs(exact - meant).max())
    if not off <= _OFF_GRID or not np.array_equal(steps, [1, 1]):
        raise Refused(
            "off-grid",
            "the pixels of the segmentation do not lie on those of the image",
            got=f"up to {off:.3g} voxels off" if np.array_equal(steps, [1, 1]) else "pixels of another size",
            expected=f"at most {_OFF_GRID}",
            do="give the series that it was made on",
        )
    return np.rint(first).astype(np.int64), np.stack(whole[1:]).astype(np.int64)


def _voxels(
    mask: npt.NDArray[np.bool_],
    lies: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    shape: tuple[int, int, int],
) -> npt.NDArray[np.int64]:
    """Return the voxels of a mask as numbers into the flattened grid."""
    first, steps = lies
    rows, columns = np.nonzero(mask)
    index = [first[a] + rows * steps[0, a] + columns * steps[1, a] for a in range(3)]
    if any(((i < 0) | (i >= n)).any() for i, n in zip(index, shape)):
        raise Refused(
            "off-grid",
            "the segmentation reaches beyond the image",
            expected=f"{shape[0]} columns, {shape[1]} rows, {shape[2]} planes",
            do="give the series that it was made on",
        )
    voxels: npt.NDArray[np.int64] = (index[0] * shape[1] + index[1]) * shape[2] + index[2]
    return voxels


def _layers(
    places: dict[int, list[npt.NDArray[np.int64]]], shape: tuple[int, int, int]
) -> tuple[tuple[npt.NDArray[np.uint16], ...], tuple[Overlap, ...]]:
    """Lay segments over each other: each goes into the first layer in which its voxels are free."""
    layers = [np.zeros(shape, np.uint16)]
    overlaps: dict[tuple[int, int], int] = {}
    for number, parts in sorted(places.items()):
        voxels = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
        free = None
        for layer in layers:
            there = layer.reshape(-1)[voxels]
            for other, count in zip(*np.unique(there[there > 0], return_counts=True)):
                overlaps[int(other), number] = int(count)
            if free is None and not there.any():
                free = layer
        if free is None:
            free = np.zeros(shape, np.uint16)
            layers.append(free)
        free.reshape(-1)[voxels] = number
    found = (Overlap(a, b, overlaps[a, b]) for a, b in combinations(sorted(places), 2) if (a, b) in overlaps)
    return tuple(layers), tuple(found)


def _segment(number: int, item: Any) -> Segment:
    """Return what a segment's description says."""
    concept = _code(item.get("SegmentedPropertyTypeCodeSequence"))
    category = _code(item.get("SegmentedPropertyCategoryCodeSequence")) or ANATOMICAL
    name = " ".join(str(item.get("SegmentLabel", "") or f"segment {number}").split())[:64]
    if concept is None:
        return Segment(
            number, name, Structure(Code(UNCODED_SCHEME, str(number), name), None, category, False)
        )
    inner = item.SegmentedPropertyTypeCodeSequence[0]
    modifier = _code(inner.get("SegmentedPropertyTypeModifierCodeSequence"))
    return Segment(number, name, Structure(concept, modifier, category, concept.scheme != UNCODED_SCHEME))


def _code(sequence: Any) -> Code | None:
    if not sequence:
        return None
    item = sequence[0]
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue") or ""
    return Code(str(item.get("CodingSchemeDesignator", "")), str(value), str(item.get("CodeMeaning", "")))

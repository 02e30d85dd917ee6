"""DICOM segmentations: a label map as segments on the grid of its source, coded, always the same bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...errors import Refused
from ...plan.codes import Code
from .codes import Segment
from .marks import (
    MANUFACTURER,
    code_items,
    image_items,
    mark,
    nameless,
    referenced_series,
    save_checked,
    told_by,
)
from .model import DicomVolume
from .segments import read_segmentation
from .sources import Grid, grid_of, new_uid, series_number, source_dataset, stamp
from .uids import Algorithm

__all__ = ["check_labels", "numbered", "write_segmentation"]

Kind = Literal["binary", "labelmap"]
_DERIVED = Code("DCM", "113076", "Segmentation")
_SOURCE = Code("DCM", "121322", "Source image for image processing operation")


def write_segmentation(
    path: str | os.PathLike[str],
    volume: DicomVolume,
    labels: npt.NDArray[np.integer],
    segments: Sequence[Segment],
    *,
    algorithm: Algorithm,
    kind: Kind = "binary",
) -> Path:
    """Write a label map as a DICOM segmentation (SEG) of its source.

    The same arguments give the same bytes: UIDs follow from the source and the model, dates are those of
    the source. The file appears when it was read back and holds every voxel.

    Parameters
    ----------
    path : path
        The file.
    volume : DicomVolume
        The source, whose patient and study the result belongs to.
    labels : ndarray of int, shape (columns, rows, planes)
        On the grid of ``volume``.
    segments : sequence of Segment
        What each value stands for; the first is segment 1, whatever its value. One that no voxel has is
        described all the same.
    algorithm : Algorithm
        What made the labels.
    kind : {"binary", "labelmap"}
        ``binary``: one bit a voxel and a frame for each plane of each segment, which every viewer opens.
        ``labelmap``: the newer class of one frame a plane, compressed (RLE): a hundredth of the size for
        models of many organs, for PACS that know it.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    Refused
        ``shape-mismatch``, ``unknown-label-value``, ``not-integer``, ``affine-not-held``, ``unwritable``,
        ``not-read-back``, ``no-segments``.

    References
    ----------
    DICOM PS3.3, A.51 (segmentation) and A.51.5.2 (label map segmentation).
    """
    import highdicom
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    if kind not in ("binary", "labelmap"):
        raise Refused(
            "bad-value", "there is no such kind of segmentation", got=kind, expected="binary, labelmap"
        )
    grid = grid_of(volume)
    numbers = numbered(check_labels(labels, segments, grid), segments)
    source = source_dataset(volume)
    planes = numbers.transpose(2, 1, 0)
    empty = not planes.any()
    if empty:
        planes = planes[:1]  # no frame at all is not allowed, and more than one says no more
    date, time = stamp(source)
    what = f"SEG {kind}"
    seg = highdicom.seg.Segmentation(
        source_images=[nameless(source)],
        pixel_array=highdicom.Volume(
            array=planes,
            affine=grid.affine[:, [2, 1, 0, 3]],
            coordinate_system="PATIENT",
            frame_of_reference_uid=volume.frame_of_reference_uid,
        ),
        segmentation_type=kind.upper(),
        segment_descriptions=_descriptions(volume, segments, algorithm),
        series_instance_uid=new_uid(volume, algorithm, f"{what} series"),
        series_number=series_number(source, 1),
        sop_instance_uid=new_uid(volume, algorithm, what),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name[:64],
        software_versions=algorithm.version[:64],
        device_serial_number=algorithm.weights_sha256[:64] or "unknown",
        transfer_syntax_uid=ExplicitVRLittleEndian if kind == "binary" else RLELossless,
        omit_empty_frames=not empty,
        content_label="SEGMENTATION",
        content_description=told_by("Segmentation", volume, algorithm),
        content_date=date,
        content_time=time,
    )
    mark(seg, source, algorithm, segments, told_by("Segmentation", volume, algorithm))
    _refer(seg, volume, grid, new_uid(volume, algorithm, f"{what} dimensions"))
    return save_checked(path, seg, lambda beside: _difference(beside, volume, numbers, segments))


def check_labels(
    labels: npt.NDArray[np.integer], segments: Sequence[Segment], grid: Grid
) -> npt.NDArray[np.integer]:
    """Refuse labels that do not lie on the grid, or that no segment stands for."""
    array = np.asarray(labels)
    if array.dtype.kind not in "iub":
        raise Refused("not-integer", "labels are integers", got=array.dtype)
    if array.shape != grid.shape:
        raise Refused(
            "shape-mismatch",
            "the labels do not lie on the grid of the volume",
            got=array.shape,
            expected=f"{grid.shape}: columns, rows, planes",
        )
    if not segments:
        raise Refused("no-segments", "there is no class to write", do="give the segments of the plan")
    values = [segment.value for segment in segments]
    if len(set(values)) < len(values) or min(values) < 1 or max(values) > 65535:
        raise Refused("bad-value", "each segment has a value of its own, from 1 to 65535", got=values)
    if unknown := sorted(set(np.unique(array).tolist()) - {0, *values}):
        raise Refused(
            "unknown-label-value",
            "the labels have values that no segment stands for",
            got=unknown[:5],
            expected=[0, *values][:20],
        )
    return array


def numbered(labels: npt.NDArray[np.integer], segments: Sequence[Segment]) -> npt.NDArray[np.unsignedinteger]:
    """Return the labels with the first segment as 1, the second as 2, and so on."""
    kind = np.uint8 if len(segments) < 256 else np.uint16
    table: npt.NDArray[Any] = np.zeros(max(segment.value for segment in segments) + 1, kind)
    for number, segment in enumerate(segments, start=1):
        table[segment.value] = number
    numbers: npt.NDArray[Any] = table[labels.astype(np.intp) if labels.dtype == bool else labels]
    return numbers


def _descriptions(volume: DicomVolume, segments: Sequence[Segment], algorithm: Algorithm) -> list[Any]:
    """Return the descriptions of segments, numbered from 1."""
    import highdicom
    from pydicom.sr.codedict import codes

    made_by = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name[:64],
        family=codes.cid7162.ArtificialIntelligence,
        version=algorithm.version[:64],
        source=MANUFACTURER,
        parameters={"weights_sha256": algorithm.weights_sha256, "plan_sha256": algorithm.plan_sha256},
    )
    found = []
    for number, segment in enumerate(segments, start=1):
        code, category = segment.code.code, segment.code.category
        described = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label_of(segment),
            segmented_property_category=highdicom.sr.CodedConcept(
                category.value, category.scheme, category.meaning
            ),
            segmented_property_type=highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning),
            algorithm_type="AUTOMATIC",
            algorithm_identification=made_by,
            tracking_uid=new_uid(volume, algorithm, f"tracking {segment.value}"),
            tracking_id=label_of(segment),
            display_color=highdicom.color.CIELabColor.from_rgb(*segment.colour),
        )
        if segment.code.modifier is not None:
            inner = described.SegmentedPropertyTypeCodeSequence[0]
            inner.SegmentedPropertyTypeModifierCodeSequence = code_items(segment.code.modifier)
        found.append(described)
    return found


def label_of(segment: Segment) -> str:
    """Return the name of a segment as DICOM holds it: one line of at most 64 characters."""
    text = "".join(c if c.isprintable() and c != "\\" else " " for c in segment.name)
    return " ".join(text.split())[:64] or f"class {segment.value}"


def _refer(seg: Any, volume: DicomVolume, grid: Grid, dimensions: str) -> None:
    """Let each frame name the frame of the source that it lies on; give the dimensions a lasting UID."""
    from pydicom.dataset import Dataset

    seg.ReferencedSeriesSequence = [referenced_series(volume)]
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    seg.SharedFunctionalGroupsSequence[0].pop("DerivationImageSequence", None)
    inverse = np.linalg.inv(grid.affine)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = [float(x) for x in frame.PlanePositionSequence[0].ImagePositionPatient]
        plane = round(float(inverse[2, :3] @ position + inverse[2, 3]))
        derivation = Dataset()
        derivation.DerivationCodeSequence = code_items(_DERIVED)
        derivation.SourceImageSequence = image_items(volume, [plane])
        for image in derivation.SourceImageSequence:
            image.SpatialLocationsPreserved = "YES"
            image.PurposeOfReferenceCodeSequence = code_items(_SOURCE)
        frame.DerivationImageSequence = [derivation]


def _difference(
    path: Path, volume: DicomVolume, numbers: npt.NDArray[np.unsignedinteger], segments: Sequence[Segment]
) -> str | None:
    """Say what a file does not hold of what was sent."""
    held = read_segmentation(path, volume)
    names = [(number, label_of(s), s.code.code) for number, s in enumerate(segments, start=1)]
    if [(s.value, s.name, s.code.code) for s in held.segments] != names:
        return "other segments"
    if differ := int((held.labels != numbers).sum()):
        return f"{differ} voxels that differ"
    return None

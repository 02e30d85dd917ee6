"""What is known of DICOM: instances by their headers, series of them, and volumes made of one series."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["MAYBE_INCOMPLETE", "DicomVolume", "Frame", "Instance", "Note", "Series", "SkippedFile"]


@dataclass(frozen=True)
class Note:
    """Something that was repaired or deserves a look: a short code, and a sentence without patient data."""

    code: str
    text: str


#: Of a series of which nobody could tell whether it had arrived whole; its results say it, too.
MAYBE_INCOMPLETE = Note(
    "completeness-unknown",
    "Nobody could be asked whether the series is whole: slices at its ends may be missing.",
)


@dataclass(frozen=True)
class SkippedFile:
    """A file that is no image instance, and why: a reason code as of a refusal, and a sentence."""

    path: Path
    reason: str
    text: str


@dataclass(frozen=True)
class Instance:
    """One file that holds an image, by its header alone.

    ``seen`` tells whether the file is still the one whose header was read, see `medseg.io.dicom.changes`.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    frames: int = 1
    seen: tuple[int, int, int] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Series:
    """The instances of one series in one frame of reference, and what chooses among series.

    ``number`` counts the series of a folder from 1, in the order of their UIDs: a name without patient data.
    ``orientation`` is one of "axial", "coronal", "sagittal", "oblique" or "". ``no_volume`` is the reason
    code why this can be no volume (a localizer, a screenshot), as its headers show; else "". ``damaged`` are
    files beside it that may belong to it, and cannot be read: where there are any, the series is not read.
    """

    study_uid: str
    series_uid: str
    modality: str
    instances: tuple[Instance, ...]
    number: int = 0
    description: str = ""
    image_type: tuple[str, ...] = ()
    orientation: str = ""
    thickness_mm: float | None = None
    notes: tuple[Note, ...] = ()
    frame_of_reference_uid: str = ""
    no_volume: str = ""
    damaged: tuple[SkippedFile, ...] = ()

    @property
    def frames(self) -> int:
        """Number of frames over all instances."""
        return sum(instance.frames for instance in self.instances)


@dataclass(frozen=True)
class Frame:
    """Where one plane of a volume comes from: a frame, counted from 1, of an instance."""

    instance: Instance
    number: int = 1


@dataclass(frozen=True)
class DicomVolume:
    """A series as a volume, right or repaired with a note.

    ``image`` is (1, columns, rows, planes) with an affine to RAS+ millimetres, as `medseg.read` gives it for
    NIfTI and NRRD; values are rescaled (HU for CT). Planes go along the normal, the cross product of the
    direction of a row and that of a column, and ``frames[k]`` tells where ``image[..., k]`` came from.
    """

    image: MetaTensor
    series: Series
    frames: tuple[Frame, ...]
    frame_of_reference_uid: str
    notes: tuple[Note, ...] = ()

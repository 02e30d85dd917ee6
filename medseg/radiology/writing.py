"""The files of a study's results, each by the writer of its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..version import __version__
from .models import model_of
from .options import RESULTS, StudyOptions

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..inference import Prediction
    from ..io.dicom import DicomVolume, Measurement, Segment

__all__ = ["write_results"]


def write_results(
    into: Path,
    volume: DicomVolume,
    prediction: Prediction,
    segments: Sequence[Segment],
    measured: Sequence[Measurement],
    *,
    bundle: Bundle,
    options: StudyOptions,
) -> None:
    """Write the results that the options name into a folder; each writer reads back what it wrote."""
    from ..io.dicom import Algorithm, write_report, write_segmentation
    from ..io.dicom.contours import write_rtstruct
    from ..io.dicom.slicer import write_slicer

    settings = "flips" if options.flips and not bundle.plan.predict.flips else ""
    algorithm = Algorithm(bundle.name, __version__, **model_of(bundle.path), settings=settings)
    labels, wanted = prediction.labels, options.results
    segmentation = into / RESULTS["segmentation"]
    if "segmentation" in wanted:
        write_segmentation(segmentation, volume, labels, segments, algorithm=algorithm, kind=options.kind)
    if "report" in wanted:
        write_report(into / RESULTS["report"], volume, segmentation, measured, algorithm=algorithm)
    if "rtstruct" in wanted:
        write_rtstruct(into / RESULTS["rtstruct"], volume, labels, segments, algorithm=algorithm)
    if "nifti" in wanted:
        prediction.write(labels, into / RESULTS["nifti"])
    if "nrrd" in wanted:
        write_slicer(into / RESULTS["nrrd"], volume, labels, segments)

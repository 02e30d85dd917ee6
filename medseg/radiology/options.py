"""What is made of a study, and what its pages show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import Refused, did_you_mean

__all__ = ["FOLDER", "RESULTS", "StudyOptions"]

RESULTS = {
    "segmentation": "segmentation.dcm",
    "report": "report.dcm",
    "rtstruct": "rtstruct.dcm",
    "nifti": "segmentation.nii.gz",
    "nrrd": "segmentation.seg.nrrd",
}
"""Name of a result -> its file."""
FOLDER = "folder"


@dataclass(frozen=True)
class StudyOptions:
    """What is made of a study, and what its pages show.

    Attributes
    ----------
    results : tuple of str
        Which files: names of `RESULTS`; measurements and the page are always written.
    kind : {"binary", "labelmap"}
        Of the DICOM segmentation, see `medseg.io.dicom.write_segmentation`.
    show : tuple of str
        What pages and lists show of patients: names of `medseg.io.dicom.identity.SHOWN`, and "folder" for
        where the study was found. By default nothing.
    flips : bool
        Average over flips, see `medseg.predict`.
    doubt : bool
        Whether the network looks again to tell how much its result is to be doubted.

    Raises
    ------
    Refused
        ``bad-value``.

    Examples
    --------
    >>> StudyOptions(results=("nifty",))
    Traceback (most recent call last):
    medseg.errors.Refused: no result is called 'nifty'. Did you mean 'nifti'?
    """

    results: tuple[str, ...] = tuple(RESULTS)
    kind: Literal["binary", "labelmap"] = "binary"
    show: tuple[str, ...] = ()
    flips: bool = False
    doubt: bool = True

    def __post_init__(self) -> None:
        for name in self.results:
            if name not in RESULTS:
                raise Refused("bad-value", f"no result is called '{name}'", do=did_you_mean(name, RESULTS))
        if self.kind not in ("binary", "labelmap"):
            raise Refused(
                "bad-value",
                "there is no such kind of segmentation",
                got=self.kind,
                expected="binary, labelmap",
            )
        if "report" in self.results and "segmentation" not in self.results:
            raise Refused("bad-value", "the report refers to the segmentation", do="ask for both")

    @property
    def tags(self) -> tuple[str, ...]:
        """What of the files' headers is shown."""
        return tuple(name for name in self.show if name != FOLDER)

    def settings(self) -> dict[str, Any]:
        """Return what the results of a study depend on; the folder is shown on the night's page alone."""
        return asdict(self) | {"show": list(self.tags), "results": list(self.results)}

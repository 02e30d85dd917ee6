"""What the children of the peer do: the results of one series, as those of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..io.dicom import read_header
from ..radiology.job import StudyJob
from ..radiology.study import study_id

__all__ = ["SeriesJob"]


class SeriesJob(StudyJob):
    """The job of `medseg.radiology.run_studies` for items that are series and not studies."""

    def __call__(self, request: Mapping[str, Any], say: Callable[..., None]) -> dict[str, Any]:
        """Answer a request; its id, that of a series, becomes that of the study which the headers name."""
        if request["do"] == "study":
            study = study_id(read_header(request["files"][0]).study_uid)
            request = dict(request) | {"id": study}
        return super().__call__(request, say)

"""What a header says of patient and study, for pages whose reader asked for it; nothing else reads these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from ...errors import Refused, did_you_mean
from .headers import read_header

__all__ = ["SHOWN", "shown_facts"]

# name of what can be shown -> keyword of the attribute
SHOWN = {
    "patient-name": "PatientName",
    "patient-id": "PatientID",
    "birth-date": "PatientBirthDate",
    "study-date": "StudyDate",
    "accession-number": "AccessionNumber",
    "study-description": "StudyDescription",
    "series-description": "SeriesDescription",
}
_LONGEST = 200


def shown_facts(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, str]:
    """Return what the header of an image file says under some names of `SHOWN`, as one line each.

    Raises
    ------
    Refused
        ``bad-value`` for a name that is none; as `read_header` for a file that is not read.

    Examples
    --------
    >>> shown_facts("a.dcm", ["patient"])
    Traceback (most recent call last):
    medseg.errors.Refused: 'patient' is nothing that can be shown. Did you mean 'patient-id'?
    """
    for name in names:
        if name not in SHOWN:
            raise Refused("bad-value", f"'{name}' is nothing that can be shown", do=did_you_mean(name, SHOWN))
    if not names:
        return {}
    read_header(path)  # refuses what is hostile
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[SHOWN[n] for n in names])
        return {n: " ".join(str(found.get(SHOWN[n], "") or "").split())[:_LONGEST] for n in names}

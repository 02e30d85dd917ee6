"""UIDs of results: they follow from what a result is made of, so that the same run gives the same objects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

__all__ = ["Algorithm", "derived_uid", "result_uid"]


@dataclass(frozen=True)
class Algorithm:
    """What made a result.

    Attributes
    ----------
    name, version : str
        Of the model, and of medseg.
    weights_sha256, plan_sha256 : str
        Of its files.
    settings : str
        What else a result depends on and the plan does not say, such as flips that were asked for. Results
        of other settings have other UIDs.
    """

    name: str
    version: str
    weights_sha256: str
    plan_sha256: str
    settings: str = ""


def derived_uid(parts: Sequence[str]) -> str:
    """Return a UID that follows from texts, in order: another text, another UID.

    It is of the form that needs no registration, 2.25 and a number of 128 bits (DICOM PS3.5, B.2), here
    from SHA-256.

    Examples
    --------
    >>> from medseg.io.dicom.uids import derived_uid
    >>> derived_uid(["a", "bc"]) == derived_uid(["a", "bc"]) != derived_uid(["ab", "c"])
    True
    >>> len(derived_uid(["a"])) <= 64
    True
    """
    digest = hashlib.sha256(json.dumps(["medseg", *parts]).encode()).digest()
    return f"2.25.{UUID(bytes=digest[:16], version=5).int}"


def result_uid(series_uid: str, weights_sha256: str, plan_sha256: str, what: str) -> str:
    """Return the UID of a result of a series.

    Parameters
    ----------
    series_uid : str
        Of the series that was segmented.
    weights_sha256, plan_sha256 : str
        Of the model's files.
    what : str
        What the UID is of, such as ``SEG BINARY series``.

    Examples
    --------
    >>> from medseg.io.dicom.uids import result_uid
    >>> result_uid("1.2.3", "ab", "cd", "SEG")
    '2.25.223811485429095622077909715662041383753'
    """
    return derived_uid([series_uid, weights_sha256, plan_sha256, what])

"""SOP classes: which of them are images, and what the others are called."""

from __future__ import annotations

__all__ = ["DICOMDIR", "IMAGES", "SECONDARY_CAPTURE", "name_of_class"]

DICOMDIR = "1.2.840.10008.1.3.10"
_STORAGE = "1.2.840.10008.5.1.4.1.1."

SECONDARY_CAPTURE = {_STORAGE + s for s in ("7", "7.1", "7.2", "7.3", "7.4")}

#: Storage classes whose pixels are an image; segmentations, parametric maps and doses are none.
IMAGES: frozenset[str] = frozenset(
    _STORAGE + s
    for s in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1"),  # radiographs
        *("2", "2.1", "2.2"),  # CT: classic, enhanced, converted to enhanced
        *("3", "3.1", "6", "6.1", "6.2"),  # ultrasound
        *("4", "4.1", "4.3", "4.4"),  # MR
        *("5", "20"),  # nuclear medicine
        *("7", "7.1", "7.2", "7.3", "7.4"),  # secondary capture
        *("12.1", "12.1.1", "12.2", "12.2.1", "12.3"),  # angiography and fluoroscopy
        *("13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),  # X-ray 3D, tomosynthesis
        *("14.1", "14.2"),  # intravascular
        *(f"77.1.{s}" for s in ("1", "1.1", "2", "2.1", "3", "4", "4.1", "5.1", "5.2", "5.4", "6")),
        *("128", "128.1", "130"),  # PET
        *("481.1",),  # portal images
    )
)

_NAMES = {
    "66.4": "a segmentation",
    "66.7": "a segmentation",
    "66.5": "a segmentation of surfaces",
    "66": "raw data",
    "66.1": "a registration",
    "66.3": "a registration",
    "30": "a parametric map",
    "67": "a real-world value mapping",
    "4.2": "a spectrum",
    "88.59": "a list of key objects",
    "88.67": "a dose report",
    "481.2": "a dose",
    "481.3": "a set of contours",
    "481.5": "a treatment plan",
}
_FAMILIES = {"88.": "a report", "11.": "a presentation state", "104.": "a document", "9.": "a waveform"}


def name_of_class(uid: str) -> str:
    """Say in a word or two what a SOP class is.

    Examples
    --------
    >>> name_of_class("1.2.840.10008.5.1.4.1.1.88.33"), name_of_class("1.2.3")
    ('a report', 'of an unknown class')
    """
    if not uid.startswith(_STORAGE):
        return "of an unknown class"
    tail = uid[len(_STORAGE) :]
    if tail in _NAMES:
        return _NAMES[tail]
    return next((name for start, name in _FAMILIES.items() if tail.startswith(start)), "of another class")

"""Codes of what a class stands for, as a plan writes them: ``SCT:10200004:Liver``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import Refused

__all__ = ["Code", "Structure", "structure_from_text"]


@dataclass(frozen=True)
class Code:
    """A concept of a terminology: scheme (``SCT`` is SNOMED CT), value, and what it means in English."""

    scheme: str
    value: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.value}:{self.meaning}"


ANATOMICAL = Code("SCT", "91723000", "Anatomical Structure")


@dataclass(frozen=True)
class Structure:
    """What a class is: its code, what modifies it (a side), and the category that it belongs to.

    ``known`` is False where nobody gave the class a code: then scheme and value are medseg's own.
    """

    code: Code
    modifier: Code | None = None
    category: Code = ANATOMICAL
    known: bool = True

    def __str__(self) -> str:
        modifier = f" + {self.modifier}" if self.modifier else ""
        return f"{self.code}{modifier}" + ("" if self.category == ANATOMICAL else f" in {self.category}")


# a value of DICOM's code sequences has at most 16 characters, a meaning 64; none has a backslash
_ONE = r"([A-Za-z0-9_.\-]{1,16}):([A-Za-z0-9_.\-]{1,16}):([^:\\\x00-\x1f]{1,64}?)"
_TEXT = re.compile(rf"{_ONE}(?: \+ {_ONE})?(?: in {_ONE})?")


def structure_from_text(text: str) -> Structure:
    """Read a code as it stands in a plan.

    Parameters
    ----------
    text : str
        ``SCHEME:VALUE:MEANING``, then, where needed, ``+`` and the code of a modifier, and ``in`` and the
        code of a category, which else is `ANATOMICAL`.

    Raises
    ------
    Refused
        ``bad-code``.

    Examples
    --------
    >>> from medseg.plan.codes import structure_from_text
    >>> structure_from_text("SCT:64033007:Kidney + SCT:7771000:Left").modifier.meaning
    'Left'
    >>> str(structure_from_text("SCT:4147007:Mass in SCT:49755003:Morphologically Abnormal Structure"))
    'SCT:4147007:Mass in SCT:49755003:Morphologically Abnormal Structure'
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise Refused(
            "bad-code",
            "this is no code of a structure",
            got=f"'{text}'",
            expected="SCHEME:VALUE:MEANING, such as SCT:64033007:Kidney + SCT:7771000:Left",
        )
    parts = found.groups()
    code, modifier, category = (Code(*parts[i : i + 3]) if parts[i] else None for i in (0, 3, 6))
    assert code is not None
    return Structure(code, modifier, category or ANATOMICAL)

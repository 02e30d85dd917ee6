"""Rules that choose one series among several; a choice that is not clear is refused, never taken."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import Refused, did_you_mean
from .finding import Found
from .model import Note, Series

__all__ = ["SeriesRules", "choose_series", "line_of"]

_ORIENTATIONS = ("axial", "coronal", "sagittal", "oblique")


@dataclass(frozen=True)
class SeriesRules:
    """What a series must be; what is left at its default is not asked.

    Parameters
    ----------
    modality : str
        Such as ``"CT"``.
    description : str
        Regular expression that is found in the series description, in capitals or not.
    orientation : str
        ``"axial"``, ``"coronal"``, ``"sagittal"`` or ``"oblique"``.
    thickness_mm : tuple of 2 floats
        Least and largest thickness of a slice, in mm.
    exclude_image_type : tuple of str
        Words of ImageType that it must not have, such as ``"DERIVED"``.
    min_planes : int
        Least number of images.
    series_uid : str
    number : int
        Number of the series in its folder, counted from 1.

    Examples
    --------
    >>> SeriesRules.from_text("modality=CT,thickness_mm=1:3").thickness_mm
    (1.0, 3.0)
    """

    modality: str = ""
    description: str = ""
    orientation: str = ""
    thickness_mm: tuple[float, float] = (0.0, float("inf"))
    exclude_image_type: tuple[str, ...] = ()
    min_planes: int = 0
    series_uid: str = ""
    number: int = 0

    def __post_init__(self) -> None:
        if self.orientation and self.orientation not in _ORIENTATIONS:
            raise Refused(
                "bad-rule",
                f"no orientation '{self.orientation}'",
                do=did_you_mean(self.orientation, _ORIENTATIONS),
            )
        try:
            re.compile(self.description)
        except re.error as error:
            raise Refused(
                "bad-rule", "the description is no regular expression", got=str(error), do="correct it"
            ) from error
        low, high = self.thickness_mm
        if not 0 <= low <= high:
            raise Refused(
                "bad-rule", "no range of thickness", got=self.thickness_mm, expected="least and largest in mm"
            )

    @classmethod
    def from_text(cls, text: str) -> SeriesRules:
        """Read ``KEY=VALUE``, several with commas between; a number alone, or a UID, names the series.

        A range is ``1:3``, a list ``DERIVED|MIP``.
        """
        text = text.strip()
        if re.fullmatch(r"[0-9]{1,6}", text):
            return cls(number=int(text))
        if re.fullmatch(r"[0-9]+(\.[0-9]+)+", text):
            return cls(series_uid=text)
        values: dict[str, Any] = {}
        for part in text.split(","):
            key, equals, value = (word.strip() for word in part.partition("="))
            if not equals or not value:
                raise Refused("bad-rule", f"'{part}' is no rule", expected="KEY=VALUE, a number or a UID")
            values[key] = value
        return cls._made(values)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> SeriesRules:
        """Read rules from a TOML file: keys as the parameters, a range and a list in brackets."""
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise Refused("not-found", f"no such file '{path}'", do="check the path") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Refused("bad-rule", f"'{path}' is no TOML", got=str(error), do="correct it") from error
        return cls._made(table)

    @classmethod
    def _made(cls, values: dict[str, Any]) -> SeriesRules:
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise Refused("bad-rule", f"no rule is called '{key}'", do=did_you_mean(key, known))
        made = dict(values)
        try:
            if "thickness_mm" in made:
                made["thickness_mm"] = _range(made["thickness_mm"])
            if "exclude_image_type" in made:
                words = made["exclude_image_type"]
                made["exclude_image_type"] = tuple(words.split("|") if isinstance(words, str) else words)
            for key in ("min_planes", "number"):
                if key in made:
                    made[key] = int(made[key])
            for key in ("modality", "description", "orientation", "series_uid"):
                if key in made:
                    made[key] = str(made[key])
        except (TypeError, ValueError) as error:
            raise Refused("bad-rule", "a rule has a value that is none", got=str(error)) from error
        return cls(**made)

    def fits(self, series: Series) -> bool:
        """Tell whether a series is what the rules ask for."""
        low, high = self.thickness_mm
        thin = series.thickness_mm
        excluded = {word.upper() for word in self.exclude_image_type}
        return (
            (not self.modality or self.modality.upper() == series.modality.upper())
            and (
                not self.description
                or re.search(self.description, series.description, re.IGNORECASE) is not None
            )
            and (not self.orientation or self.orientation == series.orientation)
            and ((low, high) == (0, float("inf")) or (thin is not None and low <= thin <= high))
            and not excluded & {word.upper() for word in series.image_type}
            and series.frames >= self.min_planes
            and (not self.series_uid or self.series_uid == series.series_uid)
            and (not self.number or self.number == series.number)
        )


def _range(value: Any) -> tuple[float, float]:
    """``1:3``, ``:3``, ``1:`` or a pair; one number is refused, because thickness is rarely exact."""
    if isinstance(value, str):
        low, colon, high = value.partition(":")
        if not colon:
            raise ValueError("a range is LEAST:LARGEST")
        return float(low or 0), float(high or "inf")
    low, high = value
    return float(low), float(high)


def choose_series(series: Found | Sequence[Series], rules: SeriesRules | str | int | None = None) -> Series:
    """Return the one series that fits the rules.

    Series that can be no volume, such as localizers and screenshots, are passed over with a note.

    Parameters
    ----------
    series : Found or sequence of Series
    rules : SeriesRules, str or int, optional
        Text as `SeriesRules.from_text` reads it; a number is that of the series.

    Raises
    ------
    Refused
        ``no-series`` where none fits, ``several-series`` where more than one does; they are named by number,
        modality and number of images, never by what may name the patient. ``bad-rule``.

    Examples
    --------
    >>> thin = Series("1.2", "1.2.1", "CT", (), number=1, thickness_mm=1.0)
    >>> thick = Series("1.2", "1.2.2", "CT", (), number=2, thickness_mm=5.0)
    >>> choose_series([thin, thick], "thickness_mm=3:6").number
    2
    """
    listed = series.series if isinstance(series, Found) else tuple(series)
    if rules is None:
        rules = SeriesRules()
    elif isinstance(rules, int):
        rules = SeriesRules(number=rules)
    elif isinstance(rules, str):
        rules = SeriesRules.from_text(rules)
    fitting = [s for s in listed if rules.fits(s)]
    volumes = [s for s in fitting if not s.no_volume]
    if len(volumes) == 1:
        return _noted(volumes[0], [s for s in fitting if s.no_volume])
    if not volumes and len(fitting) == 1:
        return fitting[0]  # reading it says what is wrong with it
    if volumes:
        raise Refused(
            "several-series",
            f"{len(volumes)} series fit, and none is taken by chance",
            got="; ".join(line_of(s) for s in volumes[:6]) + ("; ..." if len(volumes) > 6 else ""),
            expected="one",
            do="name one by its number, or by rules such as modality=CT,thickness_mm=1:3",
        )
    if not listed:
        reasons = sorted({s.reason for s in series.skipped}) if isinstance(series, Found) else []
        raise Refused(
            "no-series",
            "no image series is there",
            got=f"files that are skipped: {', '.join(reasons)}" if reasons else "no files",
            expected="the DICOM files of a CT or MR series",
        )
    raise Refused(
        "no-series",
        f"none of {len(listed)} series fits",
        got="; ".join(line_of(s) for s in listed[:6]) + ("; ..." if len(listed) > 6 else ""),
        do="change the rules",
    )


def line_of(series: Series) -> str:
    """Say in a line which series it is, without what may name the patient."""
    facts = [series.modality or "no modality", f"{series.frames} images"]
    if series.orientation:
        facts.append(series.orientation)
    if series.thickness_mm is not None:
        facts.append(f"{series.thickness_mm:g} mm")
    if series.no_volume:
        facts.append(f"no volume: {series.no_volume}")
    return f"{series.number} ({', '.join(facts)})"


def _noted(series: Series, passed: Sequence[Series]) -> Series:
    if not passed:
        return series
    reasons = ", ".join(sorted({s.no_volume for s in passed}))
    note = Note("series-passed-over", f"{len(passed)} other series can be no volume: {reasons}")
    return replace(series, notes=(*series.notes, note))

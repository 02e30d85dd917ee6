"""What a bundle knows of its training cases and of its errors on held-out ones: plain numbers in TOML."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..bundle import Bundle
from ..bundle_files import DOUBT, BundleFiles
from ..errors import Refused

__all__ = ["DEFAULT", "PARTS", "Reference", "Sign", "Weight", "grown", "load_reference"]

FORMAT = 1
# part -> the value at which it begins to count
PARTS: dict[str, float] = {
    "looks": 0.05,
    "unsure": 0.05,
    "spacing": 1.0,
    "extent": 1.0,
    "brightness": 1.0,
    "volume": 1.0,
    "shape": 1.0,
    "border": 0.02,
    "fragments": 0.02,
}


@dataclass(frozen=True)
class Sign:
    """What one sign was in the training cases, see `measure_signs`.

    Attributes
    ----------
    mean, deviation : float
    low, high : float
        Percentiles 5 and 95.
    share : float
        Of the cases that have it.
    """

    mean: float
    deviation: float
    low: float
    high: float
    share: float = 1.0


@dataclass(frozen=True)
class Weight:
    """How much a part counts.

    Attributes
    ----------
    weight : float
        On the scale of log odds; never negative, so that more of a part is never less doubt.
    typical : float
        Its median in the held-out cases, most of them as they are.
    """

    weight: float
    typical: float = 0.0


@dataclass(frozen=True)
class Reference:
    """What a bundle knows of its training cases and of its errors.

    Attributes
    ----------
    signs : mapping of str to Sign
        Of the training cases.
    parts : mapping of str to Weight
    bias : float
        The log odds of a case in which every part is 0.
    made : str
        From how many cases, and how.
    """

    signs: Mapping[str, Sign] = field(default_factory=dict)
    parts: Mapping[str, Weight] = field(default_factory=dict)
    bias: float = 0.0
    made: str = ""

    def odds(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return what each part adds to the log odds, against a typical case.

        A part whose value is NaN, as it could not be measured, adds nothing.

        Examples
        --------
        >>> Reference(parts={"border": Weight(2.0)}).odds({"border": 0.02})
        {'border': 1.3862943611198906}
        """
        return {
            name: known.weight * (grown(name, values[name]) - grown(name, known.typical))
            for name, known in self.parts.items()
            if name in values and not math.isnan(values[name])
        }

    def score(self, values: Mapping[str, float]) -> float:
        """Return the score of doubt of a case with these parts, from 0 to 1.

        Examples
        --------
        >>> Reference(parts={"border": Weight(2.0)}, bias=-2.0).score({"border": 0.0})
        0.11920292202211755
        """
        typical = sum(known.weight * grown(name, known.typical) for name, known in self.parts.items())
        odds = self.bias + typical + sum(self.odds(values).values())
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))

    def to_toml(self) -> str:
        """Return it as TOML text, of five digits."""
        import tomlkit

        document = tomlkit.document()
        document.add(
            tomlkit.comment(
                "What the training cases were like, and how parts of doubt and errors go together."
            )
        )
        document["format"] = FORMAT
        document["made"] = self.made
        document["bias"] = _short(self.bias)
        parts, signs = tomlkit.table(), tomlkit.table()
        for name, known in self.parts.items():
            parts[name] = [_short(known.weight), _short(known.typical)]
        for name, sign in self.signs.items():
            signs[name] = [_short(v) for v in (sign.mean, sign.deviation, sign.low, sign.high, sign.share)]
        parts.comment("weight, typical value")
        signs.comment("mean, deviation, percentile 5, percentile 95, share of cases")
        document["parts"], document["signs"] = parts, signs
        return tomlkit.dumps(document)

    @classmethod
    def from_toml(cls, text: str, *, source: str = "doubt.toml") -> Reference:
        """Read it from TOML text; what does not belong there is refused.

        Raises
        ------
        Refused
            ``bad-bundle``.

        Examples
        --------
        >>> known = Reference(parts={"border": Weight(2.0)}, signs={"grain": Sign(0.0, 1.0, -2.0, 2.0)})
        >>> Reference.from_toml(known.to_toml()) == known
        True
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _bad(source, f"it is not TOML: {error}") from error
        if document.get("format") != FORMAT or set(document) - {"format", "made", "bias", "parts", "signs"}:
            raise _bad(source, f"format {document.get('format')!r} with {', '.join(document)}")
        parts = {n: Weight(*_numbers(v, 2, source)) for n, v in document.get("parts", {}).items()}
        if unknown := [n for n, known in parts.items() if n not in PARTS or known.weight < 0]:
            raise _bad(source, f"part '{unknown[0]}'")
        signs = {n: Sign(*_numbers(v, 5, source)) for n, v in document.get("signs", {}).items()}
        bias = _numbers([document.get("bias", 0.0)], 1, source)[0]
        return cls(signs, parts, bias, str(document.get("made", "")))


# for a bundle that knows nothing of its cases: what the labels themselves show
DEFAULT = Reference(
    parts={"looks": Weight(0.8), "unsure": Weight(0.8), "border": Weight(0.3), "fragments": Weight(0.3)},
    bias=-3.0,
    made="without any case of its own",
)


def load_reference(bundle: Bundle) -> Reference | None:
    """Return what a bundle knows of its cases, or None for one that was never calibrated.

    Raises
    ------
    Refused
        ``bad-bundle``.

    Examples
    --------
    >>> import medseg
    >>> load_reference(medseg.load_bundle("nuclei", device="cpu")) is None
    True
    """
    if not bundle.path.exists():  # one that was made in memory
        return None
    files = BundleFiles(bundle.path)
    return (
        Reference.from_toml(files.text(DOUBT), source=f"'{bundle.path}/{DOUBT}'")
        if files.has(DOUBT)
        else None
    )


def grown(part: str, value: float) -> float:
    """Return the logarithm in which a part counts: twice as bad is as much again, whether 2 or 20."""
    return math.log1p(max(0.0, value) / PARTS[part])


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _numbers(values: Any, count: int, source: str) -> list[float]:
    fits = isinstance(values, list) and len(values) == count
    if not fits or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise _bad(source, f"{values!r}")
    return [float(v) for v in values]


def _bad(source: str, got: str) -> Refused:
    return Refused(
        "bad-bundle", f"{source} is not as it was written", got=got, do="calibrate the bundle again"
    )

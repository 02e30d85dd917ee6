"""What the text headers of NRRD and MetaImage say about geometry, of which ITK passes over a part.

ITK takes 1 for a spacing that is missing, the positive for a negative one, mm for every unit, and LPS for a
space that is not named.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from .pixels import MICROMETRES

__all__ = ["Stated", "stated"]

_LONGEST = 2**22  # bytes of a header; those of NRRD hold a scanner's protocol now and then
_DEFLATED = 1040  # deflate makes at most 1032 bytes of one
_NAMED = re.compile(r"(right|left)-(anterior|posterior)-superior(-time)?|(ras|las|lps)t?", re.IGNORECASE)
_DOMAIN = ("domain", "space", "???")


@dataclass(frozen=True)
class Stated:
    """What ITK does not tell of a file.

    Attributes
    ----------
    format : {"NRRD", "MetaImage"}
    unit : {"mm", "um"}
        Of the world.
    scale : float
        What ITK's numbers are multiplied with to be in this unit.
    told : str
        For people: what the affine comes from.
    guess : str
        Why left and right are a guess; empty where they are stated.
    data : (Path, int) or None
        The file with the pixels and the byte that they begin at, where that is known.
    packed : str
        How they are compressed; empty if they are not.
    order : {"<", ">"}
        Byte order.
    """

    format: str
    unit: str
    scale: float
    told: str
    guess: str
    data: tuple[Path, int] | None
    packed: str
    order: str

    def refuse_truncated(self, nbytes: int, path: Path) -> None:
        """Refuse a file that is too small for its pixels, before ITK asks for their memory."""
        if self.data is None:
            return
        file, offset = self.data
        if not file.is_file():
            raise Refused(
                "not-found",
                f"'{path}' has its pixels in another file, which is not there",
                got=f"'{file}'",
                do="copy both files",
            )
        size = file.stat().st_size
        if nbytes > (size * _DEFLATED if self.packed else size - offset):
            raise Refused(
                "unreadable",
                f"'{path}' is truncated, or its header is damaged",
                got=f"a file of {size} bytes",
                expected=f"{nbytes} bytes of pixels, as its header says",
                do="copy it again from its source",
            )


def stated(path: Path) -> Stated:
    """Read the header of a NRRD or MetaImage file.

    Raises
    ------
    Refused
        ``no-spacing``, ``bad-unit``.
    ValueError
        What is no such header.
    """
    return _nrrd(path) if path.suffix.lower() == ".nrrd" else _meta(path)


def _lines(path: Path, last: str) -> tuple[list[str], int]:
    """Return the lines of a header up to the one that begins with ``last``, or is empty; and its length."""
    lines: list[str] = []
    with path.open("rb") as file:
        while file.tell() < _LONGEST:
            line = file.readline(_LONGEST)
            text = line.decode("latin-1").strip()
            if not line or (not text and not last):
                break
            lines.append(text)
            if last and text.lower().startswith(last):
                break
        return lines, file.tell()


def _nrrd(path: Path) -> Stated:
    lines, end = _lines(path, "")
    if not lines or not lines[0].startswith("NRRD"):
        raise ValueError("it does not begin with NRRD")
    pairs = [line.split(": ", 1) for line in lines[1:] if ": " in line and not line.startswith("#")]
    fields = {key.strip().lower().replace(" ", ""): value.strip() for key, value in pairs}
    kinds = fields.get("kinds", "").split()
    sizes = _checked(_nrrd_sizes(fields, kinds), path)
    # "space units" is of the world, "units" of each axis; kinds without a length have an empty one
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", "") or fields.get("units", ""))
    unit, scale = _unit({u.strip().lower() for u in units} - {"", "???", "none"}, path)
    anatomical = len(sizes) < 3 or _NAMED.fullmatch(fields.get("space", ""))
    encoding = fields.get("encoding", "").lower()
    return Stated(
        format="NRRD",
        unit=unit,
        scale=scale,
        told=f"NRRD space {fields.get('space', 'not stated')}",
        guess="" if anatomical else "names no anatomical space",
        data=None if "datafile" in fields else (path, end),
        packed="" if encoding == "raw" else encoding,
        order=">" if fields.get("endian", "").lower() == "big" else "<",
    )


def _nrrd_sizes(fields: dict[str, str], kinds: list[str]) -> list[float]:
    """Return the sizes of voxels along the axes of space."""
    if "spacedirections" in fields:
        vectors = re.findall(r"none|\([^)]*\)", fields["spacedirections"])
        lengths = [[float(x) for x in v[1:-1].split(",")] for v in vectors if v != "none"]
        return [math.sqrt(sum(x * x for x in v)) for v in lengths]
    if "spacings" in fields:
        values = [float(x) for x in fields["spacings"].split()]
        return [v for i, v in enumerate(values) if not kinds or i >= len(kinds) or kinds[i] in _DOMAIN]
    return []


def _meta(path: Path) -> Stated:
    lines, end = _lines(path, "elementdatafile")
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    fields = {key.strip().lower(): value.strip() for key, value in pairs}
    if "elementdatafile" not in fields or "dimsize" not in fields:
        raise ValueError("it has no header of MetaImage")
    axes = min(len(fields["dimsize"].split()), 3)
    words = (fields.get("elementspacing") or fields.get("elementsize") or "").split()
    _checked([float(x) for x in words][:axes], path)
    units = {fields.get("distanceunits", "").lower().removeprefix("met_distance_units_")}
    unit, scale = _unit(units - {"", "?", "unknown", "none"}, path)
    directions = axes < 3 or {"transformmatrix", "rotation", "orientation"} & fields.keys()
    place, offset = fields["elementdatafile"], end
    if place.lower() != "local":
        offset = max(int(fields.get("headersize", "0")), 0)
    several = "%" in place or place.lower().startswith("list")  # a file a plane
    big = "true" in (fields.get(f"{kind}byteordermsb", "").lower() for kind in ("binarydata", "element"))
    return Stated(
        format="MetaImage",
        unit=unit,
        scale=scale,
        told="MetaImage TransformMatrix" if directions else "MetaImage without TransformMatrix",
        guess="" if directions else "states no directions of its axes",
        data=None if several else (path if place.lower() == "local" else path.parent / place, offset),
        packed="zlib" if fields.get("compresseddata", "").lower() == "true" else "",
        order=">" if big else "<",
    )


def _checked(sizes: list[float], path: Path) -> list[float]:
    """Refuse what are no sizes of voxels; none at all is an empty list."""
    if sizes and all(math.isfinite(s) and s > 0 for s in sizes):
        return sizes
    raise Refused(
        "no-spacing",
        f"'{path}' does not state the size of its voxels",
        got="no spacing" if not sizes else f"spacing {' x '.join(f'{s:g}' for s in sizes)}",
        expected="numbers above 0",
        do="write the spacing into its header",
    )


def _unit(found: set[str], path: Path) -> tuple[str, float]:
    """Return the unit of the affine, and the factor that brings the file's numbers to it."""
    if not found:
        return "mm", 1.0
    if len(found) > 1 or not found <= MICROMETRES.keys():
        raise Refused(
            "bad-unit",
            f"'{path}' states an unknown unit of length",
            got=", ".join(sorted(found)),
            expected="one of mm, um, cm, m, nm for all axes",
            do="correct its header",
        )
    micrometres = MICROMETRES[found.pop()]
    return ("um", micrometres) if micrometres <= 1 else ("mm", micrometres / 1000)

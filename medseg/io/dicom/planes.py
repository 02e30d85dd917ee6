"""The planes that one file holds: where each lies, how its values are rescaled, what tells it from others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import Refused
from .headers import Header, reading_dicom

__all__ = ["Plane", "frames_of", "planes_of"]

Vector = tuple[float, float, float]

_MOST_PIXELS = 2**13  # rows or columns
_MOST_FRAMES = 2**16
_COLOURS = {"PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
_FARTHEST = 1e5  # mm from the origin
_SMALLEST, _LARGEST = 1e-4, 1e3  # mm, of a pixel


@dataclass(frozen=True)
class Plane:
    """One frame: geometry in the patient's LPS millimetres, rescaling, and traits.

    ``row`` is the direction in which the column index grows, ``column`` that in which the row index grows;
    ``spacing`` is between rows, then between columns. ``traits`` name what tells frames at one place apart.
    """

    position: Vector
    row: Vector
    column: Vector
    spacing: tuple[float, float]
    rows: int
    columns: int
    slope: float = 1.0
    intercept: float = 0.0
    thickness: float | None = None
    step: float | None = None
    unit: str = ""
    localizer: bool = False
    traits: Mapping[str, Any] = field(default_factory=dict)


def frames_of(header: Header) -> int:
    """Return the number of frames that a file declares: 1 where it says nothing."""
    with reading_dicom():
        number = int(_one(header.dataset, 0x00280008) or 1)
    if not 1 <= number <= _MOST_FRAMES:
        raise Refused("absurd-size", "a file has an absurd number of frames", got=number)
    return number


def planes_of(header: Header) -> list[Plane]:
    """Return the planes of a file, in the order of its frames.

    Raises
    ------
    Refused
        ``no-geometry``, ``no-spacing``, ``bad-number``, ``colour``, ``inverted``, ``no-rescale``,
        ``modality-lut``, ``absurd-size``, ``truncated``, ``unreadable``.
    """
    if header.pixels_at is None:
        raise Refused("truncated", "a file ends before its pixels", do="send the series again")
    frames = frames_of(header)
    with reading_dicom():
        data = header.dataset
        rows, columns = _size(data)
        _refuse_colour(data)
        if 0x00283000 in data:
            raise Refused(
                "modality-lut", "a file maps its values by a table", do="export it with a slope and intercept"
            )
        shared, each = _groups(data, frames)
        return [
            _plane(_Sources(data, frame, shared, enhanced=bool(each)), (rows, columns))
            for frame in (each or [None])
        ]


@dataclass(frozen=True)
class _Sources:
    """Where a frame's attributes may stand: its own groups, the shared groups, the data set itself."""

    data: Any
    frame: Any
    shared: Any
    enhanced: bool

    def find(self, tag: int, group: int) -> Any:
        """Return the value of an attribute, or None; in classic objects ``group`` is not asked for."""
        if not self.enhanced:
            return _one(self.data, tag)
        for groups in (self.frame, self.shared):
            sequence = _one(groups, group) if groups is not None else None
            if sequence and tag in sequence[0]:
                return _one(sequence[0], tag)
        return None


def _groups(data: Any, frames: int) -> tuple[Any, list[Any]]:
    """Return the shared functional groups, and those of each frame; nothing for a classic object."""
    each = _one(data, 0x52009230)
    shared = _one(data, 0x52009229)
    if not each and not shared:
        if frames > 1:
            raise Refused(
                "no-geometry",
                "a file holds several frames, and does not say where they lie",
                got=f"{frames} frames",
                do="export one file a slice, or an enhanced object",
            )
        return None, []
    each = list(each or [])
    if len(each) != frames:
        raise Refused(
            "truncated",
            "a file describes another number of frames than it holds",
            got=f"{len(each)} descriptions",
            expected=frames,
        )
    return (shared[0] if shared else None), each


def _size(data: Any) -> tuple[int, int]:
    rows, columns = _one(data, 0x00280010), _one(data, 0x00280011)
    if not rows or not columns:
        raise Refused("truncated", "a file does not say how many rows and columns it has", do="copy it again")
    if not (1 <= int(rows) <= _MOST_PIXELS and 1 <= int(columns) <= _MOST_PIXELS):
        raise Refused(
            "absurd-size",
            "a file has absurdly many rows or columns",
            got=f"{rows} x {columns}",
            expected=f"at most {_MOST_PIXELS}",
        )
    return int(rows), int(columns)


def _refuse_colour(data: Any) -> None:
    meaning = str(_one(data, 0x00280004) or "").strip("\0 ")
    samples = int(_one(data, 0x00280002) or 1)
    if samples != 1 or meaning not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise Refused(
            "colour",
            "the pixels are colours, not measured values",
            got=f"{samples} samples, {meaning if meaning in _COLOURS else 'no known kind'}",
            expected="MONOCHROME2",
            do="choose the series that it was made from",
        )
    if str(_one(data, 0x00089205) or "") in ("COLOR", "MIXED", "TRUE_COLOR"):
        raise Refused("colour", "some of the values stand for colours", expected="MONOCHROME2")
    if meaning != "MONOCHROME2":
        raise Refused(
            "inverted",
            "the pixels are inverted, or do not say whether they are",
            got=meaning or "no photometric interpretation",
            expected="MONOCHROME2",
            do="export the series again",
        )


def _plane(of: _Sources, size: tuple[int, int]) -> Plane:
    position = _numbers(of.find(0x00200032, 0x00209113), 3, "position")
    axes = _numbers(of.find(0x00200037, 0x00209116), 6, "orientation")
    if position is None or axes is None:
        raise Refused(
            "no-geometry",
            "the images do not say where in the patient they lie",
            expected="ImagePositionPatient and ImageOrientationPatient",
            do="choose the series that they were made from",
        )
    spacing = _numbers(of.find(0x00280030, 0x00289110), 2, "pixel spacing")
    if spacing is None or min(spacing) <= 0:
        raise Refused(
            "no-spacing",
            "the images do not say how large their pixels are in the patient",
            got=None if spacing is None else spacing,
            expected="PixelSpacing above 0; spacing at the detector or an aspect ratio is not enough",
            do="export the series again",
        )
    if max(map(abs, position)) > _FARTHEST or not _SMALLEST < min(spacing) <= max(spacing) < _LARGEST:
        raise Refused(
            "bad-number",
            "a file lies too far away, or has pixels that are too large or too small",
            got=f"{max(map(abs, position)):.3g} mm away, pixels of {spacing[0]:.3g} x {spacing[1]:.3g} mm",
        )
    slope, intercept = _rescaling(of)
    image_type = _image_type(of)
    return Plane(
        position=(position[0], position[1], position[2]),
        row=(axes[0], axes[1], axes[2]),
        column=(axes[3], axes[4], axes[5]),
        spacing=(spacing[0], spacing[1]),
        rows=size[0],
        columns=size[1],
        slope=slope,
        intercept=intercept,
        thickness=_length(of.find(0x00180050, 0x00289110)),
        step=_length(of.find(0x00180088, 0x00289110)),
        unit=str(of.find(0x00281054, 0x00289145) or "").strip("\0 ").upper(),
        localizer="LOCALIZER" in image_type,
        traits=_traits(of, image_type),
    )


def _rescaling(of: _Sources) -> tuple[float, float]:
    slope = _numbers(of.find(0x00281053, 0x00289145), 1, "rescale slope")
    intercept = _numbers(of.find(0x00281052, 0x00289145), 1, "rescale intercept")
    if (slope is None) != (intercept is None) or (slope is None and _one(of.data, 0x00080060) == "CT"):
        raise Refused(
            "no-rescale",
            "the images do not say what their values are worth",
            expected="RescaleSlope and RescaleIntercept, which give Hounsfield units",
            do="export the series again",
        )
    if slope is None or intercept is None:
        return 1.0, 0.0
    if slope[0] == 0:
        raise Refused("no-rescale", "a slope of 0 makes every value the same", expected="another slope")
    return slope[0], intercept[0]


def _image_type(of: _Sources) -> tuple[str, ...]:
    for group in (0x00189329, 0x00189226, 0x00189751):  # frame types of CT, MR and PET
        found = of.find(0x00089007, group) if of.enhanced else None
        if found is not None:
            return _texts(found)
    return _texts(_one(of.data, 0x00080008))


# trait -> (tag, functional group); the first ones must be the same all over a volume
CONSTANT = ("image type", "echo time", "b-value", "temporal position", "kernel", "tube voltage")
_TRAITS = {
    "echo time": (0x00180081, 0x00189114),
    "b-value": (0x00189087, 0x00189117),
    "temporal position": (0x00200100, 0x00209111),
    "kernel": (0x00181210, 0x00189314),
    "tube voltage": (0x00180060, 0x00189325),
    "echo number": (0x00180086, 0x00189114),
    "gradient direction": (0x00189089, 0x00189117),
    "trigger time": (0x00181060, 0x00189118),
    "frame reference time": (0x00541300, 0x00209111),
    "acquisition number": (0x00200012, 0x00209111),
    "acquisition date": (0x00080022, 0x00209111),
    "acquisition time": (0x00080032, 0x00209111),
}
# the same attribute under the name that it has inside enhanced objects
_ENHANCED = {
    "echo time": (0x00189082, 0x00189114),
    "temporal position": (0x00209128, 0x00209111),
    "trigger time": (0x00209153, 0x00189118),
    "acquisition number": (0x00209156, 0x00209111),
    "acquisition time": (0x00189074, 0x00209111),
}


def _traits(of: _Sources, image_type: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"image type": image_type} if image_type else {}
    for name, place in _TRAITS.items():
        value = of.find(*(_ENHANCED.get(name, place) if of.enhanced else place))
        if value is not None and value != "":
            found[name] = _comparable(value)
    if "b-value" not in found and not of.enhanced:
        private = next((v for tag in (0x0019100C, 0x20011003, 0x00431039) if (v := _one(of.data, tag))), None)
        if private is not None:
            found["b-value"] = _comparable(private)
    return found


def _comparable(value: Any) -> Any:
    """A number rounded to what matters, or the text."""
    if isinstance(value, bytes):
        value = value.strip(b"\0 ").decode("latin-1")
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        return tuple(_comparable(v) for v in value)
    try:
        return float(f"{float(value):.6g}")
    except (TypeError, ValueError):
        return str(value).strip()


def _one(data: Any, tag: int) -> Any:
    element = data.get(tag) if data is not None else None
    value = None if element is None else element.value
    return None if value is None or value == "" or value == b"" else value


def _texts(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else list(value)
    return tuple(str(v).strip().upper() for v in values)


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...] | None:
    """Return finite numbers, None where there is nothing; anything else is refused."""
    if value is None:
        return None
    try:
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers and value is not None and hasattr(value, "__len__") and len(value) == 0:
        return None
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise Refused("bad-number", f"a file has a {what} that is none", expected=f"{count} finite numbers")
    return numbers


def _length(value: Any) -> float | None:
    """A length above 0, or None: thickness is only told, not computed with."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found > 0 else None

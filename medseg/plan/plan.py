"""A plan: every number that a run depends on, as frozen dataclasses that go to TOML and back."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Refused, refuse_unknown
from ..files import write_text
from ..strict import build_strict, comments, typed
from .codes import structure_from_text
from .tables import (
    RANGES,
    AugmentPlan,
    InputPlan,
    NetworkPlan,
    PredictPlan,
    SplitPlan,
    TargetPlan,
    TrainPlan,
)

__all__ = ["Plan", "load_plan"]

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """Every number of a run.

    Attributes
    ----------
    name : str
        Name of the data set or model.
    input, network, target, augment, train, split, predict
        One table each of the TOML file.
    reasons : mapping
        Why a number is what it is: ``"train.patch" -> "..."``; written as TOML comments.

    Examples
    --------
    >>> from medseg import Plan
    >>> plan = Plan(name="cells").with_values({"train.lr": 3e-4})
    >>> plan.train.lr
    0.0003
    >>> Plan.from_toml(plan.to_toml()) == plan
    True
    """

    name: str = "unnamed"
    input: InputPlan = field(default_factory=InputPlan)
    network: NetworkPlan = field(default_factory=NetworkPlan)
    target: TargetPlan = field(default_factory=TargetPlan)
    augment: AugmentPlan = field(default_factory=AugmentPlan)
    train: TrainPlan = field(default_factory=TrainPlan)
    split: SplitPlan = field(default_factory=SplitPlan)
    predict: PredictPlan = field(default_factory=PredictPlan)
    reasons: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for key, (lowest, highest) in RANGES.items():
            value = self.value(key)
            for one in _numbers(value):
                if not lowest <= one <= highest:  # also catches NaN
                    limits = f"{lowest} to {highest}" if highest < math.inf else f"at least {lowest}"
                    raise Refused("bad-plan", f"'{key}' is out of range", got=value, expected=limits)
        self._check_network()
        for key in ("input.percentiles", "augment.scale"):
            low, high = self.value(key)
            if not low <= high:
                raise Refused("bad-plan", f"'{key}' is a range", got=[low, high], expected="low first")
        if len(self.train.patch) != self.input.spatial_dims:
            raise Refused(
                "bad-plan",
                "'train.patch' has one size an axis",
                got=list(self.train.patch),
                expected=f"{self.input.spatial_dims} numbers",
            )
        if self.input.downsample and len(self.input.downsample) != self.input.spatial_dims:
            raise Refused(
                "bad-plan",
                "'input.downsample' has one number an axis",
                got=list(self.input.downsample),
                expected=f"{self.input.spatial_dims} numbers, or none",
            )
        self._check_input()
        if len(self.target.classes) < 2:
            raise Refused("bad-plan", "'target.classes' needs the background and one more class")
        for key in ("target.classes", "target.values"):
            if len(set(self.value(key))) < len(self.value(key)):
                raise Refused("bad-plan", f"'{key}' names one twice", got=list(self.value(key)))
        if self.target.kind == "semantic" and len(self.target.values) != len(self.target.classes):
            raise Refused(
                "bad-plan",
                "'target.values' names one value a class",
                got=len(self.target.values),
                expected=len(self.target.classes),
            )
        self._check_codes()
        if unknown := [name for name in self.target.things if name not in self.target.scored]:
            raise Refused(
                "bad-plan", "'target.things' names classes", got=unknown, expected=list(self.target.scored)
            )
        used = (0,) if self.target.kind == "instances" else self.target.values
        if both := sorted(set(self.target.ignore) & set(used)):
            raise Refused(
                "bad-plan", "'target.ignore' names values of classes", got=both, expected="other values"
            )

    def _check_codes(self) -> None:
        """Refuse codes that are none, or not one a class."""
        codes = self.target.codes
        if codes and len(codes) != len(self.target.classes):
            raise Refused(
                "bad-plan",
                "'target.codes' has one code a class, empty where there is none",
                got=len(codes),
                expected=len(self.target.classes),
            )
        for text in filter(None, codes):
            structure_from_text(text)

    def _check_network(self) -> None:
        """Refuse a network whose numbers do not fit each other."""
        network, axes = self.network, self.input.spatial_dims
        levels = len(network.channels)
        if not levels:
            raise Refused("bad-plan", "'network.channels' is empty", expected="one number a level")
        for name, entries, count in (
            ("strides", network.strides, levels - 1),
            ("kernels", network.kernels, levels),
        ):
            if entries and (len(entries) != count or any(len(entry) != axes for entry in entries)):
                raise Refused(
                    "bad-plan",
                    f"'network.{name}' and 'network.channels' do not fit",
                    got=[list(entry) for entry in entries],
                    expected=f"{count} entries of {axes} numbers for {levels} levels, or none: []",
                )
        if any(k % 2 == 0 for k in _numbers(network.kernels)):
            raise Refused("bad-plan", "'network.kernels' are odd", got=[list(k) for k in network.kernels])

    def _check_input(self) -> None:
        """Refuse an input whose numbers do not fit each other."""
        given, axes = self.input, self.input.spatial_dims
        if given.resample and len(given.spacing) != axes:
            raise Refused(
                "bad-plan",
                "'input.resample' needs the spacing to resample to",
                got=list(given.spacing),
                expected=f"'input.spacing' with {axes} numbers",
            )
        letters = given.orientation.upper()
        pairs = ["".join(p) for p in ("LR", "AP", "IS")]
        if letters and (
            len(letters) != 3 or axes != 3 or any(len(set(p) & set(letters)) != 1 for p in pairs)
        ):
            raise Refused(
                "bad-plan",
                "'input.orientation' says where the three axes of a volume point",
                got=given.orientation,
                expected="one each of L or R, A or P, I or S, such as RAS",
            )
        if given.normalise == "window":
            for key in ("window", "mean", "deviation"):
                if len(getattr(given, key)) != given.channels:
                    raise Refused(
                        "bad-plan",
                        f"'input.normalise' = \"window\" needs 'input.{key}' of each channel",
                        got=len(getattr(given, key)),
                        expected=given.channels,
                    )
            if not all(low < high for low, high in given.window) or min(given.deviation) <= 0:
                raise Refused(
                    "bad-plan",
                    "'input.window' goes from low to high, 'input.deviation' is above 0",
                    got=f"{[list(w) for w in given.window]}, {list(given.deviation)}",
                )
        if any(axis >= axes for axis in self.augment.flip_axes):
            raise Refused(
                "bad-plan",
                "'augment.flip_axes' names axes of an image",
                got=list(self.augment.flip_axes),
                expected=f"0 to {axes - 1}",
            )
        if self.predict.largest and not self.target.has_background:
            raise Refused(
                "bad-plan",
                "'predict.largest' gives the other parts to the background, and there is none",
                got=list(self.predict.largest),
                expected="no class",
            )
        rows = self.predict.crf_compatibility
        if rows and {len(rows), *map(len, rows)} != {len(self.target.classes)}:
            raise Refused(
                "bad-plan",
                "'predict.crf_compatibility' has a row and a column a class",
                got=[list(row) for row in rows],
                expected=f"{len(self.target.classes)} rows of as many numbers, or none: []",
            )
        if unknown := [name for name in self.predict.largest if name not in self.target.classes]:
            raise Refused(
                "bad-plan",
                "'predict.largest' names classes",
                got=unknown,
                expected=list(self.target.classes[1:]),
            )

    def value(self, key: str) -> Any:
        """Return one number by its dotted name, such as ``"train.lr"``."""
        table, name = _split_key(self, key)
        return getattr(getattr(self, table), name) if table else getattr(self, name)

    def with_values(self, values: Mapping[str, Any], *, reason: str = "set by hand") -> Plan:
        """Return a copy with some numbers replaced, each with its reason.

        Raises
        ------
        Refused
            ``unknown-plan-key``, ``bad-value`` (a wrong type) or ``bad-plan``.
        """
        tables: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            table, name = _split_key(self, key)
            tables.setdefault(table, {})[name] = value
        changed: dict[str, Any] = {}
        for table, entries in tables.items():
            if table:
                changed[table] = build_strict(
                    type(getattr(self, table)), entries, table, start=getattr(self, table)
                )
            else:
                changed["name"] = typed(entries["name"], str, "name")
        reasons = dict(self.reasons) | dict.fromkeys(values, reason)
        return dataclasses.replace(self, **changed, reasons=reasons)

    def with_overrides(self, overrides: Sequence[str]) -> Plan:
        """Apply ``key=value`` texts from a command line; values are written as in TOML.

        Examples
        --------
        >>> Plan().with_overrides(["train.lr=3e-4", "network.norm=none"]).network.norm
        'none'
        """
        values = {}
        for text in overrides:
            key, equals, value = text.partition("=")
            if not equals:
                raise Refused(
                    "bad-plan", f"cannot read '{text}'", expected="key=value, such as train.lr=3e-4"
                )
            try:
                read = tomllib.loads(f"x = {value}")
            except tomllib.TOMLDecodeError:
                read = {}
            # a value with line ends would be read as several keys
            values[key.strip()] = read["x"] if len(read) == 1 else value.strip()
        return self.with_values(values, reason="given on the command line") if values else self

    def to_toml(self) -> str:
        """Return the plan as TOML text, each number with its reason as a comment."""
        import tomlkit

        document = tomlkit.document()
        document.add(tomlkit.comment("Every number this run depends on. Edit and train again: it is obeyed."))
        document["format"] = FORMAT
        document["name"] = self.name
        for table, part in _parts(self).items():
            section = tomlkit.table()
            for entry in dataclasses.fields(part):
                value = getattr(part, entry.name)
                item = tomlkit.item(_lists(value))
                if reason := self.reasons.get(f"{table}.{entry.name}"):
                    item.comment(" ".join(reason.split()))
                section[entry.name] = item
            document[table] = section
        return tomlkit.dumps(document)

    def save(self, path: str | Path) -> Path:
        """Write the plan as TOML, whole or not at all."""
        return write_text(path, self.to_toml())

    @classmethod
    def from_toml(cls, text: str, *, source: str = "plan") -> Plan:
        """Read a plan from TOML text; unknown keys and wrong types are refused."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Refused("bad-plan", f"{source} is not TOML", got=error) from error
        found = document.pop("format", None)
        if found != FORMAT or isinstance(found, bool):
            raise Refused(
                "bad-plan",
                f"{source} has an unknown format",
                got=repr(found),
                expected=f"format = {FORMAT}",
                do="write it with this version of medseg",
            )
        tables = _parts(cls())
        values: dict[str, Any] = {"name": typed(document.pop("name", "unnamed"), str, "name")}
        for table, content in document.items():
            if table not in tables:
                raise refuse_unknown("plan key", table, [*tables, "name"])
            if not isinstance(content, dict):
                raise Refused("bad-plan", f"'{table}' is a table", got=content, expected=f"[{table}]")
            values[table] = build_strict(type(tables[table]), content, table)
        return cls(**values, reasons=comments(text))


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a TOML file.

    Raises
    ------
    Refused
        ``not-found``, ``bad-plan``, ``bad-value`` or ``unknown-plan-key``.

    Examples
    --------
    >>> import tempfile
    >>> from medseg import Plan, load_plan
    >>> path = Plan(name="cells").save(tempfile.mkdtemp() + "/plan.toml")
    >>> load_plan(path).name
    'cells'
    """
    path = Path(path)
    if not path.is_file():
        raise Refused(
            "not-found", f"no plan '{path}'", do="write one with 'medseg plan DATASET -o plan.toml'"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            "bad-plan", f"cannot read '{path}'", got=error, expected="a text file in UTF-8"
        ) from error
    return Plan.from_toml(text, source=f"'{path}'")


def _parts(plan: Plan) -> dict[str, Any]:
    """Return the tables of a plan by name."""
    return {
        f.name: getattr(plan, f.name)
        for f in dataclasses.fields(plan)
        if dataclasses.is_dataclass(getattr(plan, f.name))
    }


def _numbers(value: Any) -> Iterator[Any]:
    """Yield the values of a tuple, however deep; another value alone."""
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    else:
        yield value


def _lists(value: Any) -> Any:
    return [_lists(one) for one in value] if isinstance(value, tuple) else value


def _split_key(plan: Plan, key: str) -> tuple[str, str]:
    parts = _parts(plan)
    known = [f"{table}.{f.name}" for table, part in parts.items() for f in dataclasses.fields(part)] + [
        "name"
    ]
    if key not in known:
        raise refuse_unknown("plan key", key, known)
    table, _, name = key.rpartition(".")
    return table, name

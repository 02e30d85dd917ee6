"""Which plan a training obeys: a given one, the one of a run that goes on, or one derived from the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..dataset import Dataset
from ..errors import Refused
from ..networks import build_network, geometry_of
from ..plan import Plan, load_plan
from ..planning import make_plan, target_values
from ..targets import TARGETS
from .run import PLAN
from .starting import plan_of

__all__ = ["derive_plan", "plan_for"]


def plan_for(
    dataset: Dataset,
    out: str | Path,
    plan: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    start: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the plan of a training.

    Parameters
    ----------
    dataset : Dataset
        What it is derived from, where no other is found.
    out : path
        The run's folder; a run in it goes on with its own plan.
    plan : path, optional
        A plan to obey.
    overrides : sequence of str
        ``key=value`` texts.
    start : path or name, optional
        What the training begins with, see `derive_plan`.
    progress : callable, optional
        See `medseg.make_plan`.

    Examples
    --------
    >>> import tempfile
    >>> from medseg import Plan, Dataset
    >>> folder = tempfile.mkdtemp()
    >>> path = Plan(name="mine").save(folder + "/p.toml")
    >>> plan_for(Dataset(name="d", cases=(), root=path.parent, layout=""), folder, path).name
    'mine'
    """
    own = Path(out) / PLAN
    for given in (plan, own if own.is_file() else None):
        if given is not None:
            return _obey(load_plan(given), overrides)
    return derive_plan(dataset, overrides, start=start, progress=progress)


def derive_plan(
    dataset: Dataset,
    overrides: Sequence[str] = (),
    *,
    memory_gb: float | None = None,
    start: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Derive a plan, with some of its numbers given.

    What follows from a given number is derived from it: with ``target.kind=instances`` the labels are taken
    for instance maps whatever they look like, and with ``target.name`` come the classes of that target.

    Parameters
    ----------
    dataset : Dataset
        With labels.
    overrides : sequence of str
        ``key=value`` texts.
    start : path or name, optional
        A bundle or run whose weights the training begins with: the network is as wide and deep as there, and
        brightness is brought to what it was trained on. Of a file of weights nothing follows.
    memory_gb, progress
        See `medseg.make_plan`.

    Raises
    ------
    Refused
        ``another-network`` where the model to start from is for images of another number of axes.
    """
    given = Plan().with_overrides([text for text in overrides if text.startswith("target.kind=")])
    if "target.kind" in given.reasons:
        kind = given.target.kind
        dataset = replace(dataset, kind=kind, classes=None if kind == "instances" else dataset.classes)
    theirs = None if start is None else plan_of(start)
    named = Plan().with_overrides([text for text in overrides if text.startswith("network.name=")])
    given_name = named.network.name if "network.name" in named.reasons else None
    name = given_name or (Plan() if theirs is None else theirs).network.name
    plan = make_plan(dataset, network=name, memory_gb=memory_gb, progress=progress)
    return _obey(plan if theirs is None else _continuing(plan, theirs), overrides)


def _continuing(plan: Plan, theirs: Plan) -> Plan:
    """Return the plan with the numbers that weights of another training are bound to."""
    if theirs.input.spatial_dims != plan.input.spatial_dims:
        raise Refused(
            "another-network",
            f"the model '{theirs.name}' is for images of {theirs.input.spatial_dims} axes",
            expected=f"{plan.input.spatial_dims}, as in the data set",
            do="start from another model",
        )
    reason = f"as in the model '{theirs.name}' that it starts from"
    own = ("name", "members")
    values = {
        f"network.{f.name}": getattr(theirs.network, f.name)
        for f in fields(theirs.network)
        if f.name not in own
    }
    # a window of values is one of each channel
    if theirs.input.normalise != "window" or theirs.input.channels == plan.input.channels:
        keys = ("normalise", "percentiles", "window", "mean", "deviation")
        values |= {f"input.{key}": getattr(theirs.input, key) for key in keys}
    plan = plan.with_values(values, reason=reason)
    geometry = geometry_of(build_network(plan), plan.input.channels, plan.input.spatial_dims)
    if geometry.legal(plan.train.patch):
        return plan
    patch = geometry.round_up(plan.train.patch)
    return plan.with_values({"train.patch": patch}, reason="the next size that its network takes")


def _obey(plan: Plan, overrides: Sequence[str]) -> Plan:
    keys = {text.partition("=")[0].strip() for text in overrides}
    # what belongs to the levels of the derived plan does not bind those that are given
    free = plan.with_values({"network.strides": (), "network.kernels": (), "network.deep_supervision": False})
    given = free.with_overrides(overrides)
    name, levels = given.target.name, len(given.network.channels)
    if "target.name" in keys and name in TARGETS:
        plan = plan.with_values(target_values(name), reason=f"for the target '{name}'")
    if "network.channels" in keys and levels != len(plan.network.channels):
        fitting = {
            "network.channels": given.network.channels,
            "network.strides": _of_length(plan.network.strides, levels - 1),
            "network.kernels": _of_length(plan.network.kernels, levels),
            "network.deep_supervision": plan.network.deep_supervision and levels > 2,
        }
        plan = plan.with_values(fitting, reason="for as many levels as were given")
    return plan.with_overrides(overrides)


def _of_length(entries: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    """Cut off the deepest entries, or repeat the last one; nothing stays nothing."""
    return entries[:length] + entries[-1:] * (length - len(entries))

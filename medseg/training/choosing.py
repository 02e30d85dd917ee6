"""Which plan a training obeys: a given one, the one of a run that goes on, or one derived from the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..dataset import Dataset
from ..plan import Plan, load_plan
from ..planning import make_plan
from .run import PLAN

__all__ = ["plan_for"]


def plan_for(
    dataset: Dataset,
    out: str | Path,
    plan: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
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
    if plan is not None:
        return load_plan(plan).with_overrides(overrides)
    if own.is_file():
        return load_plan(own).with_overrides(overrides)
    return make_plan(dataset, progress=progress).with_overrides(overrides)

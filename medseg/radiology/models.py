"""Which models studies can be given to, and what says which one it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle_files import PLAN, WEIGHTS, BundleFiles, find_bundle, sha256
from ..errors import Refused

if TYPE_CHECKING:
    from ..plan import Plan

__all__ = ["check_plan", "model_of"]


def check_plan(plan: Plan) -> None:
    """Refuse a model that no study can be given to.

    Raises
    ------
    Refused
        ``not-organs``.
    """
    if plan.target.kind != "semantic" or plan.input.spatial_dims != 3 or plan.input.channels != 1:
        raise Refused(
            "not-organs",
            f"the model '{plan.name}' does not give the classes of volumes of one channel",
            got=f"{plan.target.kind}, {plan.input.spatial_dims} axes, {plan.input.channels} channels",
            do="use one that was trained on label maps of volumes",
        )


def model_of(path: str | Path) -> dict[str, str]:
    """Return the checksums of a model's weights and plan.

    Examples
    --------
    >>> sorted(model_of("hippocampus"))
    ['plan_sha256', 'weights_sha256']
    """
    files = BundleFiles(find_bundle(path))
    return {"weights_sha256": sha256(files.read(WEIGHTS)), "plan_sha256": sha256(files.read(PLAN))}

"""The card of a trained model."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..plan import Plan
from .run import Run

__all__ = ["card_text", "versions"]


def versions() -> dict[str, str]:
    """Return the versions of what a training depends on.

    Examples
    --------
    >>> sorted(versions())[:2]
    ['medseg', 'monai']
    """
    found = {}
    for name in ("medseg", "torch", "monai", "numpy", "scipy", "scikit-image"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def card_text(run: Run, best: dict[str, float]) -> str:
    """Return the Markdown text of a model's card."""
    plan, split, start = run.plan, run.split, run.start
    scores = ", ".join(f"{key} {value:.4g}" for key, value in best.items() if key not in ("step", "lr"))
    return f"""# {plan.name}

A {plan.input.spatial_dims}D {plan.network.name} that gives {_purpose(plan)}.

| | |
|---|---|
| data set | {plan.name} |
| cases | {len(split.train)} trained, {len(split.val)} validated, {len(split.test)} unseen |
| fold | {run.fold} of {plan.split.folds}, groups never parted |
{_began(start)}| checkpoint | best of validation, step {best.get("step", 0):.0f} of {plan.train.steps} |
| validation | {scores} |
| input | {plan.input.channels} channel(s), brightness by {plan.input.normalise} |
| versions | {", ".join(f"{k} {v}" for k, v in versions().items())} |

Licence of the training data: not stated. Write it here before you hand the model on.
"""


def _began(start: dict[str, Any] | None) -> str:
    if start is None:
        return ""
    return f"| began with | {len(start['taken'])} tensors of {start['source']} ({start['sha256'][:8]}) |\n"


def _purpose(plan: Plan) -> str:
    if plan.target.kind == "instances":
        return "instance maps"
    return "label maps of " + ", ".join(plan.target.scored)

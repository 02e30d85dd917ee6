"""An encoder that stays as it is for the first steps of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..plan import Plan
from .starting import encoder_of

__all__ = ["Freezer", "freezing"]


class Freezer:
    """Freezes the encoder before step ``train.frozen_steps``, and sets it free from then on.

    Weights get no gradient, so that no optimiser moves them, by decay neither; batch norm uses the statistics
    that it came with, and keeps them. What is to be done depends on the step alone: a run that goes on in the
    middle is as one that was not stopped.

    Parameters
    ----------
    plan : Plan
        Of the training.
    network : torch.nn.Module
        With an ``encoder``, unless ``train.frozen_steps`` is 0.

    Examples
    --------
    >>> from medseg.networks import UNet
    >>> network = UNet(2, 1, 2, channels=(2, 4), padding="same", norm="batch")
    >>> freeze = Freezer(Plan().with_values({"train.frozen_steps": 10}), network)
    >>> freeze(9)
    >>> any(p.requires_grad for p in network.encoder.parameters())
    False
    >>> freeze(10)
    >>> all(p.requires_grad for p in network.encoder.parameters())
    True
    """

    def __init__(self, plan: Plan, network: nn.Module) -> None:
        self.steps = plan.train.frozen_steps
        encoder = encoder_of(network) if self.steps else nn.Identity()
        # what never learns is left alone
        self.weights = [p for p in encoder.parameters() if p.requires_grad]
        self.norms = [m for m in encoder.modules() if hasattr(m, "running_mean")]

    def __call__(self, step: int) -> None:
        """Prepare the step of that number, counted from 0."""
        self._set(step < self.steps)

    def release(self) -> None:
        """Set the encoder free."""
        self._set(False)

    def _set(self, frozen: bool) -> None:
        for weight in self.weights:
            weight.requires_grad_(not frozen)
        for norm in self.norms:
            norm.train(not frozen)


@contextmanager
def freezing(plan: Plan, network: nn.Module) -> Iterator[Freezer]:
    """Give a `Freezer`, and set the encoder free at the end, whatever ends it.

    Examples
    --------
    >>> from medseg.networks import UNet
    >>> network = UNet(2, 1, 2, channels=(2, 4))
    >>> with freezing(Plan().with_values({"train.frozen_steps": 10}), network) as freeze:
    ...     freeze(3)
    >>> all(p.requires_grad for p in network.parameters())
    True
    """
    freezer = Freezer(plan, network)
    try:
        yield freezer
    finally:
        freezer.release()

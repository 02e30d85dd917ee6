"""Several networks as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..tiling import Geometry
from .parts import Box, runs_parts

__all__ = ["Ensemble", "mean_probabilities"]


class Ensemble(nn.Module):
    """Networks of one geometry whose probabilities are averaged, such as those of a cross validation.

    It is local where they are, so that tiles of it give the result of the whole image.

    Parameters
    ----------
    members : sequence of torch.nn.Module
        From ``(N, C, *spatial)`` to logits, each with its ``geometry``.

    Raises
    ------
    Refused
        ``bad-network`` where they are none, or of different geometries.

    Examples
    --------
    >>> from medseg.networks import UNet
    >>> both = Ensemble([UNet(2, 1, 3, channels=(2, 4), padding="same") for _ in range(2)]).eval()
    >>> logits = both(torch.rand(1, 1, 16, 8))
    >>> bool(torch.allclose(logits.exp().sum(1), torch.ones(1, 16, 8)))
    True
    """

    takes_any_format = True

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        shapes = {member.geometry for member in members}
        if len(shapes) != 1:
            raise Refused(
                "bad-network",
                "networks whose probabilities are averaged have one geometry",
                got=f"{len(members)} networks of {len(shapes)} geometries",
            )
        self.members = nn.ModuleList(members)
        found = shapes.pop()
        assert isinstance(found, Geometry)
        self.geometry = found
        self.runs_parts = all(runs_parts(member) for member in members)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logarithm of the mean of the members' probabilities."""
        return mean_probabilities(member(image) for member in self.members)

    def parts(self, image: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
        """Yield the same for some boxes of the output, see `UNet.parts`."""
        members: list[Any] = list(self.members)
        for logits in zip(*(member.parts(image, boxes) for member in members)):
            yield mean_probabilities(logits)


def mean_probabilities(logits: Iterable[Tensor]) -> Tensor:
    """Return the logarithm of the mean of the probabilities that logits ``(N, C, *spatial)`` stand for.

    Taken one after the other, so that a generator never holds more than one.

    Examples
    --------
    >>> sure, unsure = torch.tensor([[100.0, 0.0]]), torch.zeros(1, 2)
    >>> mean_probabilities([sure, unsure]).exp()
    tensor([[0.7500, 0.2500]])
    """
    total: Tensor | None = None
    count = 0
    for one in logits:
        probabilities = one.float().softmax(1)
        total = probabilities if total is None else total.add_(probabilities)
        count += 1
        del one, probabilities  # or they would stay while the next is computed
    assert total is not None, "there is at least one"
    return total.div_(count).clamp_min_(torch.finfo(torch.float32).tiny).log_()

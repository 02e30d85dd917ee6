"""Averages over the symmetries of an image grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..networks import mean_probabilities

__all__ = ["Part", "run_flips"]

Part = Sequence[slice] | None  # of a network's output, an entry an axis


def run_flips(
    batch: Tensor,
    network: Callable[[Tensor, Part], Tensor],
    flips: Sequence[int],
    *,
    rotate: bool,
    part: Part,
    shrink: Sequence[int],
) -> Tensor:
    """Average the probabilities over the symmetries of the image grid; return their logarithm.

    Parameters
    ----------
    batch : Tensor of shape (N, C, \\*spatial)
        Images.
    network : callable
        ``network(images, part)`` gives logits, of a part of its output where one is given.
    flips : sequence of int
        Axes that are flipped, in every combination; 0 is the first of the image.
    rotate : bool
        Rotate by 90 degrees, too, in 2D.
    part : sequence of slice, optional
        Box of the output that is wanted.
    shrink : sequence of int
        By how much a side the output is smaller than the input.

    Examples
    --------
    >>> import torch
    >>> images = torch.rand(1, 2, 4, 6)
    >>> found = run_flips(images, lambda x, part: x, (0, 1), rotate=False, part=None, shrink=(0, 0))
    >>> torch.allclose(found, images.log_softmax(1), atol=1e-6)
    True
    """
    size = [n - 2 * c for n, c in zip(batch.shape[2:], shrink)]
    axes = [2 + axis for axis in flips]

    def versions() -> Iterator[Tensor]:
        for turn in (0, 1) if rotate and batch.ndim == 4 else (0,):
            for k in range(len(axes) + 1):
                for flipped in itertools.combinations(axes, k):
                    moved = None if part is None else _moved(part, size, turn, flipped)
                    logits = network(torch.rot90(batch, turn, (-2, -1)).flip(flipped), moved)
                    yield torch.rot90(logits.flip(flipped), -turn, (-2, -1))

    return mean_probabilities(versions())


def _moved(part: Sequence[slice], size: Sequence[int], turn: int, flipped: Sequence[int]) -> list[slice]:
    """Return where a box lies after a rotation of the last two axes by 90 degrees and flips."""
    spans = [(k.start, k.stop, n) for k, n in zip(part, size)]
    if turn:
        first, last, n = spans[-1]
        spans[-2:] = [(n - last, n - first, n), spans[-2]]
    turned = [(n - b, n - a) if 2 + axis in flipped else (a, b) for axis, (a, b, n) in enumerate(spans)]
    return [slice(a, b) for a, b in turned]

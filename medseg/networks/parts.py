"""Which part of each level of an expanding path a part of the output needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Box", "LevelBoxes", "cut_out", "runs_parts"]

Box = tuple[slice, ...]


class LevelBoxes:
    """Boxes of the levels of a U-Net's expanding path that a part of its output is made of.

    The context of a tile is for the contracting path: what the expanding path computes of it is thrown away.
    From the finest level to the coarsest, a level's convolutions need the part and their reach around it, and
    the up-convolution before them the coarse pixels that this lies on.

    Parameters
    ----------
    size : sequence of int
        Of the input.
    keep : sequence of slice
        The part of the output, an entry an axis.
    blocks : sequence of torch.nn.Module
        Those of the contracting path, the finest first.
    merges : sequence of torch.nn.Module
        Those of the expanding path, the finest first.
    strides : sequence of sequence of int
        From each level to the next coarser one.
    padded : bool
        Whether convolutions keep the size.

    Attributes
    ----------
    needed : list of box
        Of each level's output, the coarsest last.
    skips : list of box
        Of what each level but the coarsest hands over.
    """

    def __init__(
        self,
        size: Sequence[int],
        keep: Sequence[slice],
        *,
        blocks: Sequence[nn.Module],
        merges: Sequence[nn.Module],
        strides: Sequence[Sequence[int]],
        padded: bool,
    ) -> None:
        sizes, n = [], list(size)
        for level, block in enumerate(blocks):
            if level:
                n = [a // s for a, s in zip(n, strides[level - 1])]
            n = n if padded else [a - 2 * r for a, r in zip(n, _reach(block))]
            sizes.append(n)
        wholes = [sizes[-1]]  # what up-convolutions would give of everything, the finest first
        for merge, stride in zip(reversed(merges), reversed(strides)):
            wholes.insert(0, [a * s for a, s in zip(wholes[0], stride)])
            if not padded:
                wholes[0] = [a - 2 * r for a, r in zip(wholes[0], _reach(merge))]
        self.needed: list[Box] = [tuple(slice(k.start, k.stop) for k in keep)]
        self.skips: list[Box] = []
        self._starts: list[list[int]] = []
        for level, (merge, stride) in enumerate(zip(merges, strides)):
            coarse, made, handed = [], [], []
            for axis, (k, r, s) in enumerate(zip(self.needed[level], _reach(merge), stride)):
                whole = wholes[level + 1][axis] * s
                first, last = (max(k.start - r, 0), k.stop + r) if padded else (k.start, k.stop + 2 * r)
                a, b = first // s, math.ceil(min(last, whole) / s)
                coarse.append(slice(a, b))
                made.append(a * s)
                lead = (sizes[level][axis] - whole) // 2  # the skip is larger where convolutions eat its rim
                handed.append(slice(lead + a * s, lead + b * s))
            self.needed.append(tuple(coarse))
            self.skips.append(tuple(handed))
            self._starts.append(made)

    def skip(self, level: int, x: Tensor) -> Tensor:
        """Return what a level hands over, in memory of its own, so that the rest can be given back."""
        part = cut_out(x, self.skips[level])
        return part if part.shape == x.shape else part.clone()

    def narrow(self, level: int, x: Tensor) -> Tensor:
        """Cut what is needed out of what a level has computed."""
        starts = self._starts[level] if level < len(self._starts) else [0] * (x.ndim - 2)
        return cut_out(x, [slice(k.start - a, k.stop - a) for k, a in zip(self.needed[level], starts)])


def cut_out(x: Tensor, box: Sequence[slice]) -> Tensor:
    """Return a view of the part of ``(N, C, *spatial)`` in a box.

    Examples
    --------
    >>> import torch
    >>> tuple(cut_out(torch.zeros(1, 2, 5, 6), [slice(1, 3), slice(0, 6)]).shape)
    (1, 2, 2, 6)
    """
    return x[(slice(None), slice(None), *box)]


def runs_parts(network: Any) -> bool:
    """Tell whether a network gives boxes of its output, computing no more than they need: see `UNet.parts`.

    Examples
    --------
    >>> runs_parts(nn.Conv2d(1, 2, 3))
    False
    """
    return bool(getattr(network, "runs_parts", False))


def _reach(block: nn.Module) -> list[int]:
    """By how many pixels a side the convolutions of a block see beyond one."""
    layers: list[Any] = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    return [sum((k - 1) // 2 for k in sizes) for sizes in zip(*(layer.kernel_size for layer in layers))]

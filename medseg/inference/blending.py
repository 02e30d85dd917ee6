"""Blended tiles, for networks whose tiles cannot be exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..tiling import Tile, Tiling

__all__ = ["blend"]


def blend(
    tiling: Tiling,
    shape: Sequence[int],
    run: Callable[[Tile], Tensor],
    progress: Callable[[int, int], None] | None,
) -> tuple[Tile, Tensor]:
    """Average overlapping tiles with weights that fall linearly over the halo; gives one whole tile.

    Parameters
    ----------
    tiling : Tiling
        The tiles.
    shape : sequence of int
        Of the image.
    run : callable
        Gives the logits ``(classes, \\*spatial)`` of what a tile reads.
    progress : callable, optional
        Called with the number of tiles that are done and of all.

    Examples
    --------
    >>> import torch
    >>> from medseg.tiling import Geometry
    >>> tiling = Tiling((6,), Geometry((1,), (1,), (0,), (1,)), (2,))
    >>> blend(tiling, (6,), lambda tile: torch.ones(1, tile.read[0][1] - tile.read[0][0]), None)[1].tolist()
    [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
    """
    total: Tensor | None = None
    weights: Tensor | None = None
    shrink = tiling.geometry.shrink
    for done, tile in enumerate(tiling, start=1):
        logits = run(tile)
        if total is None or weights is None:
            total = logits.new_zeros((logits.shape[0], *shape))
            weights = logits.new_zeros(tuple(shape))
        weight = logits.new_ones(())
        inside, part = [], []
        for axis, (n, size) in enumerate(zip(shape, logits.shape[1:])):
            start = tile.read[axis][0] + shrink[axis]
            position = torch.arange(size, device=logits.device, dtype=logits.dtype)
            ramp = tiling.halo[axis] + 1.0
            fall = torch.minimum(position + 1, size - position).clamp_max(ramp) / ramp
            inside.append(slice(max(start, 0), min(start + size, n)))
            part.append(slice(inside[-1].start - start, inside[-1].stop - start))
            weight = weight[..., None] * fall[part[-1]]
        total[(slice(None), *inside)] += logits[(slice(None), *part)] * weight
        weights[tuple(inside)] += weight
        if progress:
            progress(done, len(tiling))
    assert total is not None, "an image has at least one tile"
    assert weights is not None, "it comes with the total"
    whole = tuple(slice(0, n) for n in shape)
    return Tile(tuple((0, n) for n in shape), whole, whole), total / weights

"""Images and label maps at a coarser resolution."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["Downsampled"]


class Downsampled(MapTransform):  # type: ignore[misc]
    """Make one pixel of each block of pixels: the mean of an image, the commonest value of a label map.

    A block that reaches beyond the image is filled with the image's last pixels. The affine of the result is
    that of the fine grid, because a sample for training has no place in the world.

    Parameters
    ----------
    keys : str or sequence of str
        Floats are images, integers label maps; ``(C, *spatial)``.
    factors : sequence of int
        Pixels of a block along each spatial axis.

    Examples
    --------
    >>> import torch
    >>> sample = {"image": MetaTensor(torch.arange(8.0).reshape(1, 2, 4))}
    >>> Downsampled("image", (2, 2))(sample)["image"].tolist()
    [[[2.5, 4.5]]]
    """

    def __init__(self, keys: KeysCollection, factors: Sequence[int]) -> None:
        super().__init__(keys)
        self.factors = tuple(factors)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Shrink every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            blocks = self._blocks(np.asarray(out[key]))
            coarse = (
                blocks.mean(axis=-1, dtype=blocks.dtype) if blocks.dtype.kind == "f" else _commonest(blocks)
            )
            meta = out[key].meta if isinstance(out[key], MetaTensor) else None
            out[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(coarse)), meta=meta)
        return out

    def _blocks(self, array: np.ndarray) -> np.ndarray:
        """Return the pixels of each block along a last axis."""
        lacking = [(0, -n % f) for n, f in zip(array.shape[1:], self.factors)]
        array = np.pad(array, [(0, 0), *lacking], mode="edge")
        shape = [array.shape[0]]
        for n, f in zip(array.shape[1:], self.factors):
            shape += [n // f, f]
        axes = len(self.factors)
        split = array.reshape(shape)
        order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)]
        moved = split.transpose(order)
        return moved.reshape(*moved.shape[: axes + 1], -1)


def _commonest(blocks: np.ndarray) -> np.ndarray:
    """Return the value that occurs most often along the last axis; of equally common ones the smallest."""
    blocks = np.sort(blocks, axis=-1)
    best, most = blocks[..., 0], np.zeros(blocks.shape[:-1], np.int32)
    run = np.zeros_like(most)
    for i in range(blocks.shape[-1]):
        run = np.where(blocks[..., i] == blocks[..., i - 1], run + 1, 1) if i else run + 1
        best, most = np.where(run > most, blocks[..., i], best), np.maximum(most, run)
    return best

"""Windows out of images, mirrored where an image ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from ..tiling import read_mirrored

__all__ = ["RandMirrorCropd", "take_tensor"]


class RandMirrorCropd(MapTransform, Randomizable):  # type: ignore[misc]
    """Cut the same random window out of every key; what an image lacks is mirrored.

    Parameters
    ----------
    keys : str or sequence of str
        Of one spatial shape.
    size : sequence of int
        Of the window.
    margin : sequence of int, optional
        How far the window may reach beyond the image. The rim of a window is lost to unpadded convolutions,
        so without a margin as wide the rim of an image would hardly ever be trained on.
    """

    def __init__(
        self, keys: KeysCollection, size: Sequence[int], *, margin: Sequence[int] | None = None
    ) -> None:
        super().__init__(keys)
        self.size = tuple(size)
        self.margin = tuple(margin or (0,) * len(self.size))
        self.start: tuple[int, ...] = ()

    def randomize(self, shape: Sequence[int]) -> None:
        """Draw where the window begins; a larger window than the image and margins is centred on it."""
        self.start = tuple(
            int(self.R.randint(-m, n + m - k + 1)) if n + 2 * m > k else -((k - n) // 2)
            for n, k, m in zip(shape, self.size, self.margin)
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut every key."""
        out = dict(data)
        self.randomize(out[self.keys[0]].shape[1:])
        box = [(a, a + n) for a, n in zip(self.start, self.size)]
        for key in self.key_iterator(out):
            part = out[key].as_tensor() if isinstance(out[key], MetaTensor) else out[key]
            # cloned: a view would be changed together with the cached image
            out[key] = MetaTensor(read_mirrored(part, box, take=take_tensor).clone())
        return out


def take_tensor(part: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """``numpy.take`` for tensors, for `medseg.tiling.read_mirrored`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> take_tensor(torch.tensor([[1, 2]]), np.array([1, 0]), 1)
    tensor([[2, 1]])
    """
    return part.index_select(axis, torch.from_numpy(index).to(part.device))

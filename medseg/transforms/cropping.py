"""Windows out of images, mirrored where an image ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray
from torch import Tensor

from ..tiling import read_mirrored

__all__ = ["ClassPlacesd", "RandMirrorCropd", "take_tensor"]

_MOST_PLACES = 4096  # of a class: more would hardly make patches more various


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
    foreground : float
        Share of the windows whose middle is a pixel of a class, as near as the image allows. The class is
        drawn from those that the sample has in ``places``, each equally often: see `ClassPlacesd`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        *,
        margin: Sequence[int] | None = None,
        foreground: float = 0.0,
    ) -> None:
        super().__init__(keys)
        self.size = tuple(size)
        self.margin = tuple(margin or (0,) * len(self.size))
        self.foreground = foreground
        self.start: tuple[int, ...] = ()

    def randomize(
        self, shape: Sequence[int], places: Mapping[int, NDArray[np.integer[Any]]] | None = None
    ) -> None:
        """Draw where the window begins; one larger than image and margins holds them at a random place."""
        middle: Any = (None,) * len(self.size)
        if self.foreground and self.R.random_sample() < self.foreground and places:
            found = list(places.values())[self.R.randint(len(places))]
            middle = found[self.R.randint(len(found))]
        self.start = tuple(
            self._along(n, k, m, c) for n, k, m, c in zip(shape, self.size, self.margin, middle)
        )

    def _along(self, n: int, k: int, m: int, middle: int | None) -> int:
        if n + 2 * m <= k:
            # were it always in the middle, zeros would be padded where the image ends: a network would see it
            return int(self.R.randint(n + m - k, 1 - m)) if n + 2 * m < k else -m
        if middle is None:
            return int(self.R.randint(-m, n + m - k + 1))
        return int(min(max(middle - k // 2, -m), n + m - k))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut every key."""
        out = dict(data)
        self.randomize(out[self.keys[0]].shape[1:], out.get("places"))
        box = [(a, a + n) for a, n in zip(self.start, self.size)]
        for key in self.key_iterator(out):
            part = out[key].as_tensor() if isinstance(out[key], MetaTensor) else out[key]
            # cloned: a view would be changed together with the cached image
            out[key] = MetaTensor(read_mirrored(part, box, take=take_tensor).clone())
        return out


class ClassPlacesd(MapTransform):  # type: ignore[misc]
    """Note where the classes of a label map are, for `RandMirrorCropd`, under the key ``places``.

    Class -> pixels of it, an array of shape (pixels, axes) of evenly spread ones. The background, 0, is left
    out where there is one, and so are ignored pixels.

    Parameters
    ----------
    keys : str
        The label map; several objects of an instance map count as one class where ``together``.
    together : bool
    background : bool
        Whether 0 is the background, not a class as the others.

    Examples
    --------
    >>> label = MetaTensor(torch.tensor([[[0, 2, 2], [0, 0, 5]]]))
    >>> {c: p.tolist() for c, p in ClassPlacesd("label")({"label": label})["places"].items()}
    {2: [[0, 1], [0, 2]], 5: [[1, 2]]}
    """

    def __init__(self, keys: KeysCollection, *, together: bool = False, background: bool = True) -> None:
        super().__init__(keys)
        self.together, self.first = together, int(background)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Look at the label map once."""
        label = np.asarray(data[self.keys[0]])[0]
        at = np.flatnonzero(label >= self.first)
        values = np.ones(len(at), np.uint8) if self.together else label.ravel()[at]
        order = np.argsort(values, kind="stable")
        found, first = np.unique(values[order], return_index=True)
        places = {}
        for value, group in zip(found.tolist(), np.split(at[order], first[1:])):
            some = group[np.linspace(0, len(group) - 1, min(len(group), _MOST_PLACES)).astype(np.int64)]
            places[value] = np.stack(np.unravel_index(some, label.shape), axis=1).astype(np.int32)
        return dict(data) | {"places": places}


def take_tensor(part: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """``numpy.take`` for tensors, for `medseg.tiling.read_mirrored`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> take_tensor(torch.tensor([[1, 2]]), np.array([1, 0]), 1)
    tensor([[2, 1]])
    """
    return part.index_select(axis, torch.from_numpy(index).to(part.device))

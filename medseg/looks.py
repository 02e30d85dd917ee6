"""Kinds of images, told from their pixels, and an order of cases in which rare kinds come often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .transforms import is_grey

__all__ = ["draw_order", "look_of"]

_MOST = 4.0  # times as often as a case of the commonest look: a single odd image must not rule a training


def look_of(image: Any, label: Any) -> str:
    """Tell what an image looks like: coloured or grey, its objects darker or brighter than their ground.

    Parameters
    ----------
    image : array of shape (C, \\*spatial)
        Prepared or not.
    label : array of shape (\\*spatial)
        0 is background.

    Examples
    --------
    >>> import numpy as np
    >>> look_of(np.array([[[9, 2, 9, 9]]]), np.array([[0, 1, 0, 0]]))
    'grey, dark objects'
    """
    pixels = torch.as_tensor(np.asarray(image))
    colour = "grey" if is_grey(pixels) else "coloured"
    objects = np.asarray(label) > 0
    if objects.all() or not objects.any():
        return colour
    brightness = pixels.double().mean(0).numpy()
    dark = brightness[objects].mean() < brightness[~objects].mean()
    return f"{colour}, {'dark' if dark else 'bright'} objects"


def draw_order(looks: Sequence[str], balance: float, seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the cases of one round through a data set: as many as there are, in random order.

    A look that ``n`` of the cases have is drawn in proportion to ``n ** (1 - balance)``: with 0 each case
    comes once, with 1 each look equally often, but no case more than four times as often as another. In a
    round, cases of one look come equally often, or one time more (systematic sampling).

    Parameters
    ----------
    looks : sequence of str
        The look of each case.
    balance : float
        0 to 1.
    seed : sequence of int
        Of this round.

    Examples
    --------
    >>> looks = ["grey"] * 9 + ["coloured"]
    >>> sorted(draw_order(looks, 0.0, [0]).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> draw_order(looks, 1.0, [0]).tolist().count(9)
    3
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(looks))
    if balance == 0:
        return order
    _, kind, count = np.unique(np.asarray(looks), return_inverse=True, return_counts=True)
    weight = count[kind].astype(float) ** -balance
    weight = np.minimum(weight, _MOST * weight.min())
    # cases lie in random order on a line, each as long as its weight; points one apart on the line are drawn
    ends = np.cumsum(weight[order]) / weight.sum() * len(looks)
    places = np.searchsorted(ends, rng.random() + np.arange(len(looks)), side="right")
    drawn = order[places.clip(max=len(looks) - 1)]
    return rng.permutation(drawn)

"""Looking again: how far the labels change between members, between flips or by a displacement."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from ..bundle import Bundle
from ..inference import Prediction
from ..inference.prediction import as_image, inferer_of, network_of, on_network_grid
from ..io import turn_to
from ..networks import Ensemble
from ..plan import Plan

__all__ = ["Looks", "compare_looks", "expected_dice", "take_looks"]

_DISPLACED = 3  # voxels, so that what is pooled together changes


@dataclass(frozen=True)
class Looks:
    """What came of looking again.

    Attributes
    ----------
    how : str
        What differed between the looks: "members", "flips" or "displacement".
    agreement : mapping of str to float
        Class to the mean dice between two looks; a class that no look found is not there.
    expected : mapping of str to float, or None
        Class to the dice that the probabilities let expect, if they are right; None without probabilities.
    """

    how: str
    agreement: Mapping[str, float]
    expected: Mapping[str, float] | None


def take_looks(
    bundle: Bundle, image: Any, prediction: Prediction, *, max_ram_gb: float | None = None
) -> Looks:
    """Look at a volume again and compare.

    An ensemble's members look one by one. A network that was trained with flips looks at the mirror image; if
    it averages over flips and the probabilities are there, one look as it is tells both. Any other network
    looks at the image displaced by some voxels.

    Parameters
    ----------
    bundle : Bundle
    image : MetaTensor of shape (C, X, Y, Z)
    prediction : Prediction
        Of that image, if possible with probabilities.
    max_ram_gb : float, optional
        See `medseg.predict`.

    Examples
    --------
    >>> import medseg
    >>> bundle = medseg.load_bundle("hippocampus", device="cpu")
    >>> image = MetaTensor(torch.rand(1, 24, 30, 20), affine=np.eye(4))
    >>> take_looks(bundle, image, medseg.predict(bundle, image, probabilities=True)).how
    'flips'
    """
    plan, shares = bundle.plan, prediction.probabilities
    names = _names(plan)
    expected = None if shares is None else expected_dice(shares, names)
    single = plan.with_values({"predict.flips": False})
    pixels: Any = as_image(image, plan)

    def look(
        pixels: Tensor, network: torch.nn.Module, *, kept: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        framed, prepare = on_network_grid(pixels, plan)
        inferer = inferer_of(single, max_ram_gb=max_ram_gb)
        return inferer.labels(framed, network, prepare=prepare, probabilities=kept)

    if isinstance(bundle.network, Ensemble):
        found = [look(pixels, member)[0] for member in bundle.network.members]
        return Looks("members", compare_looks(found, names), expected)
    network = network_of(bundle)
    axes = (plan.augment.flip_axes or tuple(range(3))) if plan.augment.flip_prob else ()
    if not axes:
        low = [slice(0, max(1, n - _DISPLACED)) for n in pixels.shape[1:]]
        high = [slice(n - s.stop, None) for n, s in zip(pixels.shape[1:], low)]
        moved = look(_part(pixels, high), network)[0]
        first = shares.argmax(0) if shares is not None else look(pixels, network)[0]
        return Looks("displacement", compare_looks([first[tuple(high)], moved], names), expected)
    if plan.predict.flips and shares is not None and not plan.predict.crf_iterations:
        labels, one = look(pixels, network, kept=True)
        assert one is not None, "they were asked for"
        versions = 2 ** len(axes)
        one -= versions * shares
        others = one.argmin(0)  # of one - versions * mean, which is minus the sum of the others
        return Looks("flips", compare_looks([labels, others], names), expected)
    order = turn_to(np.asarray(getattr(pixels, "affine", np.eye(4))), plan.input.orientation or "RAS")[0]
    axis = order[axes[0]]
    mirrored = np.flip(look(_flipped(pixels, axis), network)[0], axis)
    averaged = plan.predict.flips or shares is None
    as_it_is = look(pixels, network)[0] if averaged or shares is None else shares.argmax(0)
    return Looks("flips", compare_looks([as_it_is, mirrored], names), expected)


def _names(plan: Plan) -> dict[int, str]:
    return {i: n for i, n in enumerate(plan.target.classes) if i or not plan.target.has_background}


def _part(pixels: Any, box: Sequence[slice]) -> Any:
    affine = np.asarray(getattr(pixels, "affine", np.eye(4)), np.float64).copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return MetaTensor(torch.as_tensor(pixels.as_tensor())[(slice(None), *box)], affine=affine)


def _flipped(pixels: Any, axis: int) -> Any:
    tensor = pixels.as_tensor() if isinstance(pixels, MetaTensor) else pixels
    return MetaTensor(torch.flip(tensor, (axis + 1,)), affine=getattr(pixels, "affine", np.eye(4)))


def compare_looks(found: Sequence[NDArray[Any]], names: Mapping[int, str]) -> dict[str, float]:
    """Return the mean dice of each class over all pairs of label maps of one shape.

    Examples
    --------
    >>> compare_looks([np.array([0, 1, 1, 2]), np.array([0, 1, 0, 2])], {1: "a", 2: "b", 3: "c"})
    {'a': 0.6666666666666666, 'b': 1.0}
    """
    scores: dict[str, list[float]] = {}
    most = max(names) + 1
    sizes = [np.bincount(one.ravel(), minlength=most) for one in found]
    for i, j in itertools.combinations(range(len(found)), 2):
        both = np.bincount(found[i][found[i] == found[j]].ravel(), minlength=most)
        for value, name in names.items():
            if total := int(sizes[i][value] + sizes[j][value]):
                scores.setdefault(name, []).append(2 * int(both[value]) / total)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def expected_dice(probabilities: NDArray[np.floating], names: Mapping[int, str]) -> dict[str, float]:
    """Return the dice of each class that its probabilities let expect of the most probable labels.

    Of the voxels of a class, ``sum(p)`` are right if the probabilities are; of the reference there are
    ``sum(p)`` over the whole volume.

    Parameters
    ----------
    probabilities : ndarray of shape (classes, \\*spatial)
    names : mapping of int to str
        Class indices and their names.

    Examples
    --------
    >>> expected_dice(np.array([[0.9, 0.2, 0.0], [0.1, 0.8, 1.0]]), {1: "organ"})
    {'organ': 0.9230769230769231}
    """
    labels = probabilities.argmax(0)
    found = {}
    for index, name in names.items():
        there = labels == index
        if count := int(there.sum()):
            inside = float(probabilities[index][there].sum(dtype=np.float64))
            found[name] = 2 * inside / (count + float(probabilities[index].sum(dtype=np.float64)))
    return found

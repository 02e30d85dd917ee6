"""How much a segmentation is to be doubted: a number from 0 to 1, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import Refused
from ..inference import Prediction
from ..inference.prediction import as_image
from ..plan import Plan
from ..transforms import normaliser
from .looks import Looks, take_looks
from .reference import DEFAULT, Reference, Sign, load_reference
from .signs import GROUPS, group_of, measure_signs

__all__ = [
    "Doubt",
    "Part",
    "Reason",
    "classes_of",
    "distance",
    "measure_doubt",
    "measure_parts",
    "normalised",
    "score_parts",
]

_FARTHEST = 20.0  # deviations; a class that is missing is as far away
_ALWAYS = 0.95  # share of the training cases that have a class which is missed where it is not there


@dataclass(frozen=True)
class Reason:
    """Why a part of a score is what it is: a sentence, and whether it says that something was not found."""

    text: str = ""
    absent: bool = False


@dataclass(frozen=True)
class Part:
    """One thing that a score of doubt rests on.

    Attributes
    ----------
    value : float
        0 is no reason to doubt; of shares at most 1, of distances in deviations of the training cases.
    weight : float
        By how much it moves the score, on the scale of log odds, against a typical case.
    text : str
        What it says, in words.
    absent : bool
        Whether it says that something was not found.
    """

    value: float
    weight: float
    text: str
    absent: bool = False


@dataclass(frozen=True)
class Doubt:
    """How much a segmentation is to be doubted.

    Attributes
    ----------
    score : float
        From 0 to 1: the error (1 - dice) that held-out cases with the same signs had.
    parts : mapping of str to Part
        What it rests on, the weightiest first.
    calibrated : bool
        Whether the bundle says what its training cases were like and how signs and errors go together;
        without it the score is still good for an order, not for its value.
    """

    score: float
    parts: Mapping[str, Part]
    calibrated: bool

    def reasons(self, most: int = 3, *, absent: bool = True) -> list[str]:
        """Return what speaks against the segmentation, the weightiest first.

        Parameters
        ----------
        most : int
        absent : bool
            Whether what was not found is among them.

        Examples
        --------
        >>> parts = {"border": Part(0.2, 1.5, "cut off"), "volume": Part(0.1, 0.0, "as usual")}
        >>> parts["looks"] = Part(1.0, 1.2, "nothing was found", absent=True)
        >>> Doubt(0.4, parts, True).reasons(absent=False)
        ['cut off']
        """
        against = [p.text for p in self.parts.values() if p.weight > 0.1 and (absent or not p.absent)]
        return list(dict.fromkeys(against))[:most]


def measure_doubt(
    bundle: Bundle,
    image: Any,
    prediction: Prediction,
    *,
    looks: Looks | None = None,
    reference: Reference | None = None,
    max_ram_gb: float | None = None,
) -> Doubt:
    """Tell how much the segmentation of a volume is to be doubted.

    Parameters
    ----------
    bundle : Bundle
        Of a model for volumes.
    image : MetaTensor of shape (C, X, Y, Z)
        What was segmented.
    prediction : Prediction
        Of that image by that bundle. With its probabilities one look less is needed.
    looks : Looks, optional
        By default the network looks once more, see `take_looks`.
    reference : Reference, optional
        By default the bundle's own.
    max_ram_gb : float, optional
        Bound for the memory of the process, see `medseg.predict`.

    Returns
    -------
    Doubt

    Raises
    ------
    Refused
        ``not-organs`` for planes or objects; ``bad-bundle``.

    Examples
    --------
    >>> import medseg
    >>> image = np.random.default_rng(0).random((24, 30, 20))
    >>> bundle = medseg.load_bundle("hippocampus", device="cpu")
    >>> found = measure_doubt(bundle, image, medseg.predict(bundle, image, probabilities=True))
    >>> 0 <= found.score <= 1
    True
    """
    plan = bundle.plan
    if plan.target.kind != "semantic" or plan.input.spatial_dims != 3:
        raise Refused(
            "not-organs",
            f"the model '{bundle.name}' does not give the classes of volumes",
            got=f"{plan.target.kind}, {plan.input.spatial_dims} axes",
            do="use one that was trained on label maps of volumes",
        )
    if reference is None:
        reference = load_reference(bundle)
    if looks is None:
        looks = take_looks(bundle, image, prediction, max_ram_gb=max_ram_gb)
    parts, reasons = measure_parts(plan, image, prediction.labels, prediction.affine, looks, reference)
    return score_parts(parts, reasons, reference or DEFAULT, calibrated=reference is not None)


def measure_parts(
    plan: Plan,
    image: Any,
    labels: NDArray[np.integer],
    affine: NDArray[np.floating],
    looks: Looks,
    reference: Reference | None,
) -> tuple[dict[str, float], dict[str, Reason]]:
    """Return the value of each part of a score, and what it says.

    Parameters
    ----------
    plan : Plan
        Of the model.
    image : MetaTensor of shape (C, X, Y, Z)
    labels : ndarray of shape (X, Y, Z)
        With the values of the training labels.
    affine : ndarray of shape (4, 4)
    looks : Looks
    reference : Reference, optional
        Without it there are no distances from training cases.

    Returns
    -------
    values, reasons : dict
        By the names in `medseg.radiology.reference.PARTS`.
    """
    classes = classes_of(plan)
    signs = measure_signs(normalised(plan, image), labels, affine, classes)
    known = reference.signs if reference is not None else {}
    values, reasons = _of_looks(looks)
    for part, groups in _DISTANCES.items():
        far = {n: distance(n, signs[n], s) for n, s in known.items() if group_of(n) in groups and n in signs}
        far = {n: d for n, d in far.items() if not math.isnan(d)}
        if far:
            worst = max(far, key=lambda n: far[n])
            values[part] = (
                far[worst] if part in _BY_WORST else float(np.sqrt(np.mean(np.square(list(far.values())))))
            )
            reasons[part] = _told(worst, signs[worst], known[worst])
    for part, words in (
        ("border", "of the surface of {} lies where the image ends"),
        ("fragments", "of {} lies apart from its largest piece"),
    ):
        beyond = {
            n: max(0.0, v - (known[n].high if n in known else 0.0))
            for n, v in signs.items()
            if group_of(n) == part
        }
        if beyond:
            worst = max(beyond, key=lambda n: beyond[n])
            values[part] = beyond[worst]
            reasons[part] = Reason(f"{signs[worst]:.0%} " + words.format(worst.partition(".")[2]))
    return values, reasons


# part -> the groups of signs whose distance from the training cases it is
_DISTANCES = {
    "spacing": ("spacing",),
    "extent": ("extent",),
    "brightness": ("brightness", "contrast", "grain"),
    "volume": ("volume",),
    "shape": ("shape", "place"),
}
_BY_WORST = ("spacing", "extent", "volume")


def normalised(plan: Plan, image: Any) -> NDArray[np.float32]:
    """Return an image as the network sees its brightness."""
    pixels = as_image(image, plan)
    plain: Any = pixels.as_tensor() if hasattr(pixels, "as_tensor") else pixels
    array: NDArray[np.float32] = normaliser(plain, plan.input)(plain).numpy()
    return array


def distance(sign: str, value: float, known: Sign) -> float:
    """Return how far a sign is from the training cases, in their deviations; NaN where that says nothing.

    Examples
    --------
    >>> distance("volume.liver", 7.0, Sign(mean=7.5, deviation=0.25, low=7.0, high=8.0))
    2.0
    """
    if value == -math.inf:  # a class that was not found
        return _FARTHEST if known.share > _ALWAYS else math.nan
    far = abs(value - known.mean) / max(known.deviation, GROUPS[group_of(sign)])
    return min(far, _FARTHEST)


def score_parts(
    values: Mapping[str, float],
    reasons: Mapping[str, Reason],
    reference: Reference,
    *,
    calibrated: bool = True,
) -> Doubt:
    """Return the score of a case whose parts are known.

    Examples
    --------
    >>> from medseg.radiology.reference import Weight
    >>> known = Reference(parts={"border": Weight(2.0)}, bias=-2.0)
    >>> round(score_parts({"border": 0.1}, {"border": Reason("10% of ...")}, known).score, 3)
    0.83
    """
    odds = reference.odds(values)
    order = sorted(values, key=lambda name: -odds.get(name, -math.inf))
    told = {name: reasons.get(name, Reason()) for name in order}
    parts = {
        name: Part(values[name], odds.get(name, 0.0), reason.text, reason.absent)
        for name, reason in told.items()
    }
    return Doubt(reference.score(values), parts, calibrated)


def _of_looks(looks: Looks) -> tuple[dict[str, float], dict[str, Reason]]:
    """Return the parts that come of looking again; where nothing was found, nothing agrees."""
    values, reasons = {}, {}
    how = {"members": "the members", "flips": "the volume and its mirror image", "displacement": "two looks"}
    for part, shares, words in (
        ("looks", looks.agreement, f"{how[looks.how]} agree on {{}} only by a dice of {{:.2f}}"),
        ("unsure", looks.expected, "the probabilities of {} let expect a dice of {:.2f}"),
    ):
        if shares is None:
            continue
        values[part] = 1 - float(np.mean(list(shares.values()))) if shares else 1.0
        worst = min(shares, key=lambda n: shares[n]) if shares else ""
        told = Reason(words.format(worst, shares[worst])) if shares else Reason("nothing was found", True)
        reasons[part] = told
    return values, reasons


def _told(sign: str, value: float, known: Sign) -> Reason:
    """Return a sign in words, beside what it was in the training cases."""
    group, _, rest = sign.partition(".")
    if value == -math.inf:
        return Reason(f"no {rest} was found", absent=True)
    numbers = [value, known.low, known.high]
    unit = {"spacing": " mm", "extent": " mm", "volume": " ml", "place": " mm"}.get(group, "")
    if group in ("spacing", "extent", "volume", "shape", "grain"):
        numbers = [math.exp(n) for n in numbers]
    here, low, high = (f"{n:.3g}" for n in numbers)
    what = (
        f"{group} of {rest}"
        if group in ("volume", "contrast", "shape", "place")
        else f"{group} {rest}".strip()
    )
    return Reason(f"{what} is {here}{unit}, in training {low} to {high}{unit}")


def classes_of(plan: Plan) -> dict[int, str]:
    """Return values and names of the classes of a model that are scored."""
    return {value: name for name, value in plan.target.scored.items()}

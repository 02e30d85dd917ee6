"""Losses: functions of logits (N, C, *spatial) and class indices (N, *spatial), at least in float32.

A pixel whose index is ``medseg.targets.IGNORED`` does not count: means are over the other pixels, and the
gradient there is exactly 0. An image without a pixel that counts does not count either: the loss of a batch
is that of its other images. Where no pixel counts a loss is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import Refused, refuse_unknown
from .plan import Plan
from .targets import IGNORED

__all__ = ["LOSSES", "bce_dice", "check_target", "cross_entropy", "cross_entropy_dice", "dice", "loss_of"]


def cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Pixel-wise softmax with cross entropy, weighted by a map.

    Ronneberger et al. 2015, equation 1, divided by the number of pixels: the mean over all pixels that count
    of ``w * -log p_target``. It is not divided by the sum of the weights, so a patch with many borders counts
    for more than one without. Without weights it is the sparse categorical cross entropy.

    Parameters
    ----------
    logits : Tensor of float, shape (N, C, *spatial), C >= 2
        Output of the network before softmax. Half precision is widened to float32 first.
    target : Tensor of int, shape (N, *spatial)
        Class indices in ``[0, C)``, or ``IGNORED``.
    weight : Tensor, shape (N, *spatial), optional
        Weight of each pixel.

    Returns
    -------
    Tensor, shape ()
        The loss, float32 (float64 for float64 logits).

    Raises
    ------
    Refused
        ``shape-mismatch``, ``not-integer``, ``channel-count`` or ``unknown-class`` (:func:`check_target`).

    Examples
    --------
    >>> import torch
    >>> from medseg.losses import cross_entropy
    >>> cross_entropy(torch.zeros(1, 2, 3, 4), torch.ones(1, 3, 4, dtype=torch.long))  # log 2
    tensor(0.6931)
    """
    logits, target, weight = _checked(logits, target, weight, least=2)
    loss = F.cross_entropy(logits, target, reduction="none", ignore_index=IGNORED)
    return _mean(loss, target, weight)


def _mean(loss: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of a loss that is 0 where pixels do not count over those that do."""
    total = (loss if weight is None else weight * loss).sum()
    return total / (target != IGNORED).sum().clamp_min(1)


def _counting(target: Tensor, weight: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return indices that are all legal, and weights that are 0 where pixels do not count."""
    counts = (target != IGNORED).to(dtype)
    return target.clamp_min(0), counts if weight is None else counts * weight


def dice(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    include_background: bool = True,
    squared: bool = True,
    smooth: float = 1e-5,
) -> Tensor:
    """Soft Dice loss of the softmax probabilities, mean over images and classes.

    Milletari et al. 2016, section 3: ``1 - 2 sum(p g) / (sum(p^2) + sum(g^2))`` for the probability ``p``
    and the reference ``g`` (0 or 1) of each class.

    Parameters
    ----------
    logits : Tensor of float, shape (N, C, *spatial), C >= 2
        Output of the network before softmax. Half precision is widened to float32 first.
    target : Tensor of int, shape (N, *spatial)
        Class indices in ``[0, C)``, or ``IGNORED``.
    weight : Tensor, shape (N, *spatial), optional
        Weight of each pixel within the three sums.
    include_background : bool
        Whether class 0 is one of the classes averaged.
    squared : bool
        Squares in the denominator, as in the paper; otherwise ``sum(p) + sum(g)``.
    smooth : float
        Added to numerator and denominator, so that a class absent from both has loss 0.

    Returns
    -------
    Tensor, shape ()
        The loss in [0, 1], float32 (float64 for float64 logits).

    Raises
    ------
    Refused
        ``shape-mismatch``, ``not-integer``, ``channel-count`` or ``unknown-class`` (:func:`check_target`).

    Examples
    --------
    >>> import torch
    >>> from medseg.losses import dice
    >>> round(float(dice(torch.zeros(1, 2, 3, 4), torch.ones(1, 3, 4, dtype=torch.long))), 2)  # 1 and 1 - 4/5
    0.6
    """
    logits, target, weight = _checked(logits, target, weight, least=2)
    probabilities = logits.softmax(1)
    target, weight = _counting(target, weight, probabilities.dtype)
    reference = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    if not include_background:
        probabilities, reference = probabilities[:, 1:], reference[:, 1:]
    return _dice(probabilities, reference, weight, squared=squared, smooth=smooth)


def _dice(
    probabilities: Tensor, reference: Tensor, weight: Tensor, *, squared: bool, smooth: float
) -> Tensor:
    w = weight.unsqueeze(1)
    axes = tuple(range(2, probabilities.ndim))
    both = (w * probabilities * reference).sum(axes)
    # g * g = g for a reference of zeros and ones
    either = (w * (probabilities.square() if squared else probabilities)).sum(axes) + (w * reference).sum(
        axes
    )
    each = (1 - (2 * both + smooth) / (either + smooth)).mean(1)
    counting = (weight != 0).flatten(1).any(1)
    return (each * counting).sum() / counting.sum().clamp_min(1)


def bce_dice(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    dice_weight: float = 1.0,
    squared: bool = True,
    smooth: float = 1e-5,
) -> Tensor:
    """Binary cross entropy plus soft Dice of the foreground, for two classes.

    With one channel the probability of the foreground is ``sigmoid(z)``. With two it is
    ``sigmoid(z_1 - z_0)``, which is the softmax, and the first term equals :func:`cross_entropy`.

    Parameters
    ----------
    logits : Tensor of float, shape (N, 1 or 2, *spatial)
        Output of the network before sigmoid or softmax. Half precision is widened to float32 first.
    target : Tensor of int, shape (N, *spatial)
        0 for background, 1 for foreground, or ``IGNORED``.
    weight : Tensor, shape (N, *spatial), optional
        Weight of each pixel in both terms.
    dice_weight : float
        Factor of the Dice term.
    squared, smooth
        As for :func:`dice`.

    Returns
    -------
    Tensor, shape ()
        The loss, float32 (float64 for float64 logits).

    Raises
    ------
    Refused
        ``shape-mismatch``, ``not-integer``, ``channel-count`` or ``unknown-class`` (:func:`check_target`).

    Examples
    --------
    >>> import torch
    >>> from medseg.losses import bce_dice
    >>> logits, target = torch.zeros(1, 1, 3, 4), torch.ones(1, 3, 4, dtype=torch.long)
    >>> round(float(bce_dice(logits, target)), 4)  # log 2 + 0.2
    0.8931
    """
    logits, target, weight = _checked(logits, target, weight, least=1, most=2)
    z = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
    known, counting = _counting(target, weight, z.dtype)
    reference = known.to(z.dtype)
    loss = F.binary_cross_entropy_with_logits(z, reference, reduction="none")
    overlap = _dice(z.sigmoid()[:, None], reference[:, None], counting, squared=squared, smooth=smooth)
    return _mean(loss, target, counting) + dice_weight * overlap


def cross_entropy_dice(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    dice_weight: float = 1.0,
    include_background: bool = True,
    squared: bool = True,
    smooth: float = 1e-5,
) -> Tensor:
    """Cross entropy plus soft Dice: the sum of :func:`cross_entropy` and ``dice_weight`` times :func:`dice`.

    Parameters
    ----------
    logits : Tensor of float, shape (N, C, *spatial), C >= 2
        Output of the network before softmax. Half precision is widened to float32 first.
    target : Tensor of int, shape (N, *spatial)
        Class indices in ``[0, C)``, or ``IGNORED``.
    weight : Tensor, shape (N, *spatial), optional
        Weight of each pixel in both terms.
    dice_weight : float
        Factor of the Dice term.
    include_background, squared, smooth
        As for :func:`dice`.

    Returns
    -------
    Tensor, shape ()
        The loss, float32 (float64 for float64 logits).

    Raises
    ------
    Refused
        ``shape-mismatch``, ``not-integer``, ``channel-count`` or ``unknown-class`` (:func:`check_target`).

    Examples
    --------
    >>> import torch
    >>> from medseg.losses import cross_entropy_dice
    >>> logits, target = torch.zeros(1, 2, 3, 4), torch.ones(1, 3, 4, dtype=torch.long)
    >>> round(float(cross_entropy_dice(logits, target, include_background=False)), 4)  # log 2 + 0.2
    0.8931
    """
    overlap = dice(
        logits,
        target,
        weight=weight,
        include_background=include_background,
        squared=squared,
        smooth=smooth,
    )
    return cross_entropy(logits, target, weight=weight) + dice_weight * overlap


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "bce_dice": bce_dice,
    "cross_entropy_dice": cross_entropy_dice,
}


def loss_of(plan: Plan) -> Callable[..., Tensor]:
    """Return the loss that a plan names, with the numbers that the plan gives it.

    Raises
    ------
    Refused
        ``unknown-loss``.

    Examples
    --------
    >>> from medseg import Plan
    >>> from medseg.losses import loss_of
    >>> loss_of(Plan().with_values({"train.loss": "bce_dice", "train.dice_weight": 0.5})).keywords
    {'dice_weight': 0.5}
    """
    if plan.train.loss not in LOSSES:
        raise refuse_unknown("loss", plan.train.loss, LOSSES)
    loss = LOSSES[plan.train.loss]
    if "dice_weight" in signature(loss).parameters:
        return partial(loss, dice_weight=plan.train.dice_weight)
    return loss


def check_target(target: Tensor, n_classes: int) -> None:
    """Refuse class indices that are neither in ``[0, n_classes)`` nor `medseg.targets.IGNORED`.

    The losses call it for targets in main memory only: on a GPU reading the values would make every step
    wait for the device, and an index out of range ends in an assertion of the device. Call it once before
    training, or on targets before they are moved.

    Parameters
    ----------
    target : Tensor of int, any shape
        Class indices.
    n_classes : int
        Number of classes.

    Raises
    ------
    Refused
        ``unknown-class``.

    Examples
    --------
    >>> import torch
    >>> from medseg.losses import check_target
    >>> check_target(torch.tensor([0, 1, 1]), 2)
    """
    if target.numel() == 0:
        return
    low, high = (int(v) for v in target.aminmax())
    if low == IGNORED:
        low, high = (int(v) for v in target.where(target != IGNORED, 0).aminmax())
    if low < 0 or high >= n_classes:
        raise Refused(
            "unknown-class",
            "class index out of range",
            got=f"{low} to {high}",
            expected=f"0 to {n_classes - 1}",
            do="give the network one output a class, or renumber the labels",
        )


def _checked(
    logits: Tensor, target: Tensor, weight: Tensor | None, *, least: int, most: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Refuse what does not fit; widen the logits and the weights, and make the indices int64."""
    if logits.ndim < 3 or not logits.is_floating_point():
        raise Refused(
            "shape-mismatch",
            "logits",
            got=f"{tuple(logits.shape)} {logits.dtype}",
            expected="(N, C, *spatial) of a floating type",
        )
    channels = logits.shape[1]
    if channels < least or (most is not None and channels > most):
        raise Refused(
            "channel-count",
            "channels of the logits",
            got=channels,
            expected=f"{least} or more" if most is None else f"{least} to {most}",
            do="give the network one output a class" if most is None else "take cross_entropy_dice",
        )
    for name, tensor in (("target", target), ("weight", weight)):
        if tensor is not None and tensor.shape != (logits.shape[0], *logits.shape[2:]):
            raise Refused(
                "shape-mismatch",
                f"{name} does not lie on the grid of the logits",
                got=tuple(tensor.shape),
                expected=(logits.shape[0], *logits.shape[2:]),
                do="crop it to the output of the network, and leave out its channel axis",
            )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise Refused(
            "not-integer", "target holds class indices", got=target.dtype, expected="an integer type"
        )
    if target.device.type == "cpu":
        check_target(target, max(channels, 2))
    # products and sums of half precision overflow at 65504 and stop growing at 2048 equal terms
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide), target.long(), None if weight is None else weight.to(wide)

"""Mean field inference in a fully connected conditional random field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import Refused
from .bilateral import GridKernel, bilateral_kernel
from .direct import DirectKernel, SpatialKernel

__all__ = ["CRF", "dense_crf"]

_LEAST = 1e-6  # probability: a class that the network excludes can still be found by the image
_PLANES = 4  # whose messages are summed at once
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)
_Array = TypeVar("_Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class CRF:
    """The numbers of a fully connected conditional random field, by their names in the paper.

    Attributes
    ----------
    theta_alpha : float
        How far the bilateral kernel reaches: standard deviation of the distance, in the unit of the spacing,
        in pixels where none is given.
    theta_beta : float
        Which values are alike: standard deviation of the difference of values, in the unit of the image.
    theta_gamma : float
        How far the spatial kernel reaches, as ``theta_alpha``.
    w_bilateral, w_spatial : float
        What the kernels weigh against the network. Each kernel is normalised: its weights sum to about 1 for
        each pixel, so that these numbers do not depend on its size. 0 switches one off.
    iterations : int
        Mean field updates; 0 changes nothing.
    compatibility : tuple of tuple of float
        What it costs that a pixel is of class ``row`` where its neighbours are of class ``column``. Empty:
        1 for each two that differ (Potts).

    Examples
    --------
    >>> from medseg.crf import CRF
    >>> CRF(theta_alpha=30).w_bilateral
    5.0
    """

    theta_alpha: float = 60.0
    theta_beta: float = 0.05
    theta_gamma: float = 3.0
    w_bilateral: float = 5.0
    w_spatial: float = 3.0
    iterations: int = 10
    compatibility: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("theta_alpha", "theta_beta", "theta_gamma", "w_bilateral", "w_spatial", "iterations"):
            value, weight = getattr(self, name), not name.startswith("theta")
            if not (math.isfinite(value) and (value > 0 or (weight and value == 0))):
                expected = "0 or more" if weight else "more than 0"
                raise Refused("bad-argument", f"{name} of a CRF", got=value, expected=expected)
        if self.iterations != int(self.iterations):
            raise Refused(
                "bad-argument", "iterations of a CRF", got=self.iterations, expected="a whole number"
            )
        if not all(math.isfinite(cost) for row in self.compatibility for cost in row):
            raise Refused(
                "bad-argument", "compatibility of a CRF", got=self.compatibility, expected="numbers"
            )
        if any(len(row) != len(self.compatibility) for row in self.compatibility):
            raise Refused(
                "bad-argument",
                "compatibility of a CRF",
                got=[len(row) for row in self.compatibility],
                expected="a square matrix, a row and a column a class",
            )


def dense_crf(
    probabilities: _Array,
    image: Any,
    *,
    crf: CRF | None = None,
    spacing: Sequence[float] | None = None,
    memory_gb: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> _Array:
    """Refine probabilities by an image: near pixels, and not so near ones of like values, are of one class.

    The energy of a labelling ``x`` is the sum of ``-log p_i(x_i)`` over all pixels and, over all pairs,
    of ``mu(x_i, x_j) (w_bilateral k_1(i, j) + w_spatial k_2(i, j))``, where

        k_1 = exp(-|s_i - s_j|^2 / (2 theta_alpha^2) - |I_i - I_j|^2 / (2 theta_beta^2))
        k_2 = exp(-|s_i - s_j|^2 / (2 theta_gamma^2))

    for places ``s`` and values ``I``, each kernel divided by ``sqrt(d_i d_j)`` with ``d_i = sum_j k(i, j)``,
    the pixel itself included. Its mean field is found by ``iterations`` updates of all pixels at once.

    Parameters
    ----------
    probabilities : array or tensor of shape (classes, \\*spatial)
        Of a network, after softmax, in 2D or 3D. What is below 1e-6 is taken as 1e-6.
    image : array or tensor of shape (C, \\*spatial) or (\\*spatial)
        Of any number of channels; many of them that differ much take memory.
    crf : CRF, optional
        The numbers of the field; by default ``CRF()``, whose ``theta_beta`` is for values of 0 to 1.
    spacing : sequence of float, optional
        Size of a pixel an axis, in the unit of ``theta_alpha`` and ``theta_gamma``.
    memory_gb : float, optional
        What may be taken beyond the arguments, in GB (1e9 bytes).
    progress : callable, optional
        Called with the number of updates that are done and of all.

    Returns
    -------
    array or tensor of shape (classes, \\*spatial), float32
        Of the kind of ``probabilities``, on its device.

    Raises
    ------
    Refused
        ``shape-mismatch``, ``not-probabilities``, ``non-finite``, ``empty-image``, ``bad-argument``,
        ``out-of-memory``.

    References
    ----------
    Kraehenbuehl and Koltun, Efficient inference in fully connected CRFs with Gaussian edge potentials, NIPS
    2011, equations 1 to 3 and algorithm 1; normalised as in Kraehenbuehl and Koltun, Parameter learning and
    convergent inference for dense random fields, ICML 2013.

    Examples
    --------
    A vague probability, sharp where the image has an edge.

    >>> import numpy as np
    >>> from medseg import dense_crf
    >>> image = np.repeat([0.0, 0.0, 1.0, 1.0], 5)[None].repeat(12, axis=0)
    >>> right = np.linspace(0.3, 0.6, 20)[None].repeat(12, axis=0)
    >>> found = dense_crf(np.stack([1 - right, right]), image)
    >>> found[1, 6, 8:12].round(1).tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    crf = crf or CRF()
    given, picture = _tensors(probabilities, image)
    classes, shape = given.shape[0], tuple(given.shape[1:])
    penalty = _penalty(crf, classes, given.device)
    sigma = _per_axis(spacing, len(shape))
    held = 4.0 * math.prod(shape) * (6 * classes + 2 * len(picture) + 12)
    left = math.inf if memory_gb is None else memory_gb * 1e9 - held
    if left <= 0:
        raise Refused(
            "out-of-memory",
            "a CRF sees the whole image, and this one does not fit into memory",
            got=f"{(memory_gb or 0):.2f} GB for it",
            expected=f"at least {held / 1e9:.2f} GB",
            do="raise max_ram_gb (--max-ram), or leave the CRF out",
        )
    messages: list[tuple[float, _Messages]] = []
    if crf.iterations and classes > 1:
        if crf.w_bilateral:
            widths = [crf.theta_alpha / s for s in sigma]
            bilateral = bilateral_kernel(picture, widths, crf.theta_beta, bytes_left=left)
            messages.append((crf.w_bilateral, _Messages(bilateral, shape, given.device)))
        if crf.w_spatial:
            spatial = SpatialKernel(shape, [crf.theta_gamma / s for s in sigma], given.device)
            messages.append((crf.w_spatial, _Messages(spatial, shape, given.device)))
    unary = given.clamp_min(_LEAST).log()
    field = unary.softmax(0)
    for done in range(int(crf.iterations)):
        support = torch.zeros_like(unary)
        for weight, message in messages:
            support.add_(message(field), alpha=weight)
        field = torch.tensordot(penalty, support, 1).neg_().add_(unary).softmax(0)
        if progress:
            progress(done + 1, crf.iterations)
    if not isinstance(probabilities, Tensor):
        return field.numpy()
    if type(probabilities) is Tensor:
        return field
    return torch.empty_like(probabilities, dtype=torch.float32, requires_grad=False).copy_(field)


class _Messages:
    """What each pixel hears from all others: a normalised kernel without its diagonal."""

    def __init__(
        self, kernel: SpatialKernel | GridKernel | DirectKernel, shape: Sequence[int], device: torch.device
    ) -> None:
        self.kernel = kernel
        self.diagonal = kernel.diagonal().to(device)
        one = torch.ones(1, *shape, device=device)
        # a pixel is as like itself as can be, so that no sum is below 1
        self.norm = (kernel(one) - self.diagonal + 1).clamp_min(1).rsqrt()
        self.total = self._of(one)

    def __call__(self, field: Tensor) -> Tensor:
        """Return the messages of all classes; the last is what the others leave of the sum."""
        heard = torch.empty_like(field)
        for first in range(0, len(field) - 1, _PLANES):
            part = slice(first, min(first + _PLANES, len(field) - 1))
            heard[part] = self._of(field[part])
        torch.sub(self.total, heard[:-1].sum(0, keepdim=True), out=heard[-1:])
        return heard

    def _of(self, planes: Tensor) -> Tensor:
        scaled = self.norm * planes
        return self.kernel(scaled).addcmul_(self.diagonal, scaled, value=-1).mul_(self.norm)


def _tensors(probabilities: Any, image: Any) -> tuple[Tensor, Tensor]:
    """Check both, and return them as plain float32 tensors on one device, the image with its channels."""
    given = _plain(probabilities)
    picture = _plain(image).to(given.device)
    if given.ndim not in (3, 4):
        raise Refused(
            "shape-mismatch",
            "probabilities of a CRF",
            got=tuple(given.shape),
            expected="(classes, *spatial) of an image or a volume",
        )
    if picture.ndim == given.ndim - 1:
        picture = picture[None]
    if picture.ndim != given.ndim or picture.shape[1:] != given.shape[1:]:
        raise Refused(
            "shape-mismatch",
            "the image does not lie on the grid of the probabilities",
            got=tuple(picture.shape),
            expected=f"(channels, {', '.join(map(str, given.shape[1:]))})",
            do="put the channels first",
        )
    if 0 in given.shape or 0 in picture.shape:
        raise Refused("empty-image", "an image without pixels or channels", got=tuple(picture.shape))
    if picture.dtype in _WIDE:  # differences count, and float32 holds few digits of large numbers
        picture = picture.to(torch.float64)
        picture = picture - picture.flatten(1).mean(1).reshape(-1, *[1] * (picture.ndim - 1))
    given, picture = given.to(torch.float32), picture.to(torch.float32)
    if not picture.isfinite().all():
        raise Refused(
            "non-finite",
            "the image holds pixels that are NaN, infinite or beyond float32",
            do="replace them by a number",
        )
    worst = float((given.sum(0) - 1).abs().max())
    if not (worst < 1e-2 and given.min() >= 0):
        raise Refused(
            "not-probabilities",
            "values of the classes",
            got=f"from {float(given.min()):.3g}, sums off by {worst:.3g}",
            expected="0 or more, that sum to 1 in each pixel",
            do="apply softmax to logits",
        )
    return given, picture


def _plain(given: Any) -> Tensor:
    """Return a plain tensor of whatever holds numbers: arrays may be mirrored or of another byte order."""
    if isinstance(given, Tensor):
        plain: Tensor = given.detach().as_subclass(Tensor)  # type: ignore[arg-type]
        return plain
    array = np.ascontiguousarray(given)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _per_axis(spacing: Sequence[float] | None, axes: int) -> list[float]:
    sizes = [1.0] * axes if spacing is None else [float(s) for s in spacing]
    if len(sizes) != axes or not all(0 < s < math.inf for s in sizes):
        raise Refused("bad-argument", "spacing", got=sizes, expected=f"{axes} numbers above 0, one an axis")
    return sizes


def _penalty(crf: CRF, classes: int, device: torch.device) -> Tensor:
    """Return the compatibility of each two classes."""
    if not crf.compatibility:
        return 1 - torch.eye(classes, device=device)
    if len(crf.compatibility) != classes:
        raise Refused(
            "shape-mismatch",
            "compatibility of the CRF",
            got=f"{len(crf.compatibility)} classes",
            expected=f"{classes}, as many as there are probabilities",
        )
    return torch.tensor(crf.compatibility, dtype=torch.float32, device=device)

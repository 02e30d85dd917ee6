"""Probabilities of a whole image, refined by a fully connected CRF before classes are decided."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..crf import CRF, dense_crf
from ..errors import Refused
from ..plan import Plan
from ..transforms import normaliser
from .memory import free_bytes

__all__ = ["crf_of", "refine", "refuse_large_fields"]


def crf_of(plan: Plan) -> CRF | None:
    """Return the CRF that a plan asks for, if any.

    Examples
    --------
    >>> crf_of(Plan()) is None
    True
    >>> crf_of(Plan().with_values({"predict.crf_iterations": 5})).iterations
    5
    """
    how = plan.predict
    if not how.crf_iterations:
        return None
    return CRF(
        theta_alpha=how.crf_theta_alpha,
        theta_beta=how.crf_theta_beta,
        theta_gamma=how.crf_theta_gamma,
        w_bilateral=how.crf_w_bilateral,
        w_spatial=how.crf_w_spatial,
        iterations=how.crf_iterations,
        compatibility=how.crf_compatibility,
    )


def refuse_large_fields(plan: Plan, shape: tuple[int, ...], max_ram_gb: float | None) -> None:
    """Refuse an image whose probabilities are too large to refine, before the network has worked on it."""
    needed = 4.0 * math.prod(shape) * 7 * len(plan.target.classes)
    free = free_bytes(torch.device("cpu"), max_ram_gb)
    if needed > free:
        raise Refused(
            "out-of-memory",
            "a CRF sees the whole image, and the probabilities of this one do not fit into memory",
            got=f"{max(free, 0) / 1e9:.2f} GB left for it",
            expected=f"at least {needed / 1e9:.2f} GB",
            do="raise max_ram_gb (--max-ram), or set predict.crf_iterations to 0",
        )


def refine(
    probabilities: NDArray[np.float32],
    pixels: Any,
    plan: Plan,
    *,
    device: torch.device,
    max_ram_gb: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the classes and the probabilities after the CRF of the plan.

    Parameters
    ----------
    probabilities : ndarray of shape (classes, \\*spatial)
        On the grid of the image.
    pixels : MetaTensor, Tensor or LazyImage of shape (C, \\*spatial)
        The image. The field sees it normalised as the network does, so that ``theta_beta`` is in values of
        the network's input.
    plan : Plan
    device : torch.device
        Where to compute.
    max_ram_gb : float, optional
        Bound for the memory of the whole process in GB.
    """
    crf = crf_of(plan)
    assert crf is not None, "it is asked for"
    image = pixels[(slice(None),) * pixels.ndim]
    image = image.as_subclass(Tensor) if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    values = normaliser(image, plan.input)(image)
    free = free_bytes(device, max_ram_gb)
    refined = dense_crf(
        torch.from_numpy(probabilities).to(device),
        values.to(device),
        crf=crf,
        spacing=_spacing(pixels, plan),
        memory_gb=max(free, 0) / 1e9,
    )
    kind = np.min_scalar_type(len(refined) - 1)
    return refined.argmax(0).cpu().numpy().astype(kind), refined.cpu().numpy()


def _spacing(pixels: Any, plan: Plan) -> list[float]:
    """Return the size of a pixel in the plan's finest pixels, or in its own where the plan knows none."""
    affine = np.asarray(getattr(pixels, "affine", np.eye(4)))
    own = np.linalg.norm(affine[:3, : plan.input.spatial_dims], axis=0)
    unit = getattr(pixels, "unit", None) or getattr(pixels, "meta", {}).get("spacing_unit")
    known = plan.input.spacing and plan.input.spacing_unit == unit
    finest = min(plan.input.spacing) if known else own.min()
    return [float(s) for s in own / finest]

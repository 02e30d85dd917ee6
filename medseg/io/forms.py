"""Where a NIfTI header puts its voxels: sform, qform and pixdim, and whether they say the same."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import Refused
from .pixels import check_affine, farthest, spacing_from

__all__ = ["placed"]

logger = logging.getLogger(__name__)

_SPACES = {1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI", 5: "template"}
_UNITS = {0: ("mm", 1.0), 1: ("mm", 1000.0), 2: ("mm", 1.0), 3: ("um", 1.0)}
_NEAR = 0.1  # of a voxel: sform and qform that are nearer than that say the same
_EVEN = 1e-3  # sizes of voxels that differ by less say the same
_ROUNDING = 4e-7  # of the squares in a quaternion of 32 bits, with which the fourth number is found


def placed(header: Any, sizes: Sequence[int], path: Path) -> tuple[npt.NDArray[np.float64], str, str]:
    """Return affine, unit, and in words what they come from.

    Parameters
    ----------
    header : nibabel.Nifti1Header or Nifti2Header
        As the file has it.
    sizes : sequence of int
        Voxels along the spatial axes.
    path : Path
        For refusals.

    Raises
    ------
    Refused
        ``no-spacing``, ``two-geometries``, ``bad-affine``, ``bad-unit``.

    Notes
    -----
    sform and qform count where their code is above 0. The sform is taken where both do. The qform holds a
    rotation as three numbers b, c, d of a quaternion in 32 bits; a follows from
    a^2 = 1 - b^2 - c^2 - d^2, and is coarse where it is small (nifti1.h, "Method 2").
    """
    ndim = len(sizes)
    pixdim = np.asarray(header["pixdim"], np.float64)
    if not np.isfinite(pixdim[1 : ndim + 1]).all() or (pixdim[1 : ndim + 1] <= 0).any():
        raise Refused(
            "no-spacing",
            f"'{path}' does not state the size of its voxels",
            got=f"pixdim {_numbers(pixdim[1 : ndim + 1])}",
            expected="numbers above 0",
            do="write the sizes into the header's pixdim",
        )
    unit, scale = _unit(header, path)
    forms = {}
    if int(header["sform_code"]) > 0:
        forms["sform"] = np.asarray(header.get_sform(), np.float64)
    if int(header["qform_code"]) > 0:
        forms["qform"] = _qform(header, path)
    for name, form in forms.items():
        check_affine(form, ndim, f"the {name} of '{path}'")
    named = {name: f"{name} ({_SPACES.get(int(header[f'{name}_code']), 'of its own')})" for name in forms}
    told = " and ".join(named.values())
    if len(forms) == 2:
        sform, qform = forms.values()
        apart = farthest(sform, qform, sizes)
        if apart > _allowed(header, sform, sizes):
            raise _two(path, apart * scale, unit, {named[n]: _described(f, ndim) for n, f in forms.items()})
        told += f", at most {apart * scale:.2g} {unit} apart"
    if "sform" in forms:
        size = np.array(spacing_from(forms["sform"], ndim))
        if (abs(size / pixdim[1 : ndim + 1] - 1) > _EVEN).any():
            both = {named["sform"]: _described(forms["sform"], ndim)}
            both["pixdim"] = f"voxels of {_numbers(pixdim[1 : ndim + 1])}"
            raise _two(path, None, unit, both)
    if not forms:
        affine = np.asarray(header.get_base_affine(), np.float64)
        told = "pixdim only: left and right are not stated"
        logger.warning(
            "%s: the file does not state how it lies in the patient (sform and qform have the code 0): left "
            "and right are a guess, its axes are taken for left, front, up",
            path,
        )
    else:
        affine = forms.get("sform", forms.get("qform", np.eye(4))).copy()
    affine[:3] *= scale
    return affine, unit, told


def _unit(header: Any, path: Path) -> tuple[str, float]:
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS:
        raise Refused(
            "bad-unit",
            f"'{path}' states an unknown unit of length",
            got=f"xyzt_units {int(header['xyzt_units'])}",
            expected="mm, micron or meter",
            do="correct the header's xyzt_units",
        )
    return _UNITS[code]


def _qform(header: Any, path: Path) -> npt.NDArray[np.float64]:
    if float(header["pixdim"][0]) not in (-1.0, 1.0):  # "if qfac is 0 (which should never happen), take 1"
        header["pixdim"][0] = 1.0
    if float(header["pixdim"][3]) == 0:  # of a plane, which need not state it
        header["pixdim"][3] = 1.0
    try:
        return np.asarray(header.get_qform(), np.float64)
    except ValueError as error:
        parts = [float(header[f"quatern_{k}"]) for k in "bcd"]
        raise Refused(
            "bad-affine",
            f"the qform of '{path}' is no rotation",
            got=f"quaternion {_numbers(parts)}",
            expected="squares that sum up to 1 at most",
            do="correct it in the program that wrote it",
        ) from error


def _allowed(header: Any, affine: npt.NDArray[np.float64], sizes: Sequence[int]) -> float:
    """Return how far apart the two forms may put a voxel: a tenth of it, and what rounding explains."""
    squares = sum(float(header[f"quatern_{k}"]) ** 2 for k in "bcd")
    a = math.sqrt(max(0.0, 1.0 - squares))
    angle = 2 * min(math.sqrt(_ROUNDING), _ROUNDING / max(a, 1e-12))
    spacing = spacing_from(affine, len(sizes))
    across = math.sqrt(sum((n * s) ** 2 for n, s in zip(sizes, spacing)))
    return _NEAR * min(spacing) + angle * across


def _two(path: Path, apart: float | None, unit: str, told: dict[str, str]) -> Refused:
    shift = "" if apart is None else f", up to {apart:.3g} {unit} apart"
    keep = (
        "set pixdim to the size of the sform's axes, or correct the sform"
        if "pixdim" in told
        else "find out which is right, and set the code of the other to 0: with nibabel, "
        "image.set_qform(None, 0) or image.set_sform(None, 0), then nibabel.save"
    )
    return Refused(
        "two-geometries",
        f"'{path}' states two geometries{shift}",
        got="; ".join(f"{name}: {what}" for name, what in told.items()),
        do=keep,
    )


def _described(affine: npt.NDArray[np.float64], ndim: int) -> str:
    from nibabel import aff2axcodes

    codes = "".join(code or "?" for code in aff2axcodes(affine)[:ndim])
    first = _numbers(affine[:3, 3], ", ")
    return f"{codes}, voxels of {_numbers(spacing_from(affine, ndim))}, the first at ({first})"


def _numbers(values: Any, between: str = " x ") -> str:
    return between.join(f"{float(v):.6g}" for v in values)

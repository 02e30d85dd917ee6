"""The image of a case, on the grid that the data set gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cases import Case

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["read_case"]


def read_case(case: Case) -> MetaTensor:
    """Read the image of a case; a spacing that the data set gives takes the place of the file's own.

    Several files become channels of one image.

    Raises
    ------
    Refused
        What `medseg.read` refuses, and ``bad-spacing`` where it has another number of axes.

    Examples
    --------
    >>> import pathlib, tempfile, numpy, medseg
    >>> from medseg.dataset import read_case
    >>> path = medseg.write(numpy.zeros((20, 30), "uint8"), pathlib.Path(tempfile.mkdtemp(), "a.png"))
    >>> image = read_case(medseg.Case("a", path, None, group="a", spacing=(0.2, 0.1), spacing_unit="mm"))
    >>> image.meta["spacing_unit"], (image.affine @ image.affine.new_tensor([10.0, 0, 0, 1]))[1].item()
    ('mm', 2.0)
    """
    from ..io import read, with_spacing  # they load MONAI, which a list of cases does not need

    image = read(case.image)
    if case.spacing is None:
        return image
    return with_spacing(image, case.spacing, case.spacing_unit or "mm", name=f"'{case.path}'")

"""The image of a case, on the grid that the data set gives it, and its label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Refused
from .cases import Case

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["read_case", "read_case_label"]


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


def read_case_label(case: Case) -> MetaTensor:
    """Read the label of a case, see `medseg.io.read_label`; colours become the values they stand for.

    Raises
    ------
    Refused
        ``no-labels``, and what `medseg.io.read_label` refuses.

    Examples
    --------
    >>> import pathlib, tempfile, numpy, medseg
    >>> from medseg.dataset import read_case_label
    >>> path = medseg.write(numpy.ones((2, 3), "uint8"), pathlib.Path(tempfile.mkdtemp(), "a.png"))
    >>> read_case_label(medseg.Case("a", path, path, group="a")).tolist()
    [[[1, 1, 1], [1, 1, 1]]]
    """
    from ..io import read_label

    if case.label is None:
        raise Refused("no-labels", f"case '{case.name}' has no label")
    return read_label(case.label, colours=case.colours)

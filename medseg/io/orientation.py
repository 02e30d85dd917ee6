"""Where the axes of an array point in the patient, and how to turn them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["axis_codes", "turn_to"]


def axis_codes(affine: ArrayLike) -> str:
    """Return the closest direction of each axis of an array, such as ``"RAS"``.

    Parameters
    ----------
    affine : array of shape (4, 4)
        From array indices to RAS+.

    Examples
    --------
    >>> import numpy as np
    >>> axis_codes(np.diag([-1.0, 1.0, 2.0, 1.0]))
    'LAS'
    """
    import nibabel

    return "".join(nibabel.orientations.aff2axcodes(np.asarray(affine, np.float64)))


def turn_to(affine: ArrayLike, codes: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return how an array is turned so that its axes point where they are wanted, oblique ones closest.

    Parameters
    ----------
    affine : array of shape (4, 4)
        From the indices of a volume to RAS+.
    codes : str
        Three letters, such as ``"RAS"``: the first axis points right, the second to the front, the third up.

    Returns
    -------
    order : tuple of int
        Which axis of the array becomes each axis.
    flipped : tuple of bool
        Whether each axis, in the new order, is gone through backwards.

    Examples
    --------
    >>> import numpy as np
    >>> turn_to(np.array([[0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "RAS")
    ((1, 0, 2), (True, False, False))
    """
    from nibabel import orientations

    found = orientations.io_orientation(np.asarray(affine, np.float64))
    wanted = orientations.axcodes2ornt(tuple(codes.upper()))
    turn = orientations.ornt_transform(found, wanted)
    order = np.argsort(turn[:, 0]).astype(int)
    return tuple(int(a) for a in order), tuple(bool(turn[a, 1] < 0) for a in order)

"""Numbers of objects: consecutive, in the order of a scan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Refused

__all__ = ["Instances", "numbered", "relabel"]

Instances = NDArray[np.int32]


def relabel(instances: ArrayLike) -> Instances:
    """Number objects 1 to n in the order in which a scan in C order meets them.

    Parameters
    ----------
    instances : array_like of int, any shape
        Instance map with any ids; 0 is background.

    Returns
    -------
    ndarray of int32, same shape
        The same objects.

    Raises
    ------
    Refused
        The type is not integer.

    Examples
    --------
    >>> from medseg.instances import relabel
    >>> relabel([[0, 2**40, 2**40, 7]])
    array([[0, 1, 1, 2]], dtype=int32)
    """
    return numbered(instances)[1]


def numbered(instances: ArrayLike) -> tuple[NDArray[Any], Instances]:
    """Ids in the order of the scan, and the map with their places 1 to n in that list."""
    array = np.asarray(instances)
    if not np.issubdtype(array.dtype, np.integer):
        raise Refused(
            "not-integer", "an instance map holds integers", got=array.dtype, do="call to_instances first"
        )
    # one entry for each run of equal ids, not one for each pixel: no sorting of the whole map
    flat = array.ravel()
    change = np.ones(flat.size, dtype=bool)
    change[1:] = flat[1:] != flat[:-1]
    starts = np.flatnonzero(change)
    ids, first, inverse = np.unique(flat[starts], return_index=True, return_inverse=True)
    scan = np.argsort(np.where(ids == 0, -1, first))
    scan = scan[ids[scan] != 0]
    place = np.zeros(len(ids), dtype=np.int32)
    place[scan] = np.arange(1, len(scan) + 1)
    compact = np.repeat(place[inverse], np.diff(starts, append=flat.size)).reshape(array.shape)
    return ids[scan], compact

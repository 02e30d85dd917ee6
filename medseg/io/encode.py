"""Pictures for pages: arrays to PNG and JPEG bytes, in memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Refused

__all__ = ["encode_jpeg", "encode_png"]


def encode_png(array: NDArray[Any]) -> bytes:
    """Encode a grey, RGB or RGBA picture without loss.

    Parameters
    ----------
    array : ndarray of uint8, shape (H, W), (H, W, 3) or (H, W, 4)
        The picture.

    Raises
    ------
    Refused
        ``not-a-picture`` for another shape or type.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.io.encode import encode_png
    >>> encode_png(np.zeros((2, 3), np.uint8))[1:4]
    b'PNG'
    """
    return _encode(array, (3, 4), format="PNG", optimize=True)


def encode_jpeg(array: NDArray[Any], quality: int = 85) -> bytes:
    """Encode a grey or RGB picture for display; not for data.

    Parameters
    ----------
    array : ndarray of uint8, shape (H, W) or (H, W, 3)
        The picture.
    quality : int
        1 to 95, as in libjpeg.

    Raises
    ------
    Refused
        ``not-a-picture`` for another shape or type; ``bad-value`` for another quality.

    Examples
    --------
    >>> import numpy as np
    >>> from medseg.io.encode import encode_jpeg
    >>> encode_jpeg(np.zeros((2, 3), np.uint8))[:2].hex()
    'ffd8'
    """
    if not 1 <= quality <= 95:
        raise Refused("bad-value", "the JPEG quality is out of range", got=quality, expected="1 to 95")
    return _encode(array, (3,), format="JPEG", quality=quality)


def _encode(array: NDArray[Any], channels: tuple[int, ...], **options: Any) -> bytes:
    array = np.asarray(array)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in channels)
    if array.dtype != np.uint8 or not fits or array.size == 0:
        raise Refused(
            "not-a-picture",
            f"cannot encode this array as {options['format']}",
            got=f"{array.dtype} of shape {array.shape}",
            expected="uint8 of shape (H, W) or " + " or ".join(f"(H, W, {c})" for c in channels),
        )
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, **options)
    return buffer.getvalue()

"""MONAI's LoadImage with one of our readers, without the words of those that it makes beside them."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Sequence

from monai.data import ImageReader, MetaTensor
from monai.transforms import LoadImage

__all__ = ["load_image"]

_ABSENT_GPU = "monai.data.nvimgcodec_pydicom_plugin"  # speaks up wherever pydicom is installed


def load_image(paths: str | os.PathLike[str] | Sequence[str], reader: ImageReader) -> MetaTensor:
    """Read files with a reader, which is given with the call: one given before is one of several tried."""
    image: MetaTensor = _load_image()(paths, reader=reader)
    return image


@functools.cache
def _load_image() -> LoadImage:
    logger = logging.getLogger(_ABSENT_GPU)

    def silent(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return LoadImage(dtype=None, image_only=True, expanduser=False)
    finally:
        logger.removeFilter(silent)

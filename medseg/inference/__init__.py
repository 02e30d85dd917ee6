"""From an image of any size to a result on its grid: exact overlap tiles within a bound of memory."""

from __future__ import annotations

from .inferer import OverlapTileInferer
from .opening import open_large
from .prediction import Prediction, inferer_of, predict
from .streaming import Streamed, predict_to

__all__ = [
    "OverlapTileInferer",
    "Prediction",
    "Streamed",
    "inferer_of",
    "open_large",
    "predict",
    "predict_to",
]

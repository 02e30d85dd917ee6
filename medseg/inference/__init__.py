"""From an image of any size to a result on its grid: exact overlap tiles within a bound of memory."""

from __future__ import annotations

from .inferer import OverlapTileInferer
from .prediction import Prediction, predict

__all__ = ["OverlapTileInferer", "Prediction", "predict"]

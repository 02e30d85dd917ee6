"""The fully connected conditional random field: probabilities of a network, refined by the image."""

from __future__ import annotations

from .model import CRF, dense_crf

__all__ = ["CRF", "dense_crf"]

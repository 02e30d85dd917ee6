"""A peer of a PACS: studies come in, wait until they are whole, are segmented, and results go back."""

from __future__ import annotations

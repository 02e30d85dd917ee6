"""A peer of a PACS: studies come in, wait until they are whole, are segmented, and results go back."""

from __future__ import annotations

from .outbox import list_done, list_refused
from .running import open_bundle_night
from .serving import STATUS, Server, peer_for
from .settings import Settings, load_settings

__all__ = [
    "STATUS",
    "Server",
    "Settings",
    "list_done",
    "list_refused",
    "load_settings",
    "open_bundle_night",
    "peer_for",
]

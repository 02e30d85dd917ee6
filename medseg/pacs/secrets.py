"""Passwords and keys: from files that nobody else can read, and contexts for TLS made of them."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..errors import Refused
from ..files import check_private

__all__ = ["client_context", "read_password", "server_context"]


def read_password(path: str | Path) -> str:
    """Read a password, the first line of a private file.

    Raises
    ------
    Refused
        ``not-found``, ``open-secret``, ``empty-file``.
    """
    lines = check_private(path).read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0]:
        raise Refused("empty-file", f"there is no password in '{path}'", do="write it in the first line")
    return lines[0]


def server_context(certificate: str, key: str, authority: str = "") -> ssl.SSLContext:
    """Make the TLS context of a server; with an authority, callers must show a certificate that it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, certificate, key, authority)
    if authority:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(authority: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Make the TLS context of a client, which checks the server's certificate and name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, certificate, key, authority)
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str, authority: str) -> None:
    """Load certificates; refuse files that hold none."""
    try:
        if certificate:
            context.load_cert_chain(certificate, check_private(key), password=_no_password)
        if authority:
            context.load_verify_locations(authority)
    except Refused:
        raise
    except (OSError, ValueError) as error:
        raise Refused(
            "bad-certificate",
            "certificate, key or authority cannot be loaded",
            got=error.strerror or type(error).__name__
            if isinstance(error, OSError)
            else type(error).__name__,
            expected="PEM files, the key without a password",
            do="check the files that the settings name",
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")  # OpenSSL would ask for it on the terminal

"""Tensors and their description in one safetensors file: whole or not at all, and nothing in it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import Refused
from .files import replacing

__all__ = ["load_tensors", "save_tensors", "tensors_from_bytes"]


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any] | None = None
) -> Path:
    """Write named tensors and a description that JSON can hold.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file; appears whole or not at all.
    tensors : mapping of str to Tensor
        Copied to the CPU; any memory format.
    about : mapping, optional
        Kept in the header of the file.

    Examples
    --------
    >>> import tempfile, torch
    >>> path = save_tensors(tempfile.mkdtemp() + "/a.safetensors", {"x": torch.ones(2)}, {"step": 3})
    >>> load_tensors(path)
    ({'x': tensor([1., 1.])}, {'step': 3})
    """
    from safetensors.torch import save

    plain = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as beside:
        # as bytes: written by the library itself it would be private, with a temporary file of its own
        beside.write_bytes(save(plain, metadata={"about": json.dumps(dict(about or {}))}))
    return Path(path)


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors on the CPU, and the description.

    Raises
    ------
    Refused
        ``not-found`` or ``unreadable``.
    """
    path = Path(path)
    if not path.is_file():
        raise Refused("not-found", f"no file '{path}'")
    return tensors_from_bytes(path.read_bytes(), str(path))


def tensors_from_bytes(content: bytes, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read the bytes of a file that `save_tensors` wrote.

    Raises
    ------
    Refused
        ``unreadable``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        # the library reads the description only from files: the header is 8 bytes of length, then JSON
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header.get("__metadata__", {}).get("about", "{}"))
    except (SafetensorError, ValueError) as error:
        raise Refused(
            "unreadable", f"'{name}' is not a whole safetensors file", got=error, do="copy or write it again"
        ) from error
    return tensors, about

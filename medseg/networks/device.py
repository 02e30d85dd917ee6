"""Where a network runs."""

from __future__ import annotations

import torch

from ..errors import Refused

__all__ = ["resolve_device"]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of a name; ``auto`` is the first CUDA device where there is one, else the CPU.

    Raises
    ------
    Refused
        ``no-such-device``: a named device is never replaced by another.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise Refused(
            "no-such-device",
            f"cannot use device '{device}'",
            expected=" or ".join(["auto", "cpu", *gpus]),
            got=str(error).splitlines()[0],
        ) from error
    return found

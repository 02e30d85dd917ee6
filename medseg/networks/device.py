"""Where a network runs, and what that place does fast."""

from __future__ import annotations

import torch

from ..errors import Refused

__all__ = ["fast_format", "has_bfloat16", "resolve_device"]


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
            got="no known kind of device" if "device string" in str(error) else str(error).splitlines()[0],
        ) from error
    return found


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes bfloat16 in hardware; elsewhere it is emulated, and slow.

    Examples
    --------
    >>> isinstance(has_bfloat16(torch.device("cpu")), bool)
    True
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch has no public question for it; where these names are missing the answer is no
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def fast_format(spatial_dims: int) -> torch.memory_format:
    """Return the memory format in which convolutions are fast: channels last, values unchanged.

    Examples
    --------
    >>> fast_format(2)
    torch.channels_last
    """
    return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d

"""Where a network runs, and what that place does fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import Refused
from .memory import on_meta

__all__ = ["fast_format", "has_bfloat16", "resolve_device", "training_format"]


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


def training_format(network: nn.Module, in_channels: int, patch: Sequence[int]) -> torch.memory_format:
    """Return the memory format to train in: the fast one, but where a processor's library is wrong in it.

    In bfloat16 and channels last, oneDNN's gradient of a convolution over a volume smaller than its kernel
    reads and writes memory beyond its own (torch 2.13): what comes out is not finite, or the process ends. A
    plain U-Net does not get so deep, a network of stride 32 does on most patches.

    Examples
    --------
    >>> training_format(nn.Conv3d(1, 2, 3, padding=1), 1, (8, 8, 8))
    torch.channels_last_3d
    >>> training_format(nn.Conv3d(1, 2, 3, padding=1), 1, (8, 2, 8))
    torch.contiguous_format
    """
    if len(patch) != 3:
        return fast_format(len(patch))
    wider: list[bool] = []

    def note(layer: Any, inputs: Any, _: Any) -> None:
        spans = [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation)]
        wider.append(any(span > n for span, n in zip(spans, inputs[0].shape[2:])))

    copy = on_meta(network).eval()
    for layer in copy.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.register_forward_hook(note)
    try:
        with torch.inference_mode():
            copy(torch.empty(1, in_channels, *patch, device="meta"))
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return torch.contiguous_format  # it cannot be walked without its weights
    return torch.contiguous_format if any(wider) else fast_format(3)

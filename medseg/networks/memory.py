"""Memory that a forward pass needs, found without computing it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .parts import Box

__all__ = ["forward_bytes", "on_meta"]


def forward_bytes(network: nn.Module, in_channels: int, *, backward: bool = False) -> Callable[..., int]:
    """Return a function from an input's spatial shape to the peak bytes of its forward pass.

    The network runs on PyTorch's ``meta`` device, where tensors have shapes and no contents. Each
    storage that an operation makes is counted until it is freed, so the figure holds for any network, and
    for half precision, too. Weights are not counted; the input is, in the type of the first weights or, where
    the network or a part of it has one, of its ``input_dtype``.

    Parameters
    ----------
    network : torch.nn.Module
        Taken in evaluation mode, or in training mode for a training step; left as it was.
    in_channels : int
        Channels of its input.
    backward : bool
        Count a training step: what the backward pass needs is kept, and gradients are made.

    Returns
    -------
    callable
        ``(shape) -> int`` for a batch of one; ``(shape, boxes)`` of its ``parts``, see `UNet.parts`.

    Examples
    --------
    >>> from torch import nn
    >>> bytes_of = forward_bytes(nn.Conv2d(1, 8, 3, padding=1), 1)
    >>> bytes_of((100, 50)) == 4 * 100 * 50 * (1 + 8)
    True
    """
    meta: Any = on_meta(network).train(backward).requires_grad_(backward)
    first = next((t.dtype for t in meta.parameters() if t.is_floating_point()), torch.float32)
    own: list[Any] = [part.input_dtype for part in meta.modules() if hasattr(part, "input_dtype")]
    dtype = own[0] if own else first

    def peak(shape: Sequence[int], boxes: Sequence[Box] | None = None) -> int:
        with torch.inference_mode(False), torch.set_grad_enabled(backward):
            image = torch.empty(1, in_channels, *shape, device="meta", dtype=dtype)
            with _Live() as live:
                live.count(image)
                if boxes is not None:
                    for out in meta.parts(image, boxes):
                        del out  # or it would stay while the next is computed
                    return int(live.peak)
                out = meta(image)
                if backward:
                    # all outputs of deep supervision together, as a loss takes them
                    torch.stack([logits.float().sum() for logits in tree_leaves(out)]).sum().backward()
        meta.zero_grad()
        return int(live.peak)

    return peak


def on_meta(network: nn.Module) -> nn.Module:
    """Copy a network's structure without its weights.

    Examples
    --------
    >>> on_meta(nn.Conv2d(1, 2, 3)).weight.device
    device(type='meta')
    """
    memo: dict[int, Any] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(network, memo)


class _Live(TorchDispatchMode):
    """Counts the bytes of storages that are alive, and their largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        return result

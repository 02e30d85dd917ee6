"""One step of the optimiser: its kind, its learning rate, its precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import fast_format, has_bfloat16
from ..plan import Plan

__all__ = ["Loss", "Stepper", "learning_rate", "make_optimizer"]

Loss = Callable[..., Tensor]


class Stepper:
    """One step of the optimiser, in half precision where the plan wants it and the device has it."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        # bfloat16 has the range of float32, so the loss needs no scaling; older GPUs have float16 only,
        # and a processor without either trains in float32
        self.dtype = torch.bfloat16 if has_bfloat16(device) else torch.float16
        fast = device.type == "cuda" or self.dtype == torch.bfloat16
        self.on = plan.train.mixed_precision and fast
        self.format = fast_format(plan.input.spatial_dims)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.on and self.dtype == torch.float16)

    def step(
        self, batch: dict[str, Tensor], network: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer
    ) -> float:
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        batch["image"] = batch["image"].contiguous(memory_format=self.format)
        extra = {"weight": batch["weight"]} if "weight" in batch else {}
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.on):
            logits = network(batch["image"])
        value = loss(logits.float(), batch["target"], **extra)
        number = float(value.detach())
        if not math.isfinite(number):
            return number
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()
        self.scaler.unscale_(optimizer)
        if self.plan.train.clip_norm:
            norm = nn.utils.clip_grad_norm_(network.parameters(), self.plan.train.clip_norm)
            if not self.scaler.is_enabled() and not bool(norm.isfinite()):
                return math.nan  # a step along it would spoil every weight
        self.scaler.step(optimizer)
        self.scaler.update()
        return number


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak, or constant."""
    train = plan.train
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    if train.schedule == "constant":
        return train.lr
    done = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    return train.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(plan: Plan, network: nn.Module) -> torch.optim.Optimizer:
    train = plan.train
    # norms and offsets are not decayed: it would only pull them to nothing
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    betas = (train.momentum, 0.999)
    return torch.optim.AdamW(groups, lr=train.lr, betas=betas, weight_decay=train.weight_decay)

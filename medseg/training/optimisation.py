"""One step of the optimiser: its kind, its learning rate, its precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..networks import fast_format, has_bfloat16
from ..plan import Plan
from .starting import encoder_of

__all__ = ["Loss", "Stepper", "learning_rate", "make_optimizer", "supervised_loss"]

Loss = Callable[..., Tensor]


class Stepper:
    """One step of the optimiser, in half precision where the plan wants it and the device has it."""

    def __init__(self, plan: Plan, device: torch.device, form: torch.memory_format | None = None) -> None:
        self.plan, self.device = plan, device
        # bfloat16 has the range of float32, so the loss needs no scaling; older GPUs have float16 only,
        # and a processor without either trains in float32
        self.dtype = torch.bfloat16 if has_bfloat16(device) else torch.float16
        fast = device.type == "cuda" or self.dtype == torch.bfloat16
        self.on = plan.train.mixed_precision and fast
        self.format = form or fast_format(plan.input.spatial_dims)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.on and self.dtype == torch.float16)

    def step(
        self, batch: dict[str, Tensor], network: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer
    ) -> float:
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        batch["image"] = batch["image"].contiguous(memory_format=self.format)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.on):
            logits = network(batch["image"])
        value = supervised_loss(loss, logits, batch["target"], batch.get("weight"))
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


def supervised_loss(
    loss: Loss, logits: Tensor | Sequence[Tensor], target: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the loss of logits, or the weighted mean of the losses of each level of deep supervision.

    The finest level counts most, each coarser one half as much as the one before. The target of a coarse
    pixel, and its weight, is that of the pixel in the middle of those that it stands for: a mean of
    classes would be none.

    Parameters
    ----------
    loss : callable
        ``loss(logits, target)``, called with ``weight=`` where there is one.
    logits : Tensor of shape (N, C, \\*spatial), or sequence of them
        The finest first; the sizes of the others divide that of the target.
    target, weight : Tensor of shape (N, \\*spatial)
        Class indices, and the weight of each pixel.

    Raises
    ------
    Refused
        ``bad-network`` where the sizes do not divide evenly.

    References
    ----------
    Dou et al.: 3D deeply supervised network for automated segmentation of volumetric medical images, Medical
    Image Analysis 2017. Weights: Isensee et al., nnU-Net, Nature Methods 2021, online methods.

    Examples
    --------
    >>> from medseg.losses import cross_entropy
    >>> levels = [torch.zeros(1, 2, 4, 6), torch.zeros(1, 2, 4, 3)]
    >>> supervised_loss(cross_entropy, levels, torch.ones(1, 4, 6, dtype=torch.long))  # log 2 at each
    tensor(0.6931)
    """
    if isinstance(logits, Tensor):
        return loss(logits.float(), target, **({} if weight is None else {"weight": weight}))
    total, shares = torch.zeros((), device=target.device), 0.0
    for number, level in enumerate(logits):
        middle: list[slice] = [slice(None)]
        for fine, coarse in zip(target.shape[1:], level.shape[2:]):
            if fine % coarse:
                raise Refused(
                    "bad-network",
                    "the outputs of deep supervision lie evenly on the target",
                    got=tuple(level.shape[2:]),
                    expected=f"sizes that divide {tuple(target.shape[1:])}",
                )
            middle.append(slice(fine // coarse // 2, None, fine // coarse))
        share = 0.5**number
        coarse_weight = None if weight is None else weight[tuple(middle)]
        total = total + share * supervised_loss(loss, level, target[tuple(middle)], coarse_weight)
        shares += share
    return total / shares


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
    """Return the optimiser of a plan; the rate of a group is that of the step times its ``factor``."""
    train = plan.train
    # norms and offsets are not decayed: it would only pull them to nothing
    groups: list[dict[str, Any]] = []
    slow: set[int] = set()
    if train.encoder_lr != 1:
        slow = {id(p) for p in encoder_of(network).parameters()}
    for factor, chosen in ((1.0, lambda p: id(p) not in slow), (train.encoder_lr, lambda p: id(p) in slow)):
        weights = [p for p in network.parameters() if chosen(p)]
        matrices, others = [p for p in weights if p.ndim > 1], [p for p in weights if p.ndim <= 1]
        if weights:
            groups += [
                {"params": matrices, "factor": factor},
                {"params": others, "factor": factor, "weight_decay": 0.0},
            ]
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    betas = (train.momentum, 0.999)
    return torch.optim.AdamW(groups, lr=train.lr, betas=betas, weight_decay=train.weight_decay)

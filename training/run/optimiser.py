# SPDX-License-Identifier: Apache-2.0
"""The optimiser, its schedule, and averaged weights, as the configuration names them."""

from __future__ import annotations

from collections.abc import Iterable
import copy
import math
from typing import Any

import torch
from torch import nn, Tensor
from torch.optim import AdamW, Optimizer, SGD
from torch.optim.lr_scheduler import LambdaLR

from lidar_kd.models.transformer import AttentionBlock
from training.methods.terms import sum_in_order
from training.run.config import Optim

_START, _END = 0.04, 1e-4  # of the highest rate, before the warm-up and after the last step


def make_optimizer(model: nn.Module, settings: Optim, *, skips: bool = False) -> Optimizer:
    """Norms and biases do not decay; attention blocks have a rate of their own.

    skips: it leaves out a step that overflowed float16 by itself, without asking the GPU whether.
    """
    groups = _groups(model, settings)
    if settings.name == 'sgd':
        return SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0,
            fused=skips or None,
        )  # fmt: skip
    return AdamW(groups, lr=settings.lr, fused=skips or None)


def make_schedule(optimizer: Optimizer, settings: Optim, steps: int) -> LambdaLR:
    """The rate as a share of the highest one, step by step; depends on the step alone."""
    warm = max(1, round(settings.warmup * steps))

    def share(step: int) -> float:
        if step < warm:
            return _START + (1 - _START) * _ease(step / warm)
        if settings.schedule == 'constant':
            return 1.0
        end = _END if settings.schedule == 'onecycle' else 0.0
        return 1 - (1 - end) * _ease((step - warm) / max(1, steps - warm))

    return LambdaLR(optimizer, share)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """The length of all gradients together, which is `limit` or less afterwards.

    As nn.utils.clip_grad_norm_, but the same bits on any number of threads of a CPU.
    """
    kept = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in kept if p.grad is not None]
    if not gradients or gradients[0].is_cuda:
        return nn.utils.clip_grad_norm_(kept, limit)
    norm = torch.stack([sum_in_order(gradient.square()) for gradient in gradients]).sum().sqrt()
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


class Average:
    """Weights averaged over the steps with a decay; what batch norms count is copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))  # the first weights mean nothing
        mine: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)  # a GPU does all at once
        torch._foreach_copy_(list(self.model.buffers()), list(model.buffers()))


class NormCounts:
    """What batch norms count, as it was before a step that turns out to overflow."""

    def __init__(self, model: nn.Module) -> None:
        self._now = list(model.buffers())
        self._before = [buffer.clone() for buffer in self._now]

    def keep(self) -> None:
        torch._foreach_copy_(self._before, self._now)

    @torch.no_grad()
    def undo_unless(self, finite: Tensor) -> None:
        """finite: () on the device, where it stays."""
        for now, before in zip(self._now, self._before):
            now.copy_(torch.where(finite, now, before))


def _groups(model: nn.Module, settings: Optim) -> list[dict[str, Any]]:
    slow = {
        p
        for block in model.modules()
        if isinstance(block, AttentionBlock)
        for p in block.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = settings.lr * (settings.transformer_lr if parameter in slow else 1.0)
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {'params': parameters, 'lr': rate, 'weight_decay': decay}
        for (rate, decay), parameters in groups.items()
    ]


def _ease(share: float) -> float:
    """0 to 1 along half a cosine."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, share))

# SPDX-License-Identifier: Apache-2.0
"""Batch norms that see the scans of all ranks; torch's own SyncBatchNorm knows only GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn, Tensor


class SyncedBatchNorm(nn.BatchNorm1d):
    """In training mean and variance over the rows of every rank, with gradient."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not distributed.is_initialized():
            return super().forward(x)
        values = x.float()
        rows = values.new_full((1,), len(values))
        total, rows = add_up(values.sum(0)), add_up(rows)
        mean = total / rows
        centred = values - mean
        variance = add_up(centred.square().sum(0)) / rows
        self._count(mean.detach(), variance.detach() * rows / (rows - 1))
        y = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return y.to(x.dtype)

    @torch.no_grad()
    def _count(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def add_up(mine: Tensor) -> Tensor:
    """The sum over the ranks; what one rank adds counts in the losses of all."""
    total: Tensor = _Sum.apply(mine)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        gradient = outer[0].clone()
        distributed.all_reduce(gradient)
        return gradient


def synchronise_norms(model: nn.Module) -> None:
    """Every batch norm of the model becomes a synchronised one; names and weights stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = SyncedBatchNorm

# SPDX-License-Identifier: Apache-2.0
"""The cross-sample relation of SRKD: how points of all scans of a batch relate to each other.

F_i (n_i, D): directions of the features of n_i points of scan i, of B scans on all ranks.
M_ij = F_i F_j' / tau;  L = 1/B^2 sum_ij mean_rows KL(softmax(M^T_ij) || softmax(M^S_ij)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed, Tensor

from training.methods.terms import float32, unit_rows

LEAST_TAU = 0.02  # exp(1 / tau) stays far inside float32


def cross_relation(student: Sequence[Tensor], teacher: Sequence[Tensor], *, tau: float) -> Tensor:
    """Features (n_i, D) of each scan of this rank, of the same points for both networks.

    A batch of one compares the scan with itself. Scans of other ranks take part, with gradient:
    the mean of this value over the ranks is the loss of the global batch.
    """
    with float32(student[0]):
        ours = [unit_rows(features) for features in student]
        theirs = [unit_rows(f.detach()) for f in teacher]
        first = len(ours) * (distributed.get_rank() if _ranks() > 1 else 0)
        everyone, their_everyone = gather_from_ranks(ours), gather_from_ranks(theirs)
        share = _ranks() / len(everyone) ** 2
        mine = range(first, first + len(ours))
        return share * _Relation.apply(tau, mine, their_everyone, *everyone)


class _Relation(torch.autograd.Function):
    """The sum over pairs (i of `mine`, j of all) with its gradient, one pair in memory at a time.

    exp(M_ij) serves the pair (j, i) as well: its rows are the columns. The gradient of a row's KL
    at M is (p_S - p_T), and M's at F_i is F_j / tau.
    """

    @staticmethod
    def forward(ctx: Any, tau: float, mine: range, teacher: list[Tensor], *ours: Tensor) -> Tensor:
        turned = [features.new_zeros(features.shape[::-1]) for features in ours]  # (D, n)
        loss = ours[0].new_zeros(())
        for i in mine:
            for j in range(len(ours)):
                if (j in mine and j < i) or not len(ours[i]) * len(ours[j]):
                    continue
                value, slope = _compare_pair(
                    (ours[i] @ ours[j].t()).div_(tau),
                    (teacher[i] @ teacher[j].t()).div_(tau),
                    rows=1.0,
                    columns=float(j in mine and j != i),
                )
                loss += value
                # D columns of a result would be summed in an order that depends on the threads
                turned[i].addmm_(ours[j].t(), slope.t(), alpha=1 / tau)
                turned[j].addmm_(ours[i].t(), slope, alpha=1 / tau)
        ctx.save_for_backward(*(gradient.t() for gradient in turned))
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (None, None, None, *(outer[0] * gradient for gradient in ctx.saved_tensors))


def _compare_pair(
    student: Tensor, teacher: Tensor, *, rows: float, columns: float
) -> tuple[Tensor, Tensor]:
    """KL over rows and over columns of two matrices (n, m), by their weights, and its gradient.

    KL of a row = sum p_T (M_T - M_S) - log Z_T + log Z_S, with Z the sum of exp(M).
    """
    exp_s, exp_t = student.exp(), teacher.exp()
    weighted = (teacher - student).mul_(exp_t)
    value = student.new_zeros(())
    slope = torch.zeros_like(student)
    for dim, weight in ((1, rows), (0, columns)):
        if not weight:
            continue
        z_s, z_t = exp_s.sum(dim, keepdim=True), exp_t.sum(dim, keepdim=True)
        weight /= z_s.numel()
        each = weighted.sum(dim, keepdim=True) / z_t - z_t.log() + z_s.log()
        value += weight * each.sum()
        slope.addcmul_(exp_s, weight / z_s).addcmul_(exp_t, weight / z_t, value=-1)
    return value, slope


def gather_from_ranks(mine: list[Tensor]) -> list[Tensor]:
    """(n_i, D) of the scans of every rank, in the order of the ranks, with gradient.

    Every rank has as many scans, each of any size.
    """
    if _ranks() == 1:
        return mine
    sizes = torch.tensor([len(rows) for rows in mine], device=mine[0].device)
    all_sizes = [torch.empty_like(sizes) for _ in range(_ranks())]
    distributed.all_gather(all_sizes, sizes)
    longest = int(torch.stack(all_sizes).max())
    padded = torch.stack(
        [torch.nn.functional.pad(rows, (0, 0, 0, longest - len(rows))) for rows in mine]
    )
    everyone: Tensor = _Gather.apply(padded)
    return [rows[:size] for rows, size in zip(everyone, torch.cat(all_sizes).tolist())]


class _Gather(torch.autograd.Function):
    """Rows of all ranks; the gradient of a rank's own is the sum of what all have for them."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        everyone = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, mine.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        gradient = outer[0].contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1

# SPDX-License-Identifier: Apache-2.0
"""Terms that compare what two networks say at the same rows: posteriors, features, channels.

N rows (points or voxels), C classes, D feature channels. The first argument is the student's, the
second the teacher's, which gets no gradient. Every term is 0 for two identical networks and for no
rows at all, and is computed in float32 whatever autocast says.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn, Tensor

from lidar_kd.labels import IGNORE
from lidar_kd.sparse import select_engine

_SMALLEST = 1e-8  # length, or sum of squares
_FAINT = 1e-2  # of the mean length of rows [ours]
_TERMS = 1 << 12  # added up by one thread
_ROWS = 1 << 14  # of logits at a time: they stay in the cache


def float32(tensor: Tensor) -> AbstractContextManager[object]:
    """Outside autocast, on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)


def sum_in_order(values: Tensor) -> Tensor:
    """The sum of all values; torch's own of many depends on how many threads share them."""
    flat = values.reshape(-1)
    whole = len(flat) // _TERMS * _TERMS
    parts = flat[:whole].view(-1, _TERMS).sum(1)
    return parts.sum() + flat[whole:].sum()


def divergence(
    student: Tensor, teacher: Tensor, *, tau: float, weight: Tensor | None = None
) -> Tensor:
    """KL(T||S) tau^2 of the posteriors of logits (N, C), mean over the rows by a weight (N,)."""
    with float32(student):
        if weight is not None and not weight.is_cuda:  # a GPU would have to tell how many count
            rows = torch.nonzero(weight).squeeze(1)
            if len(rows) < len(weight):
                student, teacher = student.index_select(0, rows), teacher.index_select(0, rows)
                weight = weight.index_select(0, rows)
        weight = None if weight is None else weight.float()
        total: Tensor = _Divergence.apply(student.float(), teacher.float(), tau, weight)
        if weight is None:
            return total * (tau**2 / max(1, len(student)))
        # in float64, as Python would divide
        return total * (tau**2 / sum_in_order(weight).clamp(min=1).double()).float()


class _Divergence(torch.autograd.Function):
    """The sum over the rows with its gradient (p_S - p_T) / tau, a few rows in memory at a time.

    Written as a formula it takes half as long again, and most of that is fresh memory.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, tau: float, weight: Tensor | None
    ) -> Tensor:
        gradient, total = torch.empty_like(student), student.new_zeros(())
        for first in range(0, len(student), _ROWS):
            rows = slice(first, first + _ROWS)
            log_s, log_t = ((logits[rows] / tau).log_softmax(1) for logits in (student, teacher))
            p_t = log_t.exp()
            each = log_t.sub_(log_s).mul_(p_t).sum(1)
            slope = torch.sub(log_s.exp_(), p_t, out=gradient[rows]).div_(tau)
            if weight is not None:
                each.mul_(weight[rows])
                slope.mul_(weight[rows, None])
            total += each.sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None, None, None


def unit_rows(features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Rows (..., D) of length 1; those that are not valid (...) and faint ones are 0.

    A narrow network's ReLU leaves some voxels with nothing or next to it. Scaled up, they would
    have a gradient of up to 1e8 times the others', by which an automatic weight is then measured.
    """
    rows = features.float()
    length = torch.linalg.vector_norm(rows, dim=-1)
    known = torch.ones_like(length, dtype=torch.bool) if valid is None else valid
    mean = sum_in_order(length * known).detach() / known.sum().clamp(min=1)
    clear = known & (length > (_FAINT * mean).clamp(min=_SMALLEST))
    unit = rows / length.clamp(min=_SMALLEST)[..., None]
    return torch.where(clear[..., None], unit, 0.0)


def labelled(labels: Tensor) -> Tensor:
    """(N,) rows whose label is known."""
    return labels != IGNORE


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of features (N, D) as a share of the teacher's squares.

    So an adapter that gives nothing has 1, however large the teacher's features are.
    """
    with float32(student):
        target = teacher.detach().float()
        squares = sum_in_order((student.float() - target).square())
        return squares / sum_in_order(target.square()).clamp(min=_SMALLEST)


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows and channels of the squared difference of features (N, D), as published."""
    with float32(student):
        squares = sum_in_order((student.float() - teacher.detach().float()).square())
        return squares / max(1, student.numel())


def channel_divergence(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """KL(T||S) tau^2 between where each channel is active: a softmax over the rows of a scan.

    (N, D) features of one scan; the sum over the rows, the mean over the channels.
    """
    with float32(student):
        return divergence(student.float().t(), teacher.detach().float().t(), tau=tau)


class Adapter(nn.Module):
    """Student features to the teacher's width; nothing where they are as wide already.

    It belongs to the trainer and is no part of the student.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.map = nn.Identity() if student == teacher else nn.Linear(student, teacher)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D student) -> (N, D teacher), in float32."""
        with float32(features):
            rows = features.float()
            if isinstance(self.map, nn.Linear) and rows.device.type == 'cpu':
                return select_engine('cpu').linear(rows, self.map.weight, self.map.bias)
            return self.map(rows)

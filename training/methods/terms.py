# SPDX-License-Identifier: Apache-2.0
"""Terms that compare what two networks say at the same rows: posteriors, features, channels.

N rows (points or voxels), C classes, D feature channels. The first argument is the student's, the
second the teacher's, which gets no gradient. Every term is 0 for two identical networks and for no
rows at all, and is computed in float32 whatever autocast says.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn, Tensor

from lidar_kd.labels import IGNORE


def float32(tensor: Tensor) -> AbstractContextManager[object]:
    """Outside autocast, on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)


def divergence(
    student: Tensor, teacher: Tensor, *, tau: float, mask: Tensor | None = None
) -> Tensor:
    """KL(T||S) tau^2 of the posteriors of logits (N, C), mean over the rows of a mask (N,)."""
    with float32(student):
        if mask is not None:
            rows = torch.nonzero(mask).squeeze(1)
            student, teacher = student.index_select(0, rows), teacher.index_select(0, rows)
        with torch.no_grad():
            log_teacher = (teacher.float() / tau).log_softmax(1)
            posterior = log_teacher.exp()
        log_student = (student.float() / tau).log_softmax(1)
        each = (posterior * (log_teacher - log_student)).sum(1)
        return tau**2 * each.sum() / max(1, len(each))


def hard_or_disputed(student: Tensor, teacher: Tensor, labels: Tensor, hard_ids: Tensor) -> Tensor:
    """(N,) rows of a hard class, and those where the two networks choose different classes."""
    hard = torch.isin(labels, hard_ids)
    return hard | (student.detach().argmax(1) != teacher.argmax(1))


def labelled(labels: Tensor) -> Tensor:
    """(N,) rows whose label is known."""
    return labels != IGNORE


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features (N, D)."""
    with float32(student):
        difference = student.float() - teacher.detach().float()
        return difference.square().sum() / max(1, difference.numel())


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
            return self.map(features.float())

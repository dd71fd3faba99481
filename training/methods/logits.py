# SPDX-License-Identifier: Apache-2.0
"""What both networks say of every point, once per voxel where its points are told the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lidar_kd.labels import IGNORE
from training.methods.inputs import Inputs
from training.methods.without_wait import count_rows

Trust = Literal['always', 'correct']  # correct: only where a label, if there is one, says so


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitPair:
    """R rows that speak for M points: student and teacher (R, C) logits, row (M,) of each point.

    row is None where every point has a row of its own.
    """

    student: Tensor
    teacher: Tensor
    row: Tensor | None = None

    def at_points(self, of_rows: Tensor) -> Tensor:
        """(R,) -> (M,)"""
        return of_rows if self.row is None else of_rows.index_select(0, self.row)

    def weigh(self, chosen: Tensor | None, of_class: Tensor | None = None) -> Tensor | None:
        """(R,) how many of the chosen points (M,) each row speaks for; None: one each.

        of_class (C,): times that of the class which the teacher gives the row.
        """
        weight = chosen
        if self.row is not None:
            weight = count_rows(self.row, len(self.student), chosen)
        if of_class is None:
            return weight
        share = of_class.index_select(0, self.teacher.argmax(1))
        return share if weight is None else share * weight

    def trusted(self, labels: Tensor, *, unlabelled: bool, correct: bool) -> Tensor | None:
        """(M,) the points to learn from, by their labels (M,); None: all of them.

        unlabelled: also those without a label; correct: of those with one only where the teacher
        says the same.
        """
        if unlabelled and not correct:
            return None
        bare = labels == IGNORE
        if not correct:
            return ~bare
        right = self.at_points(self.teacher.argmax(1)) == labels
        return right | bare if unlabelled else right

    def disputed(self) -> Tensor:
        """(M,) where the two networks choose different classes."""
        return self.at_points(self.student.detach().argmax(1) != self.teacher.argmax(1))


def point_logits_of(inputs: Inputs) -> LogitPair:
    """A quarter of the rows, or fewer, if neither network has a head for points."""
    student, teacher = inputs.student, inputs.teacher
    if student.by_voxel and teacher.by_voxel:
        return LogitPair(
            student=student.voxel_logits(),
            teacher=teacher.voxel_logits(),
            row=inputs.point_voxel,
        )
    return LogitPair(student=student.point_logits(), teacher=teacher.point_logits(), row=None)

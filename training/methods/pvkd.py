# SPDX-License-Identifier: Apache-2.0
"""PVKD: point-to-voxel distillation, from a full-width teacher to a narrow student.

What points and occupied voxels are (`point_output`, `voxel_output`), and how alike the members of
supervoxels drawn by difficulty are (`point_affinity`, `voxel_affinity`).
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat
from torch import nn, Tensor

from training.methods.affinity import cosine_mse, mean_over_sets
from training.methods.inputs import Inputs, LabelStatistics, Widths
from training.methods.logits import LogitPair, point_logits_of
from training.methods.supervoxels import Boxes, BoxSettings, Sampler
from training.methods.terms import divergence, labelled
from training.methods.weights import Auto, Weight


class PvkdSettings(BaseModel):
    """Weights are numbers, `auto`, or `{auto: share of the supervised gradient}`; 0: no term."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    point_output: Weight = 0.1  # [pub], low confidence
    voxel_output: Weight = 0.15  # [pub], low confidence
    output_tau: PositiveFloat = 1.0  # [ours]
    output_power: NonNegativeFloat = 0.0  # rows weigh (share of the class told) ** -power [ours]
    unlabelled: bool = True  # the output terms also see what has no label [ours]
    point_affinity: Weight = Auto()  # [ours]; [pub] 0.15, low confidence
    voxel_affinity: Weight = Auto()  # [ours]; [pub] 0.25, low confidence
    boxes: BoxSettings = BoxSettings()


class Pvkd(nn.Module):
    """The terms of PVKD, unweighted; none has anything to train."""

    class_weights: Tensor | None

    def __init__(
        self,
        settings: PvkdSettings,
        *,
        student: Widths,
        teacher: Widths,
        statistics: LabelStatistics,
    ) -> None:
        super().__init__()
        self.settings = s = settings
        weights = {
            'pvkd.point_output': s.point_output,
            'pvkd.voxel_output': s.voxel_output,
            'pvkd.point_affinity': s.point_affinity,
            'pvkd.voxel_affinity': s.voxel_affinity,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._sampler = Sampler(s.boxes, statistics)
        of_class = statistics.class_weights(s.output_power)
        self.register_buffer('class_weights', of_class, persistent=False)

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        s = self.settings
        terms = self._compare_outputs(inputs)
        if s.point_affinity or s.voxel_affinity:
            terms |= self._compare_boxes(inputs, self._sampler.draw(inputs, rng))
        return terms

    def _compare_outputs(self, inputs: Inputs) -> dict[str, Tensor]:
        s, terms = self.settings, dict[str, Tensor]()
        if s.point_output:
            logits = point_logits_of(inputs)
            chosen = None if s.unlabelled else labelled(inputs.labels)
            weight = logits.weigh(chosen, self.class_weights)
            terms['pvkd.point_output'] = divergence(
                logits.student, logits.teacher, tau=s.output_tau, weight=weight
            )
        if s.voxel_output:
            logits = LogitPair(
                student=inputs.student.voxel_logits(), teacher=inputs.teacher.voxel_logits()
            )
            chosen = None if s.unlabelled else labelled(inputs.voxel_labels)
            terms['pvkd.voxel_output'] = divergence(
                logits.student,
                logits.teacher,
                tau=s.output_tau,
                weight=logits.weigh(chosen, self.class_weights),
            )
        return terms

    def _compare_boxes(self, inputs: Inputs, boxes: Boxes) -> dict[str, Tensor]:
        student, teacher, terms = inputs.student, inputs.teacher, dict[str, Tensor]()
        kinds = (
            ('pvkd.point_affinity', boxes.points, student.point_features, teacher.point_features),
            ('pvkd.voxel_affinity', boxes.voxels, student.voxel_features, teacher.voxel_features),
        )
        for name, members, ours, theirs in kinds:
            if name in self.weights:
                each = cosine_mse(members.gather(ours), members.gather(theirs), members.valid)
                terms[name] = mean_over_sets(each)
        return terms

# SPDX-License-Identifier: Apache-2.0
"""PVKD: point-to-voxel distillation, from a full-width teacher to a narrow student.

What points and occupied voxels are (`point_output`, `voxel_output`), and how alike the members of
supervoxels drawn by difficulty are (`point_affinity`, `voxel_affinity`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat
from torch import nn, Tensor

from training.methods.affinity import cosine_mse, mean_over_sets
from training.methods.inputs import Inputs, LabelStatistics, Widths
from training.methods.logits import LogitPair, point_logits_of, Trust
from training.methods.presets import PAPER, PresetSettings
from training.methods.supervoxels import Boxes, BoxSettings, Sampler
from training.methods.terms import divergence
from training.methods.weights import Auto, Weight

_PAPER: dict[str, Any] = {
    'point_output': 0.1,  # [rec]
    'voxel_output': 0.15,  # [rec]
    'per_class': True,  # mean over N and C [rec]
    'output_tau': 1.0,  # [ours]: none is known
    'output_power': 0.0,  # [ours]: off, for no source has it
    'trust': 'always',  # [ours]: likewise
    'point_affinity': 0.15,  # [rec]
    'voxel_affinity': 0.25,  # [rec]
    'boxes': {
        'grid': (480, 360, 32),  # [pub]
        'box': (120, 60, 8),  # [pub]
        'draw': 'difficulty',  # [pub]
        'per_scan': 4,  # K [rec]
        'minority_share': 0.01,  # [pub]
    },
}


class PvkdSettings(PresetSettings):
    """Weights are numbers, `auto`, or `{auto: share of the supervised gradient}`; 0: no term.

    `paper` has the published weights; its supervision is point_ce, voxel_ce and voxel_lovasz.
    """

    presets: ClassVar = {PAPER: _PAPER}

    point_output: Weight = 0.1  # [pub], low confidence
    voxel_output: Weight = 0.15  # [pub], low confidence
    output_tau: PositiveFloat = 1.0  # [ours]
    output_power: NonNegativeFloat = 0.0  # rows weigh (share of the class told) ** -power [ours]
    unlabelled: bool = True  # the output terms also see what has no label [ours]
    trust: Trust = 'always'  # the output terms; correct: where no label contradicts [ours]
    per_class: bool = False  # the output terms are divided by the number of classes, too
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
            terms['pvkd.point_output'] = self._compare_logits(logits, inputs.labels)
        if s.voxel_output:
            logits = LogitPair(
                student=inputs.student.voxel_logits(), teacher=inputs.teacher.voxel_logits()
            )
            terms['pvkd.voxel_output'] = self._compare_logits(logits, inputs.voxel_labels)
        return terms

    def _compare_logits(self, logits: LogitPair, labels: Tensor) -> Tensor:
        s = self.settings
        chosen = logits.trusted(labels, unlabelled=s.unlabelled, correct=s.trust == 'correct')
        loss = divergence(
            logits.student,
            logits.teacher,
            tau=s.output_tau,
            weight=logits.weigh(chosen, self.class_weights),
        )
        return loss / logits.student.shape[1] if s.per_class else loss

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

# SPDX-License-Identifier: Apache-2.0
"""SRKD: structure- and relation-aware distillation, from a large transformer to a small student.

What the points are (`output`), how the scans of a batch relate (`cross`), how alike the members
of a supervoxel are (`point_affinity`, `voxel_affinity`), where channels are active (`channel`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
import torch
from torch import nn, Tensor

from training.methods.affinity import distance_mse, mean_over_sets
from training.methods.draws import draw_balanced, draw_rows, draw_uniform
from training.methods.inputs import Inputs, LabelStatistics, Widths
from training.methods.logits import point_logits_of
from training.methods.relations import cross_relation, LEAST_TAU
from training.methods.supervoxels import Boxes, BoxSettings, Sampler
from training.methods.terms import Adapter, channel_divergence, divergence, labelled
from training.methods.weights import Auto, Weight

DRAWS = {'balanced': draw_balanced, 'uniform': draw_uniform}


class SrkdSettings(BaseModel):
    """Weights are numbers, `auto`, or `{auto: share of the supervised gradient}`; 0: no term."""

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    output: Weight = 0.1  # [code] 0.1 to 0.3
    output_tau: PositiveFloat = 2.0  # [pub]
    output_power: NonNegativeFloat = 0.0  # points weigh (share of the class told) ** -power [ours]
    unlabelled: bool = True  # the output term also sees points without a label [ours]
    cross: Weight = Auto()  # [ours]: the published 1e-3..0.1 is inert at its temperature
    cross_tau: float = Field(default=0.1, ge=LEAST_TAU)  # [ours]; [pub] 2: nearly uniform rows
    points: PositiveInt = 1024  # drawn of a scan for `cross` and `channel` [pub]
    draw: Literal['balanced', 'uniform'] = 'balanced'  # over the classes of the scan [ours]
    point_affinity: Weight = Auto()  # [ours]
    voxel_affinity: Weight = Auto()  # [ours]
    channel: Weight = 0.0  # [pub] 1e3 with another normalisation; off
    channel_tau: PositiveFloat = 2.0  # [pub]
    boxes: BoxSettings = BoxSettings()


class Srkd(nn.Module):
    """The terms of SRKD, unweighted."""

    class_weights: Tensor | None

    def __init__(
        self,
        settings: SrkdSettings,
        *,
        student: Widths,
        teacher: Widths,
        statistics: LabelStatistics,
    ) -> None:
        super().__init__()
        self.settings = s = settings
        weights = {
            'srkd.output': s.output,
            'srkd.cross': s.cross,
            'srkd.point_affinity': s.point_affinity,
            'srkd.voxel_affinity': s.voxel_affinity,
            'srkd.channel': s.channel,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._sampler = Sampler(s.boxes, statistics)
        of_class = statistics.class_weights(s.output_power)
        self.register_buffer('class_weights', of_class, persistent=False)
        self.channel = Adapter(student.point, teacher.point) if s.channel else None

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        s, terms = self.settings, dict[str, Tensor]()
        if s.output:
            logits = point_logits_of(inputs)
            chosen = None if s.unlabelled else labelled(inputs.labels)
            weight = logits.weigh(chosen, self.class_weights)
            terms['srkd.output'] = divergence(
                logits.student, logits.teacher, tau=s.output_tau, weight=weight
            )
        if s.cross or s.channel:
            terms |= self._compare_drawn(inputs, rng)
        if s.point_affinity or s.voxel_affinity:
            terms |= self._compare_boxes(inputs, self._sampler.draw(inputs, rng))
        return terms

    def _compare_drawn(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        """The terms of the points drawn from each scan."""
        s, terms = self.settings, dict[str, Tensor]()
        rows = draw_rows(inputs, s.points, rng, DRAWS[s.draw])
        lengths = [len(of_scan) for of_scan in rows]
        together = torch.cat(rows)
        ours = inputs.student.point_features(together)
        theirs = inputs.teacher.point_features(together).split(lengths)
        if s.cross:
            terms['srkd.cross'] = cross_relation(ours.split(lengths), theirs, tau=s.cross_tau)
        if self.channel is not None:
            adapted = self.channel(ours).split(lengths)
            each = [channel_divergence(a, t, tau=s.channel_tau) for a, t in zip(adapted, theirs)]
            terms['srkd.channel'] = torch.stack(each).mean()
        return terms

    def _compare_boxes(self, inputs: Inputs, boxes: Boxes) -> dict[str, Tensor]:
        student, teacher, terms = inputs.student, inputs.teacher, dict[str, Tensor]()
        kinds = (
            ('srkd.point_affinity', boxes.points, student.point_features, teacher.point_features),
            ('srkd.voxel_affinity', boxes.voxels, student.voxel_features, teacher.voxel_features),
        )
        for name, members, ours, theirs in kinds:
            if name in self.weights:
                mine, other = members.gather(ours), members.gather(theirs)
                each = distance_mse(mine, other, members.valid, boxes.weight)
                terms[name] = mean_over_sets(each)
        return terms

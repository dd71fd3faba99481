# SPDX-License-Identifier: Apache-2.0
"""SRKD: structure- and relation-aware distillation, from a large transformer to a small student.

What the points are (`output`), how the scans of a batch relate (`cross`), what the features are
(`feature`), how alike the members of a supervoxel are (`point_affinity`, `voxel_affinity`), where
channels are active (`channel`, `voxel_channel`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
import torch
from torch import nn, Tensor

from training.methods.affinity import distance_mse, mean_over_sets
from training.methods.draws import draw_balanced, draw_rows, draw_uniform, draw_voxel_rows
from training.methods.inputs import Inputs, LabelStatistics, Widths
from training.methods.logits import point_logits_of, Trust
from training.methods.presets import PAPER, PresetSettings
from training.methods.relations import cross_relation, LEAST_TAU
from training.methods.supervoxels import Boxes, BoxSettings, Sampler
from training.methods.terms import Adapter, channel_divergence, divergence, feature_mse
from training.methods.weights import Auto, Weight

DRAWS = {'balanced': draw_balanced, 'uniform': draw_uniform}


_PAPER: dict[str, Any] = {
    'output': 0.3,  # [dig]; 0.05 to 0.1 in the nuScenes configurations [code]
    'output_tau': 2.0,  # [dig]
    'output_power': 0.0,  # [ours]: off, for no source has it
    'trust': 'always',  # [ours]: likewise
    'cross': 0.1,  # [code] 1e-3 to 0.1
    'cross_tau': 2.0,  # [dig]
    'project': True,  # features of one width [dig]
    'relate_mixes': True,  # Mix3D beside relations [code]
    'points': 1024,  # [pub]
    'draw': 'uniform',  # [dig]
    'feature': 0.1,  # [code]: in every public relation configuration
    'point_affinity': 1.0,  # [ours]: no weight is known beside that of a box
    'voxel_affinity': 1.0,  # [ours]: likewise
    'boxes': {'draw': 'class_aware'},  # [dig]
    'channel': 1000.0,  # [dig]; [code] in its configurations of channels, without relations
    'voxel_channel': 1000.0,  # [dig]
    'channel_tau': 2.0,  # [pub]
    'per_point': True,  # [ours]: the term's code is not public; see docs/distillation.md
}


class SrkdSettings(PresetSettings):
    """Weights are numbers, `auto`, or `{auto: share of the supervised gradient}`; 0: no term.

    `paper` has the published weights; its recipe beside them: unweighted cross-entropy
    (loss.class_power 0), Mix3D 0.8 and batches of 8 [code].
    """

    presets: ClassVar = {PAPER: _PAPER}

    output: Weight = 0.1  # [code] 0.1 to 0.3
    output_tau: PositiveFloat = 2.0  # [pub]
    output_power: NonNegativeFloat = 0.0  # points weigh (share of the class told) ** -power [ours]
    unlabelled: bool = True  # the output term also sees points without a label [ours]
    trust: Trust = 'always'  # the output term; correct: where no label contradicts [ours]
    cross: Weight = Auto()  # [ours]: the published 1e-3..0.1 is inert at its temperature
    cross_tau: float = Field(default=0.1, ge=LEAST_TAU)  # [ours]; [pub] 2: nearly uniform rows
    project: bool = False  # `cross` sees student features brought to the teacher's width
    relate_mixes: bool = False  # `cross` beside mixes, which make a scan of parts of two
    points: PositiveInt = 1024  # drawn of a scan for `cross`, `feature` and the channels [pub]
    draw: Literal['balanced', 'uniform'] = 'balanced'  # over the classes of the scan [ours]
    point_affinity: Weight = Auto()  # [ours]
    voxel_affinity: Weight = Auto()  # [ours]
    feature: Weight = 0.0  # squared difference of features; [code] 0.1
    channel: Weight = 0.0  # of the points; [dig] 1e3, with a normalisation that is not known
    voxel_channel: Weight = 0.0  # of the voxels; likewise
    channel_tau: PositiveFloat = 2.0  # [pub]
    per_point: bool = False  # the channel terms are divided by the number of rows drawn, too
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
            'srkd.feature': s.feature,
            'srkd.voxel_channel': s.voxel_channel,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._sampler = Sampler(s.boxes, statistics)
        of_class = statistics.class_weights(s.output_power)
        self.register_buffer('class_weights', of_class, persistent=False)
        projects = s.feature or (s.cross and s.project)
        self.projection = Adapter(student.point, teacher.point) if projects else None
        self.channel = Adapter(student.point, teacher.point) if s.channel else None
        self.voxel_channel = Adapter(student.voxel, teacher.voxel) if s.voxel_channel else None

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        s, terms = self.settings, dict[str, Tensor]()
        if s.output:
            terms['srkd.output'] = self._compare_output(inputs)
        if s.cross or s.channel or s.feature:
            terms |= self._compare_drawn(inputs, rng)
        if self.voxel_channel is not None:
            rows = draw_voxel_rows(inputs, s.points, rng, DRAWS[s.draw])
            ours = self.voxel_channel(inputs.student.voxel_features(torch.cat(rows)))
            theirs = inputs.teacher.voxel_features(torch.cat(rows))
            lengths = [len(of_scan) for of_scan in rows]
            terms['srkd.voxel_channel'] = self._compare_channels(ours, theirs, lengths)
        if s.point_affinity or s.voxel_affinity:
            terms |= self._compare_boxes(inputs, self._sampler.draw(inputs, rng))
        return terms

    def _compare_output(self, inputs: Inputs) -> Tensor:
        s, logits = self.settings, point_logits_of(inputs)
        correct = s.trust == 'correct'
        chosen = logits.trusted(inputs.labels, unlabelled=s.unlabelled, correct=correct)
        weight = logits.weigh(chosen, self.class_weights)
        return divergence(logits.student, logits.teacher, tau=s.output_tau, weight=weight)

    def _compare_drawn(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        """The terms of the points drawn from each scan."""
        s, terms = self.settings, dict[str, Tensor]()
        rows = draw_rows(inputs, s.points, rng, DRAWS[s.draw])
        lengths = [len(of_scan) for of_scan in rows]
        together = torch.cat(rows)
        ours, theirs = (n.point_features(together) for n in (inputs.student, inputs.teacher))
        projected = ours if self.projection is None else self.projection(ours)
        if s.cross:
            related = (projected if s.project else ours).split(lengths)
            terms['srkd.cross'] = cross_relation(related, theirs.split(lengths), tau=s.cross_tau)
        if s.feature:
            terms['srkd.feature'] = feature_mse(projected, theirs)
        if self.channel is not None:
            terms['srkd.channel'] = self._compare_channels(self.channel(ours), theirs, lengths)
        return terms

    def _compare_channels(self, ours: Tensor, theirs: Tensor, lengths: list[int]) -> Tensor:
        """Adapted student rows and the teacher's, scan after scan; the mean over the scans."""
        s, pairs = self.settings, zip(ours.split(lengths), theirs.split(lengths))
        each = [
            channel_divergence(a, t, tau=s.channel_tau) / (max(1, len(a)) if s.per_point else 1)
            for a, t in pairs
        ]
        return torch.stack(each).mean()

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

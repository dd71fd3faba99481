# SPDX-License-Identifier: Apache-2.0
"""M2SKD: what a teacher sees in scans fused with the past of hard objects, for a single scan.

Features of an early and of the last decoder level (`early_feature`, `late_feature`), posteriors
where they matter (`logit`), and how alike the points of one object, or of one class, are
(`affinity`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt
import torch
from torch import nn, Tensor

from lidar_kd.errors import ConfigError
from training.methods.affinity import cosine_l1, mean_over_sets
from training.methods.draws import draw_rows, Indices
from training.methods.inputs import AlignedOutput, Inputs, LabelStatistics, Rows, Widths
from training.methods.logits import point_logits_of, Trust
from training.methods.presets import PAPER, PresetSettings
from training.methods.supervoxels import pad_members
from training.methods.terms import Adapter, divergence, feature_distance
from training.methods.weights import Auto, Weight

_LEAST_POINTS = 2  # of an object: one point has no affinity


_PAPER: dict[str, Any] = {
    'early_feature': 0.0,  # [code]: 0.00 in the public run
    'late_feature': 0.0,  # [code]: likewise
    'logit': 5.0,  # [pub]
    'logit_tau': 3.3,  # [pub]
    'affinity': 1.0,  # [pub]
    'affinity_of': 'logits',  # [code]
    'affinity_within': 'classes',  # of all scans of a batch, two in the public run [code]
    'object_points': 256,  # [pub]
}


class M2skdSettings(PresetSettings):
    """Weights are numbers, `auto`, or `{auto: share of the supervised gradient}`; 0: no term.

    `paper` has the published weights; beside them the student is its own teacher
    (teacher.shared), with loss.fused_ce 0.2 and data.moving centroid [code].
    """

    presets: ClassVar = {PAPER: _PAPER}

    early_feature: Weight = Auto()  # [ours]
    late_feature: Weight = Auto()  # [ours]
    points: PositiveInt = 2048  # drawn of a scan for the features, rare classes first [ours]
    logit: Weight = Auto(auto=0.5)  # [ours]
    logit_tau: PositiveFloat = 3.3  # [pub]
    trust: Trust = 'always'  # the logit term; correct: where no label contradicts [ours]
    affinity: Weight = Auto()  # [ours]
    affinity_of: Literal['features', 'logits'] = 'features'  # [ours]
    affinity_within: Literal['objects', 'classes'] = 'objects'  # classes of all scans of a batch
    objects: PositiveInt = 64  # drawn of a batch at most [ours]
    object_points: PositiveInt = Field(default=256, ge=_LEAST_POINTS)  # of an object at most [pub]


class M2skd(nn.Module):
    """The terms of M2SKD, unweighted; objects are those of hard classes.

    A batch without objects of hard classes, as of scans that nobody labelled, has no affinity.
    """

    hard_ids: Tensor

    def __init__(
        self,
        settings: M2skdSettings,
        *,
        student: Widths,
        teacher: Widths,
        statistics: LabelStatistics,
    ) -> None:
        super().__init__()
        self.settings = s = settings
        _check(settings, student, teacher)
        weights = {
            'm2skd.early_feature': s.early_feature,
            'm2skd.late_feature': s.late_feature,
            'm2skd.logit': s.logit,
            'm2skd.affinity': s.affinity,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._hard = statistics.table.hard_ids.copy()  # for the host
        hard = torch.from_numpy(self._hard)
        self.register_buffer('hard_ids', hard, persistent=False)
        self.early = None
        if s.early_feature and student.early and teacher.early:
            self.early = Adapter(student.early, teacher.early)
        self.late = Adapter(student.point, teacher.point) if s.late_feature else None

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        s, terms = self.settings, self._compare_features(inputs, rng)
        if s.logit:
            terms['m2skd.logit'] = self._compare_logits(inputs)
        if s.affinity:
            sets = pad_members(self._draw_sets(inputs, rng), inputs.labels.device)
            mine, other = (
                sets.gather(_logits_of(n) if s.affinity_of == 'logits' else n.point_features)
                for n in (inputs.student, inputs.teacher)
            )
            terms['m2skd.affinity'] = mean_over_sets(cosine_l1(mine, other, sets.valid))
        return terms

    def _compare_logits(self, inputs: Inputs) -> Tensor:
        s, logits = self.settings, point_logits_of(inputs)
        chosen = torch.isin(inputs.labels, self.hard_ids) | logits.disputed()
        trusted = logits.trusted(inputs.labels, unlabelled=True, correct=s.trust == 'correct')
        weight = logits.weigh(chosen if trusted is None else chosen & trusted)
        return divergence(logits.student, logits.teacher, tau=s.logit_tau, weight=weight)

    def _compare_features(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        student, teacher, terms = inputs.student, inputs.teacher, dict[str, Tensor]()
        if not (self.early or self.late):
            return terms
        rows = torch.cat(draw_rows(inputs, self.settings.points, rng))
        if self.early and student.early_features and teacher.early_features:
            ours, theirs = self.early(student.early_features(rows)), teacher.early_features(rows)
            terms['m2skd.early_feature'] = feature_distance(ours, theirs)
        if self.late:
            ours, theirs = self.late(student.point_features(rows)), teacher.point_features(rows)
            terms['m2skd.late_feature'] = feature_distance(ours, theirs)
        return terms

    def _draw_sets(self, inputs: Inputs, rng: np.random.Generator) -> list[Indices]:
        """Points of the hard classes, by object or by class over all scans of the batch."""
        s, labels = self.settings, inputs.host.label_array
        hard = np.isin(labels, self._hard)
        if s.affinity_within == 'classes':
            rows = rng.permutation(np.flatnonzero(hard))
            return split_objects(rows, labels[rows].astype(np.int64), s.object_points)
        if inputs.host.instances is None:
            return []
        numbers = inputs.host.instances.numpy()
        owner = np.repeat(np.arange(inputs.scans), np.diff(inputs.starts))
        rows = rng.permutation(np.flatnonzero(hard & (numbers > 0)))
        kind = owner[rows] * 256 + labels[rows]
        names = kind << 32 | numbers[rows] & 0xFFFFFFFF
        objects = split_objects(rows, names, s.object_points)
        if len(objects) <= s.objects:
            return objects
        chosen = rng.choice(len(objects), s.objects, replace=False)
        return [objects[index] for index in chosen]


def _logits_of(network: AlignedOutput) -> Rows:
    return lambda rows: network.point_logits().index_select(0, rows)


def split_objects(rows: Indices, names: Indices, most: int) -> list[Indices]:
    """The first `most` rows of each object, which `names` tells apart; not those of one point."""
    _, which = np.unique(names, return_inverse=True)
    order = np.argsort(which, kind='stable')
    objects = np.split(rows[order], np.flatnonzero(np.diff(which[order])) + 1)
    return [members[:most] for members in objects if len(members) >= _LEAST_POINTS]


def _check(settings: M2skdSettings, student: Widths, teacher: Widths) -> None:
    """Objects are numbered, or the scans could not have been fused with their past."""
    if settings.early_feature and not (student.early and teacher.early):
        who = 'teacher' if student.early else 'student'
        raise ConfigError(
            f'm2skd.early_feature: the {who} has no early decoder features; '
            'set methods.m2skd.early_feature to 0.'
        )

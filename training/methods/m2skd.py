# SPDX-License-Identifier: Apache-2.0
"""M2SKD: what a teacher sees in scans fused with the past of hard objects, for a single scan.

Features of an early and of the last decoder level (`early_feature`, `late_feature`), posteriors
where they matter (`logit`), and how alike the points of one object are (`affinity`).
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
import torch
from torch import nn, Tensor

from lidar_kd.errors import ConfigError
from training.methods.affinity import cosine_l1, mean_over_sets
from training.methods.draws import draw_rows, Indices
from training.methods.inputs import Inputs, LabelStatistics, Widths
from training.methods.logits import point_logits_of
from training.methods.supervoxels import pad_members
from training.methods.terms import Adapter, divergence, feature_distance
from training.methods.weights import Auto, Weight

_LEAST_POINTS = 2  # of an object: one point has no affinity


class M2skdSettings(BaseModel):
    """Weights are numbers, `auto`, or `{auto: share of the supervised gradient}`; 0: no term.

    [pub] starts with 1 / 5 / 1 for features, logits and affinity and tunes by gradients.
    """

    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)

    early_feature: Weight = Auto()  # [ours]
    late_feature: Weight = Auto()  # [ours]
    points: PositiveInt = 2048  # drawn of a scan for the features, rare classes first [ours]
    logit: Weight = Auto(auto=0.5)  # [ours]
    logit_tau: PositiveFloat = 3.3  # [pub]
    affinity: Weight = Auto()  # [ours]
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
        _check(settings, student, teacher, statistics)
        weights = {
            'm2skd.early_feature': s.early_feature,
            'm2skd.late_feature': s.late_feature,
            'm2skd.logit': s.logit,
            'm2skd.affinity': s.affinity,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight}
        hard = torch.from_numpy(statistics.table.hard_ids.copy())
        self.register_buffer('hard_ids', hard, persistent=False)
        self.early = None
        if s.early_feature and student.early and teacher.early:
            self.early = Adapter(student.early, teacher.early)
        self.late = Adapter(student.point, teacher.point) if s.late_feature else None

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        s, terms = self.settings, self._compare_features(inputs, rng)
        if s.logit:
            logits = point_logits_of(inputs)
            weight = logits.weigh(torch.isin(inputs.labels, self.hard_ids) | logits.disputed())
            terms['m2skd.logit'] = divergence(
                logits.student, logits.teacher, tau=s.logit_tau, weight=weight
            )
        if s.affinity:
            objects = pad_members(self._draw_objects(inputs, rng), inputs.labels.device)
            mine = objects.gather(inputs.student.point_features)
            other = objects.gather(inputs.teacher.point_features)
            terms['m2skd.affinity'] = mean_over_sets(cosine_l1(mine, other, objects.valid))
        return terms

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

    def _draw_objects(self, inputs: Inputs, rng: np.random.Generator) -> list[Indices]:
        if inputs.instances is None:
            return []
        hard = np.isin(inputs.label_array, self.hard_ids.cpu().numpy())
        numbers = inputs.instances.cpu().numpy()
        owner = np.repeat(np.arange(inputs.scans), np.diff(inputs.starts))
        rows = rng.permutation(np.flatnonzero(hard & (numbers > 0)))
        kind = owner[rows] * 256 + inputs.label_array[rows]
        names = kind << 32 | numbers[rows] & 0xFFFFFFFF
        objects = split_objects(rows, names, self.settings.object_points)
        if len(objects) <= self.settings.objects:
            return objects
        chosen = rng.choice(len(objects), self.settings.objects, replace=False)
        return [objects[index] for index in chosen]


def split_objects(rows: Indices, names: Indices, most: int) -> list[Indices]:
    """The first `most` rows of each object, which `names` tells apart; not those of one point."""
    _, which = np.unique(names, return_inverse=True)
    order = np.argsort(which, kind='stable')
    objects = np.split(rows[order], np.flatnonzero(np.diff(which[order])) + 1)
    return [members[:most] for members in objects if len(members) >= _LEAST_POINTS]


def _check(
    settings: M2skdSettings, student: Widths, teacher: Widths, statistics: LabelStatistics
) -> None:
    if settings.affinity and not statistics.table.has_instances:
        raise ConfigError(
            f"m2skd.affinity: the labels of '{statistics.table.name}' have no instance ids; "
            'set methods.m2skd.affinity to 0.'
        )
    if settings.early_feature and not (student.early and teacher.early):
        who = 'teacher' if student.early else 'student'
        raise ConfigError(
            f'm2skd.early_feature: the {who} has no early decoder features; '
            'set methods.m2skd.early_feature to 0.'
        )

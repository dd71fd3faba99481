# SPDX-License-Identifier: Apache-2.0
"""A made-up batch: what two networks say of a few points, and methods that compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn, Tensor

from lidar_kd.labels import IGNORE, SEMANTICKITTI
from training.methods import build_methods
from training.methods.inputs import AlignedOutput, Inputs, LabelStatistics, Widths
from training.methods.m2skd import M2skdSettings
from training.methods.pvkd import PvkdSettings
from training.methods.srkd import SrkdSettings
from training.methods.weights import Auto

CLASSES, POINTS, VOXELS = 19, 60, 40
STUDENT = Widths(classes=CLASSES, point=6, voxel=5, early=4)
TEACHER = Widths(classes=CLASSES, point=9, voxel=8, early=7)
SHARES = np.array([0.5] + [0.005] * 8 + [0.046] * 10)
CONTEXT = LabelStatistics(table=SEMANTICKITTI, class_shares=SHARES)
EVERY_TERM = SrkdSettings(channel=1.0, voxel_channel=1.0, feature=1.0, project=True, points=16)
PERSON, BICYCLIST, CAR = 5, 6, 0


@dataclass(frozen=True)
class Settings:
    srkd: SrkdSettings = EVERY_TERM
    pvkd: PvkdSettings = PvkdSettings()
    m2skd: M2skdSettings = M2skdSettings(points=16)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Answers:
    """What a made-up network says; `all` are its tensors."""

    def __init__(self, widths: Widths, scans: int, seed: int, *, learns: bool = False) -> None:
        random = torch.Generator().manual_seed(seed)
        shapes = {
            'point_logits': (scans * POINTS, CLASSES),
            'voxel_logits': (scans * VOXELS, CLASSES),
            'point_features': (scans * POINTS, widths.point),
            'voxel_features': (scans * VOXELS, widths.voxel),
            'early_features': (scans * POINTS, widths.early or 1),
        }
        self.all = {
            name: torch.randn(*shape, generator=random).requires_grad_(learns)
            for name, shape in shapes.items()
        }

    def side(self) -> AlignedOutput:
        a = self.all
        return AlignedOutput(
            point_logits=lambda: a['point_logits'],
            voxel_logits=lambda: a['voxel_logits'],
            point_features=lambda rows: a['point_features'].index_select(0, rows),
            voxel_features=lambda rows: a['voxel_features'].index_select(0, rows),
            early_features=lambda rows: a['early_features'].index_select(0, rows),
        )


def make_inputs(student: Answers, teacher: Answers, scans: int = 2, **changes: Any) -> Inputs:
    random = rng(7)
    xyz = torch.from_numpy(random.normal(0, 15, (scans * VOXELS, 3))).float()
    point_voxel = torch.arange(scans * POINTS) // POINTS * VOXELS
    point_voxel += torch.from_numpy(random.integers(0, VOXELS, scans * POINTS))
    points = torch.cat([xyz[point_voxel], torch.zeros(scans * POINTS, 1)], 1)
    classes = np.array([CAR, PERSON, BICYCLIST, 8, 9, IGNORE], np.uint8)
    labels = torch.from_numpy(classes[random.integers(0, 6, scans * POINTS)])
    given: dict[str, Any] = {
        'points': points,
        'labels': labels,
        'instances': torch.from_numpy(random.integers(0, 3, scans * POINTS)),
        'starts': tuple(range(0, scans * POINTS + 1, POINTS)),
        'point_voxel': point_voxel,
        'voxel_scan': torch.arange(scans).repeat_interleave(VOXELS),
        'voxel_xyz': xyz,
        'voxel_labels': torch.from_numpy(classes[random.integers(0, 6, scans * VOXELS)]),
        'student': student.side(),
        'teacher': teacher.side(),
    }
    return Inputs(**given | changes)


def build(
    *names: str, student: Widths = STUDENT, teacher: Widths = TEACHER, **settings: Any
) -> nn.ModuleDict:
    torch.manual_seed(0)
    teachers = dict.fromkeys(names, teacher)
    return build_methods(
        Settings(**settings), student=student, teachers=teachers, statistics=CONTEXT
    )


def terms_of(methods: nn.ModuleDict, inputs: Inputs, seed: int = 0) -> dict[str, Tensor]:
    random = rng(seed)
    return {k: v for method in methods.values() for k, v in method(inputs, random).items()}


def weights_of(methods: nn.ModuleDict, name: str) -> dict[str, float | Auto]:
    return cast(dict[str, float | Auto], methods[name].weights)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()

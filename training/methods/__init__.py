# SPDX-License-Identifier: Apache-2.0
"""Distillation methods: each is a list of terms with weights and samplers; any of them add up.

SRKD: Y. Li, J. Dong, Z. Dong, C. Yang, Z. An, Y. Xu, "SRKD: Towards Efficient 3D Point Cloud
Segmentation via Structure- and Relation-aware Knowledge Distillation", 2025, arXiv 2506.17290.
PVKD: Y. Hou, X. Zhu, Y. Ma, C. C. Loy, Y. Li, "Point-to-Voxel Knowledge Distillation for LiDAR
Semantic Segmentation", CVPR 2022, arXiv 2206.02099.
M2SKD: S. Qiu, F. Jiang, H. Zhang, X. Xue, J. Pu, "Multi-to-Single Knowledge Distillation for
Point Cloud Semantic Segmentation", ICRA 2023, arXiv 2304.14800.

Where a number comes from: [pub] a published figure or setting; [code] the authors' public code or
configuration; [dig] a digest of the paper, whose body was not at hand; [rec] recalled, so of low
confidence; [ours] our decision where these are silent, contradictory or do not work. The defaults
are ours; `paper` (presets.py) is as near to the sources as they allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lidar_kd.errors import ConfigError
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.methods.by_features import without_outputs
from training.methods.inputs import LabelStatistics, Widths
from training.methods.m2skd import M2skd
from training.methods.pvkd import Pvkd
from training.methods.srkd import Srkd

METHODS: dict[str, Any] = {'srkd': Srkd, 'pvkd': Pvkd, 'm2skd': M2skd}


def build_methods(
    settings: Any,
    *,
    student: Widths,
    teachers: Mapping[str, Widths],
    statistics: LabelStatistics,
    grid: CartesianGrid | CylinderGrid | None = None,
) -> nn.ModuleDict:
    """The methods by name, in the order of `teachers`: what each one's teacher gives.

    `settings` has those of each as an attribute of that name. Their parameters are adapters:
    trained with the student, never part of it. grid: the student's; boxes follow it.
    """
    for name, teacher in teachers.items():
        if teacher.classes not in (None, student.classes):
            raise ConfigError(
                f'teacher of {name}: it knows {teacher.classes} classes, the student '
                f'{student.classes}; choose a teacher of the same label table.'
            )
    return nn.ModuleDict(
        {
            name: METHODS[name](
                _follow_grid(_taught(name, getattr(settings, name), teacher), grid),
                student=student,
                teacher=teacher,
                statistics=statistics,
            )
            for name, teacher in teachers.items()
        }
    )


def _taught(name: str, settings: Any, teacher: Widths) -> Any:
    """Without the terms that compare answers, where the teacher has none of the same classes."""
    return without_outputs(name, settings) if teacher.classes is None else settings


def _follow_grid(settings: Any, grid: CartesianGrid | CylinderGrid | None) -> Any:
    """Boxes whose height nobody has set are as high as the cells of the student's cylinder."""
    boxes = getattr(settings, 'boxes', None)
    if boxes is None or boxes.height_m is not None or not isinstance(grid, CylinderGrid):
        return settings
    fitted = boxes.model_copy(update={'height_m': grid.height_m})
    return settings.model_copy(update={'boxes': fitted})

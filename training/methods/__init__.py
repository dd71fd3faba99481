# SPDX-License-Identifier: Apache-2.0
"""Distillation methods: each is a list of terms with weights and samplers; any of them add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lidar_kd.errors import ConfigError
from training.methods.inputs import LabelStatistics, Widths
from training.methods.m2skd import M2skd
from training.methods.pvkd import Pvkd
from training.methods.srkd import Srkd

METHODS: dict[str, Any] = {'srkd': Srkd, 'pvkd': Pvkd, 'm2skd': M2skd}


def build_methods(
    settings: Any, *, student: Widths, teachers: Mapping[str, Widths], statistics: LabelStatistics
) -> nn.ModuleDict:
    """The methods by name, in the order of `teachers`: what each one's teacher gives.

    `settings` has those of each as an attribute of that name. Their parameters are adapters:
    trained with the student, never part of it.
    """
    for name, teacher in teachers.items():
        if student.classes != teacher.classes:
            raise ConfigError(
                f'teacher of {name}: it knows {teacher.classes} classes, the student '
                f'{student.classes}; choose a teacher of the same label table.'
            )
    return nn.ModuleDict(
        {
            name: METHODS[name](
                getattr(settings, name), student=student, teacher=teacher, statistics=statistics
            )
            for name, teacher in teachers.items()
        }
    )

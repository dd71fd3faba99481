# SPDX-License-Identifier: Apache-2.0
"""Distillation methods: each is a list of terms with weights and samplers; any of them add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import nn, Tensor

from lidar_kd.errors import ConfigError
from training.methods.inputs import check_teacher, Context, Inputs, Widths
from training.methods.m2skd import M2skd
from training.methods.pvkd import Pvkd
from training.methods.srkd import Srkd
from training.methods.weights import Auto

METHODS: dict[str, Any] = {'srkd': Srkd, 'pvkd': Pvkd, 'm2skd': M2skd}


class Methods(nn.Module):
    """Several methods as one: the terms of all, unweighted, and the weight of each by its name.

    Its parameters are the adapters: trained with the student, never part of it.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.weights: dict[str, float | Auto] = {}
        for part in parts.values():
            self.weights |= cast(dict[str, float | Auto], part.weights)

    def forward(self, inputs: Inputs, rng: np.random.Generator) -> dict[str, Tensor]:
        check_teacher(inputs)
        terms: dict[str, Tensor] = {}
        for part in self.parts.values():
            terms |= part(inputs, rng)
        return terms


def build_methods(
    names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    student: Widths,
    teacher: Widths,
    context: Context,
) -> Methods:
    """The methods by name with their settings: `{'srkd': SrkdSettings(), ...}`."""
    if student.classes != teacher.classes:
        raise ConfigError(
            f'teacher: it knows {teacher.classes} classes, the student {student.classes}; '
            'choose a teacher of the same label table.'
        )
    widths = {'student': student, 'teacher': teacher}
    return Methods(
        {name: METHODS[name](settings[name], **widths, context=context) for name in names}
    )

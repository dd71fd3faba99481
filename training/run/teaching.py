# SPDX-License-Identifier: Apache-2.0
"""Who teaches which method, and how each teacher looks at the scans.

Decided once, of the configuration and the teachers it names: what a run is built of asks this
plan, not the configuration again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lidar_kd.errors import ConfigError
from training.data.batch import TeacherInput
from training.run.config import Config, MAIN
from training.run.teachers import FrozenTeacher


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedTeacher:
    """network: None where the student itself teaches; is_cached: its answers are kept on disk."""

    network: FrozenTeacher | None
    looks: TeacherInput
    is_cached: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TeachingPlan:
    """teachers: the main one first, then those that methods have for themselves, by the method.

    of_method: the name of the teacher that each method asks. pseudo_label_confidence: how sure
    the teachers must be where they label scans that have no labels; None: they label none.
    scans_are_fused: the student itself sees every scan with its past, and is scored so.
    """

    teachers: Mapping[str, PlannedTeacher]
    of_method: Mapping[str, str]
    pseudo_label_confidence: float | None
    scans_are_fused: bool

    @property
    def is_its_own(self) -> bool:
        """The student teaches itself, looking at more than it sees as a student."""
        return any(teacher.network is None for teacher in self.teachers.values())

    @property
    def networks(self) -> dict[str, FrozenTeacher]:
        """The teachers that are not the student."""
        found = {name: teacher.network for name, teacher in self.teachers.items()}
        return {name: network for name, network in found.items() if network is not None}

    @property
    def inputs(self) -> list[TeacherInput]:
        return [teacher.looks for teacher in self.teachers.values()]

    @property
    def needs_the_past(self) -> bool:
        return self.scans_are_fused or any(looks.fused for looks in self.inputs)

    @property
    def keeps_unmoved(self) -> bool:
        """A teacher sees the scans as they were before augmentation."""
        return not all(looks.augmented for looks in self.inputs)

    @property
    def explains_unlabelled(self) -> bool:
        return bool(self.networks)


def plan_teaching(config: Config, networks: Mapping[str, FrozenTeacher]) -> TeachingPlan:
    """`networks`: those that `config.asked_teachers` names."""
    if config.teacher is not None and config.teacher.pseudo_labels is not None:
        _require_answers(networks)
    teachers = {
        name: PlannedTeacher(
            network=network,
            looks=TeacherInput(
                network.spec.grid,
                fused=config.is_shown_the_past(name),
                augmented=not config.asked_teachers[name].cache,
            ),
            is_cached=config.asked_teachers[name].cache,
        )
        for name, network in networks.items()
    }
    if config.is_its_own_teacher:
        itself = TeacherInput(config.model.grid, fused=True)
        teachers = {MAIN: PlannedTeacher(network=None, looks=itself)}
    return TeachingPlan(
        teachers=teachers,
        of_method={method: config.teacher_of(method) for method in config.method},
        pseudo_label_confidence=config.teacher.pseudo_labels if config.teacher else None,
        scans_are_fused=config.data.fusion,
    )


def _require_answers(networks: Mapping[str, FrozenTeacher]) -> None:
    for name, network in networks.items():
        if network.by_features:
            raise ConfigError(
                f"teacher.pseudo_labels: {name} '{network.name}' has no answers in the classes of "
                'the data; set it to null, or name a teacher of the same label table.'
            )

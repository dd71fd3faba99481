# SPDX-License-Identifier: Apache-2.0
"""What a teacher without answers in the student's classes can teach: features and relations."""

from __future__ import annotations

from typing import Any

from lidar_kd.errors import ConfigError

# method -> its settings that compare answers, and what they are without
_OUTPUTS: dict[str, dict[str, Any]] = {
    'srkd': {'output': 0.0},
    'pvkd': {'point_output': 0.0, 'voxel_output': 0.0},
    'm2skd': {'logit': 0.0, 'affinity_of': 'features'},
}
# what has no answer to compare
_RELATIONS = {
    'srkd': ('cross', 'point_affinity', 'voxel_affinity', 'feature', 'channel', 'voxel_channel'),
    'pvkd': ('point_affinity', 'voxel_affinity'),
    'm2skd': ('early_feature', 'late_feature', 'affinity'),
}


def without_outputs(name: str, settings: Any) -> Any:
    """The settings of a method without the terms that compare answers."""
    if not any(getattr(settings, key) for key in _RELATIONS[name]):
        raise ConfigError(
            f'methods.{name}: its teacher has no answers in the classes of the data, and no term '
            f'compares features: give one a weight, as methods.{name}.{_RELATIONS[name][0]}: auto.'
        )
    return settings.model_copy(update=_OUTPUTS[name])


def outputs_of(name: str, settings: Any) -> list[str]:
    """The terms that without_outputs leaves out."""
    changed = [key for key, value in _OUTPUTS[name].items() if getattr(settings, key) != value]
    return [f'{name}.{key}' for key in changed]

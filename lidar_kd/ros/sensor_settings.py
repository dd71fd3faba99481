# SPDX-License-Identifier: Apache-2.0
"""The parameters that say how the sensor is mounted and what its intensities are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lidar_kd.errors import ConfigError
from lidar_kd.ros.one_parameter import parameter_field as _parameter
from lidar_kd.sensor import SensorOptions


@dataclass(frozen=True, kw_only=True)
class SensorSettings:
    mounting: str = _parameter(
        'auto',
        'auto: the ground of the first scans tells how the sensor is mounted, and the network '
        'sees scans as from the mounting that it was trained for; off: as they come.',
        choices=('auto', 'off'),
    )
    sensor_height: float = _parameter(
        0.0, "Of the scan's frame above the ground in m; 0: found, or as in training.", upper=100.0
    )
    sensor_pose: Sequence[float] = _parameter(
        [0.0, 0.0],
        "Roll and pitch of the scan's frame in degrees, 180 roll: upside down; both 0: found.",
    )
    ground_frame: str = _parameter(
        '',
        'Frame on the ground, upright, as base_footprint: with mounting: auto TF tells how the '
        'sensor is mounted, in place of the scans; empty: the scans tell.',
        changes='unconfigured',
    )
    use_imu: bool = _parameter(
        False,
        'Hear ~/imu: where the scans show no ground, with mounting: auto gravity tells which way '
        'is up.',
        changes='unconfigured',
    )
    intensity: str = _parameter(
        'auto',
        'auto: a gain brings the ground nearby to the brightness that the bundle expects, where '
        'it does; off: intensities as they come.',
        choices=('auto', 'off'),
    )

    def sensor_options(self) -> SensorOptions:
        roll_deg, pitch_deg = self.sensor_pose
        return SensorOptions(
            mounting=self.mounting,
            intensity=self.intensity,
            height_m=self.sensor_height,
            roll_pitch_deg=(roll_deg, pitch_deg) if roll_deg or pitch_deg else None,
        )


def check_pose(angles: Sequence[float]) -> None:
    if len(angles) != 2 or not (abs(angles[0]) <= 180 and abs(angles[1]) <= 90):
        raise ConfigError(
            f'parameter sensor_pose: {list(angles)} is no pose; give roll (-180 to 180) and pitch '
            '(-90 to 90) in degrees.'
        )

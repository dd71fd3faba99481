# SPDX-License-Identifier: Apache-2.0
"""What a sensor is like: how it hangs above the ground, and what its intensities mean."""

from lidar_kd.sensor.fit import EACH_ALONE, MountingHints, NO_HINTS, SensorFit, SensorOptions
from lidar_kd.sensor.ground import find_ground, Ground

__all__ = [
    'EACH_ALONE',
    'find_ground',
    'Ground',
    'MountingHints',
    'NO_HINTS',
    'SensorFit',
    'SensorOptions',
]

# SPDX-License-Identifier: Apache-2.0
"""Objects from labelled points: instances, boxes, and tracks over scans. Needs numpy only."""

from lidar_kd.objects.find import find_objects, Objects
from lidar_kd.objects.settings import ObjectSettings, Shape, SHAPES
from lidar_kd.objects.track import Tracker, Tracks, TrackSettings

__all__ = [
    'Objects',
    'ObjectSettings',
    'Shape',
    'SHAPES',
    'TrackSettings',
    'Tracker',
    'Tracks',
    'find_objects',
]

# SPDX-License-Identifier: Apache-2.0
"""Objects from labelled points: instances and boxes. Needs numpy only."""

from lidar_kd.objects.find import find_objects, Objects
from lidar_kd.objects.settings import ObjectSettings, Shape, SHAPES

__all__ = ['Objects', 'ObjectSettings', 'Shape', 'SHAPES', 'find_objects']

# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 <-> numpy in any layout; knows no ROS, only the message's attributes."""

from lidar_kd.cloud.codec import (
    Cloud,
    decode,
    encode_labeled,
    encode_segmented,
    move,
    Payload,
    select,
)
from lidar_kd.cloud.layout import CloudLayout, Field, MalformedCloud, read_layout

__all__ = [
    'Cloud',
    'CloudLayout',
    'Field',
    'MalformedCloud',
    'Payload',
    'decode',
    'encode_labeled',
    'encode_segmented',
    'move',
    'read_layout',
    'select',
]

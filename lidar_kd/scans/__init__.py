# SPDX-License-Identifier: Apache-2.0
"""Scan files and bags to points: .bin, .npy, .npz, .pcd, .ply, and ROS 1 and 2 recordings."""

from lidar_kd.scans.read import (
    count_points_in_file,
    find_full_scale,
    find_scans,
    read_scan,
    strip_suffix,
)

__all__ = ['count_points_in_file', 'find_full_scale', 'find_scans', 'read_scan', 'strip_suffix']

# SPDX-License-Identifier: Apache-2.0
"""The costmap as nav_msgs/OccupancyGrid."""

from __future__ import annotations

from array import array

from geometry_msgs.msg import Point, Pose
from nav_msgs.msg import MapMetaData, OccupancyGrid
from std_msgs.msg import Header

from lidar_kd.ros.costmap import Costmap


def make_grid(header: Header, costmap: Costmap) -> OccupancyGrid:
    rows, columns = costmap.costs.shape
    origin = Pose(position=Point(x=costmap.origin_m, y=costmap.origin_m))
    grid = OccupancyGrid(
        header=header,
        info=MapMetaData(
            map_load_time=header.stamp,
            resolution=costmap.cell_m,
            width=columns,
            height=rows,
            origin=origin,
        ),
    )
    # Into the slot itself, as with clouds: the setter looks at every cell.
    grid._data = array('b', costmap.costs.tobytes())
    return grid

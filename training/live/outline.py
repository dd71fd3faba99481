# SPDX-License-Identifier: Apache-2.0
"""What is drawn of a box; needs no ROS."""

from __future__ import annotations

from typing import NamedTuple


class Outline(NamedTuple):
    """A box from above."""

    x: float
    y: float
    length_m: float
    width_m: float
    yaw: float
    is_moving: bool

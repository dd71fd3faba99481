# SPDX-License-Identifier: Apache-2.0
"""A drive from above: where boxes are drawn, and what is drawn of a cloud."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.live.outline import Outline
from training.views.drive import draw_static_cloud, LEFT, list_corners, MOVING, outline_boxes

CAR = Outline(x=10.0, y=0.0, length_m=4.0, width_m=2.0, yaw=0.0, is_moving=False)


def test_corners_begin_at_the_front() -> None:
    corners = list_corners(CAR)
    assert corners.tolist() == [[12, 1], [12, -1], [8, -1], [8, 1]]
    turned = list_corners(CAR._replace(yaw=math.pi / 2))
    # the front looks along y: left of it is towards smaller x
    np.testing.assert_allclose(turned, [[9, 2], [11, 2], [11, -2], [9, -2]], atol=1e-12)


@pytest.mark.parametrize('moving', [False, True])
def test_a_box_is_drawn_ahead_of_the_sensor_and_its_heading_if_it_moves(moving: bool) -> None:
    black = np.zeros((412, 412, 3), np.uint8)
    drawn = outline_boxes(black, [CAR._replace(is_moving=moving)], 20.0)
    rows, columns = np.nonzero(drawn.any(2))
    # 20 m x 1.03 are 206 px: 10 px a metre; x = 12 is row 206 - 120, y = 1 column 206 - 10
    assert (rows.min(), rows.max()) == (86, 126)
    assert (columns.min(), columns.max()) == (196, 216)
    inside = drawn[90:106, 200:213].any()
    assert bool(inside) == moving
    assert (drawn == MOVING).all(2).any() == moving


def test_what_is_left_is_drawn_in_its_own_colour() -> None:
    points = np.array([[10.0, 0.0, 0.0, 0.0]], np.float32)
    drawn = draw_static_cloud(points, 20.0, 412)
    assert tuple(drawn[106, 206]) == LEFT
    assert not (draw_static_cloud(points[:0], 20.0, 412) == LEFT).all(2).any()

# SPDX-License-Identifier: Apache-2.0
"""What of a scan the network sees: a ring, a box, at most so many points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE
from lidar_kd.ros.crop import choose_points, spread_answers, thin
from lidar_kd.ros.settings import check_box, NodeSettings
from lidar_kd.segmenter import Segmentation

# distances in the plane: 0, 5, 10, unknown, 3
POINTS = np.array(
    [[0, 0, 9, 0], [3, 4, 0, 0], [6, -8, 1, 0], [np.nan, 1, 1, 0], [-3, 0, 0, 0]], np.float32
)


def chosen(**changes: Any) -> list[int] | None:
    rows = choose_points(POINTS, NodeSettings(**changes))
    return None if rows is None else rows.tolist()


def test_without_a_crop_nothing_is_looked_at() -> None:
    assert chosen() is None
    assert chosen(max_points=5) is None


def test_ranges_are_in_the_plane_and_hold_their_borders() -> None:
    assert chosen(crop_min_range_m=5.0) == [1, 2]
    assert chosen(crop_max_range_m=5.0) == [0, 1, 4]
    assert chosen(crop_min_range_m=3.0, crop_max_range_m=5.0) == [1, 4]


def test_a_box_holds_its_borders() -> None:
    assert chosen(crop_box=[-3.0, 6.0, -8.0, 4.0, 0.0, 1.0]) == [1, 2, 4]
    assert chosen(crop_box=[-2.0, 6.0, -8.0, 4.0, 0.0, 1.0]) == [1, 2]


def test_most_points_are_spread_evenly_over_the_order() -> None:
    # 3 of 5: rows 0 * 5 // 3, 1 * 5 // 3, 2 * 5 // 3
    assert chosen(max_points=3) == [0, 1, 3]
    # after the crop
    assert chosen(max_points=2, crop_max_range_m=5.0) == [0, 1]
    assert thin(np.arange(7), 0).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_what_was_left_out_keeps_its_place_without_an_answer() -> None:
    seen = Segmentation(
        np.array([4, 7], np.uint8),
        np.array([0.5, 0.75], np.float32),
        np.array([0.25, 0.125], np.float32),
        {'network': 1.0},
        {'not_finite': 0},
    )
    whole = spread_answers(seen, np.array([1, 3]), 4)
    assert whole.labels.tolist() == [IGNORE, 4, IGNORE, 7]
    assert whole.probability.tolist() == [0, 0.5, 0, 0.75]
    np.testing.assert_array_equal(whole.entropy, np.array([np.nan, 0.25, np.nan, 0.125]))
    assert whole.unseen == {'not_finite': 0, 'left_out': 2}


@pytest.mark.parametrize('box', [[0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [np.nan, 1.0] * 3])
def test_a_box_that_is_none_is_refused(box: list[float]) -> None:
    with pytest.raises(ConfigError, match=r'crop\.box: .* is no box; give x_min'):
        check_box(box)

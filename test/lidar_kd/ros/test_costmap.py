# SPDX-License-Identifier: Apache-2.0
"""The costmap: classes, slopes, steps, what hangs above; expectations worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.ros.costmap import Costmap, draw_costmap, UNKNOWN
from lidar_kd.ros.output_settings import OutputSettings, read_costs

IDS = {name: number for number, name in enumerate(SEMANTICKITTI.names)}
SETTINGS: dict[str, Any] = {
    'costmap_cell_m': 1.0,
    'costmap_range_m': 5.0,
}  # 10 x 10 cells, the first at (-5, -5)


def draw(points: list[tuple[float, float, float, str]], **changes: Any) -> Costmap:
    xyz = np.array([point[:3] for point in points], np.float32).reshape(-1, 3)
    labels = np.array([IDS.get(point[3], IGNORE) for point in points], np.uint8)
    settings = OutputSettings(**{**SETTINGS, **changes})
    return draw_costmap(xyz, labels, SEMANTICKITTI, settings)


def known(costmap: Costmap) -> dict[tuple[int, int], int]:
    """(row, column) -> cost of the cells that are known."""
    rows, columns = np.nonzero(costmap.costs != UNKNOWN)
    return {(int(r), int(c)): int(costmap.costs[r, c]) for r, c in zip(rows, columns)}


def plane(height: Any, kind: str = 'road') -> list[tuple[float, float, float, str]]:
    """A point in the middle of every cell, at height(x, y)."""
    middles = [i - 4.5 for i in range(10)]
    return [(x, y, height(x, y), kind) for x in middles for y in middles]


def test_rows_go_along_y_and_columns_along_x() -> None:
    costmap = draw([(2.5, -3.5, 0.0, 'road')])
    # x = 2.5 lies in column 2.5 + 5 = 7, y = -3.5 in row 1
    assert known(costmap) == {(1, 7): 0}
    assert (costmap.costs.shape, costmap.cell_m, costmap.origin_m) == ((10, 10), 1.0, -5.0)


def test_the_costs_of_ground_are_averaged_and_of_what_stands_there_the_highest_counts() -> None:
    costs = ['ground 0', 'terrain 60', 'obstacle 80', 'pole 100']
    ground = [(0.5, 0.5, 0.0, 'road'), (0.6, 0.5, 0.0, 'road'), (0.7, 0.5, 0.0, 'terrain')]
    assert known(draw(ground, costmap_costs=costs)) == {(5, 5): 20}  # (0 + 0 + 60) / 3
    standing = [*ground, (0.5, 0.6, 1.0, 'fence'), (0.5, 0.6, 0.5, 'pole')]
    assert known(draw(standing, costmap_costs=costs)) == {(5, 5): 100}


def test_what_is_not_named_or_has_no_answer_or_lies_outside_is_not_drawn() -> None:
    points = [
        (0.5, 0.5, 0.0, 'terrain'), (1.5, 0.5, 0.0, 'unlabelled'), (9.0, 0.5, 0.0, 'road'),
        (np.nan, 0.5, 0.0, 'road'), (0.5, 2.5, np.inf, 'road'), (0.0, 0.0, 0.0, 'road'),
    ]  # fmt: skip
    assert known(draw(points, costmap_costs=['road 0', 'sidewalk 0'])) == {}


def test_what_hangs_above_the_ground_costs_nothing() -> None:
    ground = [(0.5, 0.5, -1.7, 'road')]
    # 2 m above the ground is 0.3 m: a crown at 1.0 m hangs, one at 0.2 m stands in the way
    assert known(draw([*ground, (0.5, 0.6, 1.0, 'vegetation')])) == {(5, 5): 0}
    assert known(draw([*ground, (0.5, 0.6, 0.2, 'vegetation')])) == {(5, 5): 100}


def test_the_ground_of_the_nearest_cells_counts_where_a_cell_has_none() -> None:
    ground = [(0.5, 0.5, -1.7, 'road')]
    # three cells further on; without any ground at all it stands
    assert (5, 8) not in known(draw([*ground, (3.5, 0.5, 1.0, 'vegetation')]))
    assert known(draw([(3.5, 0.5, 1.0, 'vegetation')])) == {(5, 8): 100}


def test_a_slope_costs_its_share_of_the_steepest() -> None:
    # atan(0.1) = 5.71 degrees of 20: 28.55, rounded; at the border no slope is known
    costs = draw(plane(lambda x, y: 0.1 * x)).costs
    assert (costs[:, 2:-2] == 29).all()
    assert (costs[:, [0, 1, -2, -1]] == 0).all()
    # the same along y; both together atan(0.1 * sqrt 2) = 8.05 degrees: 40.2
    assert (draw(plane(lambda x, y: 0.1 * y)).costs[2:-2] == 29).all()
    assert (draw(plane(lambda x, y: 0.1 * (x + y))).costs[2:-2, 2:-2] == 40).all()
    # atan(0.5) = 26.6 degrees are too steep
    assert (draw(plane(lambda x, y: 0.5 * x)).costs[:, 2:-2] == 100).all()


def test_a_kerb_within_a_cell_costs_everything() -> None:
    kerb = [(0.5, 0.5, 0.0, 'road'), (0.9, 0.5, 0.15, 'sidewalk')]
    assert known(draw(kerb)) == {(5, 5): 0}
    assert known(draw(kerb, costmap_max_step_m=0.12)) == {(5, 5): 100}


def test_an_empty_scan_gives_an_empty_map() -> None:
    assert known(draw([])) == {}


def test_later_costs_win() -> None:
    assert read_costs(['ground 0', 'terrain 40', 'ground 10', '']) == {'terrain': 40, 'ground': 10}
    assert list(read_costs(['ground 0', 'terrain 40', 'ground 10'])) == ['terrain', 'ground']


@pytest.mark.parametrize('entry', ['ground', 'ground -1', 'ground 101', 'ground x', ' 5'])
def test_an_entry_that_is_no_cost_is_refused(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"costmap\.costs: '.*' is no entry; write a class"):
        read_costs([entry])


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'floor' is no class and no group.*ground.*car"):
        draw([], costmap_costs=['floor 3'])


def test_the_same_points_twice_change_nothing() -> None:
    rng = np.random.default_rng(3)
    xyz: NDArray[np.float32] = rng.uniform(-5, 5, (2000, 3)).astype(np.float32)
    labels = rng.integers(0, 19, 2000).astype(np.uint8)
    settings = OutputSettings(**SETTINGS)
    once = draw_costmap(xyz, labels, SEMANTICKITTI, settings).costs
    twice = draw_costmap(
        np.concatenate([xyz, xyz]), np.concatenate([labels, labels]), SEMANTICKITTI, settings
    ).costs
    np.testing.assert_array_equal(once, twice)

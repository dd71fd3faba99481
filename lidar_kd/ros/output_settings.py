# SPDX-License-Identifier: Apache-2.0
"""The parameters of what the node makes of labels: objects, their motion, and the costmap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lidar_kd.errors import ConfigError
from lidar_kd.ros.one_parameter import parameter_field

COSTMAP = 'costmap'  # the topic


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """A part of NodeSettings."""

    fixed_frame: str = parameter_field(
        '',
        'Frame in which what rests stands still, as odom, by TF: objects then have speeds over '
        'ground; empty: relative to the sensor.',
        changes='unconfigured',
    )
    labeled_instances: bool = parameter_field(
        False, 'Also a field instance in ~/labeled: the number that ~/markers shows, 0 for none.'
    )
    debug_stamped: bool = parameter_field(
        False,
        'Times in ~/debug as autoware_internal_debug_msgs/Float64Stamped, else std_msgs/Float64.',
        changes='unconfigured',
    )
    objects_range_m: float = parameter_field(
        120.0, 'Points farther away belong to no object.', lower=1.0, upper=1000.0
    )
    objects_min_probability: float = parameter_field(
        0.0, 'Less certain points belong to no object.', upper=1.0
    )
    objects_min_points: int = parameter_field(
        20, 'Of an object within 10 m; fewer further away, as 1 / range.', lower=1, upper=100_000
    )
    objects_moving_mps: float = parameter_field(
        1.0,
        'Objects slower than this rest (m/s), for filters and colours.',
        lower=0.1,
        upper=100.0,
    )
    costmap_cell_m: float = parameter_field(
        0.2, 'Side of a cell of ~/costmap.', lower=0.05, upper=5.0
    )
    costmap_range_m: float = parameter_field(
        20.0, 'How far ~/costmap reaches ahead, behind, left and right.', lower=1.0, upper=200.0
    )
    costmap_costs: Sequence[str] = parameter_field(
        ['ground 0', 'obstacle 100'],
        "'WORD COST' with a class or a group and 0 (free) to 100 (never), later ones win; what is "
        'not named is not drawn.',
    )
    costmap_max_height_m: float = parameter_field(
        2.0, 'What hangs higher above the ground costs nothing.', lower=0.1, upper=100.0
    )
    costmap_max_slope_deg: float = parameter_field(
        20.0, 'Ground this steep costs 100, less steep ground its share.', lower=1.0, upper=89.0
    )
    costmap_max_step_m: float = parameter_field(
        0.2, 'Ground that rises so much within a cell costs 100, as a kerb.', lower=0.01, upper=5.0
    )


def read_costs(entries: Sequence[str]) -> dict[str, int]:
    """Class or group -> cost, in order."""
    costs: dict[str, int] = {}
    for entry in entries:
        if not entry:  # an empty list is written [''] in a YAML file
            continue
        word, _, cost = entry.strip().rpartition(' ')
        if not word or not cost.isdecimal() or int(cost) > 100:
            raise ConfigError(
                f"parameter costmap.costs: '{entry}' is no entry; write a class or a group and "
                "a cost of 0 to 100, as 'terrain 40'."
            )
        costs.pop(word.strip(), None)
        costs[word.strip()] = int(cost)
    return costs

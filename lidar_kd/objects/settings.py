# SPDX-License-Identifier: Apache-2.0
"""What objects look like, and how far apart the points of one may be."""

from __future__ import annotations

from dataclasses import dataclass, field

from lidar_kd import labels
from lidar_kd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of the objects of a class, in metres."""

    gap_m: float  # points of one object are no further apart, close to the sensor
    length_m: float  # typical: where the sensor sees one face only, the box is made this large
    width_m: float
    longest_m: float  # anything longer or wider is several objects
    widest_m: float


# By Autoware's class ids, which every label table has.
SHAPES = {
    labels.CAR: Shape(gap_m=0.7, length_m=4.3, width_m=1.8, longest_m=6.3, widest_m=2.8),
    labels.TRUCK: Shape(gap_m=1.2, length_m=8.0, width_m=2.5, longest_m=20.0, widest_m=4.0),
    labels.BUS: Shape(gap_m=1.2, length_m=12.0, width_m=2.5, longest_m=20.0, widest_m=4.0),
    labels.MOTORCYCLE: Shape(gap_m=0.5, length_m=2.0, width_m=0.8, longest_m=2.8, widest_m=1.4),
    labels.BICYCLE: Shape(gap_m=0.5, length_m=1.7, width_m=0.6, longest_m=2.3, widest_m=1.3),
    labels.PEDESTRIAN: Shape(gap_m=0.4, length_m=0.6, width_m=0.6, longest_m=1.4, widest_m=1.1),
    labels.ANIMAL: Shape(gap_m=0.4, length_m=0.8, width_m=0.4, longest_m=2.5, widest_m=1.5),
    labels.HAZARD: Shape(gap_m=0.4, length_m=0.5, width_m=0.5, longest_m=6.0, widest_m=2.0),
}


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """The defaults suit sensors of 16 to 128 beams."""

    range_m: float = 120.0  # points further away belong to no object
    min_probability: float = 0.0  # of a point, to belong to an object
    min_points: int = 20  # of an object at 10 m and closer; fewer further away, as 1 / range
    fewest_points: int = 5  # of an object at any range
    gap_per_m: float = 0.012  # the gap grows so much with every metre of range
    shapes: dict[int, Shape] = field(default_factory=lambda: dict(SHAPES))  # by Autoware id

    def __post_init__(self) -> None:
        if not 1 <= self.range_m <= 1000:
            raise ConfigError(f'objects: range_m is {self.range_m}; it must be within 1..1000.')
        if min(self.min_points, self.fewest_points) < 1:
            raise ConfigError('objects: min_points and fewest_points must be at least 1.')
        if not 0 <= self.gap_per_m <= 0.1:
            raise ConfigError(f'objects: gap_per_m is {self.gap_per_m}; it must be within 0..0.1.')

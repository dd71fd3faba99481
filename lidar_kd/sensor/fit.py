# SPDX-License-Identifier: Apache-2.0
"""Brings the scans of one sensor to what a network was trained on: its pose, its brightness.

The first scans tell how the sensor hangs above the ground and how bright that ground is; then
every tenth is looked at, and three in a row must say otherwise to change what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
import logging

from lidar_kd.errors import ConfigError
from lidar_kd.sensor.brightness import (
    are_as_bright,
    average_brightness,
    Brightness,
    judge_brightness,
)
from lidar_kd.sensor.ground import find_ground, Ground, Points, thin_out, tilt_normal, Vector
from lidar_kd.sensor.mounting import are_alike, average_grounds, find_motion, move_points
from lidar_kd.sensor.steady import FIRST, Steady

log = logging.getLogger(__name__)
_EVERY = 10  # scans: how often what was found is checked
_SWITCH = ('auto', 'off')


@dataclass(frozen=True, kw_only=True)
class SensorOptions:
    """What is to be found, and what is told."""

    mounting: str = 'auto'  # or off: the pose as it comes, but for what is told below
    intensity: str = 'auto'  # or off
    height_m: float = 0.0  # of the sensor above the ground; 0: not told
    roll_pitch_deg: tuple[float, float] | None = None  # of the sensor; None: not told
    each_alone: bool = False  # scans in any order, of any sensor: none tells of another

    def __post_init__(self) -> None:
        for name in ('mounting', 'intensity'):
            if getattr(self, name) not in _SWITCH:
                raise ConfigError(f'{name}: {getattr(self, name)!r} is unknown; use auto or off.')


# for scans that lie on disk: labels must not depend on what was labelled before
EACH_ALONE = SensorOptions(each_alone=True)


@dataclass(frozen=True, kw_only=True)
class MountingHints:
    """What others than the scans know of the mounting."""

    ground: Ground | None = None  # by TF: goes before what the scans show
    up: Vector | None = None  # (3,) by gravity: where the scans show no ground


NO_HINTS = MountingHints()


class SensorFit:
    """`height_m`, `ground_intensity`: as in training; None: unknown or any, nothing is changed."""

    def __init__(
        self,
        height_m: float | None,
        ground_intensity: float | None,
        options: SensorOptions = SensorOptions(),
    ) -> None:
        self.options = options
        self._height_m, self._expected = height_m, ground_intensity
        self._finds_pose = options.mounting == 'auto' and height_m is not None
        self._finds_level = options.intensity == 'auto' and ground_intensity is not None
        self._hints = NO_HINTS
        self._told: Ground | None = None  # of the hints: what the log last said
        self.begin()

    def begin(self) -> None:
        """Forgets the sensor: the next scan may be another one's."""
        self._seen = 0
        self._ground = Steady(are_alike, average_grounds)
        self._brightness = Steady(are_as_bright, average_brightness)
        self._motion = self._choose_motion()

    def hear(self, hints: MountingHints) -> None:
        """Of the scan that comes next."""
        if not self._finds_pose:
            return
        self._hints = hints
        self._motion = self._choose_motion()
        ground = hints.ground
        if ground is not None and not (self._told and are_alike(ground, self._told)):
            self._told = ground
            log.info('mounting: %s', self._tell_mounting())

    def correct(self, scan: Points) -> None:
        """In place: points (N, 4) as the sensor sees them, intensity in the bundle's scale."""
        if self.options.each_alone:
            self.begin()
        if self._is_due():
            self._look(scan)
        self._seen += 1
        if self._motion is not None:
            move_points(scan, self._motion)
        if self._brightness.value:
            self._brightness.value.apply(scan)

    def facts(self) -> dict[str, str]:
        """For diagnostics."""
        return {'mounting': self._tell_mounting(), 'intensity level': self._tell_brightness()}

    def _is_due(self) -> bool:
        wanted = self._finds_pose or self._finds_level
        return wanted and (self._seen < FIRST or self._seen % _EVERY == 0)

    def _look(self, scan: Points) -> None:
        points = thin_out(scan)
        ground = find_ground(points)
        if self._finds_pose:
            self._see_ground(ground)
        if self._finds_level and self._expected is not None:
            level = judge_brightness(points, ground, self._expected)
            if level is not None and self._brightness.see(level):
                log.info('intensity: %s', self._tell_brightness())

    def _see_ground(self, ground: Ground | None) -> None:
        is_new = ground is not None and self._ground.see(ground)
        self._motion = self._choose_motion()
        if is_new or self._is_lost():
            log.info('mounting: %s', self._tell_mounting())

    def _is_lost(self) -> bool:
        """Whether the first scans are over and none had a ground: said once."""
        return self._ground.value is None and self._seen == FIRST - 1

    def _choose_motion(self) -> Vector | None:
        pose = self._pose()
        if pose is None or self._height_m is None:
            return None
        return find_motion(pose, self._height_m)

    def _pose(self) -> Ground | None:
        """What parameters tell, and for the rest what is known otherwise; None: nothing is."""
        known, told, tilt = self._known(), self.options.height_m, self.options.roll_pitch_deg
        if known is None and not told and tilt is None:
            return None
        normal = known.normal if known else tilt_normal(0, 0)
        height_m = known.height_m if known else self._height_m or 0.0
        return Ground(tilt_normal(*tilt) if tilt else normal, told or height_m)

    def _known(self) -> Ground | None:
        """By TF, else by the scans, else by gravity: on a slope the ground is what counts."""
        known = self._hints.ground or self._ground.value
        if known is None and self._hints.up is not None:
            return Ground(self._hints.up, self._height_m or 0.0)
        return known

    def _tell_mounting(self) -> str:
        if self._height_m is None:
            return 'as it comes: the bundle does not tell the height that it was trained at'
        pose = self._pose()
        if pose is not None:
            return f'{self._tell_pose(pose)}{self._tell_source()}; {self._tell_motion()}'
        if not self._finds_pose:
            return 'off: scans as they come'
        if not self._seen:
            return '-'
        return (
            'no ground found: scans as they come; set sensor_height and sensor_pose if the '
            f'sensor does not stand upright at {self._height_m:g} m'
        )

    def _tell_pose(self, pose: Ground) -> str:
        over = 'upside down, ' if pose.is_upside_down else ''
        tilt = f'roll {pose.roll_deg:.1f}, pitch {pose.pitch_deg:.1f} degrees'
        return f'{over}{pose.height_m:.2f} m above the ground, {tilt}'

    def _tell_source(self) -> str:
        """Where it is not the scans."""
        if self._hints.ground is not None:
            return ' (by TF)'
        by_gravity = self._ground.value is None and self._hints.up is not None
        return ' (by the IMU: no ground found)' if by_gravity else ''

    def _tell_motion(self) -> str:
        if self._motion is None:
            return 'as in training'
        return f'the network sees scans level, {self._height_m:g} m above it'

    def _tell_brightness(self) -> str:
        if not self._finds_level:
            return 'as it comes'
        value = self._brightness.value
        if value is None:
            return 'as it comes: no ground seen yet'
        return _describe_brightness(value)


def _describe_brightness(value: Brightness) -> str:
    if value.fill is not None:
        return f'none from the sensor: {value.fill:g} everywhere'
    seen = f'ground at {value.ground:.3g}'
    if not value.is_alike:
        return f'{seen}, with another contrast than in training (calibrated?): as it comes'
    return f'{seen}, as in training' if value.gain == 1 else f'{seen}, times {value.gain:.3g}'

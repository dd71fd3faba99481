# SPDX-License-Identifier: Apache-2.0
"""One simulated sequence: the world drawn from its seed, and any of its scans.

Every part has its own generator, seeded by (seed, sequence, part, index), so a scan is the same
whichever process makes it and whatever was made before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from training.streets.cast import Scene
from training.streets.course import Array
from training.streets.drive import Drive
from training.streets.mesh import join, Mesh
from training.streets.quarters import quarter, QUARTERS
from training.streets.returns import report, SimulatedScan
from training.streets.road import Road
from training.streets.sensors import Sensor, sensor
from training.streets.town import build_block
from training.streets.traffic import draw_traffic, Traffic
from training.streets.variety import Finish, vary

SCAN_S = 0.1
_VIEW_M = 110.0  # blocks this far away are part of the scene
_BLOCKS_KEPT = 6  # as many as a scene has; the next scene shares all but one of them
_WORLD, _BLOCK, _TRAFFIC, _DRIVE, _SCAN, _FINISH = range(6)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a sequence depends on."""

    seed: int
    index: int  # of the sequence
    scans: int
    sensor: str = 'hdl64'
    quarter: str = 'mixed'  # or a name of quarters.QUARTERS
    enrich: float = 1.0
    distortion: bool = False

    def rng(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.index, *part])


class Sequence:
    """Made once per process; scans in any order."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sensor: Sensor = sensor(settings.sensor)
        self._scene = lru_cache(maxsize=1)(self._build_scene)
        self._block = lru_cache(maxsize=_BLOCKS_KEPT)(self._build_block)

    @cached_property
    def road(self) -> Road:
        rng = self.settings.rng(_WORLD)
        chosen = self.settings.quarter
        if chosen == 'mixed':
            shares = np.array([each.share for each in QUARTERS.values()])
            chosen = list(QUARTERS)[int(rng.choice(len(shares), p=shares / shares.sum()))]
        kind = vary(quarter(chosen), rng)
        length = kind.speed_mps[1] * SCAN_S * self.settings.scans * 1.3
        return Road.draw(kind, length, rng)

    @cached_property
    def traffic(self) -> Traffic:
        return draw_traffic(self.road, self.settings.rng(_TRAFFIC), self.settings.enrich)

    @cached_property
    def drive(self) -> Drive:
        return Drive(self.traffic, self.sensor, self.settings.rng(_DRIVE))

    @cached_property
    def _finish(self) -> Finish:
        return Finish.draw(self.sensor, self.settings.rng(_FINISH))

    @cached_property
    def _directions(self) -> Array:
        return self.sensor.directions()

    def times_s(self) -> Array:
        return np.arange(self.settings.scans, dtype=float) * SCAN_S

    def pose(self, scan: int) -> Array:
        """(4, 4) sensor to world at the middle of the turn."""
        return self.drive.pose(scan * SCAN_S)

    def scan(self, scan: int) -> SimulatedScan:
        time_s = scan * SCAN_S
        distorted = self.settings.distortion
        delays = self.sensor.delays_s(SCAN_S) if distorted else None
        rays = self.drive.rays(time_s, self._directions, delays)
        hits = self._scene(self._blocks_near(time_s)).cast(rays)
        movers = self.traffic.build(time_s, SCAN_S if distorted else 0.0)
        if movers:
            hits = hits.nearer(Scene(movers).cast(rays))
        rng = self.settings.rng(_SCAN, scan)
        directions = self._directions.astype(np.float32)
        return report(hits, directions, self.sensor, self._finish, rng)

    def _blocks_near(self, time_s: float) -> tuple[int, ...]:
        s = self.traffic.ego.metres(time_s)
        return tuple(
            block.index
            for block in self.road.blocks
            if block.start_m < s + _VIEW_M and block.end_m > s - _VIEW_M
        )

    def _build_scene(self, blocks: tuple[int, ...]) -> Scene:
        return Scene(join(self._block(index) for index in blocks))

    def _build_block(self, index: int) -> Mesh:
        rng = self.settings.rng(_BLOCK, index)
        return build_block(self.road, self.road.blocks[index], rng, self.settings.enrich)

# SPDX-License-Identifier: Apache-2.0
"""One sequence of the varied world: scenes drawn from its seed, and any of its scans.

Scans stand alone: each has a place, a sensor, a mount, an intensity habit and moving things of
its own. Every part has its own generator, so a scan is the same whichever process makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.streets.cast import Scene
from training.streets.mesh import Array, join
from training.streets.returns import SimulatedScan
from training.worlds.devices import ANY, Device, draw_device
from training.worlds.habits import draw_habit
from training.worlds.housing import place_barriers, place_houses
from training.worlds.kinds import draw_locale
from training.worlds.layout import draw_layout
from training.worlds.network import draw_network
from training.worlds.parking import (
    place_furniture,
    place_parked,
    place_standing,
    place_two_wheelers,
)
from training.worlds.passing import Passing
from training.worlds.paving import pave
from training.worlds.planting import place_plants
from training.worlds.receive import receive
from training.worlds.site import Site
from training.worlds.standpoint import ANY_MOUNT, draw_mount, draw_pose, Mount

_SCENE, _SENSOR, _STAND, _PASSING, _RETURNS = range(5)
_FILLERS = (
    place_houses, place_barriers, place_parked, place_two_wheelers, place_furniture,
    place_plants, place_standing,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variety:
    """What a sequence of the varied world depends on."""

    seed: int
    index: int  # of the sequence
    scans: int
    sensor: str = ANY  # or a name of devices.DEVICES
    mount: str = ANY_MOUNT  # or car
    place: str = 'mixed'  # or a name of kinds.PLACES
    enrich: float = 1.0
    scans_per_scene: int = 5

    def rng(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.index, *part])


class VariedSequence:
    """Made once per process; scans in any order, cheapest in their own."""

    def __init__(self, variety: Variety) -> None:
        self.variety = variety
        self._kept: tuple[int, Site, Scene] | None = None

    def built(self, number: int) -> tuple[Site, Scene]:
        """The scene of a number; the last one is kept, and freed before the next is built."""
        if self._kept is None or self._kept[0] != number:
            self._kept = None
            self._kept = number, *self._build(number)
        return self._kept[1:]

    def _build(self, number: int) -> tuple[Site, Scene]:
        """The scene of a number, filled and ready to be hit."""
        variety, rng = self.variety, self.variety.rng(_SCENE, number)
        network = draw_network(draw_locale(variety.place, rng), rng)
        layout = draw_layout(network, rng)
        site = Site(layout=layout, ground=pave(layout, rng), rng=rng, enrich=variety.enrich)
        for fill in _FILLERS:
            fill(site)
        return site, Scene(join(site.meshes))

    def device(self, scan: int) -> Device:
        return draw_device(self.variety.sensor, self.variety.rng(_SENSOR, scan))

    def mount(self, scan: int) -> Mount:
        return draw_mount(self.variety.mount, self.variety.rng(_STAND, scan))

    def pose(self, scan: int) -> Array:
        """(4, 4) sensor to world."""
        site, scene = self.built(scan // self.variety.scans_per_scene)
        return draw_pose(site, scene, self.mount(scan), self.variety.rng(_STAND, scan, 1))

    def scan(self, scan: int) -> SimulatedScan:
        site, scene = self.built(scan // self.variety.scans_per_scene)
        device, mount, pose = self.device(scan), self.mount(scan), self.pose(scan)
        turned = device.directions @ pose[:3, :3].T
        rays = np.concatenate([np.broadcast_to(pose[:3, 3], turned.shape), turned], 1)
        hits = scene.cast(rays)
        hits = hits.nearer(site.ground.trace(rays, hits.distance))
        movers = Passing(site, pose[:3, 3], self.variety.rng(_PASSING, scan)).draw()
        if movers:
            hits = hits.nearer(Scene(movers).cast(rays))
        rng = self.variety.rng(_RETURNS, scan)
        return receive(hits, device, mount, draw_habit(device.name, rng), rng)

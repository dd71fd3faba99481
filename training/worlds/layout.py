# SPDX-License-Identifier: Apache-2.0
"""What is known of a scene before anything is built: frontages and curbs of every street."""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import numpy as np
from numpy.typing import NDArray

from training.worlds.frontage import draw_frontage, Frontage
from training.worlds.ground import Floats
from training.worlds.network import Network, StreetLine

PROFILE_M = 0.25  # resolution of what changes along a curb
_RAMP_M = 1.0
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Curb:
    """What changes along one side of a street: (K,) by PROFILE_M."""

    share: Floats  # of the curb's height that is left: ramps, driveways, what was worn down
    shift_m: Floats  # of the edge, outwards
    drive: NDArray[np.bool_]  # where a driveway crosses to the front
    drives_m: tuple[float, ...]  # their middles


@dataclass(kw_only=True)
class Layout:
    """What is known before anything is built: frontages by (street, side, block)."""

    network: Network
    curbs: dict[tuple[int, int], Curb] = field(default_factory=dict)
    frontages: dict[tuple[int, int, int], Frontage] = field(default_factory=dict)

    def frontage(self, street: int, side: int, block: int, rng: Rng) -> Frontage:
        """Drawn when first asked for; every second block is like its neighbour."""
        key = street, side, block
        if key not in self.frontages:
            before = self.frontages.get((street, side, block - 1))
            alike = before is not None and rng.random() < 0.45
            drawn = draw_frontage(self.network.place, rng)
            self.frontages[key] = before if before and alike else drawn
        return self.frontages[key]


def draw_layout(network: Network, rng: Rng) -> Layout:
    layout = Layout(network=network)
    every = network.place.drives_m
    for number, street in enumerate(network.streets):
        for side in (1, -1):
            layout.curbs[number, side] = _draw_curb_line(street, every, rng)
    return layout


def _draw_drives(street: StreetLine, every: float, rng: Rng) -> list[float]:
    places = np.cumsum(rng.uniform(0.3, 1.7, 60) * every)
    return [float(at) for at in places if at < street.length_m]


def _draw_curb_line(street: StreetLine, every: float, rng: Rng) -> Curb:
    s = np.arange(0, street.length_m + 1, PROFILE_M)
    share, drive = np.ones(len(s)), np.zeros(len(s), bool)
    drives = _draw_drives(street, every, rng)
    for at in drives:
        half = rng.uniform(1.2, 3.0)
        away = np.abs(s - at) - half
        share = np.minimum(share, (away / _RAMP_M).clip(rng.uniform(0, 0.4), 1))
        drive |= away < 0
    waves = rng.uniform(0.0, 0.06) * np.sin(math.tau * s / rng.uniform(1.5, 6) + rng.uniform(0, 6))
    slow = rng.uniform(0.0, 0.35) * np.sin(math.tau * s / rng.uniform(20, 80) + rng.uniform(0, 6))
    worn = 1 - rng.uniform(0, 0.5) * (rng.random(len(s) // 8 + 1).repeat(8)[: len(s)] < 0.15)
    return Curb(
        share=(share * worn).astype(np.float32), shift_m=(waves + slow).astype(np.float32),
        drive=drive, drives_m=tuple(drives),
    )  # fmt: skip


def mouths(network: Network, number: int) -> list[float]:
    """Where other streets begin on this one, in order."""
    street = network.streets[number]
    begins = [other.line[:1] for other in network.streets if other.starts and other is not street]
    s = [float(street.measure(begin)[0][0]) for begin in begins]
    away = [float(np.abs(street.measure(begin)[1][0])) for begin in begins]
    return sorted(at for at, off in zip(s, away) if off < street.half_m)

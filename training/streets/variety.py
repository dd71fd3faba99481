# SPDX-License-Identifier: Apache-2.0
"""What differs from drive to drive: how full the quarter is, how surfaces and sensors shine.

A network that has seen many such worlds takes the real one for another of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.streets.materials import MATERIALS
from training.streets.quarters import Quarter
from training.streets.sensors import Sensor

Floats = NDArray[np.float32]
Rng = np.random.Generator
_DENSITIES = ('trees', 'bushes', 'poles', 'signs', 'clutter', 'walkers', 'cyclists',
              'bicycles', 'motorcycles', 'gap_m', 'heavy')  # fmt: skip
_CHANCES = ('parked', 'parking', 'verge', 'wood', 'paved_front')
_SPREAD = 0.45  # of the logarithm: two in three drives lie within a factor of 1.6


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What the light of one drive is multiplied by, and its sensor's faults."""

    shade: Floats  # (materials,) of the intensity
    gain: Floats  # (beams,) of the intensity
    bias_m: Floats  # (beams,) of the range
    hood_deg: float  # how much lower the sensor's own car is than KITTI's

    @classmethod
    def draw(cls, sensor: Sensor, rng: Rng) -> Finish:
        brightness = rng.normal(1.0, 0.05)
        shade = brightness * rng.normal(1.0, 0.10, len(MATERIALS)).clip(0.7, 1.3)
        return cls(
            shade=shade.astype(np.float32),
            gain=rng.normal(1.0, 0.10, sensor.beams).clip(0.6, 1.4).astype(np.float32),
            bias_m=rng.normal(0.0, sensor.bias_m, sensor.beams).astype(np.float32),
            hood_deg=float(rng.uniform(0.0, 1.5)),
        )


def vary(kind: Quarter, rng: Rng) -> Quarter:
    """The same kind of quarter, fuller or emptier."""
    factors = np.exp(rng.normal(0.0, _SPREAD, len(_DENSITIES) + len(_CHANCES)))
    changed = {
        name: float(getattr(kind, name) * factor)
        for name, factor in zip((*_DENSITIES, *_CHANCES), factors)
    }
    for name in _CHANCES:
        changed[name] = min(changed[name], 1.0)
    return replace(kind, **changed)  # type: ignore[arg-type]  # all of them are floats

# SPDX-License-Identifier: Apache-2.0
"""How a sensor reports intensity: its gain, its curve, where it saturates, or not at all.

Inputs are those of streets.materials: what an HDL-64E reports in KITTI.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.streets.materials import MATERIALS
from training.worlds.ground import Floats

Rng = np.random.Generator
_AS_KITTI = {'hdl64': 0.75}  # chance of it by sensor
_ELSE_AS_KITTI = 0.25
_ABSENT = 0.08


@dataclass(frozen=True, kw_only=True)
class Habit:
    """What becomes of a value between 0 and 1."""

    shade: Floats  # (materials,) factors
    gain: float
    gamma: float
    most: float  # where it saturates
    retro_from: float  # above it, a calibrated sensor reports how retroreflecting a thing is
    fade_m: float  # range at which an uncorrected value has fallen to a half; inf: corrected
    steps: int  # per 1
    dark: float  # times the share of returns reported without intensity
    beam_spread: float

    def apply(self, value: Floats, distance: Floats) -> Floats:
        """From what KITTI's sensor would report to what this one does."""
        if self.gain == 0:
            return np.zeros_like(value)
        seen = self.gain * np.maximum(value, 0) ** self.gamma
        if np.isfinite(self.fade_m):
            seen = seen / (1 + (distance / self.fade_m) ** 2)
        if self.retro_from < 1:
            seen = np.where(value > 0.75, self.retro_from + 0.6 * value, 0.6 * seen)
        steps = np.round(seen.clip(0, self.most) * self.steps)
        return (steps / self.steps).astype(np.float32)


def draw_habit(device: str, rng: Rng) -> Habit:
    factors = rng.normal(1.0, 0.05) * rng.normal(1.0, 0.1, len(MATERIALS)).clip(0.7, 1.3)
    shade = factors.astype(np.float32)
    if rng.random() < _AS_KITTI.get(device, _ELSE_AS_KITTI):
        return Habit(
            shade=shade, gain=1.0, gamma=1.0, most=0.99, retro_from=1.0, fade_m=np.inf,
            steps=100, dark=1.0, beam_spread=0.1,
        )  # fmt: skip
    gain = 0.0 if rng.random() < _ABSENT else float(np.exp(rng.normal(0, 0.6)))
    return Habit(
        shade=shade, gain=gain, gamma=float(np.exp(rng.normal(0.2, 0.55))),
        most=float(rng.choice([1.0, 1.0, rng.uniform(0.5, 1.0)])),
        retro_from=float(rng.choice([1.0, 0.4])),
        fade_m=float(rng.uniform(12, 60)) if rng.random() < 0.25 else np.inf,
        steps=int(rng.choice([100, 255, 1000])), dark=float(rng.uniform(0, 1)),
        beam_spread=float(rng.uniform(0, 0.1)),
    )  # fmt: skip

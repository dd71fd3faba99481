# SPDX-License-Identifier: Apache-2.0
"""LiDARs of every kind: spinning ones of 16 to 128 beams, front sensors, solid-state patterns.

Elevations of the spinning ones are those of the makers' manuals or even between their ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError
from training.streets.mesh import Array
from training.streets.sensors import Sensor, SENSORS

Rng = np.random.Generator
ANY = 'any'
_BEAM_OFF_RAD = math.radians(0.04)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Which way the rays of one scan look, beam by beam, and how well they are measured."""

    name: str
    directions: Array  # (N, 3) unit vectors in the sensor's frame
    beam: NDArray[np.int64]  # (N,)
    step_rad: float  # between neighbours of one beam
    range_m: float
    near_m: float
    noise_m: float
    bias_m: float
    divergence_rad: float

    @property
    def beams(self) -> int:
        return int(self.beam[-1]) + 1


def _even(top_deg: float, bottom_deg: float, beams: int) -> tuple[float, ...]:
    return tuple(np.linspace(top_deg, bottom_deg, beams).tolist())


def _spin(
    name: str, elevations_deg: tuple[float, ...], steps: int, *, sector_deg: float = 360.0,
    range_m: float = 100.0, noise_m: float = 0.015,
) -> Device:  # fmt: skip
    """A turning head, or one of which only a sector ahead is open."""
    count = round(steps * sector_deg / 360)
    around = math.radians(sector_deg) * ((np.arange(count) + 0.5) / count - 0.5)
    if sector_deg >= 360:
        around = around + math.pi  # KITTI's beams begin straight ahead
    up, beams = np.radians(elevations_deg)[:, None], len(elevations_deg)
    stagger = (np.arange(beams) * 0.382 % 1.0 - 0.5) * math.tau / steps
    azimuth = around[None, :] + stagger[:, None]
    parts = [np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up) + 0 * azimuth]
    return Device(
        name=name, directions=np.stack(parts, -1).reshape(-1, 3),
        beam=np.repeat(np.arange(beams), count), step_rad=math.tau / steps, range_m=range_m,
        near_m=0.5, noise_m=noise_m, bias_m=0.005, divergence_rad=0.003,
    )  # fmt: skip


def _lift(directions: Array, angle: Array) -> Array:
    """(N, 3) unit vectors, each higher by its angle."""
    up = np.arcsin(directions[:, 2]) + angle
    flat = np.cos(up) / np.hypot(directions[:, 0], directions[:, 1])
    return np.column_stack([directions[:, :2] * flat[:, None], np.sin(up)])


def _known(model: Sensor, rng: Rng) -> Device:
    """One of the simulator's own models, each beam as far off its place as calibrations show."""
    off = np.repeat(rng.normal(0, _BEAM_OFF_RAD, model.beams), model.steps)
    return Device(
        name=model.name, directions=_lift(model.directions(), off),
        beam=np.repeat(np.arange(model.beams), model.steps), step_rad=math.tau / model.steps,
        range_m=model.range_m, near_m=model.near_m, noise_m=model.noise_m, bias_m=model.bias_m,
        divergence_rad=model.divergence_rad,
    )  # fmt: skip


def _rosette(name: str, half_deg: float, points: int, phase: float) -> Device:
    """A solid-state pattern that never repeats: petals through a round field of view."""
    turn = np.arange(points) / points * 40 * math.tau + phase
    radius = math.radians(half_deg) * np.abs(np.cos(turn * 3.618))
    y, z = radius * np.cos(turn), radius * np.sin(turn)
    directions = np.stack([np.cos(radius), np.sinc(radius / math.pi) * y,
                           np.sinc(radius / math.pi) * z], 1)  # fmt: skip
    return Device(
        name=name,
        directions=directions,
        beam=np.arange(points) * 6 // points,
        step_rad=0.003,
        range_m=200.0,
        near_m=0.6,
        noise_m=0.02,
        bias_m=0.003,
        divergence_rad=0.003,
    )


def _raster(name: str, rng: Rng) -> Device:
    """A mirror or flash sensor: rows that lie closer around the horizon."""
    rows = int(rng.choice([40, 64, 96, 126]))
    up = np.sort(np.concatenate([np.linspace(-22, 12, rows // 2), np.linspace(-6, 3, rows // 2)]))
    return _spin(name, tuple(up[::-1].tolist()), 1800, sector_deg=120.0, range_m=180.0)


def _ouster(half_deg: float, beams: int) -> Callable[[Rng], Device]:
    name = f'os{round(math.log2(45 / half_deg))}-{beams}'

    def build(rng: Rng) -> Device:
        steps = int(rng.choice([512, 1024, 2048] if beams <= 64 else [512, 1024]))
        return _spin(name, _even(half_deg, -half_deg, beams), steps, range_m=120.0)

    return build


_VLP32_FRONT = SENSORS['vlp32'].elevations_deg
_HDL32 = _even(10.67, -30.67, 32)
_PANDAR40 = (*_even(15, 3, 5), *_even(2, -6, 25), *_even(-7, -25, 10))
_PANDAR64 = (*_even(15, 3, 6), *_even(2, -6, 48), *_even(-7, -25, 10))
_SHARE: dict[str, float] = {
    'hdl64': 0.34,
    'hdl32': 0.07,
    'vlp16': 0.07,
    'vlp32': 0.09,
    'hesai128': 0.03,
    'pandar40': 0.03,
    'pandar64': 0.05,
    'solid70': 0.05,
    'front120': 0.06,
    'front46': 0.02,
    **{f'os{model}-{beams}': 0.19 / 9 for model in (0, 1, 2) for beams in (32, 64, 128)},
}
DEVICES: dict[str, Callable[[Rng], Device]] = {
    'hdl64': lambda rng: _known(SENSORS['hdl64'], rng),
    'hdl32': lambda rng: _spin('hdl32', _HDL32, int(rng.choice([1080, 2160])), range_m=90.0),
    'vlp16': lambda rng: _known(SENSORS['vlp16'], rng),
    'vlp32': lambda rng: _known(SENSORS['vlp32'], rng),
    'hesai128': lambda rng: _known(SENSORS['hesai128'], rng),
    'pandar40': lambda rng: _spin('pandar40', _PANDAR40, 1800, range_m=150.0),
    'pandar64': lambda rng: _spin('pandar64', _PANDAR64, 1800, range_m=150.0),
    'solid70': lambda rng: _rosette('solid70', 35.2, 40_000, rng.uniform(0, 6.28)),
    'front120': lambda rng: _raster('front120', rng),
    'front46': lambda rng: _spin('front46', _VLP32_FRONT, 1800, sector_deg=46.0, range_m=150.0),
    **{
        f'os{model}-{beams}': _ouster(45 / 2**model, beams)
        for model in (0, 1, 2)
        for beams in (32, 64, 128)
    },
}


def draw_device(name: str, rng: Rng) -> Device:
    """The one of this name, or for 'any' one of all."""
    if name == ANY:
        shares = np.array(list(_SHARE.values()))
        name = str(rng.choice(list(_SHARE), p=shares / shares.sum()))
    if name not in DEVICES:
        raise ConfigError(f"unknown sensor '{name}'; known are {', '.join([ANY, *DEVICES])}.")
    return DEVICES[name](rng)

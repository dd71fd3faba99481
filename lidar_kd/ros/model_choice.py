# SPDX-License-Identifier: Apache-2.0
"""`model: auto`: the largest network that ships and keeps up with the sensor on this machine."""

from __future__ import annotations

from collections.abc import Sequence
import math
from pathlib import Path
import statistics
import time
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lidar_kd.bundle import list_shipped_bundles
from lidar_kd.errors import BundleError
from lidar_kd.ros.settings import AUTO_MODEL, NodeSettings
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sensor import SensorOptions

_ROOM = 0.7  # of the sensor's period for labels; clouds in and out and the robot take the rest
_TRIES = 5  # scans that are timed
_BEAMS = 64
_NO_SENSOR = SensorOptions(mounting='off', intensity='off')  # there is none to be told about


def make_segmenter(settings: NodeSettings, sensors: int = 1) -> Segmenter:
    """Of the model that the settings name, or of the one that fits the machine; warmed up.

    sensors: how many send scans to it.
    """
    if settings.model in ('', AUTO_MODEL):
        return _choose(_list_installed(), settings, sensors * settings.sensor_rate_hz)
    return _load(Path(settings.model).expanduser(), settings)


def _choose(bundles: Sequence[Path], settings: NodeSettings, rate_hz: float) -> Segmenter:
    """bundles: the largest first."""
    limit_ms = 1e3 * _ROOM / rate_hz
    measured = []
    for path in bundles:
        segmenter = _load(path, settings)
        if len(bundles) == 1 or not settings.warm_up_points:
            segmenter.choice = _tell_unmeasured(bundles)
            break
        taken_ms = _measure_ms(segmenter, settings.warm_up_points)
        measured.append(f'{path.stem} {taken_ms:.0f} ms')
        segmenter.choice = (
            f'{path.stem}: {", ".join(measured)} for a scan of {settings.warm_up_points:,} '
            f'points, {limit_ms:.0f} allowed at {rate_hz:g} Hz'
        )
        if taken_ms <= limit_ms:
            break
    return segmenter


def _tell_unmeasured(bundles: Sequence[Path]) -> str:
    why = 'none else is installed' if len(bundles) == 1 else 'not measured: warm_up_points is 0'
    return f'{bundles[0].stem}: {why}'


def _measure_ms(segmenter: Segmenter, points: int) -> float:
    """In the middle of some tries: another program may be busy during one."""
    scan, taken_ms = imitate_scan(points), []
    segmenter.meet(_NO_SENSOR)
    for _ in range(_TRIES):
        start_s = time.perf_counter()
        segmenter.segment(scan)
        taken_ms.append(1e3 * (time.perf_counter() - start_s))
    segmenter.meet(SensorOptions())
    return statistics.median(taken_ms)


def imitate_scan(points: int) -> NDArray[np.float32]:
    """(about points, 4) of a spinning sensor between houses: as many voxels as a street has."""
    generator, columns = np.random.default_rng(0), max(1, points // _BEAMS)
    up = np.radians(np.linspace(-25, 3, _BEAMS))[:, None]
    around = np.linspace(-math.pi, math.pi, columns, endpoint=False)
    ground = 1.73 / np.maximum(np.sin(-up), 1e-3)
    across = np.maximum(np.abs(np.sin(around)), 0.12)
    wall = generator.uniform(8, 10, columns) / across / np.cos(up)
    distance = np.minimum(ground, wall) * generator.normal(1, 0.002, (_BEAMS, columns))
    flat = distance * np.cos(up)
    axes = (flat * np.cos(around), flat * np.sin(around), distance * np.sin(up))
    scan = np.stack([*axes, np.full_like(flat, 0.3)], -1).reshape(-1, 4)
    return scan.astype(np.float32)


def _load(path: Path, settings: NodeSettings) -> Segmenter:
    segmenter = Segmenter(
        path,
        device=settings.device,
        precision=cast(Precision, settings.precision),
        engine=None if settings.engine == 'auto' else settings.engine,
    )
    if settings.warm_up_points:
        segmenter.warm_up(settings.warm_up_points)
    return segmenter


def _list_installed() -> list[Path]:
    try:
        return list_shipped_bundles()
    except BundleError as error:
        reason = str(error).partition(';')[0]
        raise BundleError(f'{reason}; set the parameter model to a .safetensors file.') from None

# SPDX-License-Identifier: Apache-2.0
"""Scans as the drivers of real sensors lay them out; what a file lacks is made up plausibly."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cloud import Field, Payload
from lidar_kd.cloud.layout import FLOAT32, FLOAT64, make_dtype, UINT8, UINT16, UINT32
from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE

BEAMS = 64
TURN_S = 0.1  # of a spinning sensor
TRUTH = 'truth'  # field with the ground truth, train ids
Quantity = Callable[['Sweep'], Any]


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of a sensor; points (N, 4) with intensities from 0 to 1, in no particular order."""

    points: NDArray[np.float32]

    @property
    def intensity(self) -> NDArray[np.float32]:
        return self.points[:, 3]

    @cached_property
    def range_m(self) -> NDArray[np.float32]:
        x, y, z = self.points[:, :3].T
        distance: NDArray[np.float32] = np.sqrt(x * x + y * y + z * z)
        return distance

    @cached_property
    def azimuth(self) -> NDArray[np.float32]:
        return np.arctan2(self.points[:, 1], self.points[:, 0])

    @cached_property
    def elevation(self) -> NDArray[np.float32]:
        return np.arctan2(self.points[:, 2], np.hypot(self.points[:, 0], self.points[:, 1]))

    @cached_property
    def beam(self) -> NDArray[np.float32]:
        """0 (lowest) to BEAMS - 1, as if the beams were evenly spread."""
        seen = self.elevation[np.isfinite(self.elevation)]
        lowest, highest = seen.min(initial=0), seen.max(initial=0)
        spread = (self.elevation - lowest) / max(highest - lowest, 1e-6)
        beam: NDArray[np.float32] = np.clip(np.floor(spread * BEAMS), 0, BEAMS - 1)
        return beam

    def row(self, rows: int) -> NDArray[np.int64]:
        """Of an organised sweep."""
        return np.repeat(np.arange(rows), len(self.points) // rows)

    @cached_property
    def time_s(self) -> NDArray[np.float64]:
        """Since the start of the turn: clockwise from behind, as most sensors spin."""
        return TURN_S * (0.5 - self.azimuth.astype(np.float64) / (2 * np.pi))


@dataclass(frozen=True)
class DriverLayout:
    """beams: rows of an organised cloud, 0 where it is none."""

    point_step: int
    columns: tuple[tuple[str, int, int, Quantity], ...]  # name, offset, datatype, value
    beams: int = 0

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(
            Field(name, offset, datatype, 1) for name, offset, datatype, _ in self.columns
        )


def _one(_: Sweep) -> int:
    return 1  # the first and only return


def _zero(_: Sweep) -> int:
    return 0


_XYZ = tuple(
    (name, 4 * column, FLOAT32, lambda sweep, column=column: sweep.points[:, column])
    for column, name in enumerate('xyz')
)
_INTENSITY = ('intensity', 12, FLOAT32, lambda sweep: 255 * sweep.intensity)
_INTENSITY_8 = ('intensity', 12, UINT8, lambda sweep: np.rint(255 * sweep.intensity))
_RING = ('ring', 16, UINT16, lambda sweep: sweep.beam)
_RETURN = ('return_type', 13, UINT8, _one)
_CHANNEL = ('channel', 14, UINT16, lambda sweep: sweep.beam)
_TIMESTAMP = ('timestamp', 18, FLOAT64, lambda sweep: sweep.time_s)

LAYOUTS = {
    'xyzi': DriverLayout(16, (*_XYZ, ('intensity', 12, FLOAT32, lambda sweep: sweep.intensity))),
    'velodyne': DriverLayout(
        22, (*_XYZ, _INTENSITY, _RING, ('time', 18, FLOAT32, lambda sweep: sweep.time_s))
    ),
    'ouster': DriverLayout(
        48,
        (
            *_XYZ,
            ('intensity', 16, FLOAT32, lambda sweep: np.rint(4095 * sweep.intensity)),
            ('t', 20, UINT32, lambda sweep: 1e9 * sweep.time_s),
            ('reflectivity', 24, UINT16, lambda sweep: np.rint(255 * sweep.intensity)),
            (
                'ring',
                26,
                UINT16,
                lambda sweep: np.arange(len(sweep.points)) * 128 // len(sweep.points),
            ),
            ('ambient', 28, UINT16, _zero),
            ('range', 32, UINT32, lambda sweep: 1e3 * sweep.range_m),
        ),
        beams=128,
    ),
    'hesai': DriverLayout(26, (*_XYZ, _INTENSITY, _RING, _TIMESTAMP)),
    'robosense': DriverLayout(26, (*_XYZ, _INTENSITY, _RING, _TIMESTAMP)),
    'livox': DriverLayout(
        26,
        (
            *_XYZ,
            _INTENSITY,
            ('tag', 16, UINT8, _zero),
            ('line', 17, UINT8, lambda sweep: sweep.beam // (BEAMS // 4)),
            ('timestamp', 18, FLOAT64, lambda sweep: 1e9 * sweep.time_s),
        ),
    ),
    'autoware_xyzirc': DriverLayout(16, (*_XYZ, _INTENSITY_8, _RETURN, _CHANNEL)),
    'autoware_xyziradrt': DriverLayout(
        35,
        (
            *_XYZ,
            _INTENSITY,
            _RING,
            ('azimuth', 18, FLOAT32, lambda sweep: sweep.azimuth),
            ('distance', 22, FLOAT32, lambda sweep: sweep.range_m),
            ('return_type', 26, UINT8, _one),
            ('time_stamp', 27, FLOAT64, lambda sweep: sweep.time_s),
        ),
    ),
    'autoware_xyzircaedt': DriverLayout(
        32,
        (
            *_XYZ,
            _INTENSITY_8,
            _RETURN,
            _CHANNEL,
            ('azimuth', 16, FLOAT32, lambda sweep: sweep.azimuth),
            ('elevation', 20, FLOAT32, lambda sweep: sweep.elevation),
            ('distance', 24, FLOAT32, lambda sweep: sweep.range_m),
            ('time_stamp', 28, UINT32, lambda sweep: 1e9 * sweep.time_s),
        ),
    ),
}


def find_layout(name: str) -> DriverLayout:
    if name not in LAYOUTS:
        raise ConfigError(f"layout '{name}' is unknown; choose one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def encode_scan(
    points: NDArray[np.float32], layout: DriverLayout, truth: NDArray[np.uint8] | None = None
) -> Payload:
    """points (N, 4) with intensities from 0 to 1; truth (N,) train ids, in a field of their own.

    Organised layouts reorder the points and fill up with some at the origin: no echo.
    """
    if layout.beams:
        points, truth = _organise(points, truth, layout.beams)
    fields, step = layout.fields, layout.point_step
    if truth is not None:
        fields, step = (*fields, Field(TRUTH, step, UINT8, 1)), -(-(step + 1) // 4) * 4
    data = array('B', b'\0') * (len(points) * step)
    rows = np.frombuffer(data, make_dtype(fields, step, False))
    sweep = Sweep(points)
    with np.errstate(invalid='ignore', over='ignore'):  # NaN has no integer: any will do
        for name, _, _, quantity in layout.columns if len(points) else ():
            rows[name] = quantity(sweep)
    if truth is not None:
        rows[TRUTH] = truth
    return Payload(
        data=data,
        fields=fields,
        height=layout.beams or 1,
        width=len(points) // (layout.beams or 1),
        point_step=step,
        is_bigendian=False,
        is_dense=bool(np.isfinite(points).all()),
    )


def _organise(
    points: NDArray[np.float32], truth: NDArray[np.uint8] | None, beams: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Rows from the highest to the lowest beam, columns around the sensor; no point is lost."""
    width = -(-len(points) // beams)
    order = np.full(width * beams, len(points))
    order[: len(points)] = np.argsort(-Sweep(points).azimuth)
    padded = np.concatenate([points, np.zeros((1, 4), np.float32)])
    columns = order.reshape(width, beams)
    height = Sweep(padded[columns.ravel()]).elevation.reshape(width, beams)
    upright = np.take_along_axis(columns, np.argsort(-height, axis=1), axis=1)
    rows = upright.T.ravel()
    if truth is None:
        return padded[rows], None
    return padded[rows], np.append(truth, np.uint8(IGNORE))[rows]

# SPDX-License-Identifier: Apache-2.0
"""Clouds packed byte by byte with struct, in the layouts of the drivers; no test in here."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

REAL = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'clouds'
I8, U8, I16, U16, I32, U32, F32, F64 = range(1, 9)
CODES = dict(zip(range(1, 9), 'bBhHiIfd'))
XYZ = (('x', 0, F32), ('y', 4, F32), ('z', 8, F32))
LAYOUTS: dict[str, tuple[int, tuple[tuple[str, int, int], ...]]] = {
    'kitti': (16, (*XYZ, ('intensity', 12, F32))),
    'velodyne': (22, (*XYZ, ('intensity', 12, F32), ('ring', 16, U16), ('time', 18, F32))),
    'hesai': (26, (*XYZ, ('intensity', 12, F32), ('ring', 16, U16), ('timestamp', 18, F64))),
    'livox': (
        26,
        (*XYZ, ('intensity', 12, F32), ('tag', 16, U8), ('line', 17, U8), ('timestamp', 18, F64)),
    ),
    'ouster': (
        48,
        (
            *XYZ,
            ('intensity', 16, F32),
            ('t', 20, U32),
            ('reflectivity', 24, U16),
            ('ring', 26, U16),
            ('ambient', 28, U16),
            ('range', 32, U32),
        ),
    ),
    'autoware_xyzirc': (
        16,
        (*XYZ, ('intensity', 12, U8), ('return_type', 13, U8), ('channel', 14, U16)),
    ),
    'autoware_xyziradrt': (
        35,
        (
            *XYZ,
            ('intensity', 12, F32),
            ('ring', 16, U16),
            ('azimuth', 18, F32),
            ('distance', 22, F32),
            ('return_type', 26, U8),
            ('time_stamp', 27, F64),
        ),
    ),
    'autoware_xyzircaedt': (
        32,
        (
            *XYZ,
            ('intensity', 12, U8),
            ('return_type', 13, U8),
            ('channel', 14, U16),
            ('azimuth', 16, F32),
            ('elevation', 20, F32),
            ('distance', 24, F32),
            ('time_stamp', 28, U32),
        ),
    ),
    'float64': (40, (('x', 0, F64), ('y', 8, F64), ('z', 16, F64), ('reflectivity', 24, U16))),
    'shuffled': (20, (('z', 1, F32), ('signal', 5, U16), ('y', 7, F32), ('x', 12, F32))),
    'bare': (12, XYZ),
}


@dataclass
class FakeField:
    name: str
    offset: int
    datatype: int
    count: int = 1


@dataclass
class FakeCloud:
    """PointCloud2 without ROS."""

    fields: list[FakeField]
    height: int = 1
    width: int = 0
    point_step: int = 16
    row_step: int = 0
    is_bigendian: bool = False
    is_dense: bool = True
    data: Any = field(default_factory=lambda: array('B'))


def pack(
    layout: str,
    points: Sequence[tuple[float, ...]],
    *,
    height: int = 1,
    padding: int = 0,
    big: bool = False,
) -> FakeCloud:
    """points: x, y, z, intensity; every other field holds the number of its point."""
    step, fields = LAYOUTS[layout]
    width = len(points) // height
    row_step = width * step + padding
    data = bytearray(b'\xa5' * (height * row_step))
    for number, point in enumerate(points):
        at = number // width * row_step + number % width * step
        for name, offset, datatype in fields:
            column = {'x': 0, 'y': 1, 'z': 2}.get(name, 3 if is_intensity(layout, name) else None)
            value: float = number if column is None else point[column]
            value = value if datatype in (F32, F64) else int(value)
            struct.pack_into(('>' if big else '<') + CODES[datatype], data, at + offset, value)
    described = [FakeField(*each) for each in fields]
    return FakeCloud(described, height, width, step, row_step, big, True, array('B', data))


def is_intensity(layout: str, name: str) -> bool:
    names = [each[0] for each in LAYOUTS[layout][1]]
    words = ('intensity', 'reflectivity', 'signal')
    return name == next((word for word in words if word in names), None)


# Twelve points; coordinates that float32 holds exactly, intensities that every type holds.
POINTS = [(i + 0.5, -2.25 * i, 0.125 * i - 1, float(20 * i)) for i in range(12)]


def answers(count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    labels = (np.arange(count) % 19).astype(np.uint8)
    probability = np.linspace(0, 1, count, dtype=np.float32)
    return labels, probability, 1 - probability

# SPDX-License-Identifier: Apache-2.0
"""A scan as text: facts in JSON, and its points in planes, deflated, in base64.

Planes follow each other, each with all points: x, y, z and the object's number as uint16, of
which the difference to the point before is stored (it deflates better); label, truth,
probability and intensity as uint8. 12 bytes a point at most, so 300,000 points stay below 5 MB.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable
from lidar_kd.objects import find_objects, Objects

MOST_POINTS = 300_000  # of a scan; of more, evenly chosen ones are drawn
MOST_M = 300.0  # from the middle of the scan along an axis: a step is 1 cm at most
_MOST_MOVABLE = 0.4  # of the points; among more, objects are not told apart in a minute
_FEW_POINTS = 10_000  # always told apart
_STEPS = 65535
_NEAR_M = 20.0  # where the ground is looked for
Plane = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class PageScan:
    """What a page shows of a scan; without a truth or probabilities it does not offer them."""

    name: str
    points: NDArray[np.float32]  # (N, 4) x, y, z in metres, intensity
    labels: NDArray[np.uint8]  # (N,) train ids, 255 where there is none
    truth: NDArray[np.uint8] | None = None
    probability: NDArray[np.float32] | None = None

    def take(self, rows: NDArray[np.int64]) -> PageScan:
        return PageScan(
            name=self.name,
            points=self.points[rows],
            labels=self.labels[rows],
            truth=None if self.truth is None else self.truth[rows],
            probability=None if self.probability is None else self.probability[rows],
        )


def encode_page_scan(scan: PageScan, table: ClassTable) -> tuple[dict[str, Any], str]:
    """The facts and the points of one scan."""
    _check(scan)
    rows, notes = choose_drawn(scan.points)
    objects, excuse = _find_boxed(scan, table)
    drawn = scan.take(rows)
    low, step, places = quantise(drawn.points[:, :3])
    ends, intensity = _quantise_intensity(drawn.points[:, 3])
    planes: dict[str, Plane] = {name: places[:, axis] for axis, name in enumerate('xyz')}
    if objects is not None and len(objects):
        planes['instance'] = objects.instances[rows].astype(np.uint16)
    planes['label'] = drawn.labels
    if drawn.truth is not None:
        planes['truth'] = drawn.truth
    if drawn.probability is not None:
        planes['probability'] = _to_bytes(np.nan_to_num(drawn.probability) * 255)
    planes['intensity'] = intensity
    facts = {
        'name': scan.name,
        'total': len(scan.points),
        'count': len(rows),
        'notes': notes + excuse,
        'planes': list(planes),
        'low': low.tolist(),
        'step': step.tolist(),
        'intensity': ends,
        'ground': _find_ground(drawn, table),
        'reach': _find_reach(drawn.points),
        'boxes': [] if objects is None else _list_boxes(objects),
    }
    return facts, pack_planes(planes)


def _check(scan: PageScan) -> None:
    beside = {'labels': scan.labels, 'truth': scan.truth, 'probability': scan.probability}
    sizes = {name: len(values) for name, values in beside.items() if values is not None}
    if (
        scan.points.ndim != 2
        or scan.points.shape[1] < 4
        or {*sizes.values()} != {len(scan.points)}
    ):
        raise DataError(
            f'{scan.name}: points {scan.points.shape} and {sizes} do not belong together; '
            'give (N, 4) points and one value for each.'
        )


def _find_boxed(scan: PageScan, table: ClassTable) -> tuple[Objects | None, list[str]]:
    """The objects, and why there are none: an untrained network sees things everywhere."""
    movable = np.count_nonzero(np.isin(scan.labels, table.group_ids('movable')))
    if movable > max(_MOST_MOVABLE * len(scan.labels), _FEW_POINTS):
        return None, [f'{movable / len(scan.labels):.0%} movable: no objects looked for']
    return find_objects(scan.points, scan.labels, scan.probability, table), []


def choose_drawn(points: NDArray[np.float32]) -> tuple[NDArray[np.int64], list[str]]:
    """The rows that are drawn, in order, and what is told of the others."""
    finite = np.isfinite(points[:, :3]).all(1)
    notes = [f'{np.count_nonzero(~finite):,} not finite'] if not finite.all() else []
    rows = np.flatnonzero(finite)
    if len(rows):
        middle = np.median(points[rows, :3], axis=0)
        near = (np.abs(points[rows, :3] - middle) <= MOST_M).all(1)
        if not near.all():
            notes.append(f'{np.count_nonzero(~near):,} further than {MOST_M:g} m')
        rows = rows[near]
    if len(rows) > MOST_POINTS:
        rows = rows[np.arange(MOST_POINTS) * len(rows) // MOST_POINTS]
    return rows, notes


def quantise(
    xyz: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint16]]:
    """low (3,), step (3,) and places (N, 3): xyz is low + step * places within half a step."""
    if not len(xyz):
        return np.zeros(3), np.ones(3), np.zeros((0, 3), np.uint16)
    exact = xyz.astype(np.float64)
    low = exact.min(0)
    step = np.maximum((exact.max(0) - low) / _STEPS, 1e-6)
    return low, step, np.rint((exact - low) / step).astype(np.uint16)


def _quantise_intensity(values: NDArray[np.float32]) -> tuple[list[float], NDArray[np.uint8]]:
    """Both ends and bytes between them; a few very bright returns do not darken all others."""
    known = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = np.quantile(known, (0, 0.995)) if len(known) else (0.0, 1.0)
    return [float(low), float(high)], _to_bytes(255 * (known - low) / max(high - low, 1e-9))


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return rounded


def pack_planes(planes: Mapping[str, Plane]) -> str:
    stored = [_difference(plane) if plane.itemsize > 1 else plane for plane in planes.values()]
    deflated = zlib.compress(b''.join(plane.tobytes() for plane in stored), 6)
    return base64.b64encode(deflated).decode('ascii')


def _difference(plane: Plane) -> NDArray[np.uint16]:
    """Modulo 2^16, little endian; the first point's is its value."""
    stored: NDArray[np.uint16] = plane.astype('<u2')
    stored[1:] -= stored[:-1].copy()
    return stored


def _find_ground(scan: PageScan, table: ClassTable) -> float:
    """The height of the ground around the sensor: where the rings lie."""
    z = scan.points[:, 2]
    near = np.hypot(scan.points[:, 0], scan.points[:, 1]) < _NEAR_M
    if 'ground' in table.groups:
        ground = near & np.isin(scan.labels, table.group_ids('ground'))
        if np.count_nonzero(ground) >= 100:
            return float(np.median(z[ground]))
    around = z[near] if near.any() else z
    return float(np.quantile(around, 0.05)) if len(around) else 0.0


def _find_reach(points: NDArray[np.float32]) -> float:
    """How far most points lie, metres."""
    return float(np.quantile(np.hypot(points[:, 0], points[:, 1]), 0.95)) if len(points) else 0.0


def _list_boxes(objects: Objects) -> list[dict[str, Any]]:
    return [
        {
            'number': index + 1,
            'class': int(objects.class_id[index]),
            'centre': objects.centre[index].round(3).tolist(),
            'size': objects.size[index].round(3).tolist(),
            'yaw': round(float(objects.yaw[index]), 4),
            'points': int(objects.points[index]),
            'confidence': round(float(objects.confidence[index]), 3),
        }
        for index in range(len(objects))
    ]

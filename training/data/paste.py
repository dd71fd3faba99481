# SPDX-License-Identifier: Apache-2.0
"""Objects cut out of one scan and set onto the road of another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.data.scan import join_scans, Scan

SMALLEST = 20  # points; fewer say little about a shape
RANGE_M = 1.0  # an object moves to a place about as far away, as its point density tells
CLEARANCE_M = 0.3  # around an object, and how high something must be to stand in its way
TRIES = 5


def cut_instances(
    scan: Scan, classes: NDArray[np.uint8], *, smallest: int = SMALLEST
) -> list[Scan]:
    """The objects of some classes, one scan each, by class and then by number."""
    if scan.instances is None:
        return []
    rows = np.flatnonzero(np.isin(scan.labels, classes) & (scan.instances > 0))
    # an object's number is unique within its class only
    key = (scan.labels[rows].astype(np.int64) << 32) | scan.instances[rows]
    order = np.argsort(key, kind='stable')
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    parts = np.split(rows[order], starts[1:]) if len(rows) else []
    return [scan.take(np.sort(part)) for part in parts if len(part) >= smallest]


def paste_on_ground(
    scan: Scan,
    instance: Scan,
    *,
    onto: NDArray[np.uint8],
    ground: NDArray[np.uint8],
    rng: np.random.Generator,
) -> Scan:
    """The scan with the object turned about the sensor onto a free place of the classes `onto`.

    Turning keeps its range, and with it its density and the side that faces the sensor. Nothing
    but `ground` may stand there. Without a free place in a few tries the scan stays as it is.
    """
    points = scan.points
    centre = np.median(instance.points[:, :2], 0)
    is_onto = np.flatnonzero(np.isin(scan.labels, onto))
    range_m = np.hypot(*points[is_onto, :2].T)
    is_there = np.isfinite(points[is_onto, 2])  # else the object would be nowhere
    places = is_onto[is_there & (np.abs(range_m - math.hypot(*centre)) < RANGE_M)]
    if not len(places):
        return scan
    standing = points[~np.isin(scan.labels, ground) & scan.is_own]
    for place in points[rng.choice(places, TRIES), :3]:
        pasted = set_down(instance, place)
        if is_free(standing, pasted, height_m=float(place[2])):
            return join_scans(scan, pasted)
    return scan


def set_down(instance: Scan, place: NDArray[np.float32]) -> Scan:
    """The object turned about the sensor to the direction of a place, its foot at its height."""
    centre = np.median(instance.points[:, :2], 0)
    angle = math.atan2(place[1], place[0]) - math.atan2(centre[1], centre[0])
    c, s = math.cos(angle), math.sin(angle)
    points = instance.points.copy()
    points[:, :2] = instance.points[:, :2] @ np.array([[c, s], [-s, c]], np.float32)
    points[:, 2] += place[2] - points[:, 2].min()
    return instance.with_points(points)


def is_free(standing: NDArray[np.float32], instance: Scan, *, height_m: float) -> bool:
    """Whether no standing point is above the ground inside the circle an object takes."""
    centre = np.median(instance.points[:, :2], 0)
    radius_m = np.hypot(*(instance.points[:, :2] - centre).T).max() + CLEARANCE_M
    near = np.hypot(*(standing[:, :2] - centre).T) < radius_m
    return not bool((standing[near, 2] > height_m + CLEARANCE_M).any())

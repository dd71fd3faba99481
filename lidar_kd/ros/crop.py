# SPDX-License-Identifier: Apache-2.0
"""Which points of a scan the network sees; all others keep their place and get no answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lidar_kd.labels import IGNORE
from lidar_kd.ros.settings import NO_BOX, NodeSettings
from lidar_kd.segmenter import Segmentation


def choose_points(points: NDArray[np.float32], settings: NodeSettings) -> NDArray[np.intp] | None:
    """Row numbers, in order, of points (N, 4); None where nothing is left out."""
    inside = find_inside(points, settings)
    if inside is None and not 0 < settings.max_points < len(points):
        return None
    rows = np.arange(len(points)) if inside is None else np.flatnonzero(inside)
    return thin(rows, settings.max_points)


def find_inside(points: NDArray[np.float32], settings: NodeSettings) -> NDArray[np.bool_] | None:
    """(N,) what lies within crop.*; None where it is not set. NaN lies nowhere."""
    masks = []
    x, y, z = (points[:, column] for column in range(3))
    nearest_m, farthest_m = settings.crop_min_range_m, settings.crop_max_range_m
    with np.errstate(over='ignore', invalid='ignore'):
        if nearest_m or farthest_m:
            square = x * x + y * y
            masks.append((square >= nearest_m**2) & (square <= (farthest_m or np.inf) ** 2))
        box = settings.crop_box
        if tuple(box) != NO_BOX:
            for values, low, high in zip((x, y, z), box[::2], box[1::2]):
                masks.append((values >= low) & (values <= high))
    inside: NDArray[np.bool_] | None = np.logical_and.reduce(masks) if masks else None
    return inside


def thin(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most `most` of them, evenly spread over their order; 0: all."""
    if not 0 < most < len(rows):
        return rows
    return rows[np.arange(most) * len(rows) // most]


def spread_answers(seen: Segmentation, rows: NDArray[np.intp], count: int) -> Segmentation:
    """The answers of `rows` among all `count` points of the scan."""
    labels = np.full(count, IGNORE, np.uint8)
    probability = np.zeros(count, np.float32)
    entropy = np.full(count, np.nan, np.float32)
    labels[rows], probability[rows] = seen.labels, seen.probability
    entropy[rows] = seen.entropy
    unseen = {**seen.unseen, 'left_out': count - len(rows)}
    return Segmentation(labels, probability, entropy, seen.timing, unseen)

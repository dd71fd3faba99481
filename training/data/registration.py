# SPDX-License-Identifier: Apache-2.0
"""One object seen twice: does it lie in place, and if not, which motion brings it there?

A motion is (4, 4) and turns about z only: what stands on a road does not tip over between scans.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]  # (n, 3) metres
Matrix = NDArray[np.float64]
Nearest = Callable[[Points], tuple[NDArray[np.int64], NDArray[np.float32]]]

STEPS = 30
SETTLED_M = 1e-3  # a step that moves the object less is the last one
KEPT = 0.8  # share of the pairs that count: the rest is what only one view shows


def index_points(target: Points) -> Nearest:
    """A function: for each point the row of the nearest point of `target`, and its distance."""
    import open3d as o3d  # here, as it takes a second and a cached bank needs none of it

    share = o3d.core.Tensor.from_numpy
    search = o3d.core.nns.NearestNeighborSearch(share(np.ascontiguousarray(target)))
    search.knn_index()

    def find(points: Points) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows, squares = search.knn_search(share(np.ascontiguousarray(points)), 1)
        return rows.numpy()[:, 0].astype(np.int64), np.sqrt(squares.numpy()[:, 0])

    return find


def register(source: Points, target: Points, nearest: Nearest) -> Matrix:
    """The yaw and translation from `source` to `target`: from the centroids on, trimmed ICP."""
    motion = translation(target.mean(0) - source.mean(0))
    for _ in range(STEPS):
        moved = apply(motion, source)
        rows, distance = nearest(moved)
        kept = np.argsort(distance, kind='stable')[: math.ceil(KEPT * len(distance))]
        step = fit_motion(moved[kept], target[rows[kept]])
        motion = step @ motion
        if np.abs(apply(step, moved) - moved).max() < SETTLED_M:
            break
    return motion


def fit_motion(source: Points, target: Points) -> Matrix:
    """The yaw and translation with the least squared distance between points of the same row."""
    from_centre, to_centre = source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64)
    a, b = (source - from_centre)[:, :2], (target - to_centre)[:, :2]
    # the sum of b . R(yaw) a is largest where its derivative by the yaw is zero
    yaw = math.atan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
    return translation(to_centre) @ turn_about_z(yaw) @ translation(-from_centre)


def apply(motion: Matrix, points: Points) -> Points:
    moved: Points = (points @ motion[:3, :3].T + motion[:3, 3]).astype(np.float32)
    return moved


def translation(shift: NDArray[np.floating]) -> Matrix:
    motion = np.eye(4)
    motion[:3, 3] = shift
    return motion


def turn_about_z(yaw: float) -> Matrix:
    """About z, anticlockwise seen from above, in radians."""
    c, s = math.cos(yaw), math.sin(yaw)
    motion = np.eye(4)
    motion[:2, :2] = [[c, -s], [s, c]]
    return motion


def yaw_of(motion: Matrix) -> float:
    return math.atan2(motion[1, 0], motion[0, 0])

# SPDX-License-Identifier: Apache-2.0
"""Whatever a cloud holds: no crash, no box that is not a number, numbers that agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.objects import find_objects, Objects

ODD = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1e-38, 3e38, -3e38, 1e9, 119.9], np.float32)


def draw_cloud(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Some points of some extent, labels of any byte, some values replaced by odd ones."""
    rng = np.random.default_rng(seed)
    count = int(rng.choice([0, 1, 2, 3, 20, 200, 2000]))
    extent = rng.choice([0, 0.01, 1, 10, 100, 1e4])
    points = (rng.normal(0, 1, (count, 4)) * extent).astype(np.float32)
    if rng.random() < 0.3:
        points[:, 1] = points[:, 0]  # all on one line
    odd = rng.random(points.shape) < rng.choice([0, 0.05, 0.5])
    points[odd] = rng.choice(ODD, int(odd.sum()))
    labels = rng.integers(0, 256 if rng.random() < 0.3 else 9, count).astype(np.uint8)
    labels[rng.random(count) < 0.1] = IGNORE
    probability = rng.random(count).astype(np.float32)
    probability[rng.random(count) < 0.1] = np.nan
    return points, labels, probability


def check(objects: Objects, points: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
    assert objects.instances.shape == (len(points),)
    counts = np.bincount(objects.instances, minlength=len(objects) + 1)[1:]
    assert counts.tolist() == objects.points.tolist()
    owned = objects.instances > 0
    assert np.isfinite(points[owned, :3]).all()
    assert (labels[owned] == objects.class_id[objects.instances[owned] - 1]).all()
    for values in (objects.centre, objects.size, objects.yaw, objects.confidence):
        assert len(values) == len(objects)
        assert np.isfinite(values).all()
    assert (objects.size > 0).all()
    assert (np.abs(objects.yaw) <= np.pi / 2).all()


def look_at(seed: int) -> None:
    points, labels, probability = draw_cloud(seed)
    check(find_objects(points, labels, probability, SEMANTICKITTI), points, labels)


def test_two_hundred_hostile_clouds() -> None:
    with np.errstate(all='raise', under='ignore'):
        for seed in range(200):
            look_at(seed)


@pytest.mark.slow
def test_two_thousand_hostile_clouds() -> None:
    for seed in range(200, 2200):
        look_at(seed)

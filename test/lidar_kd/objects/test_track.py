# SPDX-License-Identifier: Apache-2.0
"""Pairs at the lowest sum against all permutations; numbers, ages and speeds of toy drives."""

from __future__ import annotations

from itertools import permutations
import math

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.objects import Objects, Tracker, TrackSettings
from lidar_kd.objects.assign import assign

Floats = NDArray[np.float64]


def objects_at(places: list[tuple[float, float]], classes: list[int] | None = None) -> Objects:
    count = len(places)
    centre = np.zeros((count, 3))
    centre[:, :2] = np.array(places).reshape(count, 2)
    return Objects(
        instances=np.zeros(0, np.uint32),
        class_id=np.array(classes or [0] * count, np.uint8),
        centre=centre,
        size=np.ones((count, 3)),
        yaw=np.zeros(count),
        points=np.full(count, 50),
        confidence=np.ones(count, np.float32),
    )


def best_of_all(cost: Floats) -> tuple[int, float]:
    """The most pairs, and their lowest sum, by trying everything."""
    rows, columns = cost.shape
    wide = np.full((rows, columns + rows), np.inf)
    wide[:, :columns] = cost
    found = []
    for chosen in permutations(range(columns + rows), rows):
        values = [wide[row, column] for row, column in enumerate(chosen)]
        kept = [value for value in values if math.isfinite(value)]
        found.append((-len(kept), sum(kept)))
    pairs, lowest = min(found)
    return -pairs, lowest


@pytest.mark.parametrize('seed', range(60))
def test_pairs_are_the_best_of_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 5, (int(rng.integers(1, 5)), int(rng.integers(1, 5))))
    cost[rng.random(cost.shape) < rng.choice([0, 0.3, 0.7])] = np.inf
    rows, columns = assign(cost)
    assert len(set(rows.tolist())) == len(rows)
    assert len(set(columns.tolist())) == len(columns)
    pairs, lowest = best_of_all(cost)
    assert len(rows) == pairs
    assert cost[rows, columns].sum() == pytest.approx(lowest)


def test_nothing_is_paired_with_nothing() -> None:
    for shape in ((0, 0), (0, 3), (3, 0)):
        assert [len(each) for each in assign(np.zeros(shape))] == [0, 0]


def test_an_object_keeps_its_number_and_its_age_grows() -> None:
    tracker = Tracker()
    seen = [tracker.update(objects_at([(x, 0)]), 0.1 * scan) for scan, x in enumerate((5, 6, 7))]
    assert [tracks.numbers.tolist() for tracks in seen] == [[1], [1], [1]]
    assert [tracks.ages.tolist() for tracks in seen] == [[1], [2], [3]]


def test_the_speed_of_a_steady_object_is_found() -> None:
    tracker = Tracker()
    for scan in range(20):
        tracks = tracker.update(objects_at([(0.8 * scan, 3 - 0.6 * scan)]), 0.1 * scan)
    # 0.8 and -0.6 m in 0.1 s
    assert tracks.velocity[0] == pytest.approx([8, -6], abs=0.05)
    assert tracks.speed[0] == pytest.approx(10, abs=0.05)


def test_what_stands_has_no_speed_over_ground_seen_from_a_moving_sensor() -> None:
    tracker = Tracker()
    for scan in range(20):
        pose = np.eye(4)
        pose[0, 3] = 1.0 * scan  # 10 m/s ahead
        tracks = tracker.update(objects_at([(30 - 1.0 * scan, 2)]), 0.1 * scan, pose)
    assert tracks.speed[0] == pytest.approx(0, abs=1e-6)


def test_the_velocity_is_in_the_axes_of_the_sensor() -> None:
    # the sensor looks along the world's y; the object drives along it, so ahead of the sensor
    pose = np.eye(4)
    pose[:2, :2] = [[0, -1], [1, 0]]
    tracker = Tracker()
    for scan in range(20):
        tracks = tracker.update(objects_at([(5 + 0.5 * scan, 0)]), 0.1 * scan, pose)
    assert tracks.velocity[0] == pytest.approx([5, 0], abs=0.05)


def test_the_yaw_of_an_oncoming_object_is_turned_to_where_it_drives() -> None:
    tracker = Tracker()
    for scan in range(10):
        tracks = tracker.update(objects_at([(40 - scan, 0)]), 0.1 * scan)
    assert abs(tracks.yaw[0]) == pytest.approx(math.pi)


def test_two_that_pass_each_other_keep_their_numbers() -> None:
    tracker = Tracker()
    for scan in range(30):
        places = [(0.5 * scan, 0.0), (15 - 0.5 * scan, 1.0)]
        tracks = tracker.update(objects_at(places), 0.1 * scan)
    assert tracks.numbers.tolist() == [1, 2]


def test_a_hidden_object_is_known_again_within_its_time_only() -> None:
    def see_again(after_s: float) -> int:
        tracker = Tracker()
        for scan in range(10):
            tracker.update(objects_at([(0.5 * scan, 0)]), 0.1 * scan)
        last = 0.9 + after_s
        tracker.update(objects_at([]), last - 0.05)
        return int(tracker.update(objects_at([(5 * last, 0)]), last).numbers[0])

    assert see_again(0.4) == 1
    assert see_again(0.7) == 2


def test_an_ended_number_is_never_used_again_and_time_turned_back_starts_anew() -> None:
    tracker = Tracker()
    assert tracker.update(objects_at([(0, 0), (9, 0)]), 0.0).numbers.tolist() == [1, 2]
    # ten metres in a second would be within reach of a number that had not ended
    assert tracker.update(objects_at([(9, 0)]), 1.0).numbers.tolist() == [3]
    assert tracker.update(objects_at([(9, 0)]), 0.5).numbers.tolist() == [1]


def test_a_pose_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match='no number'):
        Tracker().update(objects_at([(0, 0)]), 0.0, np.full((4, 4), np.nan))


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(ConfigError, match='keep_s'):
        TrackSettings(keep_s=0)

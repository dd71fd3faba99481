# SPDX-License-Identifier: Apache-2.0
"""Poses from TF and odometry: interpolated, chained, and refused where they cannot be had."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
from recorded_drive import (
    CLOUDS,
    FRAME,
    make_cloud,
    make_odometry,
    make_transforms,
    MOUNT,
    ODOMETRY,
    PERIOD_NS,
    place_of,
    START_NS,
    STORE,
    TF,
    TYPES,
    write_drive,
)
from rosbags.rosbag2 import Writer

from lidar_kd.errors import DataError
from lidar_kd.scans.recording import Recording
from lidar_kd.scans.trajectory import find_poses, Motion, rotate, slerp

HALF = math.sqrt(0.5)


def turned(yaw: float) -> list[float]:
    return [0, 0, math.sin(yaw / 2), math.cos(yaw / 2)]


def test_a_quaternion_turns_as_it_should() -> None:
    # a quarter turn about z takes x to y; one about x takes y to z
    about_z, about_x = rotate(np.array([[0, 0, HALF, HALF], [HALF, 0, 0, HALF]]))
    np.testing.assert_allclose(about_z @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(about_x @ [0, 1, 0], [0, 0, 1], atol=1e-15)


def test_turns_are_interpolated_at_a_steady_speed_the_short_way_round() -> None:
    first, second = np.array([turned(0)]), np.array([turned(math.radians(90))])
    for share in (0, 0.25, 1):
        expected = [turned(math.radians(90 * share))]
        for end in (second, -second):  # both mean the same turn
            between = slerp(first, end, np.array([[share]]))
            np.testing.assert_allclose(between, expected, atol=1e-12)
    np.testing.assert_allclose(slerp(first, first, np.array([[0.5]])), first)


def test_a_motion_is_known_between_its_samples_and_rests_beyond() -> None:
    samples: dict[int, list[float]] = {
        30: [0, 4, 0, *turned(math.radians(60))],
        10: [0, 0, 0, 0, 0, 0, 2],  # not of unit length; not in order
        20: [2, 0, 0, *turned(0)],
    }
    motion = Motion.of(samples, 'test')
    poses = motion.at(np.array([0, 15, 25, 99]))
    np.testing.assert_allclose(poses[:, :3, 3], [[0, 0, 0], [1, 0, 0], [1, 2, 0], [0, 4, 0]])
    yaws = np.degrees(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    np.testing.assert_allclose(yaws, [0, 0, 30, 60], atol=1e-9)
    outside = motion.outside_s(np.array([0, 15, 25, 30 + 2 * 10**9]))
    np.testing.assert_allclose(outside, [1e-8, 0, 0, 2])


def test_one_sample_is_valid_for_ever() -> None:
    motion = Motion.of({5: [1, 2, 3, 0, 0, 0, 1]}, 'test')
    np.testing.assert_array_equal(motion.at(np.array([0, 9]))[:, :3, 3], [[1, 2, 3]] * 2)
    assert motion.outside_s(np.array([0, 10**12])).tolist() == [0, 0]


@pytest.mark.parametrize('bad', [[0, 0, 0, 0, 0, 0, 0], [math.nan, 0, 0, 0, 0, 0, 1]])
def test_what_is_no_pose_is_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match='TF of base: holds poses that are no numbers'):
        Motion.of({1: bad}, 'TF of base')


def true_pose(time_s: float) -> np.ndarray:
    """Of the sensor in odom: the base on its arc, times the mount."""
    x, y, yaw = place_of(time_s)
    base = np.eye(4)
    base[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    base[:2, 3] = x, y
    mount = np.eye(4)
    mount[:3, 3] = MOUNT
    return base @ mount


@pytest.mark.parametrize('source', ['', 'odom', ODOMETRY])
@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_tf_and_odometry_place_the_sensor(storage: str, source: str, tmp_path: Path) -> None:
    with Recording(write_drive(tmp_path / 'drive', 20, storage)) as recording:
        found = find_poses(recording, FRAME, source)
    assert found is not None
    assert not found.warning
    times_s = np.array([0, 0.5, 0.95, 1.9])
    poses = found.at(START_NS + (1e9 * times_s).astype(np.int64))
    expected = np.array([true_pose(time) for time in times_s])
    # a chord instead of the arc of 10 m radius over 0.1 m: at most 0.1**2 / 80 m off
    np.testing.assert_allclose(poses, expected, atol=1.5e-4)


def write_some(path: Path, **messages: list[tuple[str, object]]) -> Path:
    """One cloud, and what is given as topic=[(type, message), ...]."""
    with Writer(path, version=8) as writer:
        cloud = writer.add_connection(CLOUDS, TYPES[CLOUDS], typestore=STORE)
        writer.write(cloud, 1, STORE.serialize_cdr(make_cloud(0, START_NS), TYPES[CLOUDS]))
        for topic, each in messages.items():
            kind = each[0][0]
            connection = writer.add_connection(f'/{topic}', kind, typestore=STORE)
            for number, (_, message) in enumerate(each):
                writer.write(connection, number, STORE.serialize_cdr(message, kind))
    return path


def odometry(speed: float) -> list[tuple[str, object]]:
    return [
        (TYPES[ODOMETRY], make_odometry(START_NS + n * PERIOD_NS, (n * speed, 0.0, 0.0), 0.0))
        for n in range(2)
    ]


def test_odometry_without_a_mount_is_taken_as_the_sensors_own_and_told(tmp_path: Path) -> None:
    with Recording(write_some(tmp_path / 'a', odom=odometry(1.0))) as recording:
        found = find_poses(recording, FRAME)
    assert found is not None
    warning = f'/odom moves base, and TF does not say where {FRAME} sits on it: taken as one'
    assert found.warning == warning
    assert found.at(np.array([START_NS + PERIOD_NS // 2]))[0, :3, 3].tolist() == [0.5, 0, 0]


def test_of_several_odometries_one_must_be_chosen(tmp_path: Path) -> None:
    bag = write_some(tmp_path / 'a', fast=odometry(2.0), slow=odometry(1.0))
    with Recording(bag) as recording:
        with pytest.raises(DataError, match='several odometries; choose among /fast, /slow with'):
            find_poses(recording, FRAME)
        found = find_poses(recording, FRAME, '/fast')
    assert found is not None
    assert found.at(np.array([START_NS + PERIOD_NS]))[0, 0, 3] == 2


def test_where_nothing_moves_there_are_no_poses(tmp_path: Path) -> None:
    mount = (TYPES[TF], make_transforms('base', FRAME, START_NS, MOUNT, 0.0))
    with Recording(write_some(tmp_path / 'a', tf_static=[mount])) as recording:
        assert find_poses(recording, FRAME) is None
        with pytest.raises(DataError, match=f"no poses of {FRAME} from 'map'; choose among base"):
            find_poses(recording, FRAME, 'map')


def test_frames_in_a_circle_end(tmp_path: Path) -> None:
    circle = [
        (TYPES[TF], make_transforms(parent, child, START_NS + n, (1.0, 0.0, 0.0), 0.0))
        for parent, child in (('base', FRAME), ('odom', 'base'), ('base', 'odom'))
        for n in range(2)
    ]
    with Recording(write_some(tmp_path / 'a', tf=circle)) as recording:
        found = find_poses(recording, FRAME)
    assert found is not None
    assert found.at(np.array([START_NS]))[0, 0, 3] == 2  # base in odom, the sensor on base

# SPDX-License-Identifier: Apache-2.0
"""Objects of scans for the topics that want them: who moves, who rests, whose points are whose."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from cloud_messages import FakeCloud, FakeField, pack
import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.cloud import Cloud, decode
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.ros.costmap import draw_costmap
from lidar_kd.ros.labelled import build_clouds, Labelled
from lidar_kd.ros.pipeline import read_stamp
from lidar_kd.ros.scene import choose_late_topics, keep_points, SceneFinder, SeenObjects
from lidar_kd.ros.settings import Filter, NodeSettings
from lidar_kd.segmenter import Segmentation

CAR, ROAD = SEMANTICKITTI.names.index('car'), SEMANTICKITTI.names.index('road')
SCAN_S, SPEED_MPS = 0.1, 5.0
HERE = np.eye(4)


def make_settings(**changes: Any) -> NodeSettings:
    return NodeSettings(**changes)


def side_of_car(x: float, y: float) -> NDArray[np.float32]:
    """(200, 4) points on the side and the back of a car of 4 x 1.8 x 1.5 m."""
    along = [(x + 4 * i / 19, y, 1.5 * j / 4, 0.0) for i in range(20) for j in range(5)]
    across = [(x, y + 1.8 * i / 19, 1.5 * j / 4, 0.0) for i in range(20) for j in range(5)]
    return np.array(along + across, np.float32)


def drive(scan: int) -> tuple[Cloud, Segmentation]:
    """A parked car at x = 10 m, one that drives on ahead of it, and 50 points of road."""
    road = np.column_stack([np.linspace(2, 8, 50), *np.zeros((2, 50)), np.zeros(50)])
    points = np.concatenate(
        [side_of_car(10, 4), side_of_car(6 + SPEED_MPS * SCAN_S * scan, -6), road]
    )
    labels = np.full(len(points), CAR, np.uint8)
    labels[-50:] = ROAD
    cloud = decode(pack('kitti', [tuple(point) for point in points.tolist()]))
    ones = np.ones(len(points), np.float32)
    return cloud, Segmentation(labels, ones, 0 * ones, {}, {})


def watch(scans: int, pose: NDArray[np.float64] | None = HERE) -> tuple[SeenObjects, Segmentation]:
    finder, settings = SceneFinder(), make_settings()
    for scan in range(scans):
        cloud, result = drive(scan)
        scene = finder.find(cloud, result, SEMANTICKITTI, settings, (SCAN_S * scan, pose))
    return scene, result


def test_a_car_that_drives_moves_and_one_that_is_parked_rests() -> None:
    scene, _ = watch(8)
    parked = int(np.argmax(scene.objects.centre[:, 1]))
    assert scene.resting.tolist() == [row == parked for row in range(2)]
    assert scene.moving.tolist() == [row != parked for row in range(2)]
    assert scene.tracks is not None
    assert scene.tracks.speed[1 - parked] == pytest.approx(SPEED_MPS, abs=0.5)


def test_a_new_object_neither_rests_nor_moves_for_certain() -> None:
    scene, _ = watch(2)
    assert not scene.moving.any()
    assert not scene.resting.any()


def test_without_a_pose_there_are_objects_but_no_tracks() -> None:
    scene, _ = watch(4, None)
    assert scene.tracks is None
    assert scene.numbers.tolist() == [1, 2]
    assert not scene.find_points(['moving', 'resting']).any()


def test_points_have_the_number_of_their_objects_track() -> None:
    scene, result = watch(5)
    numbers = scene.number_points()
    assert set(numbers[result.labels == ROAD]) == {0}
    for row, number in enumerate(scene.numbers.tolist()):
        assert (numbers == number).sum() == scene.objects.points[row] == 200


@pytest.mark.parametrize(
    ('words', 'kept'),
    [
        (['static'], 50),  # the road
        (['static', 'resting'], 250),  # and the 200 points of the parked car
        (['moving'], 200),
        (['static', 'movable'], 450),
    ],
)
def test_a_filter_can_name_what_rests_and_what_moves(words: list[str], kept: int) -> None:
    scene, result = watch(8)
    wanted = Filter(name='a', classes=tuple(words), min_probability=0.0)
    assert keep_points(wanted, result, SEMANTICKITTI, scene).sum() == kept


def test_only_topics_that_show_objects_wait_for_them() -> None:
    parked = Filter(name='slam', classes=('static', 'resting'), min_probability=0.0)
    settings = make_settings(filters=(parked,))
    assert not choose_late_topics(['segmented', 'labeled', 'costmap', 'static'], settings)
    assert choose_late_topics(['labeled', 'markers'], settings) == {'markers'}
    assert choose_late_topics(['slam', 'static'], settings) == {'slam'}
    numbered = make_settings(labeled_instances=True)
    assert choose_late_topics(['labeled', 'static'], numbered) == {'labeled'}


def answer_of(cloud: Cloud, result: Segmentation) -> Labelled:
    return Labelled(cloud=cloud, result=result, table=SEMANTICKITTI, stages_ms={}, description='')


def test_a_labelled_scan_tells_how_much_of_it_has_no_answer() -> None:
    cloud, result = drive(0)
    result.labels[:100] = IGNORE
    result.entropy[:100] = np.nan
    result.entropy[100:] = 0.25
    labelled = answer_of(cloud, result)
    assert (labelled.unlabelled, labelled.entropy) == (100, 0.25)
    result.labels[:] = IGNORE
    assert math.isnan(labelled.entropy)


def test_the_labelled_cloud_gains_the_numbers_on_request() -> None:
    scene, result = watch(5)
    cloud, _ = drive(4)
    settings = make_settings(labeled_instances=True)
    labelled = answer_of(cloud, result)
    ((_, payload),) = build_clouds(labelled, ['labeled'], settings, scene)
    # 16 bytes of the input, label at 16, rgb at 20, instance at 24
    assert [(f.name, f.offset) for f in payload.fields[-3:]] == [
        ('label', 16), ('rgb', 20), ('instance', 24),
    ]  # fmt: skip
    assert payload.point_step == 28
    rows = np.frombuffer(payload.data, np.uint8).reshape(-1, 28)
    numbers = rows[:, 24:].copy().view('<u4')[:, 0]
    np.testing.assert_array_equal(numbers, scene.number_points())
    ((_, plain),) = build_clouds(labelled, ['labeled'], make_settings(), scene)
    assert plain.point_step == 24


def test_both_returns_of_a_beam_are_answered_in_place() -> None:
    """Two rows, one a return: the second repeats the first where there was only one echo."""
    _, result = drive(0)
    points = [(5.0, 1.0, 0.5, 0.0), (6.0, 1.0, 0.5, 0.0), (5.0, 1.0, 0.5, 0.0), (9.0, 1, 0.5, 0)]
    cloud = decode(pack('ouster', points, height=2))
    labels = np.array([CAR, CAR, CAR, IGNORE], np.uint8)
    ones = np.ones(4, np.float32)
    result = Segmentation(labels, ones, 0 * ones, {}, {})
    ((_, payload),) = build_clouds(answer_of(cloud, result), ['labeled'], make_settings())
    assert (payload.height, payload.width) == (2, 2)
    rows = np.frombuffer(payload.data, np.uint8).reshape(4, -1)
    np.testing.assert_array_equal(rows[:, payload.fields[-2].offset], labels)


def draw_hostile_cloud(seed: int) -> FakeCloud:
    """Some points of some extent, among them NaN, infinite and huge ones."""
    rng = np.random.default_rng(seed)
    count = int(rng.choice([0, 1, 3, 50, 800]))
    points = rng.normal(0, rng.choice([0.01, 1, 10, 1e4]), (count, 4)).astype(np.float32)
    odd = rng.random(points.shape) < rng.choice([0, 0.05, 0.5])
    values = np.array([np.nan, np.inf, -np.inf, 0, 1e-38, 3e38, -3e38], np.float32)
    points[odd] = rng.choice(values, int(odd.sum()))
    fields = [FakeField(name, 4 * i, 7) for i, name in enumerate(('x', 'y', 'z', 'intensity'))]
    return FakeCloud(fields, 1, count, 16, 16 * count, data=points.tobytes())


def draw_answers(count: int, seed: int) -> Segmentation:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 19, count).astype(np.uint8)
    labels[rng.random(count) < 0.2] = IGNORE
    probability = rng.random(count, np.float32)
    return Segmentation(labels, probability, 1 - probability, {}, {})


def look_at(finder: SceneFinder, settings: NodeSettings, seed: int) -> None:
    cloud = decode(draw_hostile_cloud(seed))
    result = draw_answers(len(cloud), seed)
    scene = finder.find(cloud, result, SEMANTICKITTI, settings, (0.1 * seed, HERE))
    objects, tracks = scene.objects, scene.tracks
    assert tracks is not None
    for values in (objects.centre, objects.size, objects.yaw, tracks.velocity, tracks.yaw):
        assert len(values) == len(objects)
        assert np.isfinite(values).all()
    assert len(scene.number_points()) == len(cloud)
    costs = draw_costmap(cloud.points, result.labels, SEMANTICKITTI, settings).costs
    assert ((costs >= -1) & (costs <= 100)).all()


def test_hostile_clouds_give_neither_a_crash_nor_a_box_that_is_no_number() -> None:
    finder, settings = SceneFinder(), make_settings(costmap_cell_m=1.0)
    for seed in range(200):
        look_at(finder, settings, seed)


@pytest.mark.slow
def test_two_thousand_hostile_clouds_do_neither() -> None:
    finder, settings = SceneFinder(), make_settings(costmap_cell_m=1.0)
    for seed in range(200, 2200):
        look_at(finder, settings, seed)


def test_a_stamp_is_read_as_seconds() -> None:
    stamp = SimpleNamespace(sec=12, nanosec=250_000_000)
    message = SimpleNamespace(header=SimpleNamespace(stamp=stamp))
    assert math.isclose(read_stamp(message), 12.25)

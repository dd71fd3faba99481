# SPDX-License-Identifier: Apache-2.0
"""Objects of toy scenes: who belongs together, what is dropped, and where the boxes lie."""

from __future__ import annotations

from dataclasses import replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE, NUSCENES, SEMANTICKITTI
from lidar_kd.objects import find_objects, Objects, ObjectSettings

CAR, PERSON, ROAD = (SEMANTICKITTI.names.index(name) for name in ('car', 'person', 'road'))
Points = NDArray[np.float32]


def draw_block(
    centre: tuple[float, float], size: tuple[float, float], yaw: float = 0.0, seed: int = 0
) -> Points:
    """All four faces of an upright block from z = -1.7 to -0.2, a point every 10 cm."""
    length, width = size
    along = np.arange(-length / 2, length / 2 + 1e-6, 0.1)
    across = np.arange(-width / 2, width / 2 + 1e-6, 0.1)
    faces = [np.stack([along, np.full_like(along, s * width / 2)], 1) for s in (-1, 1)]
    faces += [np.stack([np.full_like(across, s * length / 2), across], 1) for s in (-1, 1)]
    outline = np.concatenate(faces)
    cos, sin = math.cos(yaw), math.sin(yaw)
    turned = outline @ np.array([[cos, sin], [-sin, cos]]) + centre
    heights = np.linspace(-1.7, -0.2, 6)
    xyz = [np.column_stack([turned, np.full(len(turned), z)]) for z in heights]
    noise = np.random.default_rng(seed).normal(0, 0.005, (len(turned) * 6, 3))
    return (np.concatenate(xyz) + noise).astype(np.float32)


def find(*parts: tuple[Points, int], settings: ObjectSettings | None = None) -> Objects:
    points = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([np.full(len(part), label, np.uint8) for part, label in parts])
    return find_objects(points, labels, None, SEMANTICKITTI, settings)


@pytest.mark.parametrize('degrees', [0, 20, 45, 80, 90, -30, -75])
def test_the_box_of_a_car_seen_from_all_sides_is_its_own(degrees: float) -> None:
    objects = find((draw_block((12, 5), (4.4, 1.8), math.radians(degrees)), CAR))
    assert len(objects) == 1
    assert objects.centre[0] == pytest.approx([12, 5, -0.95], abs=0.05)
    assert objects.size[0] == pytest.approx([4.4, 1.8, 1.5], abs=0.08)
    turn = (math.degrees(objects.yaw[0]) - degrees + 90) % 180 - 90
    assert turn == pytest.approx(0, abs=1.0)
    assert abs(objects.yaw[0]) <= math.pi / 2


def test_a_car_seen_from_behind_alone_gets_a_typical_length_away_from_the_sensor() -> None:
    block = draw_block((20, 0), (4.3, 1.8))
    objects = find((block[block[:, 0] < 20 - 2.1], CAR))  # the back at x = 17.85
    assert objects.size[0, :2] == pytest.approx([4.3, 1.8], abs=0.1)
    assert objects.centre[0, :2] == pytest.approx([20, 0], abs=0.1)
    assert objects.yaw[0] == pytest.approx(0, abs=0.05)


def test_two_cars_beside_each_other_are_two_objects() -> None:
    first, second = draw_block((10, 0), (4.3, 1.8)), draw_block((10, 2.6), (4.3, 1.8), seed=1)
    objects = find((first, CAR), (second, CAR))
    assert objects.points.tolist() == [len(first), len(second)]
    assert len(set(objects.instances[: len(first)].tolist())) == 1


def test_two_cars_that_touch_are_cut_where_they_meet() -> None:
    # bumper to bumper: together 8.6 m, which no car is
    first, second = draw_block((10, 0), (4.3, 1.8)), draw_block((14.4, 0), (4.3, 1.8), seed=1)
    objects = find((first, CAR), (second, CAR))
    assert len(objects) == 2
    truth = np.repeat([0, 1], [len(first), len(second)])
    same = objects.instances == objects.instances[[0, -1]][truth]
    assert same.mean() > 0.9


def test_classes_are_never_one_object() -> None:
    block = draw_block((10, 0), (0.6, 0.6))
    objects = find((block, PERSON), (block + np.float32(0.05), CAR))
    assert objects.class_id.tolist() == [CAR, PERSON]


def test_stuff_and_unanswered_points_belong_to_no_object() -> None:
    block = draw_block((10, 0), (4.3, 1.8))
    objects = find((block, ROAD), (block, IGNORE))
    assert len(objects) == 0
    assert objects.instances.tolist() == [0] * (2 * len(block))


def test_the_gap_between_points_of_one_object_grows_with_range() -> None:
    # a car's gap is 0.7 m at the sensor and 1.2 cm more with every metre: 1.3 m at 50 m
    halves = np.array([[0, 0, 0], [0, 1.0, 0]], np.float32)
    near, far = (
        find((np.repeat(halves + np.array([x, 0, 0], np.float32), 30, axis=0), CAR))
        for x in (5, 50)
    )
    assert (len(near), len(far)) == (2, 1)


def test_fewer_points_are_enough_far_away() -> None:
    # 20 within 10 m, 20 * 10 / 30 = 6.7 at 30 m
    spot = np.zeros((8, 3), np.float32)
    assert len(find((spot + np.array([8, 0, 0], np.float32), CAR))) == 0
    assert len(find((spot + np.array([30, 0, 0], np.float32), CAR))) == 1
    assert len(find((spot[:6] + np.array([30, 0, 0], np.float32), CAR))) == 0


def test_confidence_is_the_mean_probability_and_uncertain_points_can_be_left_out() -> None:
    points = draw_block((10, 0), (4.3, 1.8))
    labels = np.full(len(points), CAR, np.uint8)
    probability = np.where(np.arange(len(points)) % 2, 0.9, 0.5).astype(np.float32)
    objects = find_objects(points, labels, probability, SEMANTICKITTI)
    assert objects.confidence[0] == pytest.approx(0.7)
    strict = ObjectSettings(min_probability=0.8)
    objects = find_objects(points, labels, probability, SEMANTICKITTI, strict)
    assert (objects.instances > 0).tolist() == (probability > 0.8).tolist()


def test_the_order_of_the_points_does_not_matter() -> None:
    points = np.concatenate([draw_block((10, 0), (4.3, 1.8)), draw_block((10, 2.6), (4.3, 1.8))])
    labels = np.full(len(points), CAR, np.uint8)
    shuffled = np.random.default_rng(0).permutation(len(points))
    objects = find_objects(points, labels, None, SEMANTICKITTI)
    again = find_objects(points[shuffled], labels[shuffled], None, SEMANTICKITTI)
    assert (objects.instances[shuffled] == again.instances).all()


def test_the_other_table_works_alike() -> None:
    points = draw_block((10, 0), (4.3, 1.8))
    labels = np.full(len(points), NUSCENES.names.index('car'), np.uint8)
    objects = find_objects(points, labels, None, NUSCENES)
    assert objects.size[0] == pytest.approx([4.3, 1.8, 1.5], abs=0.08)


def test_points_and_labels_of_different_scans_are_refused() -> None:
    with pytest.raises(DataError, match='do not belong together'):
        find_objects(np.zeros((3, 3), np.float32), np.zeros(2, np.uint8), None, SEMANTICKITTI)


@pytest.mark.parametrize('key', ['range_m', 'min_points', 'fewest_points', 'gap_per_m'])
def test_settings_outside_their_range_are_named(key: str) -> None:
    change: dict[str, Any] = {key: -1}
    with pytest.raises(ConfigError, match=key):
        replace(ObjectSettings(), **change)

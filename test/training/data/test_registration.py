# SPDX-License-Identifier: Apache-2.0
"""One object seen twice: in place, registered or left out, by shapes that were moved by hand."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
import pytest

from training.data.fusion import LEFT_OUT, place_views, REGISTERED, STILL
from training.data.registration import apply, fit_motion, translation, turn_about_z

Cloud = NDArray[np.float32]


def make_shape(points: int = 60) -> Cloud:
    """An L of 1 m and 0.4 m, 1.5 m high, about 10 m away: no turn but the whole one keeps it."""
    rng = np.random.default_rng(0)
    along, z = rng.random(points), 1.5 * rng.random(points)
    first = np.arange(points) < points * 2 // 3
    x, y = np.where(first, along, 0), np.where(first, 0, 0.4 * along)
    return np.stack([10 + x, y, z], 1).astype(np.float32)


def move(shape: Cloud, dx: float, dy: float = 0.0, yaw_deg: float = 0.0) -> Cloud:
    """Turned about its own centre, then shifted."""
    centre = shape.mean(0)
    turned = translation(centre) @ turn_about_z(math.radians(yaw_deg)) @ translation(-centre)
    return apply(translation(np.array([dx, dy, 0])) @ turned, shape)


def test_the_best_motion_of_three_pairs_is_the_one_that_made_them() -> None:
    source = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0]], np.float32)
    # a quarter turn_about_z: (x, y) -> (-y, x), then 5 along x and 1 up
    target = np.array([[5, 0, 1], [5, 2, 1], [4, 0, 1]], np.float32)
    expected = [[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert np.allclose(fit_motion(source, target), expected, atol=1e-6)


@pytest.mark.parametrize('yaw_deg', [0.0, 8.0, -20.0])
def test_what_moves_and_turns_is_registered_onto_itself(yaw_deg: float) -> None:
    present = make_shape()
    views = [move(present, -0.8, 0.1, yaw_deg), move(present, -1.6, 0.3, 2 * yaw_deg)]
    for landing, view in zip(place_views(views, present, [0.1, 0.2]), views):
        assert landing.how == REGISTERED
        assert np.abs(apply(landing.motion, view) - present).max() < 0.02
        assert landing.distance_m < 0.01


def test_one_view_that_is_off_makes_an_object_move_in_all() -> None:
    # 0.1 m per scan, as a person strolls: one scan ago it is within the tolerance of 0.12 m
    present = make_shape()
    views = [move(present, 0, -0.1 * step) for step in (1, 2, 3, 4)]
    assert place_views(views[:1], present, [0.1])[0].how == STILL
    landings = place_views(views, present, [0.1, 0.2, 0.3, 0.4])
    assert [landing.how for landing in landings] == [REGISTERED] * 4


def test_what_moves_too_far_is_left_out_unless_more_time_passed() -> None:
    present = make_shape()
    view = move(present, -4)  # at most 30 m/s
    assert place_views([view], present, [0.1])[0].how == LEFT_OUT
    assert place_views([view], present, [0.2])[0].how == REGISTERED


def test_a_flip_is_no_motion() -> None:
    present = make_shape()
    assert place_views([move(present, -1, 0, 180)], present, [0.1])[0].how == LEFT_OUT


def test_too_few_points_are_not_registered() -> None:
    present = make_shape()
    few = move(present, -1)[:19]  # 20 at least
    assert place_views([few], present, [0.1])[0].how == LEFT_OUT
    assert place_views([move(present, -1)], present[:19], [0.1])[0].how == LEFT_OUT


def test_what_does_not_fit_is_left_out() -> None:
    present = make_shape()
    other = move(present * np.array([1, 1, 4], np.float32), -1)  # four times as high
    assert place_views([other], present, [0.1])[0].how == LEFT_OUT


def test_centroid_alignment_shifts_what_moves_and_leaves_nothing_out() -> None:
    present = make_shape()
    views = [move(present, -3), move(present, -1, 0, 180), move(present, -3)[:5]]
    landings = place_views(views, present, [0.1, 0.1, 0.1], 'centroid')
    assert [landing.how for landing in landings] == [REGISTERED] * 3
    for view, landing in zip(views, landings):
        landed = apply(landing.motion, view)
        np.testing.assert_allclose(landed.mean(0), present.mean(0), atol=1e-4)
        np.testing.assert_allclose(landing.motion[:3, :3], np.eye(3))
    assert landings[0].distance_m < 1e-3  # moved straight on: it lies on itself
    still = place_views([present], present, [0.1], 'centroid')
    assert [landing.how for landing in still] == [STILL]

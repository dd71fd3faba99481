# SPDX-License-Identifier: Apache-2.0
"""Which points of a scan are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from lidar_kd.labels import IGNORE
from training.methods.draws import Draw, draw_balanced, draw_uniform


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_balanced_draw_gives_rare_classes_their_turn_first() -> None:
    # 2 points of class 7, 10 of class 5, 100 of class 0, and 50 without a class; 30 are drawn:
    # 30 / 3 = 10 for class 7, which has 2; (30 - 2) / 2 = 14 for class 5, which has 10; 18 rest
    labels = np.repeat(np.array([0, 7, IGNORE, 5], np.uint8), [100, 2, 50, 10])
    drawn = draw_balanced(labels, 30, rng())
    assert len(set(drawn)) == 30
    assert np.bincount(labels[drawn], minlength=8)[[0, 5, 7]].tolist() == [18, 10, 2]
    assert (labels[drawn] != IGNORE).all()


def test_points_without_a_class_only_fill_up() -> None:
    labels = np.repeat(np.array([3, IGNORE], np.uint8), [4, 10])
    assert np.bincount(labels[draw_balanced(labels, 6, rng())])[[3, IGNORE]].tolist() == [4, 2]


@pytest.mark.parametrize('draw', [draw_balanced, draw_uniform])
def test_a_draw_of_more_points_than_there_are_takes_all(draw: Draw) -> None:
    labels = np.array([0, 1, 1, IGNORE], np.uint8)
    assert draw(labels, 9, rng()).tolist() == [0, 1, 2, 3]
    assert draw(labels[:0], 9, rng()).tolist() == []


def test_a_uniform_draw_follows_the_shares_of_the_classes() -> None:
    labels = np.repeat(np.array([0, 1], np.uint8), [9000, 1000])
    drawn = draw_uniform(labels, 1000, rng())
    assert len(set(drawn)) == 1000
    assert 70 < (labels[drawn] == 1).sum() < 130  # 100, and a standard deviation of 9

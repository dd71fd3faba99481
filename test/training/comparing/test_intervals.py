# SPDX-License-Identifier: Apache-2.0
"""Intervals of gains against values worked out by hand or taken from printed tables."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
import pytest

from training.comparing.intervals import (
    bootstrap_gain,
    deviation,
    draw_streets,
    resampled_mious,
    standard_error,
    t_interval,
    t_quantile,
)


def test_a_t_interval_is_that_worked_out_by_hand() -> None:
    # 3, 1 and 4: mean 8/3, variance 7/3, error sqrt(7/9); t with 2 degrees of freedom is 4.3027
    low, high = t_interval([3.0, 1.0, 4.0])
    assert (low, high) == pytest.approx((8 / 3 - 3.7946, 8 / 3 + 3.7946), abs=1e-4)
    # two values: t is 12.7062, error half of their distance
    assert t_interval([1.0, 3.0]) == pytest.approx((2 - 12.7062, 2 + 12.7062))


def test_six_seeds_with_a_spread_of_0_7_show_gains_of_three_quarters() -> None:
    # error 0.7 / sqrt(6) = 0.2858, t with 5 degrees of freedom 2.5706: 0.7346
    values = 0.7 * math.sqrt(5 / 6) * np.array([1, -1, 1, -1, 1, -1])
    assert deviation(values.tolist()) == pytest.approx(0.7)
    assert standard_error(values.tolist()) == pytest.approx(0.2858, abs=1e-4)
    assert t_interval(values.tolist()).high == pytest.approx(0.7346, abs=1e-4)


@pytest.mark.parametrize(
    ('freedom', 'printed'), [(1, 12.706), (5, 2.571), (11, 2.201), (20, 2.086), (60, 2.000)]
)
def test_quantiles_are_those_of_printed_tables(freedom: int, printed: float) -> None:
    assert t_quantile(freedom) == pytest.approx(printed, abs=6e-4)


def test_one_seed_has_no_interval() -> None:
    assert all(map(math.isnan, (*t_interval([1.0]), deviation([1.0]), standard_error([1.0]))))


def street(right: int, wrong: int) -> list[list[int]]:
    """Of the first class so many points are right and so many told to be of the second."""
    return [[right, wrong, 0], [0, 0, 0]]


def counts(*streets: list[list[int]]) -> NDArray[np.int64]:
    return np.array(streets)


def test_every_draw_has_as_many_streets_as_there_are() -> None:
    draws = draw_streets(7)
    assert draws.shape == (2000, 7)
    assert (draws.sum(1) == 7).all()
    assert draws.mean(0) == pytest.approx(np.ones(7), abs=0.1)


def test_drawn_streets_are_scored_as_one() -> None:
    both = counts(street(1, 3), street(3, 1))
    # the first twice 2/8, each once 4/8, the second twice 6/8; the second class is nowhere
    draws = np.array([[2, 0], [1, 1], [0, 2]])
    assert resampled_mious(both, draws, [0, 1]).tolist() == [0.25, 0.5, 0.75]
    assert np.isnan(resampled_mious(both, draws, [1])).all()


def test_what_is_told_wrongly_counts_against_the_class_it_is_told_to_be() -> None:
    # class 0: 1 of 4 right; class 1: 2 right, 3 points of class 0 beside them, 1 unanswered
    one = counts([[1, 3, 0], [0, 2, 1]])
    assert resampled_mious(one, np.array([[1]]), [0, 1]).tolist() == [(1 / 4 + 2 / 6) / 2]


def test_the_bootstrap_of_two_streets_reaches_from_one_to_the_other() -> None:
    # gains: the first street twice 0, each once 1/4, the second twice 1/2, in 1/4, 1/2 and 1/4 of
    # all draws: 2.5 % and 97.5 % are the ends
    ours, other = counts(street(2, 2), street(4, 0)), counts(street(2, 2), street(2, 2))
    assert bootstrap_gain([ours], [other], [0]) == (0.0, 0.5)
    # a second seed without any gain halves it
    assert bootstrap_gain([ours, other], [other, other], [0]) == (0.0, 0.25)


def test_one_street_and_absent_classes_have_no_interval() -> None:
    one, both = counts(street(1, 1)), counts(street(1, 1), street(1, 1))
    assert all(map(math.isnan, bootstrap_gain([one], [one], [0])))
    assert all(map(math.isnan, bootstrap_gain([both], [both], [1])))

# SPDX-License-Identifier: Apache-2.0
"""How sure a gain is: by the seeds (Student's t) and by the streets it was scored on (bootstrap).

Few seeds leave a wide interval, and a t interval says how wide; other streets might have other
gains, and the bootstrap says how other.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from statistics import mean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]  # (streets, C, C + 1) truth by answer, the last answer is none
RESAMPLES = 2000
_SHARE = 0.95
_SEED = 5  # of the draws of streets: the same for all arms, so that they stay paired
# 97.5 % quantiles of Student's t with 1 to 10 degrees of freedom, and the normal one
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_Z = 1.959964


class Interval(NamedTuple):
    """Where a value lies at 95 %; NaN where nothing can be said."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation; NaN for one value, and where one is NaN: no hard class may occur."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of the values."""
    return deviation(values) / math.sqrt(len(values))


def t_interval(values: Sequence[float]) -> Interval:
    """Of the mean of values that are normally distributed: mean +- t times standard error."""
    if len(values) < 2:
        return UNKNOWN
    half = t_quantile(len(values) - 1) * standard_error(values)
    return Interval(mean(values) - half, mean(values) + half)


def t_quantile(freedom: int) -> float:
    """What |t| exceeds in 5 % of the cases; from 11 degrees of freedom on to the third digit."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    # the normal quantile and three terms of its expansion in 1 / freedom (Fisher, Cornish 1960)
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    third = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    return _Z + first / freedom + second / freedom**2 + third / freedom**3


def draw_streets(streets: int) -> NDArray[np.int64]:
    """(RESAMPLES, streets) how often each street is drawn, with replacement."""
    rng = np.random.default_rng([_SEED, streets])
    return rng.multinomial(streets, np.full(streets, 1 / streets), RESAMPLES)


def resampled_mious(
    counts: Counts, draws: NDArray[np.int64], classes: Sequence[int]
) -> NDArray[np.float64]:
    """(RESAMPLES,) mIoU over those of the classes that occur in the streets drawn."""
    hits = draws @ np.diagonal(counts, axis1=1, axis2=2)
    truth, answered = draws @ counts.sum(2), draws @ counts[:, :, :-1].sum(1)
    iou = hits / np.maximum(truth + answered - hits, 1)
    occurs = truth[:, classes] > 0
    total = np.where(occurs, iou[:, classes], 0).sum(1)
    few = np.maximum(occurs.sum(1), 1)
    return np.where(occurs.any(1), total / few, np.nan)


def bootstrap_gain(
    ours: Sequence[Counts], others: Sequence[Counts], classes: Sequence[int]
) -> Interval:
    """Of the mean over seeds of ours less others (paired), over draws of the streets."""
    streets = min((len(counts) for counts in (*ours, *others)), default=0)
    if streets < 2:
        return UNKNOWN
    draws = draw_streets(streets)
    gains = [
        resampled_mious(one, draws, classes) - resampled_mious(other, draws, classes)
        for one, other in zip(ours, others)
    ]
    every = np.mean(gains, axis=0)
    known = every[~np.isnan(every)]
    if not len(known):
        return UNKNOWN
    low, high = np.quantile(known, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return Interval(float(low), float(high))

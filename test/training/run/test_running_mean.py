# SPDX-License-Identifier: Apache-2.0
"""What the log says of the steps since its last line: means, steps per second, waiting."""

from __future__ import annotations

import time

import pytest
import torch

from training.run.running_mean import RunningMean


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, 'perf_counter', clock)
    return clock


def value(number: float) -> torch.Tensor:
    return torch.tensor(number)


def test_a_row_holds_means_over_the_steps_that_had_the_term(clock: Clock) -> None:
    running_mean = RunningMean()
    running_mean.add({'loss': value(3), 'affinity': value(1)})
    running_mean.add({'loss': value(1)})  # no object in sight
    assert running_mean.last == {'loss': 1}
    clock.now_s += 4
    row = running_mean.close(2, waited_s=1.0)
    assert row == {
        'step': 2, 'loss': 2, 'affinity': 1,
        'steps_per_s': 0.5,  # 2 steps in 4 s
        'wait_share': 0.25,  # 1 s of them
    }  # fmt: skip
    assert running_mean.names == ['loss', 'affinity']


def test_the_next_row_begins_where_the_last_one_ended(clock: Clock) -> None:
    running_mean = RunningMean()
    running_mean.add({'loss': value(3)})
    clock.now_s += 4
    running_mean.close(1, waited_s=1.0)
    for number in (5, 7):
        running_mean.add({'loss': value(number)})
    clock.now_s += 2
    row = running_mean.close(3, waited_s=2.5)  # the loader's sum so far: 1.5 s more than at step 1
    assert (row['loss'], row['steps_per_s'], row['wait_share']) == (6, 1, 0.75)


def test_a_resumed_window_goes_on_with_the_sums_of_the_interrupted_one(clock: Clock) -> None:
    whole, interrupted, resumed = RunningMean(), RunningMean(), RunningMean()
    for number in (1.0, 2.0):
        whole.add({'loss': value(number)})
        interrupted.add({'loss': value(number)})
    resumed.load_state(interrupted.state())
    for running_mean in (whole, resumed):
        running_mean.add({'loss': value(6)})
    clock.now_s += 1
    one, other = whole.close(3, waited_s=0), resumed.close(3, waited_s=0)
    assert one['loss'] == other['loss'] == 3
    assert (one['steps_per_s'], other['steps_per_s']) == (3, 1)  # what this process has done

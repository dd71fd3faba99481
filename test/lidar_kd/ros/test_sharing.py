# SPDX-License-Identifier: Apache-2.0
"""One thread and one network for several sensors: whose turn it is, and who frees what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lidar_kd.ros.sharing import Networks, Turns

LIMIT_S = 30.0


@pytest.fixture
def turns() -> Iterator[Turns[str]]:
    served: Turns[str] = Turns()
    yield served
    served.close()


class Gate:
    """Handles items one by one, each when it is let through."""

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def handle(self, item: str) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=LIMIT_S)
        self.handled.append(item)


def test_who_was_served_longest_ago_is_next_however_often_the_others_send(
    turns: Turns[str],
) -> None:
    gate = Gate()
    seats = {name: turns.join(gate.handle) for name in 'abc'}
    seats['a'].put('a0')
    assert gate.begun.acquire(timeout=LIMIT_S)
    for turn in range(1, 4):  # a sends three scans while its first is in hand: two are replaced
        seats['a'].put(f'a{turn}')
    seats['c'].put('c0')
    seats['b'].put('b0')
    for _ in range(3):
        gate.go_on.release()
        assert gate.begun.acquire(timeout=LIMIT_S)
    gate.go_on.release()
    seats['a'].stop()  # which waits for what is in hand
    # b and c, which were never served, come before a, in the order they joined
    assert gate.handled == ['a0', 'b0', 'c0', 'a3']


def test_putting_tells_what_was_replaced(turns: Turns[str]) -> None:
    gate = Gate()
    seat = turns.join(gate.handle)
    assert seat.put('first') is None
    assert gate.begun.acquire(timeout=LIMIT_S)
    assert seat.put('second') is None
    assert seat.put('third') == 'second'
    gate.go_on.release()
    assert gate.begun.acquire(timeout=LIMIT_S)
    gate.go_on.release()
    seat.stop()
    assert gate.handled == ['first', 'third']


def test_stopping_one_sensor_leaves_the_others_theirs(turns: Turns[str]) -> None:
    gate = Gate()
    one, other = turns.join(gate.handle), turns.join(gate.handle)
    one.put('in hand')
    assert gate.begun.acquire(timeout=LIMIT_S)
    other.put('waits')
    stopping = threading.Thread(target=one.stop)
    stopping.start()
    gate.go_on.release()
    stopping.join(LIMIT_S)
    assert gate.handled == ['in hand']
    gate.go_on.release()
    assert gate.begun.acquire(timeout=LIMIT_S)
    other.stop()
    assert gate.handled == ['in hand', 'waits']


def make_counter() -> tuple[list[int], Callable[[], Any]]:
    made: list[int] = []

    def make() -> Any:
        made.append(len(made))
        return SimpleNamespace(weights=made[-1])

    return made, make


def test_networks_are_made_once_and_freed_by_the_last_user() -> None:
    made, make = make_counter()
    networks = Networks()
    first, second = networks.take('a', make), networks.take('a', make)
    assert first is not second  # what a sensor has of its own is not shared
    assert made == [0]
    networks.take('b', make)
    assert made == [0, 1]
    networks.give_back('a')
    networks.take('a', make)
    assert made == [0, 1]
    networks.give_back('a')
    networks.give_back('a')
    networks.take('a', make)
    assert made == [0, 1, 2]

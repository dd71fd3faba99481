# SPDX-License-Identifier: Apache-2.0
"""Several sensors in one process: one network, and one thread that serves them in turn."""

from __future__ import annotations

from collections.abc import Callable
import copy
from dataclasses import dataclass, field
import threading
from typing import Any, Generic, TYPE_CHECKING, TypeVar

from lidar_kd.segmenter import Segmenter

if TYPE_CHECKING:
    from lidar_kd.ros.merged import MergedCloud  # the only part that knows ROS

T = TypeVar('T')


class Networks:
    """Nodes that ask for the same network share its weights; the last one frees them."""

    def __init__(self, sensors: int = 1) -> None:
        self.sensors = sensors  # that it has to keep up with
        self._made: dict[Any, Segmenter] = {}
        self._users: dict[Any, int] = {}

    def take(self, key: Any, make: Callable[[], Segmenter]) -> Segmenter:
        """A copy for one sensor: the weights and the engine are those of all."""
        if key not in self._made:
            self._made[key] = make()
        self._users[key] = self._users.get(key, 0) + 1
        return copy.copy(self._made[key])

    def give_back(self, key: Any) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._made[key], self._users[key]


class Turns(Generic[T]):
    """A thread for several mailboxes: of those with an item, the one served longest ago is next.

    So a sensor that sends more often than the others gets no more turns than they.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.seats: list[Seat[T]] = []
        self.busy: Seat[T] | None = None
        self._served = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='lidar_kd turns', daemon=True)
        self._thread.start()

    def join(self, handle: Callable[[T], None]) -> Seat[T]:
        """What a node puts its scans into, as into a Worker."""
        seat = Seat(self, handle)
        with self.changed:
            self.seats.append(seat)
        return seat

    def close(self) -> None:
        """Returns when the item in hand is done."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            seat, item = taken
            seat.handle(item)
            with self.changed:
                self._served += 1
                seat.served, self.busy = self._served, None
                self.changed.notify_all()

    def _take(self) -> tuple[Seat[T], T] | None:
        with self.changed:
            self.changed.wait_for(lambda: self._closed or self._waiting())
            if self._closed:
                return None
            self.busy = seat = min(self._waiting(), key=lambda each: each.served)
            item, seat.item = seat.item, None
            assert item is not None
            return seat, item

    def _waiting(self) -> list[Seat[T]]:
        return [seat for seat in self.seats if seat.item is not None]


class Seat(Generic[T]):
    """One sensor's mailbox."""

    def __init__(self, turns: Turns[T], handle: Callable[[T], None]) -> None:
        self.handle = handle
        self.item: T | None = None
        self.served = 0  # number of its last turn
        self._turns = turns

    def put(self, item: T) -> T | None:
        """Returns the unread item that this one replaces."""
        with self._turns.changed:
            replaced, self.item = self.item, item
            self._turns.changed.notify_all()
            return replaced

    def stop(self) -> None:
        """Returns when its item in hand is done; what waits is left undone."""
        turns = self._turns
        with turns.changed:
            self.item = None
            if self in turns.seats:
                turns.seats.remove(self)
            turns.changed.wait_for(lambda: turns.busy is not self)


@dataclass(frozen=True, kw_only=True)
class SharedParts:
    """Of the nodes of one process."""

    networks: Networks = field(default_factory=Networks)
    turns: Turns[Any] = field(default_factory=Turns)
    merged: MergedCloud | None = None  # where one is asked for

# SPDX-License-Identifier: Apache-2.0
"""One slot between two threads: what arrives while the reader is busy replaces what waits."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Generic, TypeVar

T = TypeVar('T')


class Mailbox(Generic[T]):
    def __init__(self) -> None:
        self._item: T | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> T | None:
        """Returns the unread item that this one replaces."""
        with self._changed:
            replaced, self._item = self._item, item
            self._changed.notify()
            return replaced

    def take(self) -> T | None:
        """Waits for an item; None once the mailbox is closed, whatever still lies in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class Worker(Generic[T]):
    """A thread that handles the newest item, one at a time, until it is stopped."""

    def __init__(self, handle: Callable[[T], None]) -> None:
        self._handle = handle
        self._mailbox = Mailbox[T]()
        self._thread = threading.Thread(target=self._run, name='lidar_kd worker', daemon=True)
        self._thread.start()

    def put(self, item: T) -> T | None:
        return self._mailbox.put(item)

    def stop(self) -> None:
        """Returns when the item in hand is done; what waits is left undone."""
        self._mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        while (item := self._mailbox.take()) is not None:
            self._handle(item)

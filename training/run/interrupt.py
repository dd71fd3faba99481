# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM between two steps: the run is saved first; a second one does not wait."""

from __future__ import annotations

from pathlib import Path
import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The run was saved and can go on."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(
            f'interrupted after step {step}; the same command goes on from there ({folder})'
        )


class Interruption:
    """While it is entered, a signal is only noted."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

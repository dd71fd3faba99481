# SPDX-License-Identifier: Apache-2.0
"""Means of what the steps since the last log line gave; part of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
import time
from typing import Any

from torch import Tensor


class RunningMean:
    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self.last: dict[str, float] = {}
        self._left_out = 0
        self.names: list[str] = []
        self._start, self._steps, self._waited_s = time.perf_counter(), 0, 0.0

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        self.last = {name: float(value) for name, value in values.items()}
        self._steps += 1
        for name, value in self.last.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def leave_out(self) -> None:
        """A step that came to nothing: its gradient overflowed float16."""
        self._steps += 1
        self._left_out += 1

    def close(self, step: int, *, waited_s: float) -> dict[str, Any]:
        """One row of the log; a new running_mean begins. `waited_s` is the loader's sum so far."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        row: dict[str, Any] = {'step': step}
        row |= {name: total / self._counts[name] for name, total in self._sums.items()}
        row['steps_per_s'] = self._steps / elapsed
        row['wait_share'] = min(1.0, max(0.0, waited_s - self._waited_s) / elapsed)
        row |= {'left_out': self._left_out} if self._left_out else {}
        self.names = list(self._sums)
        self._sums, self._counts, self._left_out = {}, {}, 0
        self._start, self._steps, self._waited_s = time.perf_counter(), 0, waited_s
        return row

    def state(self) -> dict[str, Any]:
        return {'sums': self._sums, 'counts': self._counts, 'left_out': self._left_out}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._sums, self._counts = dict(state['sums']), dict(state['counts'])
        self._left_out = state.get('left_out', 0)

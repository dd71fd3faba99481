# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing and the floors that the times are held against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
import time
from typing import TypeVar

import numpy as np
import torch

T = TypeVar('T')


class Clock:
    """Times by (what, scan): the median over repeats, then over scans."""

    def __init__(self) -> None:
        self._ms: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def time(self, what: str, scan: int, run: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = run()
        self._ms[what][scan].append(1e3 * (time.perf_counter() - start))
        return result

    def add(self, what: str, scan: int, ms: float) -> None:
        self._ms[what][scan].append(ms)

    def per_scan(self, what: str) -> np.ndarray:
        """(scans,) medians over the repeats."""
        return np.array([np.median(ms) for _, ms in sorted(self._ms[what].items())])

    def percentile(self, what: str, share: float) -> float:
        """Of every time that was taken."""
        times = [each for ms in self._ms[what].values() for each in ms]
        return float(np.percentile(times, share))

    def median(self, what: str) -> float:
        return float(np.median(self.per_scan(what)))

    def best(self, what: str) -> float:
        return float(min(min(ms) for ms in self._ms[what].values()))

    def ratio(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is, scan by scan, as a median."""
        return float(np.median(self.per_scan(slow) / self.per_scan(fast)))

    def __contains__(self, what: str) -> bool:
        return what in self._ms


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


GEMM_SIZE = 2048
COPY_BYTES = 256 << 20


class Floor:
    """The machine's own rates, measured in the same loop as what they bound.

    types: of the products; a CPU without bfloat16 takes a minute for one in that.
    """

    def __init__(self, types: Collection[torch.dtype]) -> None:
        self.types = types
        self._left = {dtype: torch.randn(GEMM_SIZE, GEMM_SIZE).to(dtype) for dtype in types}
        self._source = torch.zeros(COPY_BYTES, dtype=torch.uint8)
        self._target = torch.zeros(COPY_BYTES, dtype=torch.uint8)
        self._clock = Clock()
        self.measure()
        self._clock = Clock()  # the first round paid for warming up

    def measure(self) -> None:
        for dtype, left in self._left.items():
            self._clock.time(str(dtype), 0, lambda left=left: left @ left)  # type: ignore[misc]
        self._clock.time('copy', 0, lambda: self._target.copy_(self._source))

    def gflops(self, dtype: torch.dtype) -> float:
        """The best multiplication rate seen."""
        return 2 * GEMM_SIZE**3 / self._clock.best(str(dtype)) / 1e6

    def gbytes(self) -> float:
        """The best copy rate seen, reads and writes counted."""
        return 2 * COPY_BYTES / self._clock.best('copy') / 1e6

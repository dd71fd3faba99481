# SPDX-License-Identifier: Apache-2.0
"""How much freed memory the C library keeps for the next scan."""

from __future__ import annotations

import ctypes

from lidar_kd.sparse.engines.parts import ProcessMemory


class NativeMemory(ProcessMemory):
    def __init__(self, library: ctypes.CDLL) -> None:
        self._c = library

    def tune(self, *, live: bool) -> None:
        self._c.lk_memory(int(live))

    def release(self) -> None:
        self._c.lk_release()

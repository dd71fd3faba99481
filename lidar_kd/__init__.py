# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of LiDAR scans by distilled sparse networks.

from lidar_kd import find_shipped_bundle, load_bundle, Segmenter

What is named here is loaded when it is first asked for: a room that needs no torch loads none.
"""

from __future__ import annotations

from importlib import import_module
import os
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from lidar_kd.bundle import find_shipped_bundle, load_bundle
    from lidar_kd.segmenter import Segmenter

__version__ = '0.2.0'
__all__ = ['Segmenter', 'find_shipped_bundle', 'load_bundle']

_HOME = {
    'Segmenter': 'lidar_kd.segmenter',
    'find_shipped_bundle': 'lidar_kd.bundle',
    'load_bundle': 'lidar_kd.bundle',
}

# Threads that spin while they wait take the cores from everyone else: beside four busy processes a
# network is 2.5 times slower. Those that sleep at once wake late: 14 % slower alone. 1000 turns,
# some 20 us, lose half of that and nothing to the others. OpenMP reads this once, when torch is
# loaded: here it is early enough unless torch came first; then for what this process starts.
if 'OMP_WAIT_POLICY' not in os.environ:
    os.environ['OMP_WAIT_POLICY'] = 'passive'
    os.environ.setdefault('GOMP_SPINCOUNT', '1000')


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

# SPDX-License-Identifier: Apache-2.0
"""Children that end with their parent, however that ends; on Linux only."""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import os
import signal
from typing import Any

_PR_SET_PDEATHSIG = 1


def make_tie() -> Callable[[], None]:
    """For subprocess's preexec_fn: SIGTERM for the child when this process is gone, even killed.

    The library is looked up here: between fork and exec as little as possible should happen.
    """
    prctl, parent = _find_prctl(), os.getpid()
    return lambda: _tie(prctl, parent, signal.SIGTERM)


def tie_worker(parent: int) -> None:
    """For a pool's initializer; SIGKILL, since a worker takes any other for a failed task."""
    _tie(_find_prctl(), parent, signal.SIGKILL)


def _find_prctl() -> Any:
    return getattr(ctypes.CDLL(None), 'prctl', None)


def _tie(prctl: Any, parent: int, number: int) -> None:
    if prctl:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # gone meanwhile
            os._exit(1)

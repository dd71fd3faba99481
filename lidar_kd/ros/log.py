# SPDX-License-Identifier: Apache-2.0
"""What the node's log says: the library's own words, and errors that nobody expected."""

from __future__ import annotations

import logging
import math
import traceback
from typing import Any

from lidar_kd.errors import LidarKdError

LOG_EVERY_S = 5.0
LOG_MOST_S = 320.0  # between two warnings of what does not end
EXPECTED = (LidarKdError, OSError, RuntimeError, MemoryError)  # their sentences say enough


class BackOff:
    """When to say again what goes on: after 5, 10, 20, ... s; at once after a pause of 10 s."""

    def __init__(self) -> None:
        self._causes: dict[str, tuple[float, float, float]] = {}  # seen, told, gap

    def is_due(self, cause: str, now_s: float) -> bool:
        seen_s, told_s, gap_s = self._causes.get(cause, (-math.inf, -math.inf, LOG_EVERY_S))
        if now_s - seen_s > 2 * LOG_EVERY_S:
            told_s, gap_s = -math.inf, LOG_EVERY_S
        is_due = now_s - told_s >= gap_s
        if is_due:
            gap_s = gap_s if told_s == -math.inf else min(2 * gap_s, LOG_MOST_S)
            told_s = now_s
        self._causes[cause] = now_s, told_s, gap_s
        return is_due


class ToRos(logging.Handler):
    """What the library logs, in the node's voice."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # on lines of their own: rclpy holds a line to the severity that it began with
        if record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


def explain(error: Exception) -> str:
    """One line; what nobody expected is named by its type."""
    sentence = ' '.join(str(error).split())
    return sentence if isinstance(error, EXPECTED) else f'{type(error).__name__}: {sentence}'


def trace(error: Exception) -> str:
    """Below that line: where what nobody expected comes from."""
    if isinstance(error, EXPECTED):
        return ''
    return '\n' + ''.join(traceback.format_exception(error)).rstrip()

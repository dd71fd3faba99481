# SPDX-License-Identifier: Apache-2.0
"""What the node's log says: the library's own words, and errors that nobody expected."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from lidar_kd.errors import LidarKdError

EXPECTED = (LidarKdError, OSError, RuntimeError, MemoryError)  # their sentences say enough


class ToRos(logging.Handler):
    """What the library logs, in the node's voice."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        say = self._logger.warning if record.levelno >= logging.WARNING else self._logger.info
        say(record.getMessage())


def explain(error: Exception) -> str:
    """One line; what nobody expected is named by its type."""
    sentence = ' '.join(str(error).split())
    return sentence if isinstance(error, EXPECTED) else f'{type(error).__name__}: {sentence}'


def trace(error: Exception) -> str:
    """Below that line: where what nobody expected comes from."""
    if isinstance(error, EXPECTED):
        return ''
    return '\n' + ''.join(traceback.format_exception(error)).rstrip()

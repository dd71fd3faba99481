# SPDX-License-Identifier: Apache-2.0
"""Tests of what is logged hold wherever launch's pytest plugin is installed, too."""

from __future__ import annotations

import logging

from own_loggers import open_loggers
import pytest


class ClosedLogger(logging.Logger):
    """As launch's: what it is told goes to no parent."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.propagate = False


def test_what_a_closed_logger_is_told_reaches_caplog(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLoggerClass()
    logging.setLoggerClass(ClosedLogger)
    try:
        logger = logging.getLogger('lidar_kd.made_by_a_test')
    finally:
        logging.setLoggerClass(before)
    logger.warning('kept')
    open_loggers()
    logger.warning('told')
    assert caplog.messages == ['told']

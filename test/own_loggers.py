# SPDX-License-Identifier: Apache-2.0
"""Loggers of this project, made to tell caplog; no test in here."""

from __future__ import annotations

import logging

OWN = ('lidar_kd', 'training')


def open_loggers() -> None:
    """With launch's pytest plugin every logger keeps what it is told, so caplog stays empty."""
    for name in OWN:
        logging.getLogger(name)  # not made within the test, which would close it anew
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.split('.')[0] in OWN:
            logger.propagate = True

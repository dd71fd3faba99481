# SPDX-License-Identifier: Apache-2.0
"""Where ROS writes its log files; without such a folder rcl does not begin at all."""

from __future__ import annotations

import os
from pathlib import Path
import tempfile

from lidar_kd.errors import ConfigError


def check_log_folder() -> None:
    """Sets ROS_LOG_DIR where the usual folder cannot be written, as with a read-only HOME."""
    chosen = os.environ.get('ROS_LOG_DIR', '')
    if chosen:
        if not _can_write(Path(chosen).expanduser()):
            raise ConfigError(
                f'ROS_LOG_DIR is {chosen}, which cannot be written; set it to a folder that can.'
            )
        return
    home = os.environ.get('ROS_HOME') or '~/.ros'
    if not _can_write(Path(home).expanduser() / 'log'):
        os.environ['ROS_LOG_DIR'] = str(_find_substitute())


def _find_substitute() -> Path:
    folder = Path(tempfile.gettempdir()) / f'ros-log-{os.getuid()}'
    if not _can_write(folder):
        raise ConfigError(
            f'neither the home folder nor {folder} can be written, and ROS needs a folder for its '
            'log; set ROS_LOG_DIR to one.'
        )
    return folder


def _can_write(folder: Path) -> bool:
    """Tried, not asked: permissions tell nothing about file systems mounted read-only."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False

# SPDX-License-Identifier: Apache-2.0
"""What pip's commands start: Ctrl-C while torch is being loaded ends in one line, too."""

from __future__ import annotations

from importlib import import_module

from lidar_kd.cli.lacking import explain_failed_imports


def start_segment() -> int:
    return _start('lidar_kd.cli.segment')


def start_bag() -> int:
    return _start('lidar_kd.cli.bag')


def _start(module: str) -> int:
    explain_failed_imports()
    return int(import_module(module).main())

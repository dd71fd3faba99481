# SPDX-License-Identifier: Apache-2.0
"""Which engine runs: `auto`, an argument, or the environment variable LIDAR_KD_ENGINE."""

from __future__ import annotations

from functools import cache
import logging
import os

import torch

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.native.engine import NativeEngine
from lidar_kd.sparse.engines.native.library import native_missing
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.spconv import spconv_missing, SpconvEngine

log = logging.getLogger(__name__)
VARIABLE = 'LIDAR_KD_ENGINE'
NAMES = ('auto', 'torch', 'native', 'spconv')


def select_engine(device: torch.device | str, name: Engine | str | None = None) -> Engine:
    """The engine for a device: the argument, else the environment variable, else the best one."""
    if isinstance(name, Engine):
        return name
    wanted = name or os.environ.get(VARIABLE) or 'auto'
    if wanted not in NAMES:
        raise ConfigError(f'engine: unknown engine {wanted!r}: choose one of {", ".join(NAMES)}')
    return _select(torch.device(device).type, wanted)


@cache
def _select(device_type: str, wanted: str) -> Engine:
    fastest = {'cpu': 'native', 'cuda': 'spconv'}.get(device_type, 'torch')
    name = fastest if wanted == 'auto' else wanted
    engine: Engine = TorchEngine(device_type)
    if name == 'native':
        reason = native_missing() if device_type == 'cpu' else 'it runs on the CPU only'
        engine = engine if reason else NativeEngine()
    elif name == 'spconv':
        reason = spconv_missing() if device_type == 'cuda' else 'it is wrong on a CPU'
        engine = engine if reason else SpconvEngine()
    else:
        reason = ''
    if reason and wanted != 'auto':
        raise ConfigError(f'engine {wanted}: {reason}; choose another or leave it at auto')
    if reason:
        # measured on a CPU: 340 ms a scan against 65; nobody has measured it on a GPU
        cost = 'about 5x slower' if name == 'native' else 'slower'
        log.warning('engine torch on %s (%s): no %s: %s', device_type, cost, name, reason)
    else:
        log.info('engine %s on %s', engine.name, device_type)
    return engine

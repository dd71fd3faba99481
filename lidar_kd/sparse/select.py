# SPDX-License-Identifier: Apache-2.0
"""Which engine runs: `auto`, an argument, or the environment variable LIDAR_KD_ENGINE."""

from __future__ import annotations

from functools import cache
import logging
import os

import torch

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.contest import fastest, time_layers
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.native.engine import NativeEngine
from lidar_kd.sparse.engines.native.library import native_missing
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.sparse.engines.spconv import spconv_missing, SpconvEngine
from lidar_kd.sparse.engines.triton.missing import triton_missing

log = logging.getLogger(__name__)
VARIABLE = 'LIDAR_KD_ENGINE'
NAMES = ('auto', 'torch', 'native', 'triton', 'spconv')
CANDIDATES = {'cpu': ('native',), 'cuda': ('triton', 'spconv')}  # of auto, beside plain torch
# measured on a CPU: 340 ms a scan against 65; nobody has measured it on a GPU
COST = {'cpu': 'about 5x slower'}


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
    if wanted == 'auto':
        return _best(device_type)
    reason = _missing(wanted, device_type)
    if reason:
        raise ConfigError(f'engine {wanted}: {reason}; choose another or leave it at auto')
    engine = _make(wanted, device_type)
    log.info('engine %s on %s', engine.name, device_type)
    return engine


def _best(device_type: str) -> Engine:
    """Of those that work here: the native one on a CPU, on a GPU the fastest."""
    names = CANDIDATES.get(device_type, ())
    reasons = {name: _missing(name, device_type) for name in names}
    engines = [_make(name, device_type) for name in names if not reasons[name]]
    if names and not engines:
        why = '; '.join(f'no {name}: {reason}' for name, reason in reasons.items())
        cost = COST.get(device_type, 'slower')
        log.warning('engine torch on %s (%s): %s', device_type, cost, why)
        return TorchEngine(device_type)
    if device_type == 'cuda':
        engines = [fastest([*engines, TorchEngine(device_type)], time_layers)]
    engine = engines[0] if engines else TorchEngine(device_type)
    log.info('engine %s on %s', engine.name, device_type)
    return engine


def _missing(name: str, device_type: str) -> str:
    """Why an engine cannot run on a device; empty where it can."""
    if name == 'native':
        return native_missing() if device_type == 'cpu' else 'it runs on the CPU only'
    if name == 'spconv':
        return spconv_missing() if device_type == 'cuda' else 'it is wrong on a CPU'
    if name == 'triton':
        return triton_missing() if device_type == 'cuda' else 'it runs on NVIDIA GPUs only'
    return ''


def _make(name: str, device_type: str) -> Engine:
    if name == 'native':
        return NativeEngine()
    if name == 'spconv':
        return SpconvEngine()
    if name == 'triton':  # Triton itself is not there on every machine
        from lidar_kd.sparse.engines.triton.engine import TritonEngine
        from lidar_kd.sparse.engines.triton.tuned import tiles_for

        return TritonEngine(device_type, tiles_for(torch.device(device_type)))
    return TorchEngine(device_type)

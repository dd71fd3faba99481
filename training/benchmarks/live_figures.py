# SPDX-License-Identifier: Apache-2.0
"""What `bench.py live` tells of a run, and of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError

if TYPE_CHECKING:
    from training.live.listener import Listener


def name_machine() -> str:
    """The processor, and what of it the CPU kernel can use."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    name = next((line.partition(':')[2].strip() for line in lines if 'model name' in line), '?')
    flags = next((line.split() for line in lines if line.startswith('flags')), [])
    units = {'AMX': 'amx_tile', 'AVX-512': 'avx512f', 'AVX-512 BF16': 'avx512_bf16'}
    held = [unit for unit, flag in units.items() if flag in flags]
    cores = sum(line.startswith('processor') for line in lines)
    return f'{name}, {cores} cores, {", ".join(held) or "neither AMX nor AVX-512"}'


def measure_live(listener: Listener, sent: int) -> dict[str, float]:
    """p50 and p95 are from the header's stamp until the labels are out, by the node's clock."""
    latencies_ms = listener.times_ms['pipeline_latency_ms']
    if not latencies_ms:
        raise ConfigError('the node labelled no scan; run make demo and see its log.')
    timed = {
        '': latencies_ms,
        'arrival_': listener.kept,
        'objects_latency_': listener.times_ms['objects_latency_ms'],
        'objects_': listener.times_ms['objects_ms'],
    }
    metrics = {'labelled_share': len(listener.kept) / sent}
    for name, times_ms in timed.items():
        if times_ms:
            p50, p95 = np.percentile(times_ms, (50, 95))
            metrics |= {f'{name}p50_ms': float(p50), f'{name}p95_ms': float(p95)}
    return metrics


def report_live(console: Console, metrics: dict[str, float], status: dict[str, str]) -> None:
    rows = [['machine', name_machine()]]
    rows += [[key, status[key]] for key in ('bundle', 'engine', 'precision') if key in status]
    rows += [[name, f'{value:.3f}'] for name, value in metrics.items()]
    rows += [[key, value] for key, value in status.items() if key.startswith('dropped')]
    console.table('live at 10 Hz', ['', 'value'], rows)

# SPDX-License-Identifier: Apache-2.0
"""`bench.py train-step`: forward and backward of a network at 0.1 m, and its peak memory."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.models import build_model
from lidar_kd.sparse import select_engine
from lidar_kd.voxels import Voxels
from training.benchmarks.clock import Clock
from training.benchmarks.engine import (
    CLASSES,
    Contender,
    contenders,
    rounds,
    voxelize_with_maps,
    with_engine,
)
from training.benchmarks.scans import distinct_scans

ROOT = Path(__file__).resolve().parents[2]
SIZE_M = 0.1


def step(model: Any, voxels: Voxels, clock: Clock, name: str, scan: int) -> None:
    """One forward and one backward with a cross-entropy on made-up labels."""
    labels = torch.arange(len(voxels.level)) % CLASSES
    loss = clock.time(
        f'{name} forward', scan, lambda: cross_entropy(model(voxels).voxel_logits, labels)
    )
    clock.time(f'{name} backward', scan, lambda: finish(loss, voxels))
    model.zero_grad(set_to_none=True)


def finish(loss: Tensor, voxels: Voxels) -> None:
    """What is left of a step: its gradients, and the memory that they took."""
    loss.backward()
    voxels.level.engine.memory.release()


def run_train_step(
    console: Console, *, scans: int, repeats: int, presets: Sequence[str] = ('minkunet',)
) -> dict[str, float]:
    if len(presets) != 1:
        raise ConfigError(f'--presets: train-step takes one, not {len(presets)}.')
    clouds, source = distinct_scans(scans)
    rows = contenders('spconv', 'torch', 'native', 'native high')
    select_engine('cpu').memory.tune(live=False)
    console.banner(
        f'train-step: {presets[0]}, {SIZE_M} m, one scan, float32',
        {'scans': source, 'threads': torch.get_num_threads()},
    )
    torch.manual_seed(0)
    model: Any = build_model(presets[0], classes=CLASSES).train()
    batches = [voxelize_with_maps(torch.from_numpy(cloud), SIZE_M) for cloud in clouds]
    clock = Clock()
    with console.progress(repeats * len(batches), 'measuring') as advance:
        for repeat, scan in rounds(len(batches), repeats):
            for row in rows:
                voxels = with_engine(batches[scan], row)
                model.build_maps(voxels.level)
                with row.alone():
                    if repeat == scan == 0:
                        step(model, voxels, Clock(), row.name, scan)
                    step(model, voxels, clock, row.name, scan)
            advance()
    peaks = {row.name: train_peak_gb(row.name, presets[0]) for row in rows}
    return _report(console, rows, clock, peaks)


def _report(
    console: Console, rows: list[Contender], clock: Clock, peaks: dict[str, float]
) -> dict[str, float]:
    table, metrics = [], {}
    for row in rows:
        forward, backward = (f'{row.name} {part}' for part in ('forward', 'backward'))
        total = clock.per_scan(forward) + clock.per_scan(backward)
        for scan, ms in enumerate(total):
            clock.add(f'{row.name} step', scan, float(ms))
        faster = '-'
        if 'spconv step' in clock:
            speedup = clock.ratio('spconv step', f'{row.name} step')
            metrics[f'{row.name}_train_speedup_{SIZE_M}'] = speedup
            faster = f'{speedup:.2f}'
        times = [f'{clock.median(part):.0f}' for part in (forward, backward)]
        table.append([row.name, *times, faster, f'{peaks[row.name]:.2f}'])
    # what training uses: float32 as the 1e-5 of the tests allows it, exact where AMX is missing
    best = next(name for name in ('native high', 'native', 'torch') if name in peaks)
    if 'spconv step' in clock:
        metrics[f'train_speedup_{SIZE_M}'] = metrics[f'{best}_train_speedup_{SIZE_M}']
    metrics |= {'train_peak_gb': peaks[best], 'train_peak_gb_torch': peaks['torch']}
    title = 'medians; peak: resident memory of a process that does three steps'
    columns = ['engine', 'forward ms', 'backward ms', 'x spconv', 'peak GB']
    console.table(title, columns, table)
    return metrics


def train_peak_gb(name: str, preset: str) -> float:
    """Peak resident memory of a fresh process that trains three steps under one engine."""
    command = [sys.executable, '-m', 'training.benchmarks.train_step', name, preset]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(json.loads(run.stdout.splitlines()[-1]))


def _measure_peak(name: str, preset: str) -> float:
    (row,) = contenders(name)
    row.engine.memory.tune(live=False)
    clouds, _ = distinct_scans(3)
    model: Any = build_model(preset, classes=CLASSES).train()
    for cloud in clouds:
        voxels = with_engine(voxelize_with_maps(torch.from_numpy(cloud), SIZE_M), row)
        with row.alone():
            step(model, voxels, Clock(), name, 0)
    status = Path('/proc/self/status').read_text()
    peak_kb = int(status.split('VmHWM:')[1].split()[0])
    return peak_kb * 1024 / 1e9


if __name__ == '__main__':
    sys.stdout.write(json.dumps(_measure_peak(*sys.argv[1:])) + '\n')

# SPDX-License-Identifier: Apache-2.0
"""`bench.py models`: parameters, work, time and memory of every preset on the same scans."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
import subprocess
import sys
from typing import Any

import torch

from lidar_kd.cli.console import Console
from lidar_kd.models import build_model, PRESETS
from lidar_kd.sparse import fold_norms, select_engine
from lidar_kd.voxels import CartesianGrid, CylinderGrid, voxelize, Voxels
from training.benchmarks.clock import Clock
from training.benchmarks.engine import rounds
from training.benchmarks.scans import distinct_scans
from training.run.macs import count_work, fresh

ROOT = Path(__file__).resolve().parents[2]
SIZE_M = 0.05
GRIDS: dict[str, CartesianGrid | CylinderGrid] = {
    'cartesian': CartesianGrid(voxel_m=SIZE_M),
    'cylinder': CylinderGrid(outside='clamp'),
}
CLASSES = 19


@torch.inference_mode()
def run_models(
    console: Console, *, scans: int, repeats: int, presets: Sequence[str] = ()
) -> dict[str, float]:
    names = list(presets or PRESETS)
    clouds, source = distinct_scans(scans)
    batches = {
        kind: [voxelize(torch.from_numpy(cloud), grid) for cloud in clouds]
        for kind, grid in GRIDS.items()
    }
    sizes = sorted(len(voxels.level) for voxels in batches['cartesian'])
    engine = select_engine('cpu')
    engine.memory.tune(live=True)
    console.banner(
        f'models: every preset at {SIZE_M} m or on its cylinder, float32, maps and network',
        {
            'scans': f'{source}, {sizes[len(sizes) // 2]} voxels (median)',
            'runs on': f'engine {engine.name}, {torch.get_num_threads()} threads',
        },
    )
    metrics: dict[str, float] = {}
    table = []
    with console.progress(len(names), 'measuring') as advance:
        for name in names:
            found = measure_preset(name, batches[kind_of(name)], repeats)
            found |= {'gb': preset_peak_gb(name)}
            metrics |= {f'{name}_{what}': value for what, value in found.items()}
            figures = found['gmacs'], found['ms'], found['gb']
            table.append([name, f'{found["params"]:,.0f}', *(f'{n:.1f}' for n in figures)])
            console.line('  '.join(table[-1]))  # what is measured stays if the rest is cut short
            advance()
    title = 'medians; peak: resident memory of a process that runs one scan'
    console.table(title, ['preset', 'parameters', 'GMACs', 'ms', 'peak GB'], table)
    return metrics


def measure_preset(name: str, batches: list[Voxels], repeats: int) -> dict[str, float]:
    model, clock = make_preset(name), Clock()
    params = sum(p.numel() for p in build_model(name, classes=CLASSES).parameters())
    for repeat, scan in rounds(len(batches), repeats):
        if repeat == scan == 0:
            model(fresh(batches[0]))  # packs the weights
        voxels = fresh(batches[scan])
        clock.time('ms', scan, lambda v=voxels: model(v))  # type: ignore[misc]
        if repeat == 0:
            clock.add('gmacs', scan, 1e-9 * count_work(model, batches[scan]).macs)
    return {'params': params, 'gmacs': clock.median('gmacs'), 'ms': clock.median('ms')}


def kind_of(name: str) -> str:
    """The grid that a preset is made for."""
    return 'cylinder' if PRESETS[name][0] == 'cylinder3d' else 'cartesian'


def make_preset(name: str) -> Any:
    torch.manual_seed(0)
    return fold_norms(build_model(name, classes=CLASSES).eval())


def preset_peak_gb(name: str) -> float:
    """Peak resident memory of a fresh process that runs a preset once."""
    command = [sys.executable, '-m', 'training.benchmarks.models', name]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(json.loads(run.stdout.splitlines()[-1]))


@torch.inference_mode()
def _measure_peak(name: str) -> float:
    clouds, _ = distinct_scans(1)
    voxels = voxelize(torch.from_numpy(clouds[0]), GRIDS[kind_of(name)])
    make_preset(name)(voxels)
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) * 1024 / 1e9


if __name__ == '__main__':
    sys.stdout.write(json.dumps(_measure_peak(sys.argv[1])) + '\n')

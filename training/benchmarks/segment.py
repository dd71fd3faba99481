# SPDX-License-Identifier: Apache-2.0
"""`bench.py segment`: one scan from points to labels, stage by stage."""

from __future__ import annotations

import time

import numpy as np
import torch

from lidar_kd.bundle import Bundle, BundleSpec, ModelSpec
from lidar_kd.cli.console import Console
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.segmenter import Segmenter
from lidar_kd.voxels import CartesianGrid
from training.benchmarks.clock import Clock
from training.benchmarks.engine import rounds
from training.benchmarks.scans import distinct_scans, even_points

COMPUTING = ('maps', 'network')  # the rest is overhead


def run_segment(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    clouds, source = distinct_scans(scans)
    points = even_points()
    clouds = [np.resize(cloud, (points, 4)) for cloud in clouds]
    name = 'minkunet_half'
    torch.manual_seed(0)
    spec = BundleSpec(
        model=ModelSpec(name=name), grid=CartesianGrid(voxel_m=0.1), labels=SEMANTICKITTI
    )
    segmenter = Segmenter(Bundle(model=build_model(name, classes=19), spec=spec))
    segmenter.warm_up(points)
    console.banner(
        f'segment: {name} at 0.1 m, {points} points',
        {
            'scans': source,
            'threads': torch.get_num_threads(),
            'runs on': f'{segmenter.device}, engine {segmenter.engine.name}, {segmenter.dtype}',
        },
    )
    clock = Clock()
    for _, scan in rounds(len(clouds), repeats):
        start = time.perf_counter()
        result = segmenter.segment(clouds[scan])
        clock.add('total', scan, 1e3 * (time.perf_counter() - start))
        for stage, ms in result.timing.items():
            clock.add(stage, scan, ms)
    stages = {stage: clock.median(stage) for stage in result.timing}
    total = clock.median('total')
    overhead = float(np.median(clock.per_scan('total') - _computing(clock)))
    rows = [[stage, f'{ms:.2f}', f'{100 * ms / total:.0f} %'] for stage, ms in stages.items()]
    rows += [['overhead', f'{overhead:.2f}', ''], ['total', f'{total:.2f}', '']]
    console.table('medians', ['stage', 'ms', 'share'], rows)
    return {'overhead_ms': overhead, 'total_ms': total} | {
        f'{stage}_ms': ms for stage, ms in stages.items()
    }


def _computing(clock: Clock) -> np.ndarray:
    parts = [clock.per_scan(stage) for stage in COMPUTING]
    return np.sum(parts, axis=0)

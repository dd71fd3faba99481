# SPDX-License-Identifier: Apache-2.0
"""Points to labels on a GPU: the shipped student layer by layer and at fixed shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lidar_kd.bundle import find_shipped_bundle, load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sensor import SensorOptions
from training.benchmarks.clock import Clock

POINTS = 120_000
PRECISIONS: tuple[Precision, ...] = ('float32', 'float16')
WAYS = {'layers': False, 'fixed': True}


def time_segment(
    console: Console, clouds: Sequence[NDArray[np.float32]], repeats: int, device: str
) -> dict[str, float]:
    """p50 and p99 of segment(), upload and download with it; all rows in one loop."""
    rows = dict(_make_segmenters(device))
    clouds = [np.resize(cloud, (POINTS, 4)) for cloud in clouds]
    clock = Clock()
    for segmenter in rows.values():
        segmenter.warm_up(POINTS)  # makes the graphs
    with console.progress(repeats * len(clouds), 'measuring segment()') as advance:
        for _, scan in product(range(repeats), range(len(clouds))):
            for name, segmenter in rows.items():
                clock.time(name, scan, partial(segmenter.segment, clouds[scan]))
            advance()
    return _tell(console, rows, clock)


def _make_segmenters(device: str) -> Iterator[tuple[str, Segmenter]]:
    bundle = load_bundle(find_shipped_bundle())
    off = SensorOptions(mounting='off', intensity='off')
    for precision, (way, fixed) in product(PRECISIONS, WAYS.items()):
        yield f'{way}_{precision}', Segmenter(
            bundle, device=device, engine='torch', precision=precision, sensor=off,
            fixed_shapes=fixed,
        )  # fmt: skip


def _tell(console: Console, rows: dict[str, Segmenter], clock: Clock) -> dict[str, float]:
    metrics: dict[str, float] = {}
    table = []
    for name in rows:
        p50, p99 = (clock.percentile(name, share) for share in (50, 99))
        metrics |= {f'segment_{name}_p50_ms': p50, f'segment_{name}_p99_ms': p99}
        table.append([name, f'{p50:.2f}', f'{p99:.2f}'])
    console.table(f'segment(), {POINTS} points to labels', ['way', 'p50 ms', 'p99 ms'], table)
    return metrics

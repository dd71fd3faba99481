# SPDX-License-Identifier: Apache-2.0
"""Points to labels on a GPU, layer by layer and at fixed shapes: the shipped student, and PTv3 of
11.6 M parameters with made-up weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray
import torch
from torch.profiler import profile, ProfilerActivity

from lidar_kd.bundle import Bundle, find_shipped_bundle, load_bundle, ModelSpec
from lidar_kd.cli.console import Console
from lidar_kd.models import build_model, PRESETS
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sensor import SensorOptions
from lidar_kd.sparse.engines.triton.missing import triton_missing
from training.benchmarks.clock import Clock

POINTS = 120_000
PTV3 = 'ptv3_half'
PRECISIONS: tuple[Precision, ...] = ('float32', 'float16')
WAYS = {'layers': False, 'fixed': True}
# of CUDA's own calls: what is launched, and what the host waits for
LAUNCHES = ('cudaLaunchKernel', 'cuLaunchKernel', 'cudaLaunchKernelExC', 'cudaGraphLaunch')
WAITS = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize')


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
    counts = {name: count_calls(segmenter, clouds[0]) for name, segmenter in rows.items()}
    return _tell(console, rows, clock, counts)


def count_calls(segmenter: Segmenter, scan: NDArray[np.float32]) -> tuple[int, int]:
    """Launches and waits of one scan; none on a CPU."""
    on_gpu = [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *on_gpu]) as profiled:
        segmenter.segment(scan)
    found = {event.key: event.count for event in profiled.key_averages()}
    launches, waits = (sum(found.get(name, 0) for name in names) for names in (LAUNCHES, WAITS))
    return launches, waits


def _make_segmenters(device: str) -> Iterator[tuple[str, Segmenter]]:
    student = load_bundle(find_shipped_bundle())
    off = SensorOptions(mounting='off', intensity='off')
    kinds = [('', student, precision) for precision in PRECISIONS]
    kinds.append(('ptv3_half_', _make_ptv3(student), 'float16'))
    engines = ['torch', *(['triton'] if device == 'cuda' and not triton_missing() else [])]
    for (kind, bundle, precision), (way, fixed), engine in product(kinds, WAYS.items(), engines):
        name = '' if engine == 'torch' else f'{engine}_'
        yield f'{kind}{name}{way}_{precision}', Segmenter(
            bundle, device=device, engine=engine, precision=precision, sensor=off,
            fixed_shapes=fixed,
        )  # fmt: skip


def _make_ptv3(student: Bundle) -> Bundle:
    """It looks at the scans as the student does."""
    name, settings = PRESETS[PTV3]
    torch.manual_seed(0)
    network = build_model(name, classes=student.spec.labels.num_classes, **settings).eval()
    model = ModelSpec(name=name, settings={key: list(value) for key, value in settings.items()})
    spec = student.spec.model_copy(update={'model': model})
    return Bundle(model=network, spec=spec)


def _tell(
    console: Console,
    rows: dict[str, Segmenter],
    clock: Clock,
    counts: dict[str, tuple[int, int]],
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    table = []
    for name, (launches, waits) in counts.items():
        p50, p99 = (clock.percentile(name, share) for share in (50, 99))
        metrics |= {f'segment_{name}_p50_ms': p50, f'segment_{name}_p99_ms': p99}
        metrics |= {f'segment_{name}_launches': launches, f'segment_{name}_waits': waits}
        table.append([name, f'{p50:.2f}', f'{p99:.2f}', str(launches), str(waits)])
        for setback in rows[name].setbacks:
            console.warn(f'{name}: {setback}')
    columns = ['way', 'p50 ms', 'p99 ms', 'launches', 'waits']
    console.table(f'segment(), {POINTS} points to labels', columns, table)
    return metrics

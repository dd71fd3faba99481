# SPDX-License-Identifier: Apache-2.0
"""`bench.py data`: one scan from raw labels and points to a training batch, on one core; and how
long a small network waits for the data of one worker.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
import tempfile
import time

import numpy as np
from numpy.typing import NDArray
import torch
from torch.nn.functional import cross_entropy

from lidar_kd.cli.console import Console
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.sparse import select_engine
from lidar_kd.voxels import CartesianGrid
from training.benchmarks.clock import Clock, threads
from training.benchmarks.engine import rounds
from training.benchmarks.scans import distinct_scans, even_points
from training.data.augment import augment, Augmentation
from training.data.batch import Batch, make_batch
from training.data.folder import open_folder
from training.data.loader import Loader, TrainingScans
from training.data.scan import Scan

GRID = CartesianGrid(voxel_m=0.05)
NETWORK, COARSE = 'minkunet_half', CartesianGrid(voxel_m=0.2)  # the quicker, the harder to feed
STEPS = 4  # per round
USUAL = Augmentation(jitter_m=0.01, drop=0.1)
SETTINGS = {
    'usual': USUAL,
    'Mix3D': USUAL.model_copy(update={'mix3d': 1.0}),
    'PolarMix': USUAL.model_copy(update={'polarmix': 1.0}),
    'LaserMix': USUAL.model_copy(update={'lasermix': 1.0}),
    'paste': USUAL.model_copy(update={'paste': 3}),
}


def run_data(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    clouds, source = distinct_scans(scans)
    points = even_points()
    clouds = [np.resize(cloud, (points, 4)) for cloud in clouds]
    raw = _make_raw(points, np.random.default_rng(0))
    console.banner(
        f'data: {points} points at {GRID.voxel_m} m, one thread',
        {
            'scans': f'{source}, labels made up',
            'usual': 'rotation, flips, scale, jitter, point drop; the others add to that',
        },
    )
    clock = Clock()
    with threads(1), console.progress(repeats * len(clouds), 'measuring') as advance:
        for _, scan in rounds(len(clouds), repeats):
            pair = (clouds[scan], clouds[(scan + 1) % len(clouds)])
            for name, settings in SETTINGS.items():
                _measure(clock, name, scan, pair, raw, settings)
            advance()
    return _report(console, clock) | _report_waiting(console, clouds, STEPS * repeats)


def _make_raw(points: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    """Labels as in a file: class and object number of every point."""
    ids = np.array([ids[0] for ids in SEMANTICKITTI.raw_ids], np.uint32)
    numbers = rng.integers(50, size=points, dtype=np.uint32)
    return ids[rng.integers(len(ids), size=points)] | numbers << np.uint32(16)


def _measure(
    clock: Clock,
    name: str,
    index: int,
    pair: tuple[NDArray[np.float32], NDArray[np.float32]],
    raw: NDArray[np.uint32],
    settings: Augmentation,
) -> None:
    """The second scan of the mixes is remapped inside the time of the augmentation."""
    scan = clock.time('remap', index, partial(_remap, pair[0], raw))
    rng = np.random.default_rng(index)
    augmented = clock.time(
        f'{name} augment',
        index,
        lambda: augment(
            scan,
            settings,
            rng,
            table=SEMANTICKITTI,
            draw_scan=partial(_remap, pair[1], raw),
        ),
    )
    clock.time(f'{name} voxelise', index, lambda: make_batch([augmented], GRID))


def _remap(points: NDArray[np.float32], raw: NDArray[np.uint32]) -> Scan:
    return Scan(points=points, labels=SEMANTICKITTI.to_train(raw), instances=raw >> np.uint32(16))


def _report(console: Console, clock: Clock) -> dict[str, float]:
    remap = clock.median('remap')
    rows, totals = [], {}
    for name in SETTINGS:
        parts = [remap, clock.median(f'{name} augment'), clock.median(f'{name} voxelise')]
        totals[name] = sum(parts)
        rows.append([name, *(f'{ms:.1f}' for ms in (*parts, totals[name]))])
    columns = ['augmentation', 'remap ms', 'augment ms', 'voxelise ms', 'total ms']
    console.table('medians over scans', columns, rows)
    mixed = {f'{name.lower()}_ms': totals[name] for name in SETTINGS if name != 'usual'}
    return {'scan_ms': totals['usual'], 'remap_ms': remap, **mixed}


def _report_waiting(
    console: Console, clouds: list[NDArray[np.float32]], steps: int
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        for number, cloud in enumerate(clouds):
            cloud.tofile(Path(folder) / f'{number}.bin')
        step_s, share = _train(Path(folder), steps)
    console.line(
        f'training {NETWORK} at {COARSE.voxel_m} m with 2 scans per step on '
        f'{torch.get_num_threads()} threads and 1 worker: {step_s:.2f} s per step, '
        f'{share:.1%} of it waiting for data'
    )
    return {'step_s': step_s, 'wait_share': share}


def _train(folder: Path, steps: int) -> tuple[float, float]:
    """Seconds per step, and the share of them spent waiting; after one step to warm up."""
    torch.manual_seed(0)
    select_engine('cpu').memory.tune(live=False)
    model = build_model(NETWORK, classes=SEMANTICKITTI.num_classes).train()
    scans = TrainingScans(open_folder(folder), USUAL, seed=0)
    loader = Loader(scans, COARSE, batch_size=2, workers=1)
    done, start = -1, 0.0
    while done < steps:
        for batch in loader:
            _step(model, batch)
            done += 1
            if done == 0:
                loader.waited_s, start = 0.0, time.perf_counter()
            if done == steps:
                break
    elapsed_s = time.perf_counter() - start
    return elapsed_s / steps, loader.waited_s / elapsed_s


def _step(model: torch.nn.Module, batch: Batch) -> None:
    """Forward and backward with made-up labels."""
    labels = torch.arange(len(batch.points)) % SEMANTICKITTI.num_classes
    cross_entropy(model(batch.voxels).point_logits, labels).backward()
    model.zero_grad(set_to_none=True)

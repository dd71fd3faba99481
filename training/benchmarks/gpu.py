# SPDX-License-Identifier: Apache-2.0
"""`bench.py gpu`: full MinkUNet on a CUDA device, under every engine and number type, at two
sizes of voxel; then points to labels of the networks that robots run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.models import build_model
from lidar_kd.sparse import Engine, Level, select_engine
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels
from training.benchmarks.clock import Clock
from training.benchmarks.engine import CLASSES, make_model, rounds
from training.benchmarks.gpu_segment import time_segment
from training.benchmarks.scans import distinct_scans
from training.benchmarks.triton_peer import make_triton_peer

SIZES_M = (0.1, 0.05)
TYPES = (torch.float32, torch.float16, torch.bfloat16)
DEVICE = 'cuda'
OURS = ('spconv', 'torch', 'triton')
PARTS = ('maps', 'net', 'step')


@dataclass(frozen=True)
class Row:
    """A voxel size, an engine and a number type; the networks are made once."""

    size_m: float
    engine: Engine
    dtype: torch.dtype
    folded: Any  # in that type
    trained: Any  # float32, under autocast where the type is float16

    @property
    def name(self) -> str:
        return f'{self.engine.name} {str(self.dtype).removeprefix("torch.")} {self.size_m:g}'


def run_gpu(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    if not torch.cuda.is_available():
        raise ConfigError('gpu: torch sees no CUDA device here; run it on a machine with one.')
    clouds, source = distinct_scans(scans)
    console.banner(
        f'gpu: MinkUNet 21.7 M on {torch.cuda.get_device_name()}',
        {'scans': source, 'versions': f'torch {torch.__version__}, CUDA {torch.version.cuda}'},
    )
    rows, clock, peaks = _rows(console), Clock(), dict[str, float]()
    with console.progress(repeats * len(clouds), 'measuring') as advance:
        for repeat, scan in rounds(len(clouds), repeats):
            for row in rows:
                voxels = _prepare(torch.from_numpy(clouds[scan]).to(DEVICE), row.size_m)
                if repeat == scan == 0:
                    _measure(row, voxels, Clock(), 0)  # loads and tunes kernels
                torch.cuda.reset_peak_memory_stats()
                _measure(row, voxels, clock, scan)
                peak = 1e-9 * torch.cuda.max_memory_allocated()
                peaks[row.name] = max(peak, peaks.get(row.name, 0.0))
            advance()
    metrics = _report(console, rows, _errors(rows, torch.from_numpy(clouds[0])), clock, peaks)
    return metrics | time_segment(console, clouds, 20 * repeats, DEVICE)


def engines_to_compare(console: Console, names: Sequence[str] = OURS) -> list[Engine]:
    """Those that work here, and the peer that has spconv's interface."""
    makers: list[Callable[[], Engine]] = [partial(select_engine, DEVICE, name) for name in names]
    makers.append(partial(make_triton_peer, DEVICE))
    engines = []
    for make in makers:
        try:
            engines.append(make())
        except ConfigError as error:
            console.warn(f'left out: {error}')
    return engines


def _rows(console: Console) -> list[Row]:
    engines = engines_to_compare(console)
    torch.manual_seed(0)
    trained = build_model('minkunet', classes=CLASSES).train().to(DEVICE)
    folded = {dtype: make_model().to(DEVICE, dtype) for dtype in TYPES}
    return [
        Row(size_m, engine, dtype, network, trained)
        for size_m, engine, (dtype, network) in product(SIZES_M, engines, folded.items())
        if engine.computes(dtype)
    ]


def _prepare(cloud: Tensor, size_m: float) -> Voxels:
    return voxelize(cloud, CartesianGrid(voxel_m=size_m))


def _measure(row: Row, voxels: Voxels, clock: Clock, scan: int) -> None:
    """Maps, the folded network, and a training step that makes its own maps."""
    mine = _with(voxels, row)
    _timed(clock, row, 'maps', scan, lambda: row.folded.build_maps(mine.level))
    with torch.inference_mode():
        row.folded(mine)  # its maps get what the engine derives from them
        _timed(clock, row, 'net', scan, lambda: row.folded(mine))
    mine = _with(voxels, row, torch.float32)
    labels = torch.arange(len(mine.level), device=DEVICE) % CLASSES

    def step() -> None:
        half = None if row.dtype == torch.float32 else row.dtype
        with torch.autocast(DEVICE, half, enabled=half is not None):
            logits = row.trained(mine).voxel_logits
        cross_entropy(logits.float(), labels).backward()
        row.trained.zero_grad(set_to_none=True)

    _timed(clock, row, 'step', scan, step)


def _with(voxels: Voxels, row: Row, dtype: torch.dtype | None = None) -> Voxels:
    """The same voxels with an empty set of maps of this engine."""
    changes = {
        'features': voxels.features.to(dtype or row.dtype),
        'level': Level(voxels.coords, row.engine),
    }
    return Voxels(**{**vars(voxels), **changes})


def _timed(clock: Clock, row: Row, part: str, scan: int, run: Any) -> None:
    def finished() -> None:
        run()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    clock.time(f'{row.name} {part}', scan, finished)


@torch.inference_mode()
def _errors(rows: list[Row], cloud: Tensor) -> dict[str, float]:
    """Largest difference from the CPU's answer, relative to its largest logit."""
    truth = {size: make_model()(_prepare(cloud, size)).voxel_logits for size in SIZES_M}
    errors = {}
    for row in rows:
        voxels = _with(_prepare(cloud.to(DEVICE), row.size_m), row)
        logits, true = row.folded(voxels).voxel_logits.float().cpu(), truth[row.size_m]
        errors[row.name] = float((logits - true).abs().max() / true.abs().max())
    return errors


def _report(
    console: Console,
    rows: list[Row],
    errors: dict[str, float],
    clock: Clock,
    peaks: dict[str, float],
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    table = []
    for row in rows:
        times = [clock.median(f'{row.name} {part}') for part in PARTS]
        short = row.name.replace(' ', '_')
        metrics |= {f'{short}_{part}_ms': ms for part, ms in zip(PARTS, times)}
        metrics |= {f'{short}_error': errors[row.name], f'{short}_peak_gb': peaks[row.name]}
        cells = [
            *(f'{ms:.1f}' for ms in times),
            f'{peaks[row.name]:.2f}',
            f'{errors[row.name]:.1e}',
        ]
        table.append([row.name, *cells])
    columns = [
        'engine, type, voxel m',
        'maps ms',
        'network ms',
        'step ms',
        'peak GB',
        'error against the CPU',
    ]
    console.table('medians; a step: maps, forward and backward', columns, table)
    return metrics

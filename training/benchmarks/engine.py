# SPDX-License-Identifier: Apache-2.0
"""`bench.py engine` and `bench.py maps`: full MinkUNet under every engine beside spconv."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

from lidar_kd.cli.console import Console
from lidar_kd.models import build_model
from lidar_kd.sparse import Engine, fold_norms, Level, select_engine
from lidar_kd.sparse.engines.native.library import native_missing
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels
from training.benchmarks.clock import Clock, Floor, threads
from training.benchmarks.peer import spconv_installed, SpconvPeer
from training.benchmarks.scans import distinct_scans
from training.run.macs import count_work

SIZES_M = (0.1, 0.05)
CLASSES = 19
SHORT = {  # of a row, in the metrics
    'native': 'fp32',
    'native high': 'fp32_high',
    'native bf16': 'bf16',
    'torch': 'torch',
}


@dataclass(frozen=True)
class Contender:
    """One row of the table: an engine, a number type, and how torch is set while it runs."""

    name: str
    engine: Engine
    dtype: torch.dtype = torch.float32
    threads: int | None = None
    precision: str = 'highest'  # torch.set_float32_matmul_precision

    @contextmanager
    def alone(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)
        try:
            with threads(self.threads or torch.get_num_threads()):
                yield
        finally:
            torch.set_float32_matmul_precision(before)


def contender(name: str) -> Contender | None:
    """The row of that name, or None where this machine cannot run it."""
    if name == 'spconv':
        return Contender(name, SpconvPeer(), threads=1) if spconv_installed() else None
    if name == 'torch':
        return Contender(name, select_engine('cpu', 'torch'))
    if native_missing():
        return None
    native = select_engine('cpu', 'native')
    if name == 'native':
        return Contender(name, native)
    if not native.computes(torch.bfloat16):
        return None  # both of the others run on AMX
    if name == 'native high':
        return Contender(name, native, precision='high')
    return Contender(name, native, torch.bfloat16)


ALL = ('spconv', 'torch', 'native', 'native high', 'native bf16')


def contenders(*names: str) -> list[Contender]:
    rows = [contender(name) for name in names or ALL]
    return [row for row in rows if row is not None]


def make_model() -> nn.Module:
    """MinkUNet of full width (21.7 M), with the statistics of a network that has seen data."""
    torch.manual_seed(0)
    model = build_model('minkunet', classes=CLASSES).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return fold_norms(model)


def voxelize_with_maps(scan: Tensor, size_m: float) -> Voxels:
    """The scan's voxels, counted from 0 as the peer wants them."""
    voxels = voxelize(scan, CartesianGrid(voxel_m=size_m))
    low = voxels.coords[:, 1:].amin(0)
    voxels.coords[:, 1:] -= low - low % 16  # an even cell stays even down to the last level
    return voxels


def with_engine(voxels: Voxels, row: Contender) -> Voxels:
    """The same voxels with an empty set of maps of this engine."""
    level = Level(voxels.coords, row.engine)
    parts = (voxels.points, voxels.batch, voxels.rows, voxels.positions, voxels.point_voxel)
    return Voxels(*parts, voxels.features.to(row.dtype), level)


def disagreement(rows: list[Contender], model: Any, voxels: Voxels) -> dict[str, float]:
    """Largest difference from the plain torch engine, relative to its largest logit."""
    logits = {}
    for row in rows:
        with row.alone():
            logits[row.name] = model(with_engine(voxels, row)).voxel_logits.float()
    truth = logits['torch']
    return {
        name: float((values - truth).abs().max() / truth.abs().max())
        for name, values in logits.items()
    }


def rounds(scans: int, repeats: int) -> Iterator[tuple[int, int]]:
    for repeat in range(repeats):
        for scan in range(scans):
            yield repeat, scan


@torch.inference_mode()
def run_engine(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    clouds, source = distinct_scans(scans)
    rows, model = contenders(), make_model()
    floor = Floor(list(dict.fromkeys([torch.float32, *(row.dtype for row in rows)])))
    select_engine('cpu').memory.tune(live=True)
    console.banner(
        'engine: MinkUNet 21.7 M, folded, features only; kernel maps apart',
        {'scans': source, 'threads': torch.get_num_threads(), 'engines': _names(rows)},
    )
    metrics: dict[str, float] = {}
    table = []
    clocks = {}
    for size_m in SIZES_M:
        batches = [voxelize_with_maps(torch.from_numpy(cloud), size_m) for cloud in clouds]
        console.line(f'{size_m} m: {int(_median_voxels(batches))} voxels (median)')
        clocks[size_m] = _time_all(console, rows, model, batches, floor, repeats)
    errors = disagreement(rows, model, voxelize_with_maps(torch.from_numpy(clouds[0]), SIZES_M[0]))
    for row in rows:
        cells: list[object] = [row.name]
        for size_m in SIZES_M:
            clock = clocks[size_m]
            x_floor = clock.median(f'{row.name} net') / _floor_ms(clock, floor, row.dtype)
            cells += [f'{clock.median(f"{row.name} {part}"):.1f}' for part in ('map', 'net')]
            cells += [f'{x_floor:.2f}', _times(clock, row.name)]
            metrics |= _metrics(clock, row, size_m, x_floor)
        table.append([*cells, f'{errors[row.name]:.1e}'])
    columns = [
        f'{part} {size} m'
        for size in SIZES_M
        for part in ('map ms', 'net ms', 'x floor', 'x spconv')
    ]
    console.table('medians', ['engine', *columns, 'max error'], table)
    for size_m in SIZES_M:
        console.line(_floor_line(clocks[size_m], floor, size_m))
    return metrics


def _time_all(
    console: Console,
    rows: list[Contender],
    model: Any,
    batches: list[Voxels],
    floor: Floor,
    repeats: int,
) -> Clock:
    clock = Clock()
    with console.progress(repeats * len(batches), 'measuring') as step:
        for repeat, scan in rounds(len(batches), repeats):
            floor.measure()
            for row in rows:
                voxels = with_engine(batches[scan], row)
                with row.alone():
                    if repeat == scan == 0:
                        model(with_engine(batches[scan], row))  # packs the weights
                    clock.time(f'{row.name} map', scan, lambda v=voxels: model.build_maps(v.level))  # type: ignore[misc]
                    clock.time(f'{row.name} net', scan, lambda v=voxels: model(v))  # type: ignore[misc]
            if repeat == 0:
                work = count_work(model, batches[scan])
                clock.add('gflop', scan, 2e-9 * work.macs)
                clock.add('gfloats', scan, 1e-9 * work.floats)
            step()
    return clock


def _floor_ms(clock: Clock, floor: Floor, dtype: torch.dtype) -> float:
    return 1e3 * clock.median('gflop') / floor.gflops(dtype)


def _floor_line(clock: Clock, floor: Floor, size_m: float) -> str:
    rates = ', '.join(
        f'{str(dtype).removeprefix("torch.")} {_floor_ms(clock, floor, dtype):.0f} ms at '
        f'{floor.gflops(dtype):.0f} GFLOP/s'
        for dtype in floor.types
    )
    copy_ms = 1e3 * 4 * clock.median('gfloats') / floor.gbytes()
    return (
        f'floor {size_m} m: {clock.median("gflop"):.0f} GFLOP; {rates}, '
        f'compulsory bytes {copy_ms:.0f} ms (float32)'
    )


def _times(clock: Clock, name: str) -> str:
    if 'spconv net' not in clock:
        return '-'
    return f'{clock.ratio("spconv net", f"{name} net"):.2f}'


def _metrics(clock: Clock, row: Contender, size_m: float, x_floor: float) -> dict[str, float]:
    short = SHORT.get(row.name)
    if short is None:
        return {}
    metrics = {
        f'{short}_x_floor_{size_m}': x_floor,
        f'{short}_ms_{size_m}': clock.median(f'{row.name} net'),
    }
    if 'spconv net' in clock:
        metrics[f'{short}_speedup_{size_m}'] = clock.ratio('spconv net', f'{row.name} net')
    return metrics


def run_maps(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    """Every map of the network: five submanifold levels and four strides."""
    clouds, source = distinct_scans(scans)
    rows = contenders('spconv', 'torch', 'native')
    model: Any = make_model()
    console.banner('maps: all kernel maps of MinkUNet', {'scans': source, 'engines': _names(rows)})
    metrics, table = {}, []
    for size_m in SIZES_M:
        batches = [voxelize_with_maps(torch.from_numpy(cloud), size_m) for cloud in clouds]
        clock = Clock()
        for repeat, scan in rounds(len(batches), repeats + 1):
            for row in rows:
                level = Level(batches[scan].coords, row.engine)
                with row.alone():
                    if repeat:
                        clock.time(f'{row.name} net', scan, lambda v=level: model.build_maps(v))  # type: ignore[misc]
                    else:
                        model.build_maps(level)
        for row in rows:
            table.append(
                [
                    f'{row.name} {size_m} m',
                    f'{clock.median(f"{row.name} net"):.1f}',
                    _times(clock, row.name),
                ]
            )
            metrics[f'{row.name}_maps_ms_{size_m}'] = clock.median(f'{row.name} net')
        if 'spconv net' in clock and 'native net' in clock:
            metrics[f'maps_speedup_{size_m}'] = clock.ratio('spconv net', 'native net')
    console.table('medians', ['engine', 'ms', 'x spconv'], table)
    return metrics


def _names(rows: list[Contender]) -> str:
    return ', '.join(row.name for row in rows)


def _median_voxels(batches: list[Voxels]) -> float:
    return float(torch.tensor([float(len(batch.level)) for batch in batches]).median())

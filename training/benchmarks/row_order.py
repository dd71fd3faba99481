# SPDX-License-Identifier: Apache-2.0
"""`bench.py row-order`: products that the Triton engine's tiles compute over those that count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.cli.console import Console
from lidar_kd.models import build_model
from lidar_kd.models.fixed_scan import FixedNetwork, FixedScan
from lidar_kd.sparse import fold_norms, KernelMap
from lidar_kd.sparse.engines.plain_torch import neighbour_table, TorchEngine
from lidar_kd.sparse.engines.triton.order import count_products
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles, MOST_TOGETHER, tiles_of
from lidar_kd.sparse.fixed.level import rooms_for
from lidar_kd.voxels import CartesianGrid, voxelize
from training.benchmarks.scans import distinct_scans

SIZES_M = (0.1, 0.05)
NETWORKS = ('minkunet_quarter', 'minkunet')
LEVELS, LEAST_ROOM = 5, 1 << 12  # of a scan at fixed shapes; points
GPU = 87  # compute capability, times ten, whose tiles are looked at


NotedLayer = tuple[KernelMap | None, int, int, int]  # its map, rows, channels in and out


class NotingEngine(TorchEngine):
    """Computes nothing, and notes every layer: its map, if it has one, and its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[NotedLayer] = []

    def infer(
        self, x: Tensor, packed: Tensor, pairs: KernelMap | None, out_channels: int, **_: Any
    ) -> Tensor:
        rows = len(x) if pairs is None else pairs.n_out
        self.layers.append((pairs, rows, x.shape[1], out_channels))
        return x.new_zeros(rows, out_channels)


def run_row_order(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    del repeats  # counting is exact
    clouds, source = distinct_scans(scans)
    tiles = tiles_of(GPU)
    console.banner(
        'row-order: products of tiles over products that count',
        {
            'scans': source,
            'tiles': f'{tiles.rows} rows; slots in two groups from {tiles.split_from} channels on',
        },
    )
    metrics: dict[str, float] = {}
    with console.progress(len(SIZES_M) * len(clouds), 'counting') as advance:
        for size_m in SIZES_M:
            shares: dict[str, list[float]] = defaultdict(list)
            for cloud in clouds:
                for name, share in _shares(torch.from_numpy(cloud), size_m, tiles):
                    shares[name].append(share)
                advance()
            for name, values in shares.items():
                metrics[f'{name}_products_{size_m}'] = sum(values) / len(values)
    table = [
        [name.replace('_fixed', ', fixed shapes'), *(
            f'{metrics[f"{name}_products_{size_m}"]:.2f}' for size_m in SIZES_M
        )]
        for name in shares
    ]  # fmt: skip
    columns = ['network', *(f'{size_m} m' for size_m in SIZES_M)]
    console.table('products over useful ones, all layers together', columns, table)
    return metrics


@torch.no_grad()
def _shares(points: Tensor, size_m: float, tiles: DeviceTiles) -> Iterator[tuple[str, float]]:
    """Of every network, layer by layer, and of the one that ships at fixed shapes as well."""
    engine, grid = NotingEngine(), CartesianGrid(voxel_m=size_m)
    voxels = voxelize(points, grid, engine=engine)
    for name in NETWORKS:
        engine.layers.clear()
        fold_norms(build_model(name, classes=19)).eval()(voxels)
        yield name, _share(engine.layers, tiles)
    engine.layers.clear()
    model = fold_norms(build_model(NETWORKS[0], classes=19)).eval()
    wants = FixedNetwork(LEVELS)
    room = max(LEAST_ROOM, 1 << (len(points) - 1).bit_length())  # 1 << 17 for 64 beams
    scan = FixedScan(rooms_for(room, LEVELS), grid, model, torch.float32, wants, engine=engine)
    scan.run(F.pad(points, (0, 0, 0, room - len(points)), value=math.nan))
    yield f'{NETWORKS[0]}_fixed', _share(engine.layers, tiles)


def _share(layers: Sequence[NotedLayer], tiles: DeviceTiles) -> float:
    counted: dict[tuple[int, int], tuple[int, int]] = {}
    cells = _cells([pairs for pairs, *_ in layers if pairs is not None])
    done = useful = 0
    for pairs, rows, c_in, c_out in layers:
        if pairs is None:
            products, real = rows, cells.get(rows, rows)
        else:
            groups = tiles.groups(pairs.slots, c_in, c_out)
            key = id(pairs), groups
            if key not in counted:
                counted[key] = products_of(pairs, tiles.rows, groups)
            products, real = counted[key]
        done += products * c_in * c_out
        useful += real * c_in * c_out
    return done / useful


def _cells(maps: Sequence[KernelMap]) -> dict[int, int]:
    """Rows of a level of fixed shape -> those that are cells: they are their own neighbours."""
    tables = [pairs.derived['table'] for pairs in maps if 'nobody' in pairs.derived]
    own = [table[:, table.shape[1] // 2] for table in tables if table.shape[1] % 2]
    return {len(rows): int((rows > 0).sum()) for rows in own}


def products_of(pairs: KernelMap, rows: int, groups: int) -> tuple[int, int]:
    """Of the tiles of a map, in groups of slots as plan.py has them, and how many count."""
    if 'nobody' in pairs.derived:
        table, sorts = pairs.derived['table'], pairs.slots > MOST_TOGETHER
        return count_products(table, rows, 1, none=0, sorts=sorts), int((table > 0).sum())
    if 'up' in pairs.derived:
        up = pairs.derived['up']
        table = torch.zeros(len(up), pairs.slots, dtype=torch.int64)
        table.scatter_(1, (up // pairs.n_in)[:, None], (up % pairs.n_in)[:, None])
        return count_products(table, rows, 1, none=0), int((table > 0).sum())
    table = neighbour_table(pairs)
    table = torch.where(table == pairs.n_in, -1, table)
    return count_products(table, rows, groups, none=-1), pairs.pairs

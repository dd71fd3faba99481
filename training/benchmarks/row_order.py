# SPDX-License-Identifier: Apache-2.0
"""`bench.py row-order`: products that the Triton engine's tiles compute over those that count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lidar_kd.cli.console import Console
from lidar_kd.models import build_model
from lidar_kd.sparse import fold_norms, KernelMap
from lidar_kd.sparse.engines.plain_torch import neighbour_table, TorchEngine
from lidar_kd.sparse.engines.triton.order import count_products
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles, tiles_of
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels
from training.benchmarks.scans import distinct_scans

SIZES_M = (0.1, 0.05)
NETWORKS = ('minkunet_quarter', 'minkunet')
GPU = 87  # compute capability, times ten, whose tiles are looked at


class NotingEngine(TorchEngine):
    """Computes nothing, and notes every layer: its map, if it has one, and its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[tuple[KernelMap | None, int, int, int]] = []

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
            shares: dict[str, list[float]] = {name: [] for name in NETWORKS}
            for cloud in clouds:
                engine = NotingEngine()
                grid = CartesianGrid(voxel_m=size_m)
                voxels = voxelize(torch.from_numpy(cloud), grid, engine=engine)
                for name in NETWORKS:
                    shares[name].append(_share(name, voxels, engine, tiles))
                advance()
            for name, values in shares.items():
                metrics[f'{name}_products_{size_m}'] = sum(values) / len(values)
    table = [
        [name, *(f'{metrics[f"{name}_products_{size_m}"]:.2f}' for size_m in SIZES_M)]
        for name in NETWORKS
    ]
    columns = ['network', *(f'{size_m} m' for size_m in SIZES_M)]
    console.table('products over useful ones, all layers together', columns, table)
    return metrics


@torch.no_grad()
def _share(name: str, voxels: Voxels, engine: NotingEngine, tiles: DeviceTiles) -> float:
    engine.layers.clear()
    fold_norms(build_model(name, classes=19)).eval()(voxels)
    counted: dict[tuple[int, int], int] = {}
    done = useful = 0
    for pairs, rows, c_in, c_out in engine.layers:
        if pairs is None:
            products = real = rows
        else:
            groups = tiles.groups(pairs.slots, c_in, c_out)
            key = id(pairs), groups
            if key not in counted:
                counted[key] = products_of(pairs, tiles.rows, groups)
            products, real = counted[key], pairs.pairs
        done += products * c_in * c_out
        useful += real * c_in * c_out
    return done / useful


def products_of(pairs: KernelMap, rows: int, groups: int) -> int:
    """Of the tiles of a map, in groups of slots."""
    table = neighbour_table(pairs)
    return count_products(torch.where(table == pairs.n_in, -1, table), rows, groups, none=-1)

# SPDX-License-Identifier: Apache-2.0
"""How much a network has to do on a scan, counted from its kernel maps without doing it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lidar_kd.sparse import KernelMap, Level
from lidar_kd.sparse.torch_engine import TorchEngine
from lidar_kd.voxels import Voxels


class CountingEngine(TorchEngine):
    """Answers every layer with zeros and adds up the work it was spared."""

    def __init__(self) -> None:
        self.macs = 0
        self.floats = 0  # that must move: every layer's input, result and weight once

    def infer(
        self, x: Tensor, packed: Tensor, pairs: KernelMap | None, out_channels: int, **_: Any
    ) -> Tensor:
        products, rows = (len(x), len(x)) if pairs is None else (pairs.pairs, pairs.n_out)
        self.macs += products * x.shape[1] * out_channels
        self.floats += x.numel() + rows * out_channels + packed.numel()
        return x.new_zeros(rows, out_channels)


def count_work(model: Any, voxels: Voxels) -> CountingEngine:
    """The folded model's work on a scan; run it under inference_mode."""
    counter = CountingEngine()
    level = Level(voxels.coords, counter)
    parts = (voxels.points, voxels.batch, voxels.rows, voxels.positions, voxels.point_voxel)
    model(Voxels(*parts, voxels.features.float(), level))
    return counter

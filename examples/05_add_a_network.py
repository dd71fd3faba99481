# SPDX-License-Identifier: Apache-2.0
"""Adds a network: two layers on every voxel. python examples/05_add_a_network.py"""

from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import nn, Tensor

from lidar_kd.cli.console import Console
from lidar_kd.models import build_model, MODELS, Output
from lidar_kd.sparse import Level
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels


class VoxelMlp(nn.Module):
    point_width = voxel_width = 16  # channels of the features that methods compare
    early_width = 0  # it has no early decoder level

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 16), nn.Linear(16, classes)

    def build_maps(self, level: Level) -> None:
        """It has no convolutions, so it needs no maps."""

    def forward(self, voxels: Voxels) -> Output:
        features: Tensor = self.first(voxels.features).relu()
        return Output(self.head(features), features, voxels.point_voxel)


if __name__ == '__main__':
    MODELS['voxel_mlp'] = VoxelMlp  # from here on `model: {name: voxel_mlp}` works, too
    network = build_model('voxel_mlp', classes=19)
    output = network(voxelize(torch.rand(1000, 4) * 10, CartesianGrid(voxel_m=0.5)))
    Console().line(f'logits of {len(output.point_logits)} points')

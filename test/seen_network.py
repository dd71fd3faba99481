# SPDX-License-Identifier: Apache-2.0
"""Small networks that have seen a scan, and the scan; no test in here."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, Tensor

from lidar_kd.models import build_model
from lidar_kd.voxels import CartesianGrid, voxelize

GRID = CartesianGrid(voxel_m=0.5)


def build_seen(name: str, **settings: Any) -> nn.Module:
    """Random weights, and batch norms that have seen a scan, in eval mode."""
    torch.manual_seed(1)
    model = build_model(name, classes=5, **settings)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(voxelize(scan(), GRID))
    return model.eval()


def scan(points: int = 600, seed: int = 0) -> Tensor:
    """Points on a bent sheet around the origin: neighbours, gaps, negative coordinates."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(points, 2, generator=generator) * 24 - 12
    z = torch.sin(xy[:, :1]) + 0.1 * torch.randn(points, 1, generator=generator)
    return torch.cat([xy, z, torch.rand(points, 1, generator=generator)], 1)


def flat_gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of a network for one batch, counted from its kernel maps and attention patches."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn, Tensor

from lidar_kd.models.serialization import Patches
from lidar_kd.models.transformer import Attention
from lidar_kd.sparse import Engine, fold_norms, KernelMap, Level
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.voxels import Voxels
from training.data.batch import Batch


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


@torch.inference_mode()
def gmacs(network: nn.Module, batch: Batch) -> float:
    """In billions, of the network as it runs on a robot; counted where the batch is."""
    here = copy.deepcopy(network).eval().to(batch.points.device)
    return count_work(fold_norms(here), batch.voxels).macs / 1e9


def fresh(voxels: Voxels, engine: Engine | None = None) -> Voxels:
    """The same voxels with an empty set of maps."""
    return Voxels(**{**vars(voxels), 'level': Level(voxels.coords, engine)})


def count_work(model: nn.Module, voxels: Voxels) -> CountingEngine:
    """Convolutions by the pairs of their maps, linear layers by rows, attention by patches.

    Of a folded model, under inference_mode.
    """
    counter = CountingEngine()

    def linear(layer: nn.Linear, _: object, y: Tensor) -> None:
        counter.macs += y.numel() * layer.in_features

    def attention(_: object, inputs: tuple[Any, ...], __: object) -> None:
        x: Tensor = inputs[0]
        patches: Patches = inputs[1]
        products = sum(rows.numel() * rows.shape[1] for rows in patches.rows)
        counter.macs += 2 * products * x.shape[1]  # q k^T, and its weights times v

    kinds = {nn.Linear: linear, Attention: attention}
    hooks = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        for kind, count in kinds.items()
        if isinstance(layer, kind)
    ]
    model(fresh(voxels, counter))
    for hook in hooks:
        hook.remove()
    return counter

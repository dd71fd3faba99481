# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of a network for one batch, counted from its kernel maps and attention patches."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lidar_kd.sparse import fold_norms
from training.benchmarks.models import count_macs
from training.data.batch import Batch


@torch.inference_mode()
def gmacs(network: nn.Module, batch: Batch) -> float:
    """In billions, of the network as it runs on a robot; counted where the batch is."""
    here = copy.deepcopy(network).eval().to(batch.points.device)
    return count_macs(fold_norms(here), batch.voxels) / 1e9

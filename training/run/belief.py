# SPDX-License-Identifier: Apache-2.0
"""Scans that nobody labelled take the teacher's answers for labels."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from training.methods.inputs import Inputs


def believe(inputs: Inputs, owner: Tensor, least: float) -> Inputs:
    """Where the teacher's probability is at least `least`; a scan with any label keeps its own.

    owner (M,): the scan of each point.
    """
    known = torch.bincount(owner[inputs.labels != IGNORE], minlength=inputs.scans)
    bare = known == 0
    told = _answers(inputs.teacher.point_logits(), least)
    told_voxels = _answers(inputs.teacher.voxel_logits(), least)
    return replace(
        inputs,
        labels=torch.where(bare[owner.long()], told, inputs.labels),
        voxel_labels=torch.where(bare[inputs.voxel_scan.long()], told_voxels, inputs.voxel_labels),
    )


def _answers(logits: Tensor, least: float) -> Tensor:
    """(N, C) -> (N,) uint8 the best class, 255 where it is too unlikely."""
    probability, best = logits.float().softmax(1).max(1)
    return best.masked_fill(probability < least, IGNORE).to(torch.uint8)

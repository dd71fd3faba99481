# SPDX-License-Identifier: Apache-2.0
"""Scans that nobody labelled get pseudo-labels from the teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from training.methods.inputs import AlignedOutput, Inputs


def pseudo_label(
    inputs: Inputs, teachers: Sequence[AlignedOutput], owner: Tensor, least: float
) -> Inputs:
    """Where the teachers' mean probability is at least `least`; a scan with any label keeps its
    own.

    owner (M,): the scan of each point.
    """
    bare = find_bare(inputs, owner)
    told = _answers([teacher.point_logits() for teacher in teachers], least)
    told_voxels = _answers([teacher.voxel_logits() for teacher in teachers], least)
    return replace(
        inputs,
        labels=torch.where(bare[owner.long()], told, inputs.labels),
        voxel_labels=torch.where(bare[inputs.voxel_scan.long()], told_voxels, inputs.voxel_labels),
    )


def find_bare(inputs: Inputs, owner: Tensor) -> Tensor:
    """(scans,) which have no label at all."""
    return torch.bincount(owner[inputs.labels != IGNORE], minlength=inputs.scans) == 0


def _answers(logits: Sequence[Tensor], least: float) -> Tensor:
    """(N, C) of each teacher -> (N,) uint8 the best class, 255 where it is too unlikely."""
    mean = torch.stack([each.float().softmax(1) for each in logits]).mean(0)
    probability, best = mean.max(1)
    return best.masked_fill(probability < least, IGNORE).to(torch.uint8)

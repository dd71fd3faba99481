# SPDX-License-Identifier: Apache-2.0
"""Scans that nobody labelled get pseudo-labels from the teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from training.methods.inputs import AlignedOutput, Inputs
from training.methods.without_wait import count_rows


def pseudo_label(
    inputs: Inputs, teachers: Sequence[AlignedOutput], owner: Tensor, least: float
) -> Inputs:
    """Where the teachers' mean probability is at least `least`; a scan with any label keeps its
    own.

    owner (M,): the scan of each point.
    """
    bare = count_rows(owner, inputs.scans, inputs.labels != IGNORE) == 0
    told = _answers([teacher.point_logits() for teacher in teachers], least)
    told_voxels = _answers([teacher.voxel_logits() for teacher in teachers], least)
    return replace(
        inputs,
        labels=torch.where(bare[owner.long()], told, inputs.labels),
        voxel_labels=torch.where(bare[inputs.voxel_scan.long()], told_voxels, inputs.voxel_labels),
        kept=None,  # on a GPU the new labels have to come down
    )


def has_bare(inputs: Inputs) -> bool:
    """Whether a scan has no label at all; asked of the host."""
    known = inputs.host.label_array != IGNORE
    return not all(
        known[start:stop].any() for start, stop in zip(inputs.starts, inputs.starts[1:])
    )


def _answers(logits: Sequence[Tensor], least: float) -> Tensor:
    """(N, C) of each teacher -> (N,) uint8 the best class, 255 where it is too unlikely."""
    mean = torch.stack([each.float().softmax(1) for each in logits]).mean(0)
    probability, best = mean.max(1)
    return best.masked_fill(probability < least, IGNORE).to(torch.uint8)

# SPDX-License-Identifier: Apache-2.0
"""Several teachers as one: the mean of what they say, the features of the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import math
from typing import cast

import torch
from torch import nn, Tensor

from lidar_kd.models.output import Output, SegmentationNetwork
from lidar_kd.sparse import Level
from lidar_kd.voxels import Voxels


class Ensemble(nn.Module):
    """Networks that look at the same voxels; their posteriors are averaged at every voxel, and at
    every point where one of them has a head for points.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        first = cast(SegmentationNetwork, networks[0])
        self.point_width, self.voxel_width = first.point_width, first.voxel_width
        self.early_width = first.early_width

    def build_maps(self, level: Level) -> None:
        for network in self.networks:
            cast(SegmentationNetwork, network).build_maps(level)

    def forward(self, voxels: Voxels) -> Output:
        outputs: list[Output] = [network(voxels) for network in self.networks]
        has_points = any(output.own_point_logits is not None for output in outputs)
        return replace(
            outputs[0],
            voxel_logits=mean_posterior(outputs, lambda output: output.voxel_logits),
            own_point_logits=mean_posterior(outputs, lambda output: output.point_logits)
            if has_points
            else None,
        )


def mean_posterior(outputs: Sequence[Output], logits_of: Callable[[Output], Tensor]) -> Tensor:
    """(R, C) logits of the mean of the posteriors: their logarithm."""
    each = torch.stack([logits_of(output).float().log_softmax(1) for output in outputs])
    return each.logsumexp(0) - math.log(len(outputs))

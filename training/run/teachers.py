# SPDX-License-Identifier: Apache-2.0
"""The teacher: frozen, in eval mode, outside the student's checkpoint and outside DDP."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import torch
from torch import nn

from lidar_kd.bundle import Bundle, BundleSpec, load_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.models.output import Output, SegmentationNetwork
from lidar_kd.sparse import fold_norms
from lidar_kd.voxels import Voxels


class FrozenTeacher:
    """No module, so that it is no part of what is trained or saved.

    by_features: it has no answers in the classes of the data, or none at all, and teaches by its
    features and their relations alone.
    """

    def __init__(self, bundle: Bundle, device: torch.device, *, by_features: bool = False) -> None:
        self.spec, self.sha256, self.by_features = bundle.spec, bundle.sha256, by_features
        self.name = bundle.spec.run_or(bundle.name)
        self.parameters = sum(p.numel() for p in bundle.model.parameters())
        self.network: nn.Module = fold_norms(bundle.model).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, voxels: Voxels) -> Output:
        network = cast(SegmentationNetwork, self.network)
        network.build_maps(voxels.level)
        return network(voxels)


def load_teacher(
    path: Path, labels: str, intensity_scale: float, device: torch.device
) -> FrozenTeacher:
    """A bundle that the student can be compared with, in its answers where both have the same
    classes (labels: the name of the data's table)."""
    bundle = load_bundle(path)
    bundle.require_columns()
    check_intensity(bundle.spec, intensity_scale, str(path))
    return FrozenTeacher(bundle, device, by_features=bundle.spec.labels.name != labels)


def check_intensity(spec: BundleSpec, scale: float, where: str) -> None:
    if not math.isclose(spec.intensity.scale, scale, rel_tol=1e-4):  # 0.00392157 is 1 / 255
        raise ConfigError(
            f'{where}: it was trained with intensity times {spec.intensity.scale:g}, '
            f'data.intensity_scale is {scale:g}; set it to the same, or import the bundle again '
            'with the right --intensity-scale of training/import_weights.py.'
        )

# SPDX-License-Identifier: Apache-2.0
"""The teacher: frozen, in eval mode, outside the student's checkpoint and outside DDP."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
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
from training.run.ensemble import Ensemble


class FrozenTeacher:
    """No module, so that it is no part of what is trained or saved.

    others: bundles that answer with it, in the mean; they look at the same voxels. by_features: it
    has no answers in the classes of the data, or none at all, and teaches by its features and
    their relations alone.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        others: Sequence[Bundle] = (),
        *,
        by_features: bool = False,
    ) -> None:
        bundles = [bundle, *others]
        self.spec, self.by_features = bundle.spec, by_features
        self.sha256 = _digest_together([each.sha256 for each in bundles])
        self.name = bundle.spec.run_or(bundle.name) + f' and {len(others)} more' * bool(others)
        networks = [fold_norms(each.model) for each in bundles]
        self.parameters = sum(p.numel() for each in bundles for p in each.model.parameters())
        network = Ensemble(networks) if others else networks[0]
        self.network: nn.Module = network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, voxels: Voxels) -> Output:
        network = cast(SegmentationNetwork, self.network)
        network.build_maps(voxels.level)
        return network(voxels)


def load_teacher(
    paths: Sequence[Path], labels: str, intensity_scale: float, device: torch.device
) -> FrozenTeacher:
    """A bundle that the student can be compared with, in its answers where both have the same
    classes (labels: the name of the data's table); or several that answer as one.
    """
    bundles = [load_bundle(path) for path in paths]
    first, *others = bundles
    for path, bundle in zip(paths, bundles):
        bundle.require_columns()
        check_intensity(bundle.spec, intensity_scale, str(path))
        if _looks_at(bundle) != _looks_at(first):
            raise ConfigError(
                f'{path}: its voxels or classes are not those of {paths[0]}; teachers of an '
                'ensemble have the same ones: take it out of teacher.ensemble.'
            )
    return FrozenTeacher(first, device, others, by_features=first.spec.labels.name != labels)


def _looks_at(bundle: Bundle) -> tuple[object, str]:
    return bundle.spec.grid, bundle.spec.labels.name


def _digest_together(digests: Sequence[str]) -> str:
    """That of a single one is its own: answers that were kept are found again."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(' '.join(digests).encode()).hexdigest()


def check_intensity(spec: BundleSpec, scale: float, where: str) -> None:
    if not math.isclose(spec.intensity.scale, scale, rel_tol=1e-4):  # 0.00392157 is 1 / 255
        raise ConfigError(
            f'{where}: it was trained with intensity times {spec.intensity.scale:g}, '
            f'data.intensity_scale is {scale:g}; set it to the same, or import the bundle again '
            'with the right --intensity-scale of training/import_weights.py.'
        )

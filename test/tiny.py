# SPDX-License-Identifier: Apache-2.0
"""A data set of a few points in SemanticKITTI's layout, and a network that takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lidar_kd.bundle import BundleSpec, ModelSpec, save_bundle
from lidar_kd.labels import ClassTable, SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.voxels import CartesianGrid
from training.data.kinds import open_dataset
from training.data.scan import ScanSet

POINTS = 60
RAW = (10, 40, 50, 70, 0)  # car, road, building, vegetation, unlabelled


def write_kitti(root: Path, sequences: tuple[str, ...] = ('08',), scans: int = 2) -> ScanSet:
    rng = np.random.default_rng(0)
    for sequence in sequences:
        for number in range(scans):
            place = root / 'sequences' / sequence
            points = rng.uniform(-30, 30, (POINTS, 4)).astype('<f4')
            labels = rng.choice(RAW, POINTS).astype('<u4') | np.uint32(7 << 16)  # object 7
            for folder, name, values in (
                ('velodyne', f'{number:06}.bin', points),
                ('labels', f'{number:06}.label', labels),
            ):
                (place / folder).mkdir(parents=True, exist_ok=True)
                values.tofile(place / folder / name)
    return open_dataset('semantickitti', root)


def tiny_spec(table: ClassTable = SEMANTICKITTI) -> BundleSpec:
    return BundleSpec(
        model=ModelSpec(name='minkunet', settings={'width': 0.125}),
        grid=CartesianGrid(voxel_m=1.0),
        labels=table,
    )


def write_bundle(path: Path, table: ClassTable = SEMANTICKITTI, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = build_model('minkunet', classes=table.num_classes, width=0.125)
    save_bundle(path, model.eval(), tiny_spec(table))
    return path

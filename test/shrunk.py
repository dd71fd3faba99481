# SPDX-License-Identifier: Apache-2.0
"""Configurations made small: networks, cells and batches; all else is the file's own."""

from __future__ import annotations

from pathlib import Path
import sys
from typing import Any

import pytest

from lidar_kd.models import PRESETS
from lidar_kd.voxels import CylinderGrid
from training.run import perform
from training.run.config import Config
from training.run.perform import Job, main

PTV3 = {
    'encoder_depths': [1, 1, 1],
    'encoder_channels': [16, 32, 32],
    'encoder_heads': [1, 2, 2],
    'decoder_depths': [1, 1],
    'decoder_channels': [16, 32],
    'decoder_heads': [1, 2],
}
SMALL: dict[str, dict[str, Any]] = {
    'minkunet': {'width': 0.125},
    'spvcnn': {'width': 0.125},
    'ptv3': PTV3,
    'cylinder3d': {
        'width': 8,
        'voxel_channels': 8,
        'point_channels': 16,
        'point_hidden': [16],
    },
}


def shrink(config: Config, root: Path) -> list[str]:
    """What makes the run of a file small: words for --set."""
    family = PRESETS[config.model.name][0]
    changes: dict[str, Any] = {
        'data.root': root,
        'data.workers': 0,
        'device': 'cpu',
        'threads': 1,
        'model.name': family,
        'model.settings': SMALL[family],
        'optim.steps': 3,
        'optim.batch_size': 2,
        'validate.steps': 3,
        'validate.pictures': 0,
        'log_every': 1,
    }
    if isinstance(config.model.grid, CylinderGrid):
        changes['model.grid.shape'] = [48, 36, 16]
    else:
        changes['model.grid.voxel_m'] = 0.5
    if config.data.kind == 'semantickitti':  # the tree has one to learn from, one to score
        changes |= {'data.train': ['00'], 'data.validation': ['08']}
    return [f'{key}={value}' for key, value in changes.items()]


def start(job: Job, path: Path, out: Path, changes: list[str]) -> int:
    """The command with these words."""
    words = ['x.py', '--cfg', str(path), '--out', str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perform, 'report_run', lambda parts, console: None)  # pictures take a second
        patch.setattr(sys, 'argv', [*words, *(word for c in changes for word in ('--set', c))])
        return main('', job, path)

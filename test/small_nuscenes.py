# SPDX-License-Identifier: Apache-2.0
"""The street of small_run.py in nuScenes' official layout: v1.0-trainval with two scenes."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path
from typing import Any

import numpy as np
from small_run import BUILDING, CAR, make_scan, PERSON, ROAD, TREES

SCENES = {'scene-0061': 4, 'scene-0003': 2}  # of train and of val: key frames
CATEGORIES = {ROAD: 24, BUILDING: 28, TREES: 30, CAR: 17, PERSON: 2}  # raw id -> category
AT = {'rotation': [1, 0, 0, 0], 'translation': [0, 0, 0]}
Row = dict[str, Any]


def make_nuscenes(root: Path) -> Path:
    frames = [(scene, frame) for scene, count in SCENES.items() for frame in range(count)]
    folder = root / 'v1.0-trainval'
    folder.mkdir(parents=True)
    for name, rows in _make_tables(frames).items():
        (folder / f'{name}.json').write_text(json.dumps(rows))
    for place in ('samples/LIDAR_TOP', 'lidarseg/v1.0-trainval', 'panoptic/v1.0-trainval'):
        (root / place).mkdir(parents=True)
    for number, (_, frame) in enumerate(frames):
        _write_frame(root, f'key{number}', number, frame)
    return root


def _write_frame(root: Path, token: str, seed: int, frame: int) -> None:
    points, raw = make_scan(np.random.default_rng([7, seed]), frame)
    points[:, 3] *= 255  # as nuScenes stores the intensity
    ring = np.zeros((len(points), 1), '<f4')
    np.hstack([points, ring]).astype('<f4').tofile(root / f'samples/LIDAR_TOP/{token}.pcd.bin')
    categories = np.zeros(len(raw), np.uint8)
    for theirs, category in CATEGORIES.items():
        categories[(raw & 0xFFFF) == theirs] = category
    categories.tofile(root / f'lidarseg/v1.0-trainval/{token}_lidarseg.bin')
    objects = (categories * np.uint16(1000) + (raw >> 16)).astype(np.uint16)
    np.savez_compressed(root / f'panoptic/v1.0-trainval/{token}_panoptic.npz', data=objects)


def _make_tables(frames: Sequence[tuple[str, int]]) -> dict[str, list[Row]]:
    keys = [(f'key{number}', scene, frame) for number, (scene, frame) in enumerate(frames)]
    return {
        'scene': [{'token': f'of {name}', 'name': name} for name in SCENES],
        'sample': [{'token': f'sample {k}', 'scene_token': f'of {s}'} for k, s, _ in keys],
        'sensor': [{'token': 'lidar', 'channel': 'LIDAR_TOP', 'modality': 'lidar'}],
        'calibrated_sensor': [{'token': 'roof', 'sensor_token': 'lidar', **AT}],
        'ego_pose': [
            {'token': f'ego {k}', **AT, 'translation': [frame, 0, 0]} for k, _, frame in keys
        ],
        'sample_data': [_make_row(k, frame) for k, _, frame in keys],
        'category': [{'token': 'c17', 'name': 'vehicle.car', 'index': 17}],
        'lidarseg': [_name_file(k, 'lidarseg', 'bin') for k, _, _ in keys],
        'panoptic': [_name_file(k, 'panoptic', 'npz') for k, _, _ in keys],
    }


def _make_row(key: str, frame: int) -> Row:
    return {
        'token': key,
        'sample_token': f'sample {key}',
        'ego_pose_token': f'ego {key}',
        'calibrated_sensor_token': 'roof',
        'timestamp': frame,
        'is_key_frame': True,
        'filename': f'samples/LIDAR_TOP/{key}.pcd.bin',
    }


def _name_file(key: str, kind: str, suffix: str) -> Row:
    return {
        'token': key,
        'sample_data_token': key,
        'filename': f'{kind}/v1.0-trainval/{key}_{kind}.{suffix}',
    }

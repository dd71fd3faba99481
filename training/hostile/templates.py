# SPDX-License-Identifier: Apache-2.0
"""The honest files that are damaged afterwards: a street, a run, a bundle, bags, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from lidar_kd.bundle import BundleSpec, load_bundle, ModelSpec, save_bundle
from lidar_kd.cli.console import Console
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.voxels import CartesianGrid
from training.run.config import load_config
from training.run.folder import RunFolder
from training.run.perform import perform
from training.run.ranks import Ranks

POINTS = 120
RAW = (10, 40, 50, 70, 0)  # car, road, building, vegetation, unlabelled
MODEL = {'width': 0.0625}
STEPS = 2
AT = {'rotation': [1, 0, 0, 0], 'translation': [0, 0, 0]}
SCENE = 'scene-0003'
Row = dict[str, Any]


def make_templates(folder: Path) -> None:
    """Everything below one folder, once; the cases copy from it."""
    write_street(folder / 'street')
    write_tables(folder / 'nuscenes')
    write_network(folder / 'network.safetensors')
    write_run(folder)
    state = load_bundle(folder / 'network.safetensors').model.state_dict()
    torch.save({'state_dict': state, 'epoch': 3}, folder / 'weights.pt')
    torch.save(state, folder / 'old.pt', _use_new_zipfile_serialization=False)


def write_street(root: Path) -> None:
    rng = np.random.default_rng(0)
    for sequence, scans in (('00', 2), ('08', 1)):
        place = root / 'sequences' / sequence
        for name in ('velodyne', 'labels'):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / 'calib.txt').write_text('Tr: 0 -1 0 0 0 0 -1 -1 1 0 0 0\n')
        poses = (f'1 0 0 0 0 1 0 0 0 0 1 {number}\n' for number in range(scans))
        (place / 'poses.txt').write_text(''.join(poses))
        for number in range(scans):
            points = rng.uniform(-9, 9, (POINTS, 4)).astype('<f4')
            points[:, 3] = rng.random(POINTS)
            points.tofile(place / 'velodyne' / f'{number:06}.bin')
            labels = rng.choice(RAW, POINTS).astype('<u4') | np.uint32(7 << 16)
            labels.tofile(place / 'labels' / f'{number:06}.label')


def write_tables(root: Path) -> None:
    """One key frame of nuScenes."""
    folder = root / 'v1.0-trainval'
    file = 'samples/LIDAR_TOP/k.pcd.bin'
    files = {kind: f'{kind}/v1.0-trainval/k_{kind}' for kind in ('lidarseg', 'panoptic')}
    labels = {'token': 'k', 'sample_data_token': 'k'}
    tables: dict[str, list[Row]] = {
        'scene': [{'token': 's', 'name': SCENE}],
        'sample': [{'token': 'm', 'scene_token': 's'}],
        'sensor': [{'token': 'lidar', 'channel': 'LIDAR_TOP', 'modality': 'lidar'}],
        'calibrated_sensor': [{'token': 'roof', 'sensor_token': 'lidar', **AT}],
        'ego_pose': [{'token': 'e', **AT}],
        'sample_data': [
            {'token': 'k', 'sample_token': 'm', 'ego_pose_token': 'e', 'timestamp': 1,
             'calibrated_sensor_token': 'roof', 'is_key_frame': True, 'filename': file}
        ],
        'category': [{'token': 'c', 'name': 'vehicle.car', 'index': 17}],
        'lidarseg': [{**labels, 'filename': files['lidarseg'] + '.bin'}],
        'panoptic': [{**labels, 'filename': files['panoptic'] + '.npz'}],
    }  # fmt: skip
    for place in (folder / 'x', *(root / name for name in (file, *files.values()))):
        place.parent.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / f'{name}.json').write_text(json.dumps(rows))
    np.zeros((POINTS, 5), '<f4').tofile(root / file)
    np.full(POINTS, 17, np.uint8).tofile(root / (files['lidarseg'] + '.bin'))
    numbers = np.full(POINTS, 17001, np.uint16)
    np.savez_compressed(root / (files['panoptic'] + '.npz'), data=numbers)


def write_network(path: Path) -> None:
    torch.manual_seed(1)
    spec = BundleSpec(
        model=ModelSpec(name='minkunet', settings=dict(MODEL)),
        grid=CartesianGrid(voxel_m=1.0),
        labels=SEMANTICKITTI,
    )
    model = build_model('minkunet', classes=SEMANTICKITTI.num_classes, **MODEL)
    save_bundle(path, model.eval(), spec)


def write_run(folder: Path) -> None:
    """A finished run, in folder/run; its configuration beside it."""
    config = folder / 'tiny.yaml'
    config.write_text(yaml.safe_dump(run_settings(folder / 'street')))
    console, out = Console(quiet=True), RunFolder(folder / 'run')
    perform(load_config(config), out, console, Ranks(), {})


def run_settings(street: Path) -> dict[str, Any]:
    return {
        'name': 'tiny',
        'device': 'cpu',
        'threads': 1,
        'data': {'kind': 'semantickitti', 'root': str(street), 'train': ['00'],
                 'validation': ['08'], 'workers': 0},
        'model': {'name': 'minkunet', 'settings': dict(MODEL),
                  'grid': {'kind': 'cartesian', 'voxel_m': 1.0}},
        'optim': {'steps': STEPS, 'batch_size': 1},
        'validate': {'steps': 1, 'pictures': 0},
        'log_every': 1,
    }  # fmt: skip

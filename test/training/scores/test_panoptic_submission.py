# SPDX-License-Identifier: Apache-2.0
"""Panoptic submissions: class ids below, object numbers in the upper 16 bits, and back."""

from __future__ import annotations

import json
from pathlib import Path
import zipfile

import numpy as np
import pytest
from tiny import write_bundle, write_kitti

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from training.data.kinds import open_dataset
from training.evaluate import main as evaluate
from training.scores.panoptic import number_objects
from training.scores.predictions import layout_of
from training.submit import main as submit

Capture = pytest.CaptureFixture[str]


def test_an_archive_holds_classes_and_object_numbers(tmp_path: Path, capsys: Capture) -> None:
    write_kitti(tmp_path / 'data', ('11',))
    bundle = write_bundle(tmp_path / 'tiny.safetensors', seed=1)  # answers things, too
    data = ['--data', str(tmp_path / 'data'), '--sequences', '11']
    words = ['--bundle', str(bundle), *data, '--precision', 'float32']
    assert submit([*words, '--out', str(tmp_path / 'plain.zip')]) == 0
    panoptic = [*words, '--panoptic', '--out', str(tmp_path / 'panoptic.zip')]
    assert submit(panoptic) == 0
    plain, numbered = (read_first(tmp_path / f'{n}.zip') for n in ('plain', 'panoptic'))
    assert (numbered & 0xFFFF == plain).all()
    scan = open_dataset('semantickitti', tmp_path / 'data')[0]
    expected = number_objects(SEMANTICKITTI, scan, SEMANTICKITTI.to_train(plain))
    assert (numbered >> 16 == expected).all()
    assert expected.max() > 1
    assert submit(['check', str(tmp_path / 'panoptic.zip'), *data]) == 0
    capsys.readouterr()
    folder = ['--folder', str(tmp_path / 'panoptic_predictions')]
    assert submit([*words, *folder, '--out', str(tmp_path / 'mixed.zip')]) == 2
    assert 'holds predictions of another network' in capsys.readouterr().err


def read_first(archive: Path) -> np.ndarray:
    with zipfile.ZipFile(archive) as file:
        return np.frombuffer(file.read('sequences/11/predictions/000000.label'), '<u4')


def write_two_cars(root: Path) -> Path:
    """80 and 60 points of a car each, and 100 of road."""
    raw = np.repeat(np.array([10 | 1 << 16, 10 | 2 << 16, 40], '<u4'), [80, 60, 100])
    points = np.random.default_rng(0).uniform(1, 9, (240, 4)).astype('<f4')
    for name, values in (('velodyne/000000.bin', points), ('labels/000000.label', raw)):
        path = root / 'sequences' / '08' / name
        path.parent.mkdir(parents=True)
        values.tofile(path)
    return root


def score(root: Path, numbers: list[int]) -> float:
    """PQ of cars, where the true classes were predicted with these numbers for the two cars."""
    scans = open_dataset('semantickitti', write_two_cars(root / 'data'))
    layout = layout_of('semantickitti')
    labels = scans[0].labels
    objects = np.repeat(np.array([*numbers, 0], np.uint32), [80, 60, 100])
    place = root / 'p' / layout.place(scans.frames[0], 'val')
    layout.write(place, labels, scans.table, objects)
    assert (layout.read(place.read_bytes(), scans.table, 'p') == labels).all()
    words = ['--data', str(root / 'data'), '--predictions', str(root / 'p')]
    assert evaluate([*words, '--panoptic', 'stored', '--json', str(root / 'f.json')]) == 0
    return json.loads((root / 'f.json').read_text())['pq_car']


def test_stored_object_numbers_are_scored(tmp_path: Path) -> None:
    assert score(tmp_path / 'apart', [7, 5]) == 1
    # as one segment of 140 points: it matches the car of 80 (IoU 80 / 140), the other is missed
    assert score(tmp_path / 'as_one', [3, 3]) == pytest.approx(80 / 140 / 1.5)


def test_what_holds_no_object_numbers_is_told(tmp_path: Path, capsys: Capture) -> None:
    data = str(write_two_cars(tmp_path / 'data'))
    assert evaluate(['--data', data, '--panoptic', 'stored']) == 2
    assert '--panoptic stored needs predictions that hold objects' in capsys.readouterr().err
    labels, numbers = np.zeros(3, np.uint8), np.ones(3, np.uint32)
    with pytest.raises(ConfigError, match='predictions for nuscenes hold no object numbers'):
        layout_of('nuscenes').write(tmp_path / 'a.bin', labels, NUSCENES, numbers)
    kitti = layout_of('semantickitti')
    with pytest.raises(DataError, match='more than 65535 objects'):
        kitti.write(tmp_path / 'a.label', labels, SEMANTICKITTI, numbers << np.uint32(16))
    assert not list(tmp_path.glob('a.*'))

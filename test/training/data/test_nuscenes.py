# SPDX-License-Identifier: Apache-2.0
"""nuScenes-lidarseg from tables in the official format, made here row by row."""

from __future__ import annotations

import json
import math
from pathlib import Path
import pickle
from typing import Any

import numpy as np
import pytest

from lidar_kd.errors import DataError
from lidar_kd.labels import IGNORE, NUSCENES
from training.data.check import check_scans
from training.data.instances import collect_sightings
from training.data.kinds import open_dataset
from training.data.nuscenes import open_nuscenes, SPLITS

CAR, BARRIER = NUSCENES.names.index('car'), NUSCENES.names.index('barrier')
HALF = math.sqrt(0.5)  # a quarter turn about z is the quaternion (HALF, 0, 0, HALF)
SCENES = {'scene-0061': 'S1', 'scene-0103': 'S2'}  # mini_train and mini_val
Row = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two scenes with two and one key frames; sweeps and a camera that must not come in."""
    tables = make_tables()
    folder = tmp_path / 'v1.0-mini'
    folder.mkdir()
    for name, rows in tables.items():
        (folder / f'{name}.json').write_text(json.dumps(rows, indent=0))
    for row in tables['sample_data']:
        path = tmp_path / row['filename']
        path.parent.mkdir(parents=True, exist_ok=True)
        points = np.arange(15, dtype='<f4').reshape(3, 5)  # x y z intensity ring
        points.tofile(path)
    for row in tables['lidarseg']:
        path = tmp_path / row['filename']
        path.parent.mkdir(parents=True, exist_ok=True)
        np.array([17, 9, 31], np.uint8).tofile(path)  # car, barrier, ego: ignored
    return tmp_path


def make_tables() -> dict[str, list[Row]]:
    keys = [('A', 'S1', 300), ('B', 'S1', 100), ('C', 'S2', 200)]
    return {
        'scene': [
            {'token': token, 'name': name, 'nbr_samples': 1, 'description': 'made up'}
            for name, token in SCENES.items()
        ],
        'sample': [
            {
                'token': f'sample{k}',
                'timestamp': time,
                'scene_token': scene,
                'prev': '',
                'next': '',
            }
            for k, scene, time in keys
        ],
        'sensor': [
            {'token': 'lidar', 'channel': 'LIDAR_TOP', 'modality': 'lidar'},
            {'token': 'camera', 'channel': 'CAM_FRONT', 'modality': 'camera'},
        ],
        'calibrated_sensor': [
            # the sensor sits 2 m above the vehicle's origin, a quarter turn to the left
            make_pose('roof', [0, 0, 2], sensor_token='lidar', camera_intrinsic=[]),
            make_pose('front', [1, 0, 1], sensor_token='camera', camera_intrinsic=[[1]]),
        ],
        'ego_pose': [make_pose(f'ego{k}', [10, 0, 0], timestamp=time) for k, _, time in keys],
        'sample_data': [
            *(make_scan(k, f'sweeps/LIDAR_TOP/{k}.pcd.bin', time) for k, _, time in keys),
            make_scan('A', 'sweeps/LIDAR_TOP/A0.pcd.bin', 290, key=False),
            make_scan('A', 'samples/CAM_FRONT/A.jpg', 300, mount='front'),
        ],
        'category': [
            {'token': 'c17', 'name': 'vehicle.car', 'description': '', 'index': 17},
            {'token': 'c9', 'name': 'movable_object.barrier', 'description': '', 'index': 9},
        ],
        'lidarseg': [
            {
                'token': f'scan{k}',
                'sample_data_token': f'scan{k}',
                'filename': f'lidarseg/v1.0-mini/scan{k}_lidarseg.bin',
            }
            for k, _, _ in keys
        ],
    }


def make_pose(token: str, at: list[float], **rest: Any) -> Row:
    return {'token': token, 'translation': at, 'rotation': [HALF, 0, 0, HALF], **rest}


def make_scan(
    letter: str, filename: str, time: int, *, key: bool = True, mount: str = 'roof'
) -> Row:
    plain = key and mount == 'roof'
    return {
        'token': f'scan{letter}' if plain else filename,
        'sample_token': f'sample{letter}',
        'ego_pose_token': f'ego{letter}',
        'calibrated_sensor_token': mount,
        'timestamp': time,
        'fileformat': 'pcd',
        'is_key_frame': key,
        'height': 0,
        'width': 0,
        'filename': filename,
        'prev': '',
        'next': '',
    }


def edit(root: Path, name: str, change: Any) -> None:
    path = root / 'v1.0-mini' / f'{name}.json'
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_key_frames_of_the_lidar_come_by_scene_and_time(root: Path) -> None:
    scans = open_nuscenes(root)
    assert [f.name for f in scans.frames] == [
        *('scene-0061/scanB', 'scene-0061/scanA', 'scene-0103/scanC')
    ]
    assert 'nuscenes: 3 scans of 2 sequences (scene-0061 scene-0103), 3 with' in scans.describe()


def test_a_scan_has_four_of_its_five_columns_and_train_ids(root: Path) -> None:
    scan = open_nuscenes(root)[0]
    assert scan.points.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11, 12, 13]]
    assert scan.labels.tolist() == [CAR, BARRIER, IGNORE]
    assert scan.instances is None


def test_a_pose_is_the_vehicles_times_the_mounting(root: Path) -> None:
    pose = open_nuscenes(root)[0].pose
    assert pose is not None
    # (1, 2, 3) in the sensor; a quarter turn (-2, 1, 3), 2 m up (-2, 1, 5); again a quarter
    # turn (-1, -2, 5), and 10 m along x
    assert np.allclose(pose @ [1, 2, 3, 1], [9, -2, 5, 1])


def test_splits_are_the_official_ones(root: Path) -> None:
    assert {f.sequence for f in open_nuscenes(root, 'mini_val').frames} == {'scene-0103'}
    assert {f.sequence for f in open_nuscenes(root, 'mini_train').frames} == {'scene-0061'}
    assert {f.sequence for f in open_nuscenes(root, ['scene-0061']).frames} == {'scene-0061'}
    _, in_val = SPLITS['val']
    assert sum(in_val(f'scene-{number:04}') for number in range(1, 1111)) == 150


def test_other_splits_ask_for_their_tables(root: Path) -> None:
    with pytest.raises(DataError, match=r'v1\.0-trainval/scene\.json: cannot be read'):
        open_nuscenes(root, 'train')


@pytest.mark.parametrize(
    ('wanted', 'missing'),
    [
        ('scene-9', 'scene-9'),
        (['scene-0103', 'scene-9999', 'scene-0104'], 'scene-0104, scene-9999'),
        (['val', 'scene-0103'], 'val'),  # a split stands alone
        ([], 'was asked for'),
    ],
)
def test_scenes_that_are_not_there_are_named(
    root: Path, wanted: str | list[str], missing: str
) -> None:
    with pytest.raises(DataError, match=rf'scene\.json: no scene {missing}; name one split'):
        open_nuscenes(root, wanted)


def test_scenes_without_a_key_frame_are_named(root: Path) -> None:
    edit(root, 'sample', lambda rows: rows.pop())
    with pytest.raises(DataError, match=r'no LIDAR_TOP key frame of scene-0103; unpack'):
        open_nuscenes(root, 'scene-0103')


def test_without_lidarseg_the_scans_are_unlabelled(root: Path) -> None:
    (root / 'v1.0-mini' / 'lidarseg.json').unlink()
    scans = open_nuscenes(root)
    assert scans[0].labels.tolist() == [IGNORE] * 3
    with pytest.raises(DataError, match='3 of 3 scans have no labels'):
        scans.require_labels()


def test_categories_of_the_detection_download_are_refused(root: Path) -> None:
    edit(root, 'category', lambda rows: [row.pop('index') for row in rows])
    with pytest.raises(DataError, match=r'category\.json: not the numbering of nuScenes-lidarseg'):
        open_nuscenes(root)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'needs one folder of tables .* found none'):
        open_nuscenes(tmp_path)


@pytest.mark.parametrize('content', ['{', '[1]', '[{"no": "token"}]'])
def test_a_broken_table_is_named(root: Path, content: str) -> None:
    (root / 'v1.0-mini' / 'sample.json').write_text(content)
    with pytest.raises(DataError, match=r'sample\.json: not an official nuScenes table'):
        open_nuscenes(root)


def test_tables_of_different_releases_are_noticed(root: Path) -> None:
    edit(root, 'ego_pose', lambda rows: rows.pop(0))
    with pytest.raises(DataError, match='no pose egoA; the tables are of different releases'):
        open_nuscenes(root)


def test_the_check_finds_missing_and_mismatched_files(root: Path) -> None:
    scans = open_dataset('nuscenes', root)
    assert check_scans(scans).problems == []
    (root / 'sweeps/LIDAR_TOP/B.pcd.bin').unlink()
    np.zeros(2, np.uint8).tofile(root / 'lidarseg/v1.0-mini/scanA_lidarseg.bin')
    np.full(3, 32, np.uint8).tofile(root / 'lidarseg/v1.0-mini/scanC_lidarseg.bin')
    first, second, third = check_scans(scans).problems
    assert 'B.pcd.bin: no such file' in first
    assert 'scanA_lidarseg.bin: 2 labels for the 3 points of A.pcd.bin' in second
    assert 'scanC_lidarseg.bin: raw label ids 32 (3 points) are not' in third


@pytest.fixture
def panoptic(root: Path) -> Path:
    """The same tree with nuScenes-panoptic unpacked over it."""
    rows = []
    for letter in 'ABC':
        name = f'panoptic/v1.0-mini/scan{letter}_panoptic.npz'
        rows.append(
            {'token': f'p{letter}', 'sample_data_token': f'scan{letter}', 'filename': name}
        )
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        # car 5; adult (category 2) 1; child (category 3) 1
        np.array([17, 2, 3], np.uint8).tofile(
            root / f'lidarseg/v1.0-mini/scan{letter}_lidarseg.bin'
        )
        np.savez_compressed(root / name, data=np.array([17005, 2001, 3001], np.uint16))
    (root / 'v1.0-mini' / 'panoptic.json').write_text(json.dumps(rows))
    return root


def write_labels(root: Path, lidarseg: list[int], panoptic: list[int]) -> None:
    """Of scan B, the first one."""
    np.array(lidarseg, np.uint8).tofile(root / 'lidarseg/v1.0-mini/scanB_lidarseg.bin')
    path = root / 'panoptic/v1.0-mini/scanB_panoptic.npz'
    np.savez_compressed(path, data=np.array(panoptic, np.uint16))


def test_panoptic_files_number_the_objects(panoptic: Path) -> None:
    scan = open_nuscenes(panoptic)[0]
    person = NUSCENES.names.index('pedestrian')
    assert scan.labels.tolist() == [CAR, person, person]
    assert scan.instances is not None
    # an adult and a child are of one class here, and remain two objects
    assert scan.instances.tolist() == [17005, 2001, 3001]


def test_panoptic_points_without_an_object_have_the_number_0(panoptic: Path) -> None:
    # driveable surface; a car that is no object of its own; car 999, the highest there can be
    write_labels(panoptic, [24, 17, 17], [24000, 17000, 17999])
    scan = open_nuscenes(panoptic)[0]
    assert scan.labels.tolist() == [NUSCENES.names.index('driveable_surface'), CAR, CAR]
    assert scan.instances is not None
    assert scan.instances.tolist() == [0, 0, 17999]


def test_what_panoptic_leaves_out_keeps_its_class_of_lidarseg(panoptic: Path) -> None:
    # 0 in panoptic: a car's point in two boxes; a barrier's in none. A car that panoptic calls
    # adult 1 is of no object either.
    write_labels(panoptic, [17, 9, 17], [0, 0, 2001])
    scans = open_nuscenes(panoptic)
    assert scans[0].labels.tolist() == [CAR, BARRIER, CAR]
    assert scans.read_labels(0).tolist() == [CAR, BARRIER, CAR]
    instances = scans[0].instances
    assert instances is not None
    assert instances.tolist() == [0, 0, 0]


def test_panoptic_alone_asks_for_lidarseg(panoptic: Path) -> None:
    (panoptic / 'v1.0-mini' / 'lidarseg.json').unlink()
    with pytest.raises(DataError, match=r'no lidarseg\.json.*unpack nuScenes-lidarseg beside'):
        open_nuscenes(panoptic)


def test_panoptic_of_other_scans_is_noticed(panoptic: Path) -> None:
    write_labels(panoptic, [17, 9, 31], [17001, 0])
    with pytest.raises(DataError, match=r'scanB_panoptic\.npz: 2 object numbers for 3 labels'):
        open_nuscenes(panoptic)[0]


def test_without_panoptic_objects_are_refused_after_one_scan(root: Path) -> None:
    seen: list[int] = []
    scans = open_nuscenes(root)
    with pytest.raises(DataError, match=r'no instance ids, as scene-0061/scanB shows; unpack'):
        collect_sightings(scans, cache=root / 'cache', advance=lambda: seen.append(1))
    assert seen == []


def test_panoptic_gives_the_objects_to_fuse_and_paste(panoptic: Path) -> None:
    sightings = collect_sightings(open_nuscenes(panoptic), cache=panoptic / 'cache')
    # an adult and a child in each of three scans; a car is of no hard class
    assert sightings.number.tolist() == [2001, 3001] * 3


def test_a_panoptic_file_with_a_damaged_byte_is_read_or_named(panoptic: Path) -> None:
    path = panoptic / 'panoptic/v1.0-mini/scanB_panoptic.npz'
    scans, whole, told = open_nuscenes(panoptic), path.read_bytes(), ''
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            scans[0]
        except DataError as error:
            told += f'{error}\n'
    assert all(line.startswith(f'{path}: ') for line in told.splitlines())
    assert 'not a file of nuScenes-panoptic (error)' in told  # zlib's


@pytest.mark.parametrize('content', [b'', b'no archive', b'PK\x03\x04 cut off'])
def test_a_broken_panoptic_file_is_named(panoptic: Path, content: bytes) -> None:
    (panoptic / 'panoptic/v1.0-mini/scanB_panoptic.npz').write_bytes(content)
    with pytest.raises(DataError, match=r'scanB_panoptic\.npz: not a file of nuScenes-panoptic'):
        open_nuscenes(panoptic)[0]


def test_a_missing_panoptic_file_is_named(panoptic: Path) -> None:
    (panoptic / 'panoptic/v1.0-mini/scanB_panoptic.npz').unlink()
    with pytest.raises(DataError, match=r'scanB_panoptic\.npz: cannot be read'):
        open_nuscenes(panoptic)[0]


def test_the_set_can_be_sent_to_a_worker(root: Path) -> None:
    scans = pickle.loads(pickle.dumps(open_nuscenes(root, 'mini_val')))
    assert scans[0].name == 'scene-0103/scanC'

# SPDX-License-Identifier: Apache-2.0
"""A recording becomes scans with labels and poses; once corrected, they train a student."""

from __future__ import annotations

from array import array
import json
from pathlib import Path

from cloud_messages import FakeCloud, FakeField, LAYOUTS
import numpy as np
import pytest
from small_run import make_scan, save_teacher, settings_on, write_config
from tiny import write_bundle

pytest.importorskip('rosbags.rosbag2', reason='needs rosbags')
from recorded_drive import (
    CLOUDS,
    fill_message,
    make_transforms,
    PERIOD_NS,
    read_cloud,
    read_contents,
    START_NS,
    STORE,
    TF,
    TYPES,
    write_drive,
)
from rosbags.rosbag2 import Writer

from lidar_kd.cli.bag import main
from lidar_kd.cloud import decode
from lidar_kd.labels import NUSCENES
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE
from training.check_data import main as check_data
from training.data.kinds import open_dataset
from training.run.perform import distill
from training.run.perform import main as perform

FEW = 6  # the seventh cloud of a drive is empty


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp('bundle') / 'tiny.safetensors')


def export(bag: Path, out: Path, bundle: Path, *words: str) -> int:
    to = ['--to', 'semantickitti', '--precision', 'float32']
    return main([str(bag), str(out), '--bundle', str(bundle), *to, *words])


@pytest.mark.parametrize('storage', ['sqlite3', 'mcap'])
def test_scans_hold_the_points_with_an_echo_and_the_networks_labels(
    storage: str, bundle: Path, tmp_path: Path
) -> None:
    bag = write_drive(tmp_path / 'drive', FEW, storage)
    assert export(bag, tmp_path / 'set', bundle) == 0
    scans = open_dataset('semantickitti', tmp_path / 'set')
    assert [frame.name for frame in scans.frames] == [f'00/{n:06}' for n in range(FEW)]
    segmenter = Segmenter(bundle, precision='float32', sensor=EACH_ALONE)
    for number, (_, content) in enumerate(read_contents(bag)[CLOUDS]):
        cloud = decode(read_cloud(content), intensity_scale=1 / 255)
        np.testing.assert_array_equal(scans[number].points, cloud.points[cloud.valid])
        expected = segmenter.segment(cloud.points).labels[cloud.valid]
        np.testing.assert_array_equal(scans[number].labels, expected)


def test_poses_times_and_calibration_are_there(bundle: Path, tmp_path: Path) -> None:
    assert export(write_drive(tmp_path / 'drive', FEW), tmp_path / 'set', bundle) == 0
    sequence = tmp_path / 'set' / 'sequences' / '00'
    times = [float(line) for line in (sequence / 'times.txt').read_text().split()]
    np.testing.assert_allclose(times, [0.1 * n for n in range(FEW)])
    assert 'Tr: 1 0 0 0 0 1 0 0 0 0 1 0' in (sequence / 'calib.txt').read_text().splitlines()
    scans = open_dataset('semantickitti', tmp_path / 'set')
    poses = [frame.pose for frame in scans.frames if frame.pose is not None]
    assert len(poses) == FEW
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)
    # The base turns by 0.1 rad/s; the sensor, 1 m ahead of it, moves around a centre 10 m
    # to the left of the base: in 0.5 s from (1, 0) to the same point turned by 0.05 rad.
    angle = 0.05
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([-1.0, 10.0])  # seen from the sensor
    expected = centre + turned @ -centre
    np.testing.assert_allclose(poses[5][:2, 3], expected, atol=1e-9)
    np.testing.assert_allclose(poses[5][:2, :2], turned, atol=1e-9)


def write_street(path: Path, first: int, moved: bool = True) -> Path:
    """Four scans of small_run's street; the sensor drives 1 m ahead from one to the next."""
    step, fields = LAYOUTS['kitti']
    with Writer(path, version=8) as writer:
        add = writer.add_connection
        clouds, transforms = (add(t, TYPES[t], typestore=STORE) for t in (CLOUDS, TF))
        for number in range(4):
            now_ns = START_NS + number * PERIOD_NS
            points, _ = make_scan(np.random.default_rng([first, number]), number)
            data = array('B', points.tobytes())
            described = [FakeField(*each) for each in fields]
            cloud = FakeCloud(described, 1, len(points), step, len(data), data=data)
            content = STORE.serialize_cdr(fill_message(cloud, now_ns), TYPES[CLOUDS])
            writer.write(clouds, now_ns, content)
            if moved:
                place = (float(number), 0.0, 0.0)
                message = make_transforms('odom', 'front_lidar', now_ns, place, 0.0)
                writer.write(transforms, now_ns, STORE.serialize_cdr(message, TYPES[TF]))
    return path


def test_corrected_labels_stay_and_train_a_student(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (0, 1):
        bag = write_street(tmp_path / f'drive{number}', number)
        assert export(bag, tmp_path / 'set', bundle, '--sequence', str(number)) == 0
    corrected: dict[Path, bytes] = {}
    for sequence in ('00', '01'):
        for number in range(4):
            path = tmp_path / 'set' / 'sequences' / sequence / 'labels' / f'{number:06}.label'
            _, raw = make_scan(np.random.default_rng([int(sequence), number]), number)
            path.write_bytes(raw.tobytes())
            corrected[path] = raw.tobytes()
    assert export(tmp_path / 'drive0', tmp_path / 'set', bundle) == 0
    assert {path: path.read_bytes() for path in corrected} == corrected
    assert check_data([str(tmp_path / 'set')]) == 0
    assert '0 problems' in capsys.readouterr().out
    teacher = save_teacher(tmp_path / 'teacher.safetensors')
    changes = settings_on(
        tmp_path / 'set', method=['srkd'], teacher={'bundle': str(teacher)}, optim__steps=2
    )
    changes['data']['validation'] = ['01']
    path = write_config(tmp_path / 'small.yaml', changes)
    monkeypatch.setattr('sys.argv', ['distill.py', '--cfg', str(path)])
    assert perform('', distill, path) == 0, capsys.readouterr().err
    report = json.loads(Path('runs/small/report.json').read_text())
    assert report['title'] == 'small'


def test_several_topics_are_several_sequences(bundle: Path, tmp_path: Path) -> None:
    with Writer(tmp_path / 'drive', version=8) as writer:
        for topic, x in (('/left', 1.0), ('/right', 2.0)):
            connection = writer.add_connection(topic, TYPES[CLOUDS], typestore=STORE)
            points = np.array([[x, 5, 0, 0.5]] * 3, '<f4')
            data = array('B', points.tobytes())
            fields = [FakeField(*each) for each in LAYOUTS['kitti'][1]]
            cloud = fill_message(FakeCloud(fields, 1, 3, 16, 48, data=data), START_NS)
            writer.write(connection, 1, STORE.serialize_cdr(cloud, TYPES[CLOUDS]))
    assert export(tmp_path / 'drive', tmp_path / 'set', bundle, '--sequence', '5') == 0
    scans = open_dataset('semantickitti', tmp_path / 'set')
    assert {frame.sequence: scans[i].points[0, 0] for i, frame in enumerate(scans.frames)} == {
        '05': 1,
        '06': 2,
    }


def test_a_recording_without_poses_is_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_street(tmp_path / 'drive', 0, moved=False)
    assert export(bag, tmp_path / 'set', bundle) == 0
    assert 'neither TF nor odometry tells where front_lidar was' in capsys.readouterr().err
    assert not (tmp_path / 'set' / 'sequences' / '00' / 'poses.txt').exists()
    assert all(f.pose is None for f in open_dataset('semantickitti', tmp_path / 'set').frames)


def test_scans_far_from_any_pose_are_told(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_street(tmp_path / 'drive', 0, moved=False)
    with Writer(tmp_path / 'late', version=8) as writer:
        add = writer.add_connection
        clouds, transforms = (add(t, TYPES[t], typestore=STORE) for t in (CLOUDS, TF))
        for received_ns, content in read_contents(bag)[CLOUDS]:
            writer.write(clouds, received_ns, content)
        for number in (4, 5):  # 0.4 s and later; the scans are at 0, 0.1, 0.2, 0.3 s
            now_ns = START_NS + number * PERIOD_NS
            message = make_transforms('odom', 'front_lidar', now_ns, (1.0, 0.0, 0.0), 0.0)
            writer.write(transforms, now_ns, STORE.serialize_cdr(message, TYPES[TF]))
    assert export(tmp_path / 'late', tmp_path / 'set', bundle) == 0
    warning = '/front/points: 2 scans lie up to 0.4 s before the first pose or after the last one'
    assert warning in capsys.readouterr().err


def test_the_folder_is_for_one_network_and_for_semantickittis_classes(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / 'drive', 2)
    assert export(bag, tmp_path / 'set', bundle) == 0
    other = write_bundle(tmp_path / 'other.safetensors', seed=1)
    assert export(bag, tmp_path / 'set', other) == 2
    assert 'was begun with another network, recording or other options' in capsys.readouterr().err
    nuscenes = write_bundle(tmp_path / 'nuscenes.safetensors', NUSCENES)
    assert export(bag, tmp_path / 'new', nuscenes) == 2
    assert "answers in other classes than SemanticKITTI's" in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()

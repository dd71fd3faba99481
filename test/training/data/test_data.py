# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: SemanticKITTI's layout, plain folders, the check command, class weights."""

from __future__ import annotations

import logging
import os
from pathlib import Path
import pickle
import subprocess
import sys

import numpy as np
import pytest

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from training.data.check import check_scans
from training.data.class_counts import count_classes
from training.data.folder import open_folder
from training.data.kinds import open_dataset
from training.data.scan import join_scans, require_poses, Scan, ScanSet
from training.data.semantickitti import open_semantickitti

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / 'shared' / 'data' / 'semantickitti'
CAR, PERSON, ROAD = (SEMANTICKITTI.names.index(name) for name in ('car', 'person', 'road'))
# Tr turns the sensor's axes (x ahead, y left) into the camera's (z ahead, x right), 1 m lower
CALIB = 'P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 -1 1 0 0 0\n'
# the camera goes 2 m ahead (its z) per frame
POSES = ''.join(f'1 0 0 0 0 1 0 0 0 0 1 {2 * frame}\n' for frame in range(3))
# raw ids and object numbers of three points: a moving car's object 7, person 3, road
RAW = np.array([252 | 7 << 16, 30 | 3 << 16, 40], '<u4')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequences 00 and 08, two scans of three points each, numbered 0 and 2."""
    for name in ('00', '08'):
        sequence = tmp_path / 'sequences' / name
        for folder in ('velodyne', 'labels'):
            (sequence / folder).mkdir(parents=True)
        (sequence / 'poses.txt').write_text(POSES)
        (sequence / 'calib.txt').write_text(CALIB)
        for frame in (0, 2):
            points = np.arange(12, dtype='<f4').reshape(3, 4) + frame
            points.tofile(sequence / 'velodyne' / f'{frame:06}.bin')
            RAW.tofile(sequence / 'labels' / f'{frame:06}.label')
    return tmp_path


def label_of(root: Path, name: str = '00/000002') -> Path:
    sequence, frame = name.split('/')
    return root / 'sequences' / sequence / 'labels' / f'{frame}.label'


def test_a_scan_has_its_points_train_ids_object_numbers_and_name(root: Path) -> None:
    scans = open_semantickitti(root)
    assert [frame.name for frame in scans.frames] == [
        *('00/000000', '00/000002', '08/000000', '08/000002')
    ]
    scan = scans[1]
    assert scan.points.tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]
    assert scan.labels.tolist() == [CAR, PERSON, ROAD]
    assert scan.instances is not None
    assert scan.instances.tolist() == [7, 3, 0]
    assert scan.name == '00/000002'
    assert len(scan) == 3
    assert scans.read_labels(1).tolist() == [CAR, PERSON, ROAD]


def test_poses_are_those_of_the_sensor_and_belong_to_the_scan_of_their_line(root: Path) -> None:
    scans = open_semantickitti(root, ['00'])
    first, third = scans[0].pose, scans[1].pose
    assert first is not None
    assert third is not None
    assert np.allclose(first, np.eye(4))
    # line 2 says the camera is 4 m ahead: for the sensor that is along x
    assert np.allclose(third @ [1, 2, 3, 1], [5, 2, 3, 1])


def test_a_sequence_may_lack_poses(root: Path) -> None:
    (root / 'sequences/00/poses.txt').unlink()
    assert open_semantickitti(root, ['00'])[0].pose is None


def test_a_sequence_may_lack_labels(root: Path) -> None:
    for path in (root / 'sequences/00/labels').iterdir():
        path.unlink()
    (root / 'sequences/00/labels').rmdir()
    scans = open_semantickitti(root)
    assert scans[0].labels.tolist() == [IGNORE] * 3
    assert scans[0].instances is None
    assert scans.read_labels(0).tolist() == []
    assert 'semantickitti: 4 scans of 2 sequences (00 08), 2 with labels' in scans.describe()
    with pytest.raises(DataError, match='2 of 4 scans have no labels, first 00/000000; unpack'):
        scans.require_labels()


@pytest.mark.parametrize(
    ('wanted', 'expected'),
    [
        (None, ['00', '08']),
        ('val', ['08']),
        ('00', ['00']),
        ([0, '08'], ['00', '08']),
        ('1-99', ['08']),
        ('00-07', ['00']),
    ],
)
def test_sequences_are_chosen_by_split_by_name_or_by_the_number_yaml_makes_of_it(
    root: Path, wanted: str | None, expected: list[str]
) -> None:
    scans = open_semantickitti(root, wanted)
    assert sorted({frame.sequence for frame in scans.frames}) == expected


def test_the_folder_of_the_sequences_itself_will_do(root: Path) -> None:
    assert len(open_semantickitti(root / 'sequences')) == 4


def test_a_scan_set_can_be_sent_to_a_worker(root: Path) -> None:
    scans: ScanSet = pickle.loads(pickle.dumps(open_semantickitti(root)))
    assert scans[0].labels.tolist() == [CAR, PERSON, ROAD]


def test_a_missing_root_or_sequence_or_an_empty_one_is_named(root: Path) -> None:
    with pytest.raises(DataError, match='no such folder; give the one that holds sequences'):
        open_semantickitti(root / 'typo')
    with pytest.raises(DataError, match='neither sequences/ nor folders with velodyne/'):
        open_semantickitti(root / 'sequences' / '00')
    with pytest.raises(DataError, match=r'no sequence 01, 02.*here are 00, 08: name some'):
        open_semantickitti(root, 'train')
    with pytest.raises(DataError, match='no sequence was asked for'):
        open_semantickitti(root, [])
    for path in (root / 'sequences/08/velodyne').iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r'08/velodyne: no \.bin files; unpack'):
        open_semantickitti(root)


def test_labels_shorter_than_the_points_are_named(root: Path) -> None:
    RAW[:2].tofile(label_of(root))
    message = r'000002\.label: 2 labels for the 3 points of 000002\.bin; copy both'
    with pytest.raises(DataError, match=message):
        open_semantickitti(root)[1]


def test_a_label_file_that_is_cut_off_or_missing_is_named(root: Path) -> None:
    scans = open_semantickitti(root)
    label_of(root).write_bytes(b'12345')
    with pytest.raises(DataError, match=r'000002\.label: 5 bytes are no whole number of uint32'):
        scans[1]
    label_of(root).unlink()
    with pytest.raises(DataError, match=r'000002\.label: cannot be read \(No such file'):
        scans[1]
    with pytest.raises(DataError, match='1 of 4 scans have no labels, first 00/000002'):
        scans.require_labels()


def test_a_class_id_outside_the_map_is_named(root: Path) -> None:
    np.array([40, 40, 77], '<u4').tofile(label_of(root))
    with pytest.raises(DataError, match=r'000002\.label: raw label ids 77 \(1 points\) are not'):
        open_semantickitti(root)[1]


def test_fusion_names_poses_that_end_too_early_or_lack_their_calibration(root: Path) -> None:
    poses = root / 'sequences/00/poses.txt'
    poses.write_text(''.join(POSES.splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match=r'poses\.txt: 2 poses, but the scans go up to number 2'):
        require_poses(open_semantickitti(root))
    poses.write_text('1 2 3\n')
    with pytest.raises(DataError, match=r'poses\.txt: expected 12 numbers per line'):
        require_poses(open_semantickitti(root))
    poses.write_text(POSES)
    (root / 'sequences/00/calib.txt').write_text('P0: 1 0 0 0 0 1 0 0 0 0 1 0\n')
    with pytest.raises(DataError, match=r"calib\.txt: no line 'Tr:' found"):
        require_poses(open_semantickitti(root))
    for nothing in ('Tr: 0 0 0 0 0 0 0 0 0 0 0 0\n', 'Tr: \n'):
        (root / 'sequences/00/calib.txt').write_text(nothing)
        with pytest.raises(DataError, match=r"calib\.txt: 'Tr:' is no rotation and shift"):
            require_poses(open_semantickitti(root))
    poses.write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match=r'poses\.txt: expected 12 numbers per line'):
        require_poses(open_semantickitti(root))


@pytest.mark.parametrize(
    'spoilt', ['nan 0 0 0 0 1 0 0 0 0 1 0', '1 0 0 inf 0 1 0 0 0 0 1 0', '0 ' * 12, '2 0 0 ' * 4]
)
def test_what_is_no_pose_is_named_where_poses_are_needed(root: Path, spoilt: str) -> None:
    poses, calib = root / 'sequences/00/poses.txt', root / 'sequences/00/calib.txt'
    calib.write_text(f'Tr: {spoilt}\n')
    with pytest.raises(DataError, match=r"calib\.txt: 'Tr:' is no rotation and shift; copy"):
        require_poses(open_semantickitti(root))
    calib.write_text(CALIB)
    lines = POSES.splitlines()
    poses.write_text('\n'.join([lines[0], spoilt, spoilt]))
    with pytest.raises(DataError, match=r'poses\.txt: 2 of 3 poses, first number 1, are no rota'):
        require_poses(open_semantickitti(root))


@pytest.mark.parametrize('calib', [None, 'P0: 1 0 0 0 0 1 0 0 0 0 1 0\n', 'Tr: broken\n'])
def test_scans_and_labels_are_read_without_a_usable_calibration(
    root: Path, calib: str | None
) -> None:
    before = open_semantickitti(root)[0]
    path = root / 'sequences/00/calib.txt'
    path.unlink()
    if calib is not None:
        path.write_text(calib)
    scan = open_semantickitti(root)[0]
    assert (scan.points == before.points).all()
    assert (scan.labels == before.labels).all()
    assert before.pose is not None
    assert scan.pose is None


def test_the_digits_of_a_pose_need_not_be_exact(root: Path) -> None:
    rounded = POSES.replace('1 0 0 0 0 1', '1.001 0 0 0 0 0.999')
    (root / 'sequences/00/poses.txt').write_text(rounded)
    assert open_semantickitti(root, ['00'])[0].pose is not None


def test_a_plain_folder_has_scans_of_any_kind_and_no_labels(tmp_path: Path) -> None:
    (tmp_path / 'monday').mkdir()
    np.ones((5, 4), '<f4').tofile(tmp_path / 'monday' / 'a.bin')
    np.save(tmp_path / 'b.npy', np.ones((2, 3), np.float32))
    scans = open_folder(tmp_path)
    assert [frame.name for frame in scans.frames] == ['b', 'monday/a']
    assert scans[0].points.tolist() == [[1, 1, 1, 0]] * 2
    assert scans[1].labels.tolist() == [IGNORE] * 5
    assert [frame.name for frame in open_folder(tmp_path, 'monday').frames] == ['monday/a']
    assert [frame.name for frame in open_folder(tmp_path, 'mon*/a').frames] == ['monday/a']
    with pytest.raises(DataError, match='no scans in'):
        open_folder(tmp_path, ['tuesday'])


def test_an_unknown_kind_of_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown kind of data set 'kitty'; choose one of seman"):
        open_dataset('kitty', tmp_path)


def test_joining_scans_renumbers_the_objects_of_the_second() -> None:
    def scan(numbers: list[int]) -> Scan:
        count = len(numbers)
        return Scan(
            points=np.zeros((count, 4), np.float32),
            labels=np.zeros(count, np.uint8),
            instances=np.array(numbers, np.uint32),
        )

    both = join_scans(scan([0, 4, 2]), scan([1, 0, 3]))
    assert both.instances is not None
    assert both.instances.tolist() == [0, 4, 2, 5, 0, 7]


def run_check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / 'training' / 'check_data.py', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_check_command_reports_classes_and_finds_no_problem(root: Path) -> None:
    done = run_check(root)
    assert done.returncode == 0, done.stderr
    assert 'semantickitti: 4 scans of 2 sequences (00 08), 4 with labels' in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows['car'] == ['4', '33.333%', '4']
    assert rows['truck'] == ['0', '0.000%', '0']
    assert '4 of 4 scans readable, 12 points; 3 to 3 per scan' in done.stdout
    assert '0 problems' in done.stdout


def test_the_check_command_lists_every_problem_and_exits_with_2(root: Path) -> None:
    RAW[:2].tofile(label_of(root, '00/000000'))
    np.array([77, 40, 40], '<u4').tofile(label_of(root, '00/000002'))
    RAW.tofile(label_of(root, '08/000009'))
    points = np.full((3, 4), np.nan, '<f4')
    points.tofile(root / 'sequences/08/velodyne/000000.bin')
    done = run_check(root)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert '2 labels for the 3 points' in done.stderr
    assert 'raw label ids 77' in done.stderr
    assert '000009.label: no scan of that name' in done.stderr
    assert '08/000000: 3 of 3 points are not finite' in done.stderr
    assert '2 of 4 scans readable' in done.stdout
    assert '4 problems' in done.stdout


def test_the_check_command_says_in_one_sentence_that_there_is_no_data(tmp_path: Path) -> None:
    done = run_check(tmp_path / 'nothing')
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert 'no such folder' in done.stderr


def test_class_counts_are_cached_until_a_label_file_changes(root: Path, tmp_path: Path) -> None:
    walked: list[None] = []

    def count() -> list[int]:
        scans = open_semantickitti(root)
        counts = count_classes(
            scans, cache=tmp_path / 'cache', advance=lambda: walked.append(None)
        )
        return [int(counts[c]) for c in (CAR, PERSON, ROAD)]

    assert count() == [4, 4, 4]
    assert count() == [4, 4, 4]
    assert len(walked) == 4  # once per scan, and nothing the second time
    np.array([40, 40, 40], '<u4').tofile(label_of(root))
    os.utime(label_of(root), (1, 1))
    assert count() == [3, 3, 6]
    assert len(walked) == 8


def test_another_split_has_other_class_counts(root: Path, tmp_path: Path) -> None:
    assert count_classes(open_semantickitti(root), cache=tmp_path).sum() == 12
    assert count_classes(open_semantickitti(root, 'val'), cache=tmp_path).sum() == 6


def test_a_broken_cache_is_counted_again(root: Path, tmp_path: Path) -> None:
    scans = open_semantickitti(root)
    count_classes(scans, cache=tmp_path)
    (cached,) = tmp_path.glob('class_counts_*.json')
    for content in ('', '[1, 2]', '{"a": 1}'):
        cached.write_text(content)
        assert count_classes(scans, cache=tmp_path).sum() == 12


def test_a_cache_that_cannot_be_written_is_a_warning(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / 'file').write_text('')
    with caplog.at_level(logging.WARNING):
        counts = count_classes(open_semantickitti(root), cache=tmp_path / 'file')
    assert counts.sum() == 12
    assert 'cannot be written' in caplog.text


@pytest.mark.skipif(not REAL.is_dir(), reason='the real scans are not on this machine')
def test_real_sequences_are_whole_and_hold_what_their_label_files_say() -> None:
    scans = open_semantickitti(REAL, ['01', '07']).require_labels()
    findings = check_scans(scans)
    assert findings.problems == []
    assert len(findings.points) == len(scans) == 13
    # all points of these sequences together, by their label files' sizes
    sizes = sum(frame.labels.stat().st_size for frame in scans.frames if frame.labels)
    assert sum(findings.points) == sizes // 4


@pytest.mark.skipif(not REAL.is_dir(), reason='the real scans are not on this machine')
def test_real_poses_bring_consecutive_scans_together() -> None:
    """A building seen in two scans 0.9 s apart lies on itself only with the right poses."""
    scans = open_semantickitti(REAL, ['00'])
    building = SEMANTICKITTI.names.index('building')

    def cells(index: int, pose: np.ndarray) -> set[bytes]:
        scan = scans[index]
        points = scan.points[scan.labels == building, :3] @ pose[:3, :3].T + pose[:3, 3]
        return {row.tobytes() for row in np.floor(points / 0.5).astype(np.int16)}

    first, last = scans[0].pose, scans[9].pose
    assert first is not None
    assert last is not None
    assert np.linalg.norm(last[:3, 3] - first[:3, 3]) > 3  # the car drives
    moved = len(cells(0, first) & cells(9, last))
    unmoved = len(cells(0, first) & cells(9, first))
    assert moved > 1.3 * unmoved

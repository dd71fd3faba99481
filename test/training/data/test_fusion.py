# SPDX-License-Identifier: Apache-2.0
"""Fusion with the past: toy drives with coordinates worked out by hand, and the real sequences."""

from __future__ import annotations

from dataclasses import replace
import os
from pathlib import Path
import pickle
from subprocess import CompletedProcess

import numpy as np
from numpy.typing import NDArray
import pytest
from started_command import run_command

from lidar_kd.errors import DataError
from lidar_kd.labels import SEMANTICKITTI
from training.data import fusion
from training.data.augment import augment, Augmentation
from training.data.fusion import build_bank, fuse, FusedScans, LEFT_OUT, PASSES, REGISTERED, STILL
from training.data.instances import build_paste_bank, collect_sightings
from training.data.scan import join_scans, Scan, ScanSet
from training.data.semantickitti import open_semantickitti

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / 'shared' / 'data' / 'semantickitti'
CAR, TRUCK, PERSON = (SEMANTICKITTI.names.index(name) for name in ('car', 'truck', 'person'))
RAW_CAR, RAW_TRUCK, RAW_PERSON, RAW_ROAD = 10, 18, 30, 40
AHEAD_M = 2.0  # what the sensor drives per scan, along x
Rows = list[tuple[float, float, float, int, int]]  # x y z, raw class, object number


def write_drive(root: Path, name: str, scans: list[Rows], *, poses: bool = True) -> None:
    """A sequence in SemanticKITTI's layout; the intensity is the number of the scan."""
    sequence = root / 'sequences' / name
    for folder in ('velodyne', 'labels'):
        (sequence / folder).mkdir(parents=True, exist_ok=True)
    for index, rows in enumerate(scans):
        table = np.array(rows, np.float64).reshape(-1, 5)
        points = np.column_stack([table[:, :3], np.full(len(table), index)])
        points.astype('<f4').tofile(sequence / 'velodyne' / f'{index:06}.bin')
        raw = table[:, 3].astype('<u4') | table[:, 4].astype('<u4') << 16
        raw.astype('<u4').tofile(sequence / 'labels' / f'{index:06}.label')
    if poses:
        lines = [f'1 0 0 {AHEAD_M * index} 0 1 0 0 0 0 1 0\n' for index in range(len(scans))]
        (sequence / 'poses.txt').write_text(''.join(lines))
        (sequence / 'calib.txt').write_text('Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n')


def parked_truck(index: int, number: int = 3) -> Rows:
    """Seen from scan `index`: two points of a truck that stands 20 m ahead of the start."""
    x = 20 - AHEAD_M * index
    # every scan hits it 2 cm further along
    return [
        (x + 0.02 * index, 4.0, 1.0, RAW_TRUCK, number),
        (x + 0.02 * index, 4.0, 0.5, RAW_TRUCK, number),
    ]


@pytest.fixture
def parked(tmp_path: Path) -> Path:
    """Three scans of a parked truck, a parked car and the road."""
    drive: list[Rows] = []
    for index in range(3):
        x = 12 - AHEAD_M * index
        others: Rows = [(x, -3.0, 0.5, RAW_CAR, 8), (5.0, 0.01 * index, -1.7, RAW_ROAD, 0)]
        drive.append([others[0], *parked_truck(index), others[1]])
    write_drive(tmp_path, '00', drive)
    return tmp_path


def fuse_all(root: Path, sequences: list[str] | None = None, past_scans: int = 4) -> FusedScans:
    scans = open_semantickitti(root, sequences)
    return FusedScans(scans, build_bank(scans, past_scans=past_scans, cache=root / 'cache'))


def make_shape(points: int) -> NDArray[np.float32]:
    """An L of 1 m and 0.4 m, 1.5 m high, about 10 m away: no turn but the whole one keeps it."""
    rng = np.random.default_rng(0)
    along, z = rng.random(points), 1.5 * rng.random(points)
    first = np.arange(points) < points * 2 // 3
    x, y = np.where(first, along, 0), np.where(first, 0, 0.4 * along)
    return np.stack([10 + x, y, z], 1).astype(np.float32)


def test_a_fused_scan_starts_with_its_own_points_in_order(parked: Path) -> None:
    fused = fuse_all(parked)
    for index in range(3):
        own = open_semantickitti(parked)[index]
        scan = fused[index]
        assert (scan.points[: len(own)] == own.points).all()
        assert (scan.labels[: len(own)] == own.labels).all()
        assert scan.instances is not None
        assert own.instances is not None
        assert (scan.instances[: len(own)] == own.instances).all()
        assert scan.name == own.name
        assert scan.pose is not None
        assert own.pose is not None
        assert (scan.pose == own.pose).all()


def test_what_stands_still_lies_where_the_ego_motion_puts_it(parked: Path) -> None:
    scan = fuse_all(parked)[2]
    assert scan.past is not None
    assert scan.past.tolist() == [False] * 4 + [True] * 4
    # Scan 2 is 4 m further than scan 0 and 2 m further than scan 1. Scan 1 saw the truck at
    # x = 18 + 0.02, now 16.02; scan 0 at 20, now 16. The latest view comes first.
    expected: list[list[float]] = [
        [16.02, 4, 1, 1],
        [16.02, 4, 0.5, 1],
        [16, 4, 1, 0],
        [16, 4, 0.5, 0],
    ]
    assert np.allclose(scan.points[4:], expected, atol=1e-5)
    assert scan.labels[4:].tolist() == [TRUCK] * 4  # neither the car nor the road
    assert scan.instances is not None
    assert scan.instances[4:].tolist() == [3] * 4


def test_the_first_scan_has_no_past(parked: Path) -> None:
    scan = fuse_all(parked)[0]
    assert len(scan) == 4
    assert scan.past is None


def test_a_point_that_is_there_already_is_not_added_again(tmp_path: Path) -> None:
    # the sensor comes nearer by 2 m, and hits the same two spots and a new one
    first: Rows = [(20.0, 4, 1, RAW_TRUCK, 1), (20.0, 4, 0.5, RAW_TRUCK, 1)]
    second: Rows = [(18.0, 4, 1, RAW_TRUCK, 1), (18.05, 4, 0.5, RAW_TRUCK, 1)]
    third: Rows = [(16.0, 4, 1, RAW_TRUCK, 1), (16.0, 4.05, 0.5, RAW_TRUCK, 1)]
    write_drive(tmp_path, '00', [first, second, third])
    scan = fuse_all(tmp_path)[2]
    # from scan 1 the lower spot, from scan 0 the lower one too; (16, 4, 1) is our own
    assert np.allclose(scan.points[2:, :3], [[16.05, 4, 0.5], [16, 4, 0.5]], atol=1e-5)


def test_the_past_is_as_many_scans_as_asked_for(tmp_path: Path) -> None:
    write_drive(tmp_path, '00', [parked_truck(index) for index in range(7)])
    for past_scans in (1, 4):
        scan = fuse_all(tmp_path, past_scans=past_scans)[6]
        seen_by = np.unique(scan.points[2:, 3])  # the intensity is the scan's number
        assert seen_by.tolist() == list(range(6 - past_scans, 6))


def test_an_object_that_is_gone_does_not_come_back(tmp_path: Path) -> None:
    road: Rows = [(5.0, 0, -1.7, RAW_ROAD, 0)]
    write_drive(tmp_path, '00', [parked_truck(0) + road, parked_truck(1) + road, road])
    assert len(fuse_all(tmp_path)[2]) == 1


def test_a_number_means_another_object_in_another_class_or_sequence(tmp_path: Path) -> None:
    person: Rows = [(x, y, z, RAW_PERSON, n) for x, y, z, _, n in parked_truck(1)]
    write_drive(tmp_path, '00', [parked_truck(0), person])
    write_drive(tmp_path, '01', [parked_truck(0)])
    fused = fuse_all(tmp_path)
    assert [len(fused[index]) for index in range(3)] == [2, 2, 2]


def test_a_moving_object_of_a_drive_lands_on_itself(tmp_path: Path) -> None:
    shape = make_shape(300)
    # 0.7 m per scan beside the sensor's own 2 m; every scan has points of its own of it
    drive = [
        [
            (x + (0.7 - AHEAD_M) * index, y, z, RAW_PERSON, 5)
            for x, y, z in shape[index::3].tolist()
        ]
        for index in range(3)
    ]
    write_drive(tmp_path, '00', drive)
    past = fuse_all(tmp_path).bank.recall(2)
    assert past is not None
    for index in (0, 1):
        landed = past.points[past.points[:, 3] == index, :3]
        # In scan 2 the shape is 2 x (0.7 - 2) = -2.6 m off. Not to the millimetre: no two scans
        # share a point.
        assert np.abs(landed - shape[index::3] - [-2.6, 0, 0]).max() < 0.1


@pytest.mark.parametrize(('period_s', 'how'), [(0.1, LEFT_OUT), (0.5, REGISTERED)])
def test_between_key_frames_an_object_comes_further(
    period_s: float, how: int, tmp_path: Path
) -> None:
    shape = make_shape(300)
    drive = [
        [(x + (6 - AHEAD_M) * index, y, z, RAW_PERSON, 5) for x, y, z in shape[index::2].tolist()]
        for index in range(2)
    ]  # 6 m: 12 m/s at the 2 Hz of nuScenes, no person at 10 Hz
    write_drive(tmp_path, '00', drive)
    scans = replace(open_semantickitti(tmp_path), period_s=period_s)
    assert build_bank(scans, cache=tmp_path).links.how.tolist() == [how]


def test_a_bank_serves_the_scans_it_was_built_from_and_no_others(parked: Path) -> None:
    write_drive(parked, '08', [parked_truck(index) for index in range(3)])
    train, validation = (open_semantickitti(parked, [name]) for name in ('00', '08'))
    bank = build_bank(train, cache=parked / 'cache')
    with pytest.raises(DataError, match='was built from other scans than these 3'):
        FusedScans(validation, bank)
    with pytest.raises(DataError, match='was built from other scans than these 6'):
        FusedScans(open_semantickitti(parked), bank)


def test_the_cache_serves_until_a_file_or_a_pose_changes(parked: Path) -> None:
    scans = open_semantickitti(parked)
    calls: list[int] = []

    def count_calls(scans: ScanSet) -> int:
        calls.clear()
        build_bank(scans, cache=parked / 'cache', advance=lambda: calls.append(1))
        return len(calls)

    assert count_calls(scans) == PASSES * 3
    assert count_calls(scans) == 0
    label = parked / 'sequences/00/labels/000001.label'
    os.utime(label, ns=(1, 1))
    assert count_calls(scans) == PASSES * 3
    poses = parked / 'sequences/00/poses.txt'
    poses.write_text(poses.read_text().replace('2.0', '2.1'))
    assert count_calls(open_semantickitti(parked)) == 3  # the objects are the same


def test_a_broken_cache_is_made_again(parked: Path) -> None:
    before = fuse_all(parked)[2].points
    for path in (parked / 'cache').iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert (fuse_all(parked)[2].points == before).all()


def test_a_cache_that_cannot_be_written_costs_time_only(
    parked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (parked / 'cache').write_text('in the way')
    assert len(fuse_all(parked)[2]) == 8
    assert 'every run will read the objects again' in caplog.text


def test_without_poses_nothing_is_fused(tmp_path: Path) -> None:
    write_drive(tmp_path, '00', [parked_truck(0)], poses=False)
    with pytest.raises(
        DataError, match=r'1 of 1 scans have no pose, first 00/000000.*copy poses\.txt'
    ):
        fuse_all(tmp_path)


def test_without_instance_ids_nothing_is_fused(tmp_path: Path) -> None:
    write_drive(tmp_path, '00', [parked_truck(0, number=0), parked_truck(1, number=0)])
    with pytest.raises(DataError, match='no instance ids, though 4 points are of the hard'):
        fuse_all(tmp_path)


def test_without_labels_nothing_is_fused(parked: Path) -> None:
    (parked / 'sequences/00/labels/000001.label').unlink()
    with pytest.raises(DataError, match='1 of 3 scans have no labels'):
        fuse_all(parked)


def test_streets_without_hard_objects_are_what_they_were(tmp_path: Path) -> None:
    road: Rows = [(5.0, 0, -1.7, RAW_ROAD, 0)]
    write_drive(tmp_path, '00', [road, road])
    fused = fuse_all(tmp_path)
    assert len(fused[1]) == 1
    assert fused[1].past is None


def test_fused_scans_are_a_set_of_scans_like_any_other(parked: Path) -> None:
    scans, fused = open_semantickitti(parked), fuse_all(parked)
    assert isinstance(fused, ScanSet)
    assert fused.require_labels() is fused
    assert len(fused) == 3
    assert (
        fused.describe()
        == scans.describe() + ', objects of the hard classes fused with their past'
    )
    sent = pickle.loads(pickle.dumps(fused))  # to a worker
    assert (sent[2].points == fused[2].points).all()


def test_take_with_points_and_join_keep_track_of_the_past() -> None:
    points = np.zeros((3, 4), np.float32)
    scan = Scan(points=points, labels=np.zeros(3, np.uint8), past=np.array([False, True, True]))
    plain = Scan(points=points[:1], labels=np.zeros(1, np.uint8))
    for made, expected in (
        (scan.take(np.array([2, 0])), [True, False]),
        (scan.with_points(points), [False, True, True]),
        (join_scans(plain, scan), [False, False, True, True]),
        (join_scans(scan, plain), [False, True, True, False]),
    ):
        assert made.past is not None
        assert made.past.tolist() == expected
    assert join_scans(plain, plain).past is None


def test_augmentation_knows_the_past_to_the_end(parked: Path) -> None:
    fused = fuse_all(parked)
    settings = Augmentation(jitter_m=0.01, drop=0.3, polarmix=1, lasermix=1, mix3d=1)
    for seed in range(5):
        scan = augment(
            fused[2],
            settings,
            np.random.default_rng(seed),
            table=fused.table,
            draw_scan=lambda: fused[2],
        )
        assert scan.past is not None
        # the intensity tells the scan that saw a point: all but scan 2 are the past
        assert (scan.past == (scan.points[:, 3] < 2)).all()


def test_the_paste_bank_takes_every_object_before_it_takes_one_twice(tmp_path: Path) -> None:
    shape = make_shape(30)
    rows = {n: [(x, y + n, z, RAW_PERSON, n) for x, y, z in shape.tolist()] for n in (1, 2, 3)}
    few: Rows = [(x, y, z, RAW_TRUCK, 4) for x, y, z in shape[:19].tolist()]  # 20 at least
    write_drive(tmp_path, '00', [rows[1] + few, rows[1] + rows[2], rows[1] + rows[3], rows[1]])
    scans = open_semantickitti(tmp_path)
    bank = build_paste_bank(scans, per_class=3, cache=tmp_path / 'cache')
    assert sorted(int(each.instances[0]) for each in bank if each.instances is not None) == [
        1,
        2,
        3,
    ]
    assert all((each.labels == PERSON).all() and len(each) == 30 for each in bank)
    assert len(build_paste_bank(scans, per_class=9, cache=tmp_path / 'cache')) == 6


def test_sightings_are_the_points_of_each_object(parked: Path) -> None:
    sightings = collect_sightings(open_semantickitti(parked), cache=parked / 'cache')
    assert sightings.frame.tolist() == [0, 1, 2]
    assert sightings.sizes.tolist() == [2, 2, 2]
    assert np.allclose(sightings.points_of(1), [[18.02, 4, 1, 1], [18.02, 4, 0.5, 1]])


def test_a_point_that_is_nowhere_is_no_part_of_an_object(tmp_path: Path) -> None:
    nowhere: Rows = [(float('nan'), 4.0, 1.0, RAW_TRUCK, 3)]
    write_drive(tmp_path, '00', [nowhere + parked_truck(index) for index in range(2)])
    fused = fuse_all(tmp_path)
    assert fused.bank.sightings.sizes.tolist() == [2, 2]
    # its own three points, which nothing is taken from, and two of the past
    assert np.isfinite(fused[1].points).all(1).tolist() == [False, True, True, True, True]


def test_nothing_fused_is_nothing_changed() -> None:
    scan = Scan(points=np.zeros((1, 4), np.float32), labels=np.zeros(1, np.uint8))
    assert fuse(scan, None) is scan


def run(*words: object) -> CompletedProcess[str]:
    return run_command([ROOT / 'training' / 'fuse.py', *map(str, words)])


def test_the_command_prints_a_table_and_draws_a_picture(parked: Path) -> None:
    picture = parked / 'new' / 'fused.png'
    done = run('--data', parked, '--cache', parked / 'cache', '--picture', picture)
    assert done.returncode == 0, done.stderr
    # one truck in 3 scans: one past view in scan 1, two in scan 2, each 2 or 4 cm off
    row = next(line for line in done.stdout.splitlines() if line.startswith(' truck'))
    assert row.split()[:8] == ['truck', '1', '3', '6', '6', '3', '3', '0']
    assert '0.027 m' in row  # (0.02 + 0.02 + 0.04) / 3
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_command_refuses_a_folder_without_scans(tmp_path: Path) -> None:
    done = run('--data', tmp_path / 'nowhere')
    assert done.returncode == 2
    assert done.stderr.startswith('error: ')
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason='needs the real scans in ../shared/data')
def test_real_objects_that_stand_land_on_themselves(tmp_path: Path) -> None:
    scans = open_semantickitti(REAL, ['00', '06', '07'])
    bank = build_bank(scans, cache=tmp_path)
    links, sizes = bank.links, bank.sightings.sizes[bank.links.past]
    moves = find_moving(scans, bank)[links.present]
    stands = ~moves
    # of every past point that stands, also of those that the fusion leaves out
    assert np.average(links.distance_m[stands], weights=sizes[stands]) <= 0.1
    assert sizes[stands & (links.how == STILL)].sum() >= 0.95 * sizes[stands].sum()
    assert not (stands & (links.how == REGISTERED)).any()
    assert np.mean(links.how[moves] == STILL) <= 0.05
    assert np.average(links.distance_m[moves], weights=sizes[moves]) <= 0.1


def find_moving(scans: ScanSet, bank: fusion.InstanceBank) -> NDArray[np.bool_]:
    """(S,) what the raw labels say, which the fusion does not see: moving from 252 on."""
    found = bank.sightings
    moving = np.zeros(len(found), np.bool_)
    for index, frame in enumerate(scans.frames):
        assert frame.labels is not None
        raw, numbers = scans.read_raw(frame.labels)
        labels = scans.read_labels(index)
        for row in found.of_frame(index):
            mine = (labels == found.label[row]) & (numbers == found.number[row])
            moving[row] = np.median(raw[mine]) >= 252
    return moving

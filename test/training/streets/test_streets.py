# SPDX-License-Identifier: Apache-2.0
"""The simulated streets: readable as SemanticKITTI, the same for the same seed, consistent."""

from __future__ import annotations

from functools import cache
from pathlib import Path
import shutil
import sys

import numpy as np
import pytest

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.scans import read_scan

pytest.importorskip('open3d')

from training import simulate
from training.streets.compare import measure, tabulate
from training.streets.make import make_streets
from training.streets.mesh import box, tube
from training.streets.returns import SimulatedScan
from training.streets.sensors import sensor, SENSORS
from training.streets.sequence import Sequence, Settings
from training.streets.traffic import MOVING
from training.streets.writer import CAMERA

CITY_SCANS = (0, 5, 50, 150)
SMALL = Settings(seed=5, index=0, scans=3, sensor='vlp16', quarter='suburb')


@cache
def city() -> tuple[Sequence, list[SimulatedScan]]:
    """Scans of a drive through a city with thirty times the rare things."""
    sequence = Sequence(Settings(seed=45, index=1, scans=250, quarter='city', enrich=30))
    return sequence, [sequence.scan(scan) for scan in CITY_SCANS]


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small streets, for whoever only looks at them."""
    folder = tmp_path_factory.mktemp('streets')
    assert make_streets(folder, SMALL, sequences=1) == 3
    return folder


@pytest.fixture
def streets(made: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(made, tmp_path / 'streets'))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def read_made(root: Path, scan: int) -> np.ndarray:
    return read_scan(root / f'sequences/00/velodyne/{scan:06}.bin')


def run_script(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['simulate.py', *words])
        return simulate.main()


def test_beam_tables_have_as_many_beams_as_the_names_say() -> None:
    beams = {'hdl64': 64, 'vlp16': 16, 'vlp32': 32, 'os1-128': 128, 'hesai128': 128}
    assert {name: each.beams for name, each in SENSORS.items()} == beams
    for each in SENSORS.values():
        assert (np.diff(each.elevations_deg) < 0).all(), each.name  # from the top, none twice


def test_the_hdl64_looks_where_its_manual_says() -> None:
    up = sensor('hdl64').elevations_deg
    assert (up[0], up[31], up[32], up[63]) == (2.0, -8.3333, -8.5333, -24.3333)
    directions = sensor('hdl64').directions().reshape(64, -1, 3)
    assert np.degrees(np.arcsin(directions[0, :, 2])) == pytest.approx(2.0)
    assert np.linalg.norm(directions, axis=-1) == pytest.approx(1.0)


def test_shapes_enclose_what_they_should() -> None:
    cube = box((2, 4, 6), (0, 0, 3), 50, 'brick').vertices
    assert cube.min(0).tolist() == [-1, -2, 0]
    assert cube.max(0).tolist() == [1, 2, 6]
    bar = tube([(0, 0, 0), (0, 0, 2)], 0.5, 80, 'steel', sides=4).vertices
    assert np.hypot(bar[:, 0], bar[:, 1]).max() == pytest.approx(0.5)
    assert (bar[:, 2].min(), bar[:, 2].max()) == (0, 2)


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(
    streets: Path, tmp_path: Path
) -> None:
    assert make_streets(streets, SMALL, sequences=2, workers=1) == 3  # those of the second
    make_streets(tmp_path / 'b', SMALL, sequences=2, workers=2)
    assert files_of(streets) == files_of(tmp_path / 'b')


def test_another_seed_gives_another_street(made: Path) -> None:
    other = Settings(seed=6, index=0, scans=3, sensor='vlp16', quarter='suburb')
    assert read_made(made, 0).shape != Sequence(other).scan(0).points.shape


def test_a_scan_does_not_depend_on_those_before_it(made: Path) -> None:
    """The one that was made has two before it."""
    assert np.array_equal(read_made(made, 2), Sequence(SMALL).scan(2).points)


def test_the_layout_is_that_of_semantickitti(made: Path) -> None:
    folder = made / 'sequences/00'
    scans = sorted((folder / 'velodyne').iterdir())
    assert [path.name for path in scans] == ['000000.bin', '000001.bin', '000002.bin']
    for path in scans:
        labels = np.fromfile(folder / 'labels' / f'{path.stem}.label', np.uint32)
        points = read_scan(path)
        assert len(labels) == len(points) > 10_000
        assert np.isfinite(points).all()
        assert (SEMANTICKITTI.to_train(labels) != IGNORE).mean() > 0.9
    assert np.loadtxt(folder / 'poses.txt').shape == (3, 12)
    assert np.loadtxt(folder / 'times.txt').tolist() == [0.0, 0.1, 0.2]
    calibration = dict(
        line.split(': ') for line in (folder / 'calib.txt').read_text().splitlines()
    )
    assert np.fromstring(calibration['Tr'], sep=' ').reshape(3, 4) == pytest.approx(CAMERA[:3])


def test_what_is_missing_is_made_again_and_nothing_else(streets: Path) -> None:
    before = files_of(streets)
    lost = streets / 'sequences/00/velodyne/000001.bin'
    lost.write_bytes(lost.read_bytes()[:-16])  # one point short: a broken copy
    assert make_streets(streets, SMALL, sequences=1) == 1
    assert files_of(streets) == before


def test_scans_of_other_settings_are_not_mixed(made: Path) -> None:
    other = Settings(seed=6, index=0, scans=3, sensor='vlp16', quarter='suburb')
    with pytest.raises(DataError, match='made with other settings'):
        make_streets(made, other, sequences=1)


def test_every_class_and_every_moving_id_occurs_when_rare_things_are_enriched() -> None:
    highway = Sequence(Settings(seed=6, index=0, scans=1, sensor='vlp16', quarter='highway'))
    scans = [*city()[1], highway.scan(0)]  # this city has no fences, the highway has rails
    seen = {int(raw) for scan in scans for raw in np.unique(scan.labels & 0xFFFF)}
    classes = set(SEMANTICKITTI.to_train(np.array(sorted(seen), np.uint32)).tolist())
    assert {SEMANTICKITTI.names[each] for each in range(19) if each not in classes} == set()
    assert {raw for raw in MOVING.values() if raw not in seen} == set()


def test_only_what_moves_has_a_moving_id() -> None:
    sequence, scans = city()
    movers = {mover.instance: mover for mover in sequence.traffic.movers}
    for scan in scans:
        raw, instance = scan.labels & 0xFFFF, scan.labels >> 16
        moving = raw >= 252
        assert set(instance[moving].tolist()) <= set(movers)
        assert not set(instance[~moving].tolist()) & set(movers)
    assert all(mover.pace.metres(1.0) > 0.3 for mover in movers.values())


def test_an_instance_keeps_its_class_from_scan_to_scan() -> None:
    pairs = np.unique(np.concatenate([np.unique(scan.labels) for scan in city()[1]]))
    pairs = pairs[pairs >> 16 > 0]
    assert len(np.unique(pairs >> 16)) == len(pairs)
    things = {*range(8)}  # car to motorcyclist
    assert set(SEMANTICKITTI.to_train(pairs).tolist()) <= things


def test_what_stands_stays_in_place_when_moved_by_the_poses() -> None:
    """Poles and trunks of two scans land on each other; without the poses they do not."""
    sequence, scans = city()
    seen, placed = [], []
    for index, scan in zip(CITY_SCANS[:2], scans):
        upright = np.isin(scan.labels & 0xFFFF, (71, 80))
        near = np.linalg.norm(scan.points[:, :3], axis=1) < 20
        pose = sequence.pose(index)
        seen.append(scan.points[upright & near, :3])
        placed.append(seen[-1] @ pose[:3, :3].T + pose[:3, 3])
    assert median_gap_m(*placed) < 0.1
    assert median_gap_m(*seen) > 0.5


def median_gap_m(first: np.ndarray, second: np.ndarray) -> float:
    """From points of the second cloud to the nearest of the first."""
    some = second[:: max(1, len(second) // 500)]
    gaps = np.linalg.norm(some[:, None] - first[None], axis=2).min(1)
    return float(np.median(gaps))


def test_written_poses_are_those_of_the_camera(made: Path) -> None:
    """Tr^-1 pose Tr takes points of a scan into the first scan's frame."""
    rows = np.loadtxt(made / 'sequences/00/poses.txt').reshape(-1, 3, 4)
    sequence = Sequence(SMALL)
    last = np.eye(4)
    last[:3] = rows[2]
    expected = np.linalg.inv(sequence.pose(0)) @ sequence.pose(2)
    assert np.linalg.inv(CAMERA) @ last @ CAMERA == pytest.approx(expected, abs=1e-6)
    assert rows[0] == pytest.approx(np.eye(4)[:3], abs=1e-9)
    assert rows[2][2, 3] > 0.5  # the camera's z looks ahead


def test_distortion_moves_what_lies_behind_by_the_way_driven(made: Path) -> None:
    """The sensor looks back half a turn before and after it looks ahead: v * 0.05 s apart."""
    straight = Sequence(SMALL)
    bent = Sequence(Settings(**{**vars(SMALL), 'distortion': True}))
    assert len(read_made(made, 1)) == pytest.approx(len(bent.scan(1).points), rel=0.05)
    delays = straight.sensor.delays_s()
    assert (delays.min(), delays.max()) == pytest.approx((-0.05, 0.05), abs=1e-4)
    rays = bent.drive.rays(0.1, straight.sensor.directions(), delays)
    way = np.linalg.norm(rays[delays.argmax(), :3] - rays[delays.argmin(), :3])
    driven = bent.traffic.ego.metres(0.15) - bent.traffic.ego.metres(0.05)
    assert way == pytest.approx(driven, rel=0.02)


def test_statistics_count_a_hand_made_scan(tmp_path: Path) -> None:
    """Three points in a row of 0.1 m voxels: 2, 3 and 2 occupied around them, 7/3 in the mean."""
    folder = tmp_path / 'sequences/00'
    (folder / 'velodyne').mkdir(parents=True)
    (folder / 'labels').mkdir()
    points = np.array([[4.05, 0.05, 0, 0.2], [4.15, 0.05, 0, 0.2], [4.25, 0.05, 0, 0.4]], 'f4')
    points.tofile(folder / 'velodyne/000000.bin')
    np.array([40, 40, 50], 'u4').tofile(folder / 'labels/000000.label')
    found = measure([folder], most=5)
    assert found.points_per_scan == 3
    assert found.neighbours[1] == pytest.approx(7 / 3)
    rows = dict(row[:2] for row in tabulate(found, found)['median intensity'])
    assert (rows['road'], rows['building']) == ('0.20', '0.40')


def test_the_command_makes_streets_and_compares_them(tmp_path: Path) -> None:
    out, picture = str(tmp_path / 'streets'), tmp_path / 'compare.png'
    words = ('--sequences', '1', '--scans', '1', '--sensor', 'vlp16', '--quarter', 'highway')
    assert run_script('--out', out, *words) == 0
    both = ('--real', out, '--streets', out)
    assert run_script('compare', *both, '--picture', str(picture)) == 0
    assert picture.read_bytes()[1:4] == b'PNG'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'quarter': 'citty'}, 'unknown quarter'),
        ({'sensor': 'hdl65'}, 'unknown sensor'),
        ({'scans': 0}, 'at least 1'),
        ({'seed': -1}, 'seed'),
        ({'index': 99}, 'within 0..99'),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_streets(tmp_path, Settings(**{**vars(SMALL), **change}), sequences=2)


def test_the_command_names_a_mistake_in_one_line_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'file'
    file.write_text('')
    for words in (
        ('--out', str(file), '--scans', '1'),
        ('--out', str(tmp_path / 'x'), '--scans', '0'),
        ('compare', '--real', str(tmp_path), '--streets', str(tmp_path)),
    ):
        assert run_script(*words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

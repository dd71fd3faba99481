# SPDX-License-Identifier: Apache-2.0
"""A sensor's mounting and brightness, found in made-up yards whose ground is known exactly."""

from __future__ import annotations

from collections.abc import Callable
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import pytest

from lidar_kd.errors import ConfigError
from lidar_kd.scans import read_scan
from lidar_kd.sensor import find_ground, Ground, MountingHints, SensorFit, SensorOptions
from lidar_kd.sensor.ground import thin_out, tilt_normal
from lidar_kd.sensor.mounting import find_motion, move_points
from lidar_kd.sensor.steady import Steady

Points = NDArray[np.float32]
DATA = Path(__file__).resolve().parents[4] / 'shared' / 'data'
HEIGHT_M = 1.73  # of training, in what follows; and its ground has the intensity 0.3
GROUND, WALL = 0.3, 0.4


def make_yard(height_m: float = 1.5, seed: int = 0) -> Points:
    """Level ground so far beneath the sensor, a wall along two sides."""
    rng = np.random.default_rng(seed)
    ground = rng.uniform(-18, 18, (12_000, 3))
    ground[:, 2] = -height_m
    walls = np.column_stack([rng.uniform(-18, 18, 4000), rng.choice([-18, 18], 4000)])
    walls = np.column_stack([walls, rng.uniform(-height_m, 4 - height_m, 4000)])
    brightness = np.repeat([GROUND, WALL], [12_000, 4000])
    return np.column_stack([np.vstack([ground, walls]), brightness]).astype(np.float32)


def turn(roll_deg: float, pitch_deg: float) -> NDArray[np.float64]:
    """From the frame of a sensor that is mounted so to a level one: first roll, then pitch."""
    (a, b), (c, d) = (
        (np.cos(angle), np.sin(angle)) for angle in np.radians((roll_deg, pitch_deg))
    )
    roll = np.array([[1, 0, 0], [0, a, -b], [0, b, a]])
    return np.array([[c, 0, d], [0, 1, 0], [-d, 0, c]]) @ roll


def mount(scan: Points, roll_deg: float, pitch_deg: float) -> Points:
    """The scan as such a sensor gives it."""
    seen = scan.copy()
    seen[:, :3] = scan[:, :3] @ turn(roll_deg, pitch_deg)  # rows times R: R transposed to each
    return seen


def make_hall() -> Points:
    """A floor 1 m below and a ceiling 4 m above, both whole."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-15, 15, (12_000, 4))
    points[:6000, 2], points[6000:, 2] = -1, 4
    return points.astype(np.float32)


POSES = [(0, 0), (0, 5), (0, 15), (10, 0), (-10, 20), (180, 0), (175, 8)]


@pytest.mark.parametrize(('roll_deg', 'pitch_deg'), POSES)
def test_height_roll_and_pitch_are_those_of_the_mounting(
    roll_deg: float, pitch_deg: float
) -> None:
    ground = find_ground(thin_out(mount(make_yard(), roll_deg, pitch_deg)))
    assert ground is not None
    assert ground.height_m == pytest.approx(1.5, abs=0.02)
    assert ground.pitch_deg == pytest.approx(pitch_deg, abs=0.3)
    assert (ground.roll_deg - roll_deg + 180) % 360 - 180 == pytest.approx(0, abs=0.3)
    assert ground.is_upside_down == (abs(roll_deg) > 90)


@pytest.mark.parametrize(('roll_deg', 'pitch_deg'), POSES)
def test_the_network_sees_the_level_scan_at_the_height_of_training(
    roll_deg: float, pitch_deg: float
) -> None:
    scan = mount(make_yard(), roll_deg, pitch_deg)
    SensorFit(HEIGHT_M, None).correct(scan)
    # all of the ground lies where it lay in training, none of it moved aside
    np.testing.assert_allclose(scan[:12_000, 2], -HEIGHT_M, atol=0.15)
    assert np.median(scan[:12_000, 2]) == pytest.approx(-HEIGHT_M, abs=0.02)


def test_a_frame_on_the_ground_is_raised_to_the_height_of_training() -> None:
    scan = make_yard(height_m=0.0)  # as base_link has it
    SensorFit(HEIGHT_M, None).correct(scan)
    assert np.median(scan[:12_000, 2]) == pytest.approx(-HEIGHT_M, abs=0.02)


def test_a_scan_in_the_pose_of_training_is_not_touched() -> None:
    scan = mount(make_yard(height_m=1.7), 0.5, -0.5)
    before = scan.copy()
    fit = SensorFit(HEIGHT_M, GROUND)
    fit.correct(scan)
    np.testing.assert_array_equal(scan, before)
    assert 'as in training' in fit.facts()['mounting']
    assert fit.facts()['intensity level'] == 'ground at 0.3, as in training'


@pytest.mark.parametrize(
    'make',
    [
        lambda: np.zeros((0, 4), np.float32),
        lambda: np.full((1000, 4), np.nan, np.float32),
        lambda: np.random.default_rng(0).uniform(-20, 20, (20_000, 4)).astype(np.float32),
        lambda: make_yard()[12_000:],  # two walls alone
        lambda: make_yard()[:12_000][:, [2, 0, 1, 3]],  # the ground is a wall ahead
    ],
    ids=['no point', 'no echo', 'mist', 'walls', 'a wall ahead'],
)
def test_without_a_sure_ground_scans_stay_as_they_come(make: Callable[[], Points]) -> None:
    scan = make()
    before, fit = scan.copy(), SensorFit(HEIGHT_M, GROUND)
    fit.correct(scan)
    np.testing.assert_array_equal(scan[:, :3], before[:, :3])
    assert fit.facts()['mounting'].startswith('no ground found')


def test_a_hall_stands_on_its_floor_and_not_on_its_ceiling() -> None:
    ground = find_ground(thin_out(make_hall()))
    assert ground is not None
    assert not ground.is_upside_down
    assert ground.height_m == pytest.approx(1, abs=0.02)


def test_points_without_an_echo_do_not_become_ground() -> None:
    scan = make_yard()
    empty = np.zeros((30_000, 4), np.float32)
    scan = np.vstack([scan, empty, np.full((5000, 4), np.nan, np.float32)])
    ground = find_ground(thin_out(scan))
    assert ground is not None
    assert ground.height_m == pytest.approx(1.5, abs=0.02)


def test_what_is_told_goes_before_what_is_found() -> None:
    fit = SensorFit(HEIGHT_M, None, SensorOptions(height_m=1.0, roll_pitch_deg=(180.0, 0.0)))
    scan = make_yard()
    before = scan.copy()
    fit.correct(scan)
    # over about x: (x, y, z) to (x, -y, -z); told 1.0 m high, raised by 0.73: down in its frame
    expected = before[:, :3] * [1, -1, -1] + [0, 0, 1.0 - HEIGHT_M]
    np.testing.assert_allclose(scan[:, :3], expected, atol=1e-5)
    assert fit.facts()['mounting'].startswith('upside down, 1.00 m')


def test_tf_goes_before_the_scans_and_parameters_go_before_tf() -> None:
    by_tf = MountingHints(ground=Ground(tilt_normal(0, 0), 2.5))
    for options, height_m in ((SensorOptions(), 2.5), (SensorOptions(height_m=1.0), 1.0)):
        fit, scan = SensorFit(HEIGHT_M, None, options), make_yard()
        before = scan.copy()
        fit.hear(by_tf)
        fit.correct(scan)
        expected = before[:, :3] + [0, 0, height_m - HEIGHT_M]
        np.testing.assert_allclose(scan[:, :3], expected, atol=1e-5)
        assert '(by TF)' in fit.facts()['mounting']


def test_what_tf_says_is_logged_when_it_changes_and_not_when_it_falters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, 'lidar_kd')
    fit = SensorFit(HEIGHT_M, None)
    for height_m in (2.5, None, 2.5, None, 2.5, 1.2, 1.2):
        ground = None if height_m is None else Ground(tilt_normal(0, 0), height_m)
        fit.hear(MountingHints(ground=ground))
    said = [each.message.split(' m above')[0] for each in caplog.records]
    assert said == ['mounting: 2.50', 'mounting: 1.20']


def test_tf_that_falls_silent_leaves_it_to_the_scans() -> None:
    fit = SensorFit(HEIGHT_M, None)
    fit.hear(MountingHints(ground=Ground(tilt_normal(0, 0), 2.5)))
    fit.correct(make_yard())
    fit.hear(MountingHints())
    scan = make_yard()
    fit.correct(scan)
    assert np.median(scan[:12_000, 2]) == pytest.approx(-HEIGHT_M, abs=0.02)
    assert 'TF' not in fit.facts()['mounting']


def test_gravity_levels_scans_without_a_ground_and_no_others() -> None:
    hints = MountingHints(up=tilt_normal(0, 20))
    fit, walls = SensorFit(HEIGHT_M, None), mount(make_yard(), 0, 20)[12_000:]
    fit.hear(hints)
    fit.correct(walls)
    np.testing.assert_allclose(walls[:, :3], make_yard()[12_000:, :3], atol=1e-4)
    assert 'by the IMU: no ground found' in fit.facts()['mounting']
    fit, slope = SensorFit(HEIGHT_M, None), make_yard()  # level for the robot, not for the earth
    fit.hear(hints)
    fit.correct(slope)
    assert np.median(slope[:12_000, 2]) == pytest.approx(-HEIGHT_M, abs=0.02)
    assert 'IMU' not in fit.facts()['mounting']


def test_hints_change_nothing_with_mounting_off() -> None:
    fit, scan = SensorFit(HEIGHT_M, None, SensorOptions(mounting='off')), make_yard()
    before = scan.copy()
    fit.hear(MountingHints(ground=Ground(tilt_normal(0, 30), 2.5), up=tilt_normal(0, 30)))
    fit.correct(scan)
    np.testing.assert_array_equal(scan, before)


def test_off_leaves_everything_as_it_comes() -> None:
    fit = SensorFit(HEIGHT_M, GROUND, SensorOptions(mounting='off', intensity='off'))
    scan = mount(make_yard(), 0, 15)
    scan[:, 3] *= 0.1
    before = scan.copy()
    fit.correct(scan)
    np.testing.assert_array_equal(scan, before)
    assert fit.facts() == {'mounting': 'off: scans as they come', 'intensity level': 'as it comes'}


def test_a_bundle_that_tells_no_height_changes_no_pose() -> None:
    fit, scan = SensorFit(None, None), mount(make_yard(), 0, 15)
    before = scan.copy()
    fit.correct(scan)
    np.testing.assert_array_equal(scan, before)
    assert 'does not tell' in fit.facts()['mounting']


def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(ConfigError, match="mounting: 'on' is unknown; use auto or off"):
        SensorOptions(mounting='on')


@pytest.mark.parametrize('gain', [0.1, 3.0])
def test_the_ground_gets_the_intensity_of_training(gain: float) -> None:
    scan = make_yard()
    expected = scan[:, 3].copy()
    scan[:, 3] *= np.float32(gain)
    SensorFit(None, GROUND).correct(scan)
    np.testing.assert_allclose(scan[:, 3], expected, rtol=1e-5)


def test_a_sensor_without_intensity_gets_that_of_the_ground() -> None:
    scan = make_yard()
    scan[:, 3] = 0
    SensorFit(None, GROUND).correct(scan)
    np.testing.assert_array_equal(scan[:, 3], np.float32(GROUND))


def test_calibrated_reflectivity_is_left_as_it_is() -> None:
    scan = make_yard()
    scan[:, 3] = np.repeat([0.02, 0.1], [12_000, 4000])  # walls 5 times as bright as the ground
    before, fit = scan.copy(), SensorFit(None, GROUND)
    fit.correct(scan)
    np.testing.assert_array_equal(scan, before)
    assert 'another contrast' in fit.facts()['intensity level']


def test_one_odd_scan_changes_nothing_and_three_in_a_row_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, 'lidar_kd')
    fit = SensorFit(HEIGHT_M, None)
    for _ in range(5):
        fit.correct(make_yard(1.5))
    facts = []
    for number in range(5, 41):  # every tenth is looked at: 10, 20, 30, 40
        fit.correct(make_yard(0.5))
        facts.append((number, fit.facts()['mounting'].startswith('0.50 m')))
    assert [number for number, is_new in facts if is_new] == list(range(30, 41))
    assert len([r for r in caplog.records if r.message.startswith('mounting')]) == 2
    fit.begin()
    assert fit.facts()['mounting'] == '-'


def test_a_value_that_comes_and_goes_is_not_taken() -> None:
    kept = Steady[float](lambda a, b: abs(a - b) < 1, max)
    seen = [kept.see(value) for value in (0, 5, 0, 5, 5, 0, 9, 5, 9, 5, 9)]
    # the other values never come three times in a row: two 5s, then ever another one
    assert (seen.count(True), kept.value) == (1, 0)


def test_a_small_tilt_alone_is_worth_no_motion() -> None:
    ground = find_ground(thin_out(make_yard()))
    assert ground is not None
    assert find_motion(ground, 1.55) is None
    assert find_motion(ground, 1.65) is not None


def test_moved_points_keep_their_distances() -> None:
    scan = mount(make_yard(), 170, 12)
    ground = find_ground(thin_out(scan))
    assert ground is not None
    motion = find_motion(ground, 1.5)
    assert motion is not None
    before = np.linalg.norm(scan[:, :3], axis=1)
    move_points(scan, motion)
    np.testing.assert_allclose(
        np.linalg.norm(scan[:, :3] - [0, 0, motion[2, 3]], axis=1), before, rtol=1e-5
    )


def test_up_is_where_the_third_row_of_the_mounting_says() -> None:
    for roll_deg, pitch_deg in POSES:
        np.testing.assert_allclose(
            tilt_normal(roll_deg, pitch_deg), turn(roll_deg, pitch_deg)[2], atol=1e-12
        )


@pytest.mark.skipif(not (DATA / 'ouster').is_dir(), reason='the shared scans are not here')
def test_real_scans_indoors_have_no_ground_and_tilted_ones_have_the_known_one() -> None:
    rooms = sorted((DATA / 'ouster' / 'indoor').glob('*.bin'))
    assert [find_ground(thin_out(read_scan(path))) for path in rooms] == [None] * len(rooms)
    # as the folder's README tells: tilted by 17.5 and 15.6 degrees, at 3.1 and 3.4 m
    for name, height_m, tilt_deg in (('os0', 3.1, 17.5), ('os1', 3.4, 15.6)):
        path = DATA / 'ouster' / 'outdoor' / f'{name}-128_tilted_0.bin'
        ground = find_ground(thin_out(read_scan(path)))
        assert ground is not None
        assert ground.height_m == pytest.approx(height_m, abs=0.1)
        assert abs(ground.pitch_deg) == pytest.approx(tilt_deg, abs=1.0)
        assert ground.is_upside_down == (name == 'os0')

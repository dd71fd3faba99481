# SPDX-License-Identifier: Apache-2.0
"""The varied world: crossings, curbs, mounts, habits; the same bytes for the same seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
import math
from pathlib import Path

import numpy as np
import pytest

from lidar_kd.errors import ConfigError

pytest.importorskip('open3d')

from training.streets.cast import Hits, Scene
from training.streets.materials import MATERIAL
from training.streets.mesh import box
from training.worlds.devices import _lift, DEVICES, draw_device
from training.worlds.frontage import draw_frontage
from training.worlds.generate import generate_world
from training.worlds.ground import CELL_M, cell_ticks, Relief, Surface
from training.worlds.habits import draw_habit, Habit
from training.worlds.kinds import PLACES
from training.worlds.network import grid_places, Network, StreetLine
from training.worlds.receive import bloom
from training.worlds.scene import VariedSequence, Variety
from training.worlds.standpoint import is_clear, Mount, turn_of
from training.worlds.structures import build_bridge

SMALL = Variety(seed=3, index=0, scans=2, sensor='vlp16', scans_per_scene=1)
LEVEL = Mount(height_m=1.0, roll=0.0, pitch=0.0, yaw=0.0, upside_down=False, hood_deg=None)
FAITHFUL = Habit(
    shade=np.ones(len(MATERIAL), np.float32), gain=1.0, gamma=1.0, most=1.0, retro_from=1.0,
    fade_m=math.inf, steps=1000, dark=1.0, beam_spread=0.0,
)  # fmt: skip


def straight(yaw: float, half_m: float) -> StreetLine:
    """A street of 400 m through the origin."""
    s = np.arange(-200, 202, 2.0)
    return StreetLine(
        line=s[:, None] * [math.cos(yaw), math.sin(yaw)], heading=np.full(len(s), yaw),
        half_m=half_m, median_m=0.0, raw=40, material='asphalt', starts=False,
    )  # fmt: skip


def crossing(fillet_m: float) -> Network:
    streets = (straight(0.0, 2.0), straight(math.pi / 2, 3.0))
    return Network(place=PLACES['city'], streets=streets, fillet_m=fillet_m)


def step_of(height_m: float, at_m: float) -> Surface:
    """Level land; what lies at x > at_m is higher and is a sidewalk."""
    _, n = grid_places()
    ticks = cell_ticks()
    raised = np.repeat((ticks > at_m)[:, None], len(ticks), 1)
    relief = Relief(
        height=np.where(raised, height_m, 0).astype(np.float32),
        raw=np.where(raised, 48, 40).astype(np.uint16),
        material=np.zeros(raised.shape, np.uint8),
        tint=np.ones(raised.shape, np.float32),
    )
    return Surface(np.zeros((n, n)), relief)


def ray(origin: tuple[float, float, float], to: tuple[float, float, float]) -> np.ndarray:
    way = np.subtract(to, origin)
    return np.array([[*origin, *(way / np.linalg.norm(way))]])


def far_as(distance: list[float], material: list[int]) -> Hits:
    n = len(distance)
    return Hits(
        distance=np.array(distance, np.float32), facing=np.ones(n, np.float32),
        raw=np.full(n, 81, np.uint16), material=np.array(material, np.uint8),
        tint=np.ones(n, np.float32), instance=np.zeros(n, np.uint16),
    )  # fmt: skip


@cache
def varied() -> VariedSequence:
    return VariedSequence(replace(SMALL, seed=11, scans=30, sensor='any', scans_per_scene=30))


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_a_place_is_as_far_from_the_streets_as_from_the_nearer_edge() -> None:
    # the streets' edges are y = 2 and x = 3; beyond the fillet's radius the nearer one counts
    places = np.array([[10.0, 3.0], [3.5, 20.0], [10.0, 0.0], [30.0, 30.0]])
    assert crossing(1.0).outside(places) == pytest.approx([1.0, 0.5, -2.0, 27.0])


def test_curbs_are_round_at_the_corner() -> None:
    # 1 m from both edges, radius 4: 4 - hypot(3, 3) = -0.243 (on the road); 4 m from both: 4
    places = np.array([[4.0, 3.0], [7.0, 6.0]])
    assert crossing(4.0).outside(places) == pytest.approx([4 - math.hypot(3, 3), 4.0], abs=1e-4)


def test_a_street_knows_how_far_along_and_aside_a_place_is() -> None:
    s, t = straight(math.pi / 2, 3.0).measure(np.array([[1.5, 10.0]]))
    assert (float(s[0]), float(t[0])) == pytest.approx((210.0, -1.5))  # it runs up, x is right


def test_rays_meet_a_curb_at_its_height() -> None:
    edge = 7 * CELL_M
    surface = step_of(0.12, edge)
    rays = np.concatenate([ray((x, 0.1, 2), (x, 0.1, 0)) for x in (edge - 0.2, edge + 0.2)])
    hits = surface.trace(rays, np.full(2, np.inf, np.float32))
    assert hits.distance == pytest.approx([2.0, 1.88], abs=0.01)
    assert hits.raw.tolist() == [40, 48]


def test_a_flat_ray_meets_the_face_of_a_curb() -> None:
    edge = 7 * CELL_M
    flat = ray((-4, 0.1, 0.6), (edge, 0.1, 0.06))  # it would reach the road 0.6 m further on
    hits = step_of(0.12, edge).trace(flat, np.full(1, np.inf, np.float32))
    assert hits.distance[0] == pytest.approx(math.hypot(4 + edge, 0.54), abs=0.02)


def test_what_stands_before_the_ground_hides_it() -> None:
    down = ray((0, 0.1, 2), (0, 0.1, 0))
    assert np.isinf(step_of(0.1, 5.0).trace(down, np.full(1, 1.0, np.float32)).distance[0])


def test_curbs_reach_from_the_level_of_the_road_to_sixteen_centimetres() -> None:
    rng = np.random.default_rng(0)
    curbs = np.array([draw_frontage(PLACES['city'], rng).curb_m for _ in range(400)])
    assert curbs.min() >= 0
    assert curbs.max() <= 0.16
    assert (curbs < 0.02).mean() == pytest.approx(0.22, abs=0.06)


def test_a_mount_turns_the_rays_of_the_sensor() -> None:
    pitched = turn_of(replace(LEVEL, pitch=math.radians(10)))
    assert pitched @ [1, 0, 0] == pytest.approx(
        [math.cos(0.17453), 0, -math.sin(0.17453)], abs=1e-4
    )
    rolled = turn_of(replace(LEVEL, roll=math.radians(10)))
    assert rolled @ [0, 1, 0] == pytest.approx([0, math.cos(0.17453), math.sin(0.17453)], abs=1e-4)


def test_upside_down_up_is_down_and_left_is_right() -> None:
    turned = turn_of(replace(LEVEL, upside_down=True))
    assert turned == pytest.approx(np.diag([1.0, -1.0, -1.0]))
    assert np.linalg.det(turned) == pytest.approx(1.0)  # no mirror image


def test_habits_change_intensity_by_gain_and_gamma_up_to_saturation() -> None:
    value, near = np.array([0.6, 0.9], np.float32), np.zeros(2, np.float32)
    half = replace(FAITHFUL, gain=0.5, gamma=2.0)
    assert half.apply(value, near) == pytest.approx([0.18, 0.405], abs=6e-4)
    full = replace(FAITHFUL, gain=2.0, most=0.7)
    assert full.apply(value, near) == pytest.approx([0.7, 0.7], abs=6e-4)
    faded = replace(FAITHFUL, fade_m=20.0)  # half at 20 m
    assert faded.apply(value, near + 20) == pytest.approx([0.3, 0.45], abs=6e-4)


def test_some_sensors_report_no_intensity() -> None:
    silent = replace(FAITHFUL, gain=0.0)
    assert not silent.apply(np.full(3, 0.5, np.float32), np.zeros(3, np.float32)).any()
    gains = [draw_habit('vlp16', np.random.default_rng(seed)).gain for seed in range(300)]
    assert 0 < gains.count(0.0) < 60


def test_bright_plates_look_wider_to_some_sensors() -> None:
    device = draw_device('vlp16', np.random.default_rng(0))
    n = len(device.beam)
    distance, material = np.full(n, 30.0), np.full(n, MATERIAL['brick'])
    distance[5], material[5] = 12.0, MATERIAL['retro']
    wide = bloom(far_as(distance.tolist(), material.tolist()), device, 1)
    assert np.flatnonzero(wide.distance < 20).tolist() == [4, 5, 6]


@pytest.mark.parametrize('name', sorted(DEVICES))
def test_devices_look_ahead_with_unit_rays(name: str) -> None:
    device = draw_device(name, np.random.default_rng(1))
    assert np.linalg.norm(device.directions, axis=1) == pytest.approx(1.0)
    assert (np.diff(device.beam) >= 0).all()
    assert len(device.beam) == len(device.directions)
    azimuth = np.degrees(np.arctan2(device.directions[:, 1], device.directions[:, 0]))
    widest = {'solid70': 35.3, 'front120': 60.2, 'front46': 23.2}.get(name, 180)
    assert widest - 1 < np.abs(azimuth).max() <= widest


def test_every_scan_has_a_sensor_and_a_mount_of_its_own() -> None:
    sequence = varied()
    names = {sequence.device(scan).name for scan in range(30)}
    heights = [sequence.mount(scan).height_m for scan in range(30)]
    assert len(names) > 6
    assert len(set(heights)) == 30
    assert min(heights) < 1.2
    assert max(heights) > 1.9


def test_a_sensor_stands_neither_in_a_bush_nor_in_a_house() -> None:
    # a cube of 1 m around the eye fills the horizon; a roof 3 m above is one of a building
    cube = Scene(box((1, 1, 1), (0, 0, 1), 70, 'leaf'))
    roof = Scene(box((9, 9, 0.2), (0, 0, 4), 50, 'roof'))
    post = Scene(box((0.1, 0.1, 3), (0.8, 0, 1), 80, 'steel'))  # 7 of 360 degrees
    eye = np.array([0.0, 0.0, 1.0])
    assert [is_clear(scene, eye, 1.0) for scene in (cube, roof, post)] == [False, False, True]


def test_beams_keep_their_order_when_each_is_a_little_off() -> None:
    lifted = _lift(np.array([[1.0, 0, 0], [0, 1.0, 0]]), np.radians([0.0, 30.0]))
    assert lifted == pytest.approx(np.array([[1, 0, 0], [0, 0.8660, 0.5]]), abs=1e-4)


def test_a_bridge_leaves_the_street_open_below_it() -> None:
    bridge = Scene(build_bridge(10.0, 6.0, 4.5, 52))
    rays = np.array([[0, -20, 1.7, 0, 1, 0], [0, 0, 1.7, 0, 0, 1], [0, 0, 1.7, 1, 0, 0]], float)
    # along the street nothing, the deck 4.5 - 1.7 = 2.8 m above, the wall at half of 10 m
    distance = bridge.cast(rays).distance
    assert distance.tolist() == pytest.approx([math.inf, 2.8, 5.0])


def test_the_ground_of_a_scan_lies_where_the_sensor_sees_it() -> None:
    sequence = varied()
    site, _ = sequence.built(0)
    for scan in range(3):
        made, pose = sequence.scan(scan), sequence.pose(scan)
        road = made.points[np.isin(made.labels & 0xFFFF, (40, 48)), :3]
        world = road @ pose[:3, :3].T + pose[:3, 3]
        assert np.abs(world[:, 2] - site.ground.height(world[:, :2])).mean() < 0.05


def test_one_and_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    assert generate_world(tmp_path / 'a', SMALL, sequences=1, workers=1) == 2
    generate_world(tmp_path / 'b', SMALL, sequences=1, workers=2)
    files = files_of(tmp_path / 'a')
    assert files == files_of(tmp_path / 'b')
    (tmp_path / 'a/sequences/00/velodyne/000001.bin').unlink()
    assert generate_world(tmp_path / 'a', SMALL, sequences=1) == 1
    assert files_of(tmp_path / 'a') == files


@pytest.mark.parametrize('wrong', [{'sensor': 'x'}, {'mount': 'x'}, {'place': 'x'}, {'scans': 0}])
def test_what_nobody_knows_is_refused(wrong: dict[str, str | int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        generate_world(tmp_path, replace(SMALL, **wrong), sequences=1)  # type: ignore[arg-type]

# SPDX-License-Identifier: Apache-2.0
"""Augmentation: each step on a few points whose fate is worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
import pytest

from lidar_kd.labels import SEMANTICKITTI
from training.data.augment import (
    augment,
    Augmentation,
    drop,
    flip_matrix,
    jitter,
    laser_mix,
    move_randomly,
    NO_AUGMENTATION,
    paste_turned,
    polar_mix,
    swap_bands,
    swap_sector,
    transform,
    turn_matrix,
)
from training.data.paste import cut_instances, is_free, paste_on_ground, set_down
from training.data.scan import Scan
from training.data.semantickitti import open_semantickitti

REAL = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'semantickitti'
CAR, PERSON, ROAD, BUILDING = (
    SEMANTICKITTI.names.index(name) for name in ('car', 'person', 'road', 'building')
)
ON_ROAD = np.array([ROAD], np.uint8)
HARD = SEMANTICKITTI.hard_ids


def make_scan(
    points: NDArray | list[list[float]],
    labels: int | list[int] = 0,
    instances: int | list[int] = 0,
) -> Scan:
    xyz = np.array(points, np.float32).reshape(-1, 3)
    intensity = np.linspace(0, 1, len(xyz), dtype=np.float32)[:, None]
    return Scan(
        points=np.hstack([xyz, intensity]),
        labels=np.broadcast_to(np.array(labels, np.uint8), len(xyz)).copy(),
        instances=np.broadcast_to(np.array(instances, np.uint32), len(xyz)).copy(),
        name='00/000000',
        pose=np.eye(4),
    )


def random_scan(count: int = 2000, seed: int = 0, labels: int = 19) -> Scan:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)) * [20, 20, 1.5]
    return make_scan(points, rng.integers(labels, size=count).tolist())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def xyz(scan: Scan) -> NDArray[np.float32]:
    return scan.points[:, :3]


def test_a_turn_is_anticlockwise_about_z() -> None:
    turned = transform(make_scan([[1, 0, 5], [0, 2, -1]]), turn_matrix(math.pi / 2))
    assert np.allclose(xyz(turned), [[0, 1, 5], [-2, 0, -1]], atol=1e-6)


def test_flips_mirror_x_or_y() -> None:
    scan = make_scan([[1, 2, 3]])
    assert xyz(transform(scan, flip_matrix(True, False))).tolist() == [[-1, 2, 3]]
    assert xyz(transform(scan, flip_matrix(False, True))).tolist() == [[1, -2, 3]]
    assert xyz(transform(scan, flip_matrix(False, False))).tolist() == [[1, 2, 3]]


def test_a_moved_scan_keeps_everything_but_where_it_is() -> None:
    scan = make_scan([[1, 2, 3], [4, 5, 6]], [CAR, ROAD], [7, 0])
    moved = move_randomly(scan, Augmentation(), rng())
    assert moved.points[:, 3].tolist() == scan.points[:, 3].tolist()
    assert moved.labels is scan.labels
    assert moved.instances is scan.instances
    assert moved.name == scan.name
    assert moved.pose is None  # it would be wrong
    assert xyz(scan).tolist() == [[1, 2, 3], [4, 5, 6]]  # the given scan is as it was


def test_motions_stay_within_their_settings() -> None:
    scan = make_scan([[3, 4, 12]])
    settings = Augmentation(rotation_deg=10, flip=False, scale=0.1)
    generator = rng()
    moved = np.concatenate([xyz(move_randomly(scan, settings, generator)) for _ in range(500)])
    factors = np.linalg.norm(moved, axis=1) / 13
    assert 0.9 <= factors.min() < 0.91
    assert 1.09 < factors.max() <= 1.1
    angles = np.degrees(np.arctan2(moved[:, 1], moved[:, 0]) - math.atan2(4, 3))
    assert -10 <= angles.min() < -9
    assert 9 < angles.max() <= 10


def test_flips_happen_every_other_time() -> None:
    settings = Augmentation(rotation_deg=0, flip=True, scale=0)
    generator = rng()
    moved = [
        tuple(xyz(move_randomly(make_scan([[1, 1, 1]]), settings, generator))[0])
        for _ in range(400)
    ]
    quarters = [moved.count((x, y, 1)) for x in (-1, 1) for y in (-1, 1)]
    # 100 each, and a standard deviation of 8.7
    assert sum(quarters) == 400
    assert all(60 < count < 140 for count in quarters)


def test_jitter_is_normal_and_limited() -> None:
    scan = make_scan(np.zeros((20_000, 3)))
    moved = xyz(jitter(scan, 0.1, 0.15, rng()))
    assert np.abs(moved).max() == np.float32(0.15)
    # 1.5 standard deviations: 13.4 % of the coordinates are beyond and stop there
    assert np.mean(np.abs(moved) == np.float32(0.15)) == pytest.approx(0.134, abs=0.01)
    assert abs(moved.mean()) < 0.002


def test_drop_takes_points_with_all_that_belongs_to_them() -> None:
    scan = random_scan(20_000)
    less = drop(scan, 0.3, rng())
    assert len(less) == pytest.approx(14_000, abs=300)
    kept = np.isin(scan.points[:, 3], less.points[:, 3])  # the intensities are all different
    assert less.labels.tolist() == scan.labels[kept].tolist()
    assert len(drop(scan, 0.0, rng())) == len(scan)


def test_a_sector_is_swapped_between_two_scans() -> None:
    # directions 0, 90, 180 and 270 degrees; the sector goes from 135 over 180 to 315 degrees
    cross = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    mine, other = make_scan(cross, CAR), make_scan(cross * 2, ROAD)
    mixed = swap_sector(mine, other, start=math.radians(135), width=math.pi)
    assert xyz(mixed).tolist() == [[1, 0, 0], [0, 1, 0], [-2, 0, 0], [0, -2, 0]]
    assert mixed.labels.tolist() == [CAR, CAR, ROAD, ROAD]


def test_objects_are_pasted_as_seen_and_turned() -> None:
    other = make_scan([[2, 0, 1], [9, 9, 9]], [PERSON, BUILDING])
    mixed = paste_turned(make_scan([[5, 5, 5]], ROAD), other, HARD, [0, math.pi])
    assert np.allclose(xyz(mixed), [[5, 5, 5], [2, 0, 1], [-2, 0, 1]], atol=1e-6)
    assert mixed.labels.tolist() == [ROAD, PERSON, PERSON]


def test_polarmix_adds_three_copies_of_the_objects_to_all_else() -> None:
    other = make_scan([[2, 0, 1], [9, 9, 9]], [PERSON, BUILDING])
    counts = set()
    for seed in range(10):
        mixed = polar_mix(make_scan([[5, 5, 5]], ROAD), other, HARD, np.random.default_rng(seed))
        angle = np.arctan2(mixed.points[-3:, 1], mixed.points[-3:, 0]) % math.tau
        assert mixed.labels[-3:].tolist() == [PERSON] * 3
        # as seen, in the second third of the circle, and in the last
        assert np.floor(angle / (math.tau / 3)).tolist() == [0, 1, 2]
        counts.add(len(mixed) - 3)
    assert counts <= {0, 1, 2}  # of the sector swap: both, one or none of the others
    assert len(counts) > 1


def test_bands_of_inclination_alternate() -> None:
    # inclinations -30, -10, 10 and 30 degrees; four bands of 15 degrees from -30 on
    angles = np.radians([-30, -10, 10, 30])
    points = np.stack([np.cos(angles), np.zeros(4), np.sin(angles)], 1)
    mine, other = make_scan(points, CAR), make_scan(points * 2, ROAD)
    mixed = swap_bands(mine, other, bands=4)
    # bands 0, 1, 2 and 3: ours are 0 and 2, the other's 1 and 3
    assert np.allclose(xyz(mixed), np.concatenate([points[[0, 2]], 2 * points[[1, 3]]]))
    turned = swap_bands(mine, other, bands=4, first=1)
    assert np.allclose(xyz(turned), np.concatenate([points[[1, 3]], 2 * points[[0, 2]]]))


def test_lasermix_of_a_scan_with_itself_is_that_scan() -> None:
    scan = random_scan()
    for seed in range(5):
        mixed = laser_mix(scan, scan, np.random.default_rng(seed))
        assert sorted(map(tuple, mixed.points)) == sorted(map(tuple, scan.points))


NOWHERE = [[math.nan, 1, 1], [math.inf, 0, math.inf], [0, 0, -math.inf]]


def test_points_that_are_nowhere_do_not_move_the_bands() -> None:
    mine, other = random_scan(50), random_scan(60, seed=1)
    ours, theirs = (
        make_scan(np.concatenate([xyz(scan), NOWHERE]), scan.labels.tolist() + [label] * 3)
        for scan, label in ((mine, CAR), (other, PERSON))
    )
    for first in (0, 1):
        expected = swap_bands(mine, other, bands=4, first=first)
        mixed = swap_bands(ours, theirs, bands=4, first=first)
        finite = np.isfinite(xyz(mixed)).all(1)
        assert np.array_equal(xyz(mixed)[finite], xyz(expected))
        # the scan keeps its own, as without a mix, and gets none of the other's
        assert mixed.labels[~finite].tolist() == [CAR] * 3
    nothing = swap_bands(make_scan(NOWHERE), make_scan(NOWHERE), bands=3)
    assert len(nothing) == 3


def test_points_that_are_nowhere_are_in_no_sector() -> None:
    scan, other = make_scan([[1, 0, 0], NOWHERE[0]], CAR), make_scan([[-2, 0, 0], NOWHERE[0]])
    mixed = swap_sector(scan, other, start=math.radians(135), width=math.pi)
    expected = np.array([[1, 0, 0], NOWHERE[0], [-2, 0, 0]])
    assert np.array_equal(xyz(mixed), expected, equal_nan=True)


def test_mix3d_joins_two_scans_each_with_its_own_motion() -> None:
    scan, other = make_scan([[3, 0, 4]], CAR), make_scan([[0, 5, 12]], ROAD)
    settings = Augmentation(flip=False, scale=0, mix3d=1)
    mixed = augment(scan, settings, rng(), table=SEMANTICKITTI, draw_scan=lambda: other)
    assert mixed.labels.tolist() == [CAR, ROAD]
    assert np.allclose(np.linalg.norm(xyz(mixed), axis=1), [5, 13], rtol=1e-6)
    assert np.allclose(xyz(mixed)[:, 2], [4, 12])
    turns = np.arctan2(mixed.points[:, 1], mixed.points[:, 0]) - [0, math.pi / 2]
    assert not np.isclose(*(turns % math.tau))


def test_objects_are_cut_by_class_and_number() -> None:
    scan = make_scan(
        np.arange(21).reshape(7, 3),
        [PERSON, CAR, PERSON, PERSON, ROAD, CAR, PERSON],
        [2, 2, 1, 2, 0, 2, 0],
    )
    found = cut_instances(scan, np.array([CAR, PERSON], np.uint8), smallest=1)
    # the cars' number 2 is not the persons' number 2, and number 0 is nobody
    assert [(int(part.labels[0]), xyz(part)[:, 0].tolist()) for part in found] == [
        (CAR, [3, 15]),
        (PERSON, [6]),
        (PERSON, [0, 9]),
    ]
    assert len(cut_instances(scan, HARD, smallest=2)) == 1
    assert cut_instances(make_scan([[1, 2, 3]], ROAD), HARD) == []


def test_an_object_is_turned_about_the_sensor_and_set_on_the_ground() -> None:
    person = make_scan([[4, 0, -1], [4, 0, 0.5]], PERSON, 3)
    placed = set_down(person, np.array([0, 5, -1.7], np.float32))
    # turned by 90 degrees; its range stays 4 m; its foot comes to -1.7
    assert np.allclose(xyz(placed), [[0, 4, -1.7], [0, 4, -0.2]], atol=1e-6)


def test_an_object_goes_to_a_road_as_far_away_as_it_was() -> None:
    street = make_scan([[0, 4.5, -1.7], [0, 20, -1.7], [3.9, 0, -1.7]], [ROAD, ROAD, BUILDING])
    person = make_scan([[4, 0, -1], [4, 0, 0.5]], PERSON, 3)
    mixed = paste_on_ground(street, person, onto=ON_ROAD, ground=ON_ROAD, rng=rng())
    assert mixed.labels.tolist() == [ROAD, ROAD, BUILDING, PERSON, PERSON]
    assert np.allclose(xyz(mixed)[3:], [[0, 4, -1.7], [0, 4, -0.2]], atol=1e-6)
    far = make_scan([[40, 0, 0]], PERSON, 3)
    assert paste_on_ground(street, far, onto=ON_ROAD, ground=ON_ROAD, rng=rng()) is street


def test_nothing_is_pasted_into_what_stands_there() -> None:
    car = make_scan([[0, 3.8, -1], [0, 4.2, 0]], CAR)
    person = make_scan([[4, 0, -1], [4, 0, 0.5]], PERSON, 3)
    street = make_scan([[0, 4, -1.7], [0, 3.8, -1]], [ROAD, CAR])
    assert paste_on_ground(street, person, onto=ON_ROAD, ground=ON_ROAD, rng=rng()) is street
    placed = set_down(person, street.points[0, :3])
    assert not is_free(car.points, placed, height_m=-1.7)
    assert is_free(car.points, placed, height_m=0.5)  # all of it is below
    assert is_free(
        car.points + np.array([1, 0, 0, 0], np.float32), placed, height_m=-1.7
    )  # 1 m beside


def test_nothing_is_pasted_where_the_ground_is_not_known() -> None:
    person = make_scan([[4, 0, -1], [4, 0, 0.5]], PERSON, 3)
    street = make_scan([[0, 4, math.nan]], ROAD)
    assert paste_on_ground(street, person, onto=ON_ROAD, ground=ON_ROAD, rng=rng()) is street


def test_pasting_takes_objects_from_the_bank_else_from_another_scan() -> None:
    street = make_scan([[0, 4, -1.7]], ROAD)
    person = make_scan(np.full((25, 3), [4, 0, 0]), PERSON, 3)
    settings = NO_AUGMENTATION.model_copy(update={'paste': 1})
    for bank, other in (((person,), street), ((), person)):
        sizes = {
            len(
                augment(
                    street,
                    settings,
                    np.random.default_rng(seed),
                    table=SEMANTICKITTI,
                    draw_scan=lambda other=other: other,  # type: ignore[misc]
                    bank=bank,
                )
            )
            for seed in range(10)
        }
        assert sizes == {1, 26}  # none or one


EVERYTHING = Augmentation(jitter_m=0.01, drop=0.2, polarmix=0.5, lasermix=0.5, mix3d=0.5, paste=2)


def test_the_same_seed_gives_the_same_scan_and_another_seed_another() -> None:
    scan, other = random_scan(), random_scan(seed=1)

    def once(seed: int) -> Scan:
        generator = np.random.default_rng(seed)
        return augment(scan, EVERYTHING, generator, table=SEMANTICKITTI, draw_scan=lambda: other)

    for seed in range(8):
        first, again = once(seed), once(seed)
        assert np.array_equal(first.points, again.points)
        assert np.array_equal(first.labels, again.labels)
        assert len(first.points) == len(first.labels)
    assert not np.array_equal(once(0).points, once(1).points)
    assert np.array_equal(scan.points, random_scan().points)  # the scans given stay as they are
    assert np.array_equal(other.points, random_scan(seed=1).points)


def test_no_augmentation_leaves_the_points_as_they_are() -> None:
    scan = random_scan()
    same = augment(scan, NO_AUGMENTATION, rng(), table=SEMANTICKITTI, draw_scan=random_scan)
    assert np.array_equal(same.points, scan.points)
    assert same.points is not scan.points
    assert not NO_AUGMENTATION.mixes
    assert EVERYTHING.mixes


def test_settings_out_of_range_or_unknown_are_refused() -> None:
    for setting in ({'mix3d': 1.5}, {'drop': 1.0}, {'rotation_deg': -1}, {'rotate': 3}):
        with pytest.raises(ValidationError):
            Augmentation.model_validate(setting)


@pytest.mark.skipif(not REAL.is_dir(), reason='the real scans are not on this machine')
def test_real_objects_land_on_a_real_road() -> None:
    scans = open_semantickitti(REAL, ['00', '01'])
    car = np.array([CAR], np.uint8)
    street = scans[10]
    ground = SEMANTICKITTI.group_ids('ground')
    objects = cut_instances(scans[0], car)
    assert len(objects) >= 5
    generator = rng()
    landed = 0
    for instance in objects:
        mixed = paste_on_ground(street, instance, onto=ON_ROAD, ground=ground, rng=generator)
        pasted = mixed.take(np.arange(len(street), len(mixed)))
        if len(pasted):
            landed += 1
            range_m = [np.hypot(*np.median(xyz(part)[:, :2], 0)) for part in (instance, pasted)]
            assert np.ptp(range_m) < 0.3
            near = np.hypot(*(xyz(street)[:, :2] - np.median(xyz(pasted)[:, :2], 0)).T) < 3
            road = xyz(street)[near & (street.labels == ROAD), 2]
            assert abs(xyz(pasted)[:, 2].min() - np.median(road)) < 0.5
    assert landed >= 3

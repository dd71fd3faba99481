# SPDX-License-Identifier: Apache-2.0
"""Augmentation by another sensor, on a few points whose fate is worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
import pytest

from lidar_kd.labels import SEMANTICKITTI
from training.data.augment import (
    augment,
    Augmentation,
    drop,
    jitter,
    move_randomly,
    NO_AUGMENTATION,
)
from training.data.scan import Scan
from training.data.sensor_changes import (
    change_intensity,
    change_sensor,
    drop_far,
    keep_sector,
    SensorChanges,
    thin_beams,
    tilt_sensor,
)


def make_scan(points: list[list[float]] | NDArray) -> Scan:
    return Scan(
        points=np.array(points, np.float32).reshape(-1, 4),
        labels=np.arange(len(points)).astype(np.uint8),
    )


def random_scan(count: int = 20_000) -> Scan:
    rng = np.random.default_rng(1)
    return make_scan(np.column_stack([rng.uniform(-60, 60, (count, 3)), rng.random(count)]))


def test_off_it_changes_nothing_and_draws_nothing() -> None:
    scan, rng = random_scan(50), np.random.default_rng(0)
    assert change_sensor(scan, SensorChanges(), rng) is scan
    assert rng.random() == np.random.default_rng(0).random()


def test_a_configuration_from_before_gives_the_same_bits() -> None:
    settings = Augmentation.model_validate({'jitter_m': 0.01, 'drop': 0.2})
    scan, rng = random_scan(500), np.random.default_rng(7)
    found = augment(
        scan, settings, rng, table=SEMANTICKITTI, draw_scan=lambda: pytest.fail('nothing is mixed')
    )
    rng = np.random.default_rng(7)  # what the release before drew, in its order
    assert rng.random(2).all()  # PolarMix and LaserMix
    expected = move_randomly(scan, settings, rng)
    assert rng.random()  # Mix3D
    expected = jitter(expected, 0.01, settings.jitter_limit_m, rng)
    expected = drop(expected, rng.uniform(0, 0.2), rng)
    assert found.points.tobytes() == expected.points.tobytes()


def test_gain_and_gamma_change_the_intensity_alone() -> None:
    scan = make_scan([[1, 2, 3, 0.25], [1, 2, 3, 0.64], [1, 2, 3, 0.0], [1, 2, 3, 81.0]])
    changed = change_intensity(scan, 2.0, 0.5)
    # 2 sqrt(0.25) = 1, 2 * 0.8 = 1.6 stops at 1; what is beyond 1 has another full scale: 2 * 9
    assert changed.points[:, 3].tolist() == [1, 1, 0, 18]
    assert (changed.points[:, :3] == scan.points[:, :3]).all()
    assert scan.points[0, 3] == 0.25  # the given scan is as it was


def test_a_sensor_that_looks_down_sees_the_ground_ahead() -> None:
    scan = make_scan([[0, 0, -1, 0.5]])
    # pitched by 90 degrees its x axis points to the ground
    down = tilt_sensor(scan, 0.0, math.pi / 2, up_m=0)
    assert np.allclose(down.points[0, :3], [1, 0, 0], atol=1e-6)
    # rolled by 90 degrees about x its right side does: y points left
    rolled = tilt_sensor(scan, math.pi / 2, 0.0, up_m=0)
    assert np.allclose(rolled.points[0, :3], [0, -1, 0], atol=1e-6)
    assert tilt_sensor(scan, 0.0, 0.0, up_m=0.5).points[0].tolist() == [0, 0, -1.5, 0.5]


def test_of_the_beams_every_other_stays() -> None:
    # inclinations of -1.5, -0.5, 0.5, 1.5, 2.5 degrees: bands -2, -1, 0, 1, 2 of one degree
    up = np.radians([-1.5, -0.5, 0.5, 1.5, 2.5])
    zero = np.zeros(5)
    scan = make_scan(np.column_stack([np.cos(up), zero, np.sin(up), zero]))
    assert thin_beams(scan, 2, width_deg=1.0).labels.tolist() == [0, 2, 4]
    assert thin_beams(scan, 3, width_deg=1.0).labels.tolist() == [2]


def test_a_sector_may_lie_across_the_back() -> None:
    scan = make_scan([[1, 0, 0, 0], [-1, 0.1, 0, 0], [-1, -0.1, 0, 0], [0, 1, 0, 0]])
    kept = keep_sector(scan, begin=math.radians(170), width=math.radians(20))
    assert kept.labels.tolist() == [1, 2]


def test_far_points_go_more_often() -> None:
    near, far = [[10.0, 0, 0, 0]] * 10_000, [[0, -80.0, 0, 0]] * 10_000
    kept = drop_far(make_scan(near + far), 0.5, np.random.default_rng(0)).points
    # 0.5 * 10 / 50 = 10 % go at 10 m, and half from 50 m on; standard deviations 30 and 50
    assert np.count_nonzero(kept[:, 0] == 10) == pytest.approx(9000, abs=120)
    assert np.count_nonzero(kept[:, 0] == 0) == pytest.approx(5000, abs=200)


@pytest.mark.parametrize(
    ('changes', 'seen'),
    [
        ({'no_intensity': 1}, lambda a, b: (b.points[:, 3] == 0).all()),
        ({'gain': 2}, lambda a, b: 0.5 <= b.points[0, 3] / a.points[0, 3] <= 2),
        ({'gamma': 2}, lambda a, b: b.points[0, 3] != a.points[0, 3]),
        ({'height_m': 1}, lambda a, b: 0 < abs(b.points[0, 2] - a.points[0, 2]) <= 1),
        ({'tilt_deg': 10}, lambda a, b: (b.points[:, :3] != a.points[:, :3]).any(1).all()),
        ({'beams': 1}, lambda a, b: 0 < len(b) < 0.6 * len(a)),
        ({'sector': 1}, lambda a, b: 0 < len(b) < 0.6 * len(a)),
        ({'far_drop': 0.9}, lambda a, b: 0 < len(b) < len(a)),
    ],
)
def test_each_change_is_made_where_it_is_asked_for(
    changes: dict[str, float], seen: Callable[[Scan, Scan], bool]
) -> None:
    settings = NO_AUGMENTATION.model_copy(update={'sensor': SensorChanges(**changes)})
    scan = random_scan()

    def changed() -> Scan:
        return augment(
            scan,
            settings,
            np.random.default_rng(3),
            table=SEMANTICKITTI,
            draw_scan=lambda: scan,
        )

    assert seen(scan, changed())
    assert changed().points.tobytes() == changed().points.tobytes()  # by the generator alone
    assert settings.keeps_rows == (len(changed()) == len(scan))


@pytest.mark.parametrize('wrong', [{'gain': 0.5}, {'far_drop': 1}, {'tilt': 3}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SensorChanges(**wrong)

# SPDX-License-Identifier: Apache-2.0
"""What is told of the sensor of an imported network's training scans."""

from __future__ import annotations

import argparse

import pytest

from lidar_kd.bundle import SensorSpec
from lidar_kd.labels import ClassTable, NO_CLASSES, NUSCENES, SEMANTICKITTI
from training.importing.sensor_options import add_sensor_options, choose_sensor


def read(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_sensor_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ('labels', 'words', 'expected'),
    [
        (SEMANTICKITTI, [], SensorSpec(height_m=1.73)),  # KITTI's Velodyne
        (NUSCENES, [], SensorSpec(height_m=1.84)),
        (NO_CLASSES, [], SensorSpec()),
        (SEMANTICKITTI, ['--sensor-height', '0'], SensorSpec()),
        (
            NUSCENES,
            ['--sensor-height', '0.5', '--ground-intensity', '0.06'],
            SensorSpec(height_m=0.5, ground_intensity=0.06),
        ),
    ],
)
def test_the_sensor_is_as_told_or_that_of_the_label_tables_data(
    labels: ClassTable, words: list[str], expected: SensorSpec
) -> None:
    assert choose_sensor(labels, read(*words)) == expected


@pytest.mark.parametrize('words', [['--sensor-height', '-1'], ['--ground-intensity', '0']])
def test_what_no_sensor_has_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(*words)
    assert 'is no number above 0' in capsys.readouterr().err

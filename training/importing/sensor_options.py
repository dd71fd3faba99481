# SPDX-License-Identifier: Apache-2.0
"""What a bundle tells of the sensor of its training scans, to which the node brings others."""

from __future__ import annotations

import argparse

from lidar_kd.bundle import BundleSpec, KNOWN_SENSORS, SensorSpec
from lidar_kd.cli.numbers import read_positive
from lidar_kd.labels import ClassTable
from training.importing.told import Row


def add_sensor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--sensor-height',
        type=_read_height,
        metavar='M',
        help='of the sensor above the ground in its training scans; the node brings others to it '
        '(default: by the label table, 1.73 for semantickitti, 1.84 for nuscenes; 0: not known, '
        'scans stay as they come)',
    )
    parser.add_argument(
        '--ground-intensity',
        type=read_positive,
        metavar='I',
        help='median of the ground near the sensor in its training scans, after the intensity '
        'scale; the node brings others to it (default: not known, intensities stay)',
    )


def choose_sensor(labels: ClassTable, options: argparse.Namespace) -> SensorSpec:
    """As told, else that of the data set whose classes these are."""
    height_m = options.sensor_height
    if height_m is None:
        height_m = KNOWN_SENSORS.get(labels.name, SensorSpec()).height_m
    return SensorSpec(height_m=height_m or None, ground_intensity=options.ground_intensity)


def rows_of_sensor(spec: BundleSpec, options: argparse.Namespace) -> list[Row]:
    known = spec.trained_on()
    is_told = options.sensor_height is not None
    height = 'by the label table, unless told (--sensor-height)'
    return [
        ('sensor height (m)', _tell(known.height_m), '--sensor-height' if is_told else height),
        ('ground intensity', _tell(known.ground_intensity), '--ground-intensity'),
    ]


def _tell(value: float | None) -> str:
    return f'{value:g}' if value else 'not known'


def _read_height(word: str) -> float:
    """Metres; 0 where nobody knows."""
    return 0.0 if word == '0' else read_positive(word)

# SPDX-License-Identifier: Apache-2.0
"""Sequences on disk in SemanticKITTI's layout: sequences/XX/{velodyne,labels}, poses.txt, ...

Poses are those of the left camera, as in KITTI; calib.txt tells where it sits (Tr).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lidar_kd.errors import DataError, write_atomically
from training.streets.course import Array
from training.streets.returns import SimulatedScan

# velodyne -> camera: z ahead, x right, y down; the camera sits in front of and below the sensor
CAMERA = np.array([[0, -1.0, 0, 0], [0, 0, -1.0, -0.08], [1.0, 0, 0, -0.27], [0, 0, 0, 1.0]])
_PROJECTION = '720 0 620 0 0 720 188 0 0 0 1 0'
_SETTINGS = 'streets.txt'


def folder_of(root: Path, index: int) -> Path:
    return root / 'sequences' / f'{index:02d}'


def paths_of(folder: Path, scan: int) -> tuple[Path, Path]:
    """The points and the labels of a scan."""
    return folder / 'velodyne' / f'{scan:06d}.bin', folder / 'labels' / f'{scan:06d}.label'


def prepare(folder: Path, description: str) -> None:
    """Make the folders; refuse to mix scans of different settings."""
    try:
        for name in ('velodyne', 'labels'):
            (folder / name).mkdir(parents=True, exist_ok=True)
        note = folder / _SETTINGS
        if note.is_file() and note.read_text() != description:
            raise DataError(
                f'{folder}: made with other settings ({note.read_text().strip()}); '
                f'choose another output folder or remove this one.'
            )
        if not note.is_file() and any((folder / 'velodyne').iterdir()):
            raise DataError(f'{folder}: holds scans of another origin; choose another folder.')
        _write_text(note, description)
    except OSError as error:
        raise _unwritable(folder, error) from None


def is_done(folder: Path, scan: int) -> bool:
    """Both files exist and have as many points."""
    points, labels = paths_of(folder, scan)
    if not points.is_file() or not labels.is_file():
        return False
    return points.stat().st_size == 4 * labels.stat().st_size > 0


def write_scan(folder: Path, index: int, scan: SimulatedScan) -> None:
    """The labels come first: where there are points, there are labels."""
    points, labels = paths_of(folder, index)
    try:
        with write_atomically(labels) as temporary:
            scan.labels.astype('<u4').tofile(temporary)
        with write_atomically(points) as temporary:
            scan.points.astype('<f4').tofile(temporary)
    except OSError as error:
        raise _unwritable(folder, error) from None


def write_drive(folder: Path, poses: list[Array], times_s: Array) -> None:
    """poses: sensor to world, one per scan."""
    first = np.linalg.inv(poses[0])
    seen = [CAMERA @ first @ pose @ np.linalg.inv(CAMERA) for pose in poses]
    rows = [' '.join(f'{value:.12g}' for value in pose[:3].ravel()) for pose in seen]
    calibration = [f'P{camera}: {_PROJECTION}' for camera in range(4)]
    calibration.append('Tr: ' + ' '.join(f'{value:.12g}' for value in CAMERA[:3].ravel()))
    try:
        _write_text(folder / 'poses.txt', '\n'.join(rows) + '\n')
        _write_text(folder / 'calib.txt', '\n'.join(calibration) + '\n')
        _write_text(folder / 'times.txt', ''.join(f'{time:.6e}\n' for time in times_s))
    except OSError as error:
        raise _unwritable(folder, error) from None


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text)


def _unwritable(folder: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(f'{folder}: cannot be written ({reason}); choose another output folder.')

# SPDX-License-Identifier: Apache-2.0
"""SemanticKITTI's layout, real or simulated.

sequences/XX/ with velodyne/, labels/, poses.txt and calib.txt. A sequence may lack its labels (the
test split), its poses, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import re

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.labels import SEMANTICKITTI
from training.data.kept_past import PAST
from training.data.scan import Frame, Raw, ScanSet

SPLITS = {
    'train': ('00', '01', '02', '03', '04', '05', '06', '07', '09', '10'),
    'val': ('08',),
    'test': tuple(f'{number:02}' for number in range(11, 22)),
}
_RANGE = re.compile(r'(\d+)-(\d+)')
Poses = NDArray[np.float64]


def open_semantickitti(
    root: str | Path, sequences: str | Sequence[str | int] | None = None
) -> ScanSet:
    """All sequences, those of a split ('train', 'val', 'test'), of a range ('00-63'), or those
    named.
    """
    root = Path(root)
    folder = _find_sequences(root)
    frames = [
        frame for name in _choose(folder, sequences) for frame in _list_frames(folder / name)
    ]
    return ScanSet(
        kind='semantickitti',
        root=root,
        table=SEMANTICKITTI,
        frames=tuple(frames),
        read_raw=read_label_file,
    )


def read_label_file(path: Path) -> Raw:
    """uint32 per point: the class id in the lower 16 bits, the object number above."""
    size = path.stat().st_size
    if size % 4:
        raise DataError(
            f'{path}: {size} bytes are no whole number of uint32 labels; '
            'the file is cut off: copy it again.'
        )
    raw = np.fromfile(path, '<u4')
    return raw & np.uint32(0xFFFF), raw >> np.uint32(16)


def _find_sequences(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f'{root}: no such folder; give the one that holds sequences/.')
    folder = root / 'sequences'
    if folder.is_dir():
        return folder
    if any(root.glob('*/velodyne')):
        return root
    raise DataError(
        f'{root}: neither sequences/ nor folders with velodyne/ in it; '
        "give the root of a data set in SemanticKITTI's layout."
    )


def _choose(folder: Path, wanted: str | Sequence[str | int] | None) -> list[str]:
    present = sorted(path.parent.name for path in folder.glob('*/velodyne'))
    if not present:
        raise DataError(f'{folder}: no sequence with a velodyne/ folder in it; unpack the scans.')
    if wanted is None:
        return present
    if isinstance(wanted, str) and (ends := _RANGE.fullmatch(wanted)):
        first, last = (int(end) for end in ends.groups())
        wanted = [name for name in present if name.isdecimal() and first <= int(name) <= last]
    elif isinstance(wanted, str):
        wanted = SPLITS.get(wanted, (wanted,))
    # YAML reads [00, 07, 08] as [0, 7, '08']
    names = [f'{name:02}' if isinstance(name, int) else name for name in wanted]
    missing = [name for name in names if name not in present]
    if missing or not names:
        raise DataError(
            f'{folder}: no sequence {", ".join(missing) or "was asked for"}; '
            f'here are {", ".join(present)}: name some of these.'
        )
    return list(dict.fromkeys(names))


def _list_frames(sequence: Path) -> list[Frame]:
    scans = sorted((sequence / 'velodyne').glob('*.bin'))
    if not scans:
        raise DataError(f'{sequence / "velodyne"}: no .bin files; unpack the scans.')
    labels = sequence / 'labels'
    labelled = labels.is_dir()
    past = sequence / PAST
    numbers = [_number(scan, place) for place, scan in enumerate(scans)]
    poses, no_poses = _try_poses(sequence, needed=max(numbers) + 1)
    return [
        Frame(
            name=f'{sequence.name}/{scan.stem}',
            scan=scan,
            labels=labels / f'{scan.stem}.label' if labelled else None,
            pose=None if poses is None else poses[number],
            no_pose=no_poses,
            past=past / f'{scan.stem}.npz' if past.is_dir() else None,
        )
        for scan, number in zip(scans, numbers)
    ]


def _number(scan: Path, place: int) -> int:
    return int(scan.stem) if scan.stem.isdecimal() else place


def _try_poses(sequence: Path, *, needed: int) -> tuple[Poses | None, str]:
    """The poses, or why there are none: scans and labels alone are read without them."""
    try:
        return _read_poses(sequence, needed=needed), ''
    except DataError as error:
        return None, str(error)


def _read_poses(sequence: Path, *, needed: int) -> Poses | None:
    """(frames, 4, 4) from the sensor to the world; line i of poses.txt belongs to scan i."""
    path = sequence / 'poses.txt'
    if not path.is_file():
        return None
    camera = _read_matrices(path, _read_lines(path))
    if len(camera) < needed:
        raise DataError(
            f'{path}: {len(camera)} poses, but the scans go up to number {needed - 1}; '
            'copy the file again, or remove it to go without poses.'
        )
    broken = np.flatnonzero(~_are_rigid(camera))
    if len(broken):
        raise DataError(
            f'{path}: {len(broken)} of {len(camera)} poses, first number {broken[0]}, are no '
            'rotation and shift; copy the file again, or remove it to go without poses.'
        )
    # The lines hold the left camera's motion; Tr brings the sensor's points to that camera.
    to_camera = _read_calibration(sequence / 'calib.txt')
    moved: Poses = np.linalg.inv(to_camera) @ camera @ to_camera
    return moved


def _read_calibration(path: Path) -> Poses:
    lines = _read_lines(path) if path.is_file() else []
    found = [line.partition(':')[2] for line in lines if line.startswith('Tr:')]
    if not found:
        raise DataError(
            f"{path}: no line 'Tr:' found; copy the file that comes with poses.txt, "
            'or remove poses.txt to go without poses.'
        )
    matrices = _read_matrices(path, found[:1])
    if not len(matrices) or not _are_rigid(matrices).all():
        raise DataError(f"{path}: 'Tr:' is no rotation and shift; copy the file again.")
    matrix: Poses = matrices[0]
    return matrix


def _are_rigid(matrices: Poses) -> NDArray[np.bool_]:
    """(frames,) which are finite and have a determinant of 1, but for the digits of a file."""
    finite = np.isfinite(matrices).all(axis=(1, 2), keepdims=True)
    turns = np.where(finite, matrices, 0)[:, :3, :3]
    rigid: NDArray[np.bool_] = np.abs(np.linalg.det(turns) - 1) <= 0.01
    return rigid


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors='replace').splitlines()  # what is no number is told later
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror}); copy it again.') from None


def _read_matrices(path: Path, lines: Sequence[str]) -> Poses:
    rows = [line.split() for line in lines if line.strip()]
    try:
        top = np.array(rows, np.float64).reshape(len(rows), 3, 4)
    except ValueError:
        raise DataError(f'{path}: expected 12 numbers per line; copy the file again.') from None
    bottom = np.broadcast_to(np.array([0.0, 0, 0, 1]), (len(rows), 1, 4))
    return np.concatenate([top, bottom], 1)

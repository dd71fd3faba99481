# SPDX-License-Identifier: Apache-2.0
"""The past of hard objects, kept beside scans that can no longer be fused with it.

A mixed or pasted scan has no pose, so nothing can be looked up behind it. Its past is fused before
it is augmented, goes where its scan's points go, and lies in a file of its own: the student reads
the scan, a teacher of M2SKD both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lidar_kd.errors import DataError, write_atomically, writing
from training.data.scan import Frame, Scan, ScanSet

PAST = 'past'  # the folder beside velodyne/ and labels/


class KeptPast(ScanSet):
    """Scans each with the past that was kept for it; their own points come first, in order."""

    def __init__(self, scans: ScanSet) -> None:
        super().__init__(**{field.name: getattr(scans, field.name) for field in fields(ScanSet)})

    def __getitem__(self, index: int) -> Scan:
        path = self.frames[index].past
        assert path is not None, self.frames[index].name
        return add_past(super().__getitem__(index), path)

    def describe(self) -> str:
        return f'{super().describe()}, with the past of their hard objects as it was kept'


def has_kept_past(frames: Sequence[Frame]) -> bool:
    """Whether these scans have it; all of them, or none."""
    lacking = [frame.name for frame in frames if frame.past is None]
    if lacking and len(lacking) < len(frames):
        raise DataError(
            f'{lacking[0]} and {len(lacking) - 1} other scans have no {PAST}/ beside them, and '
            f'{len(frames) - len(lacking)} have; learn from scans of one kind.'
        )
    return not lacking


def write_past(scan: Scan, path: Path) -> None:
    """The rows that fusion added, with what was done to the scan since; perhaps none."""
    rows = np.zeros(len(scan), np.bool_) if scan.past is None else scan.past
    with writing(path), write_atomically(path) as temporary, temporary.open('wb') as file:
        np.savez(file, points=scan.points[rows].astype('<f4'), labels=scan.labels[rows])


def add_past(scan: Scan, path: Path) -> Scan:
    """The scan and the rows kept for it; they belong to no object, for they are only looked at."""
    try:
        with np.load(path) as kept:
            points, labels = kept['points'], kept['labels']
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise DataError(
            f'{path}: what fusion added cannot be read ({error}); remove it and start '
            'training/augment.py again.'
        ) from None
    if not len(points):
        return scan
    numbers = scan.instances
    return replace(
        scan,
        points=np.concatenate([scan.points, points]),
        labels=np.concatenate([scan.labels, labels]),
        instances=None
        if numbers is None
        else np.concatenate([numbers, np.zeros(len(points), numbers.dtype)]),
        past=np.arange(len(scan) + len(points)) >= len(scan),
    )

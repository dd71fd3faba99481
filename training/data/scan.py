# SPDX-License-Identifier: Apache-2.0
"""A labelled scan, and a set of them on disk; every data set is a list of frames and a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.scans import find_full_scale, read_scan

Points = NDArray[np.float32]
Rows = NDArray[Any]  # row numbers, or one bool per point


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """N points and what is known about them.

    points (N, 4) x y z in metres, intensity; labels (N,) train ids, 255 where there is none;
    instances (N,) the number of an object within its class, 0 where there is none;
    pose (4, 4) from the sensor to the world, None where unknown or no longer true;
    past (N,) True for points that multi-scan fusion added, None without any;
    unmoved (N, 4) the points as they were before augmentation, where a teacher wants those.
    """

    points: Points
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint32] | None = None
    name: str = ''  # sequence/frame
    pose: NDArray[np.float64] | None = None
    past: NDArray[np.bool_] | None = None
    unmoved: Points | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def is_own(self) -> NDArray[np.bool_]:
        """(N,) False for points that fusion added."""
        return ~_mark_past(self)

    def take(self, rows: Rows) -> Scan:
        return replace(
            self,
            points=self.points[rows],
            labels=self.labels[rows],
            instances=None if self.instances is None else self.instances[rows],
            past=None if self.past is None else self.past[rows],
            unmoved=None if self.unmoved is None else self.unmoved[rows],
        )

    def with_points(self, points: Points) -> Scan:
        """The same scan seen otherwise; its pose no longer holds."""
        return replace(self, points=points, pose=None)


def join_scans(first: Scan, second: Scan) -> Scan:
    """Both clouds in one, the first one's name; objects of the second get new numbers."""
    instances = None
    if first.instances is not None and second.instances is not None:
        highest = first.instances[first.is_own].max(initial=0)
        renumbered = np.where(second.instances > 0, second.instances + highest, 0)
        instances = np.concatenate([first.instances, renumbered.astype(np.uint32)])
    past = None
    if first.past is not None or second.past is not None:
        past = np.concatenate([_mark_past(first), _mark_past(second)])
    return Scan(
        points=np.concatenate([first.points, second.points]),
        labels=np.concatenate([first.labels, second.labels]),
        instances=instances,
        name=first.name,
        past=past,
    )


def _mark_past(scan: Scan) -> NDArray[np.bool_]:
    return np.zeros(len(scan), np.bool_) if scan.past is None else scan.past


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """Where one scan and what belongs to it lie."""

    name: str  # sequence/frame
    scan: Path
    labels: Path | None = None
    numbers: Path | None = None  # of the objects, where they have a file of their own
    pose: NDArray[np.float64] | None = None
    no_pose: str = ''  # why, where the files of the poses cannot be used
    past: Path | None = None  # what fusion added before the scan was augmented

    @property
    def sequence(self) -> str:
        return self.name.rpartition('/')[0]


class Scans(Protocol):
    """What can be learnt from or scored on: a ScanSet, or several, or one with its past."""

    @property
    def table(self) -> ClassTable: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scan: ...


Raw = tuple[NDArray[Any], NDArray[np.uint32] | None]  # raw class ids, object numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanSet:
    """Scans on disk, in order; `read_raw` knows the label files of this kind of data set."""

    kind: str
    root: Path
    table: ClassTable
    frames: tuple[Frame, ...]
    read_raw: Callable[[Path], Raw]
    read_points: Callable[[Path], Points] = read_scan
    period_s: float = 0.1  # between two scans of a sequence
    told: NDArray[np.uint8] | None = None  # (256,) what its train ids tell, see merged.py

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Scan:
        frame = self.frames[index]
        points = self.read_points(frame.scan)
        labels = np.full(len(points), IGNORE, np.uint8)
        instances = None
        if frame.labels is not None:
            labels, instances = self._read(frame.labels)
        if len(labels) != len(points):
            raise DataError(
                f'{frame.labels}: {len(labels)} labels for the {len(points)} points of '
                f'{frame.scan.name}; copy both files again from the same release.'
            )
        return Scan(
            points=points, labels=labels, instances=instances, name=frame.name, pose=frame.pose
        )

    def find_full_scale(self) -> float:
        """Of the intensity as stored; labels may be missing."""
        return find_full_scale(
            len(self), lambda index: self.read_points(self.frames[index].scan)[:, 3]
        )

    def read_labels(self, index: int) -> NDArray[np.uint8]:
        """Train ids without reading the points; none for an unlabelled scan."""
        path = self.frames[index].labels
        return np.empty(0, np.uint8) if path is None else self._read(path)[0]

    def unlabelled(self) -> list[Frame]:
        """The frames whose label file is not there."""
        return [f for f in self.frames if f.labels is None or not f.labels.is_file()]

    def require_labels(self) -> ScanSet:
        """Itself, for training and scoring; says now what would fail in the middle of a run."""
        missing = self.unlabelled()
        if missing:
            raise DataError(
                f'{self.root}: {len(missing)} of {len(self)} scans have no labels, first '
                f'{missing[0].name}; unpack the labels beside the scans or leave these '
                'sequences out.'
            )
        return self

    def describe(self) -> str:
        """One line for a banner."""
        sequences = Counter(frame.sequence for frame in self.frames)
        named = f' ({" ".join(sequences)})' if len(sequences) <= 12 else ''
        labelled = len(self) - len(self.unlabelled())
        count = f'{len(sequences)} sequence{"s" * (len(sequences) != 1)}{named}'
        return f'{self.kind}: {len(self)} scans of {count}, {labelled} with labels'

    def _read(self, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint32] | None]:
        try:
            raw, instances = self.read_raw(path)
        except OSError as error:
            raise DataError(
                f'{path}: cannot be read ({error.strerror or error}); '
                'unpack the labels again or leave this sequence out.'
            ) from None
        labels = self.table.to_train(raw, str(path))
        return labels if self.told is None else self.told[labels], instances


def require_poses(scans: ScanSet) -> None:
    """What fusion needs; whoever only reads scans and labels goes without."""
    missing = [frame for frame in scans.frames if frame.pose is None]
    if missing and missing[0].no_pose:
        raise DataError(missing[0].no_pose)
    if missing:
        raise DataError(
            f'{scans.root}: {len(missing)} of {len(scans)} scans have no pose, first '
            f'{missing[0].name}, and cannot be fused; copy poses.txt and calib.txt beside the '
            'scans or leave these sequences out.'
        )

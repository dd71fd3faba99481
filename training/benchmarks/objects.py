# SPDX-License-Identifier: Apache-2.0
"""`bench.py objects`: boxes and tracks on a simulated drive, beside the simulator's own objects.

The true labels go in, so what is measured is what clustering, boxes and tracker do by themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.console import Console
from lidar_kd.labels import CAR, SEMANTICKITTI
from lidar_kd.objects import find_objects, Objects, Tracker, Tracks
from training.benchmarks.clock import Clock, threads
from training.benchmarks.scans import even_points
from training.benchmarks.true_boxes import TrueBox, TrueBoxes
from training.streets.sequence import SCAN_S, Sequence, Settings

DRIVE = 100, 'hdl64'  # scans of a drive, and their sensor
TRIAL = 10, 'vlp32'
SEEDS = (907, 908, 909, 910)  # streets that no setting was chosen on
RANGE_M, LEAST = 30.0, 50  # cars this near with so many points are compared
SETTLED = 10  # a track of this age knows its speed
Floats = NDArray[np.float64]


@dataclass
class Errors:
    """Of every object that could be compared."""

    centre_m: list[float] = field(default_factory=list)
    yaw_deg: list[float] = field(default_factory=list)
    speed_mps: list[float] = field(default_factory=list)
    moving_mps: list[float] = field(default_factory=list)  # the same, of those that move
    numbers: dict[tuple[int, int], list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # (drive, true object) -> (scan, number of its track)

    @property
    def switches(self) -> int:
        """How often an object that was seen in neighbouring scans got another number."""
        return sum(
            later[0] == scan + 1 and later[1] != number
            for seen in self.numbers.values()
            for (scan, number), later in zip(seen, seen[1:])
        )


def run_objects(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    """`scans`: a hundred each, up to four drives; of 1, ten with fewer beams: a trial."""
    drives = SEEDS[: max(1, min(scans // 2, len(SEEDS)))]
    length, beams = DRIVE if scans > 1 else TRIAL
    errors, clock = Errors(), Clock()
    with threads(1), console.progress(len(drives) * length, 'driving') as advance:
        for drive, seed in enumerate(drives):
            sequence = Sequence(Settings(seed=seed, index=0, scans=length, sensor=beams))
            tracker, truth = Tracker(), TrueBoxes(sequence)
            for scan in range(length):
                _look(errors, clock, (drive, scan), sequence, truth, tracker, repeats)
                advance()
    return _report(console, errors, clock)


def _look(
    errors: Errors, clock: Clock, place: tuple[int, int], sequence: Sequence,
    truth: TrueBoxes, tracker: Tracker, repeats: int,
) -> None:  # fmt: skip
    drive, scan = place
    seen = sequence.scan(scan)
    labels = SEMANTICKITTI.to_train(seen.labels)
    objects = find_objects(seen.points, labels, None, SEMANTICKITTI)
    pose = sequence.pose(scan)
    tracks = tracker.update(objects, scan * SCAN_S, pose)
    if scan % 10 == 0:
        size = even_points()
        points, resized = np.resize(seen.points, (size, 4)), np.resize(labels, size)
        for _ in range(repeats):
            run = scan + DRIVE[0] * drive
            clock.time('find', run, lambda: find_objects(points, resized, None, SEMANTICKITTI))
    boxes = truth.at(scan * SCAN_S)
    owners = _owners(objects, seen.labels >> 16)
    for row, owner in enumerate(owners):
        if owner in boxes:
            _compare(errors, objects, tracks, row, boxes[owner], pose)
            errors.numbers[drive, owner].append((scan, int(tracks.numbers[row])))


def _owners(objects: Objects, numbers: NDArray[Any]) -> list[int]:
    """The true object that most points of each object belong to, once each; 0 for none."""
    owners, largest = [0] * len(objects), Counter[int]()
    for row in np.argsort(-objects.points, kind='stable'):
        own = numbers[objects.instances == row + 1]
        owner = int(np.bincount(own).argmax())
        if owner not in largest:  # the rest of an object in pieces is compared with nothing
            owners[row] = owner
        largest[owner] += 1
    return owners


def _compare(
    errors: Errors, objects: Objects, tracks: Tracks, row: int, box: TrueBox, pose: Floats
) -> None:
    if tracks.ages[row] >= SETTLED:
        error = float(np.linalg.norm(pose[:2, :2] @ tracks.velocity[row] - box.velocity))
        errors.speed_mps.append(error)
        if np.linalg.norm(box.velocity) > 1:
            errors.moving_mps.append(error)
    centre = objects.centre[row]
    is_car = SEMANTICKITTI.autoware_ids[objects.class_id[row]] == CAR
    if not is_car or np.hypot(*centre[:2]) > RANGE_M or objects.points[row] < LEAST:
        return
    world = pose[:3, :3] @ centre + pose[:3, 3]
    errors.centre_m.append(float(np.linalg.norm(world[:2] - box.centre)))
    turned = objects.yaw[row] + math.atan2(pose[1, 0], pose[0, 0]) - box.yaw
    errors.yaw_deg.append(abs((math.degrees(turned) + 90) % 180 - 90))


def _report(console: Console, errors: Errors, clock: Clock) -> dict[str, float]:
    metrics = {
        'objects_ms': clock.median('find'),
        'objects_ms_p95': float(np.percentile(clock.per_scan('find'), 95)),
        'centre_m': float(np.median(errors.centre_m)),
        'centre_m_p90': float(np.percentile(errors.centre_m, 90)),
        'yaw_deg': float(np.median(errors.yaw_deg)),
        'yaw_deg_p90': float(np.percentile(errors.yaw_deg, 90)),
        'cars': float(len(errors.centre_m)),
        'sightings': float(sum(map(len, errors.numbers.values()))),
        'id_switches': float(errors.switches),
        'speed_error_mps': float(np.median(errors.speed_mps)),
        'speed_error_mps_p90': float(np.percentile(errors.speed_mps, 90)),
        'moving_speed_error_mps': _median(errors.moving_mps),
    }
    rows = [[name, f'{value:.3f}'] for name, value in metrics.items()]
    console.table(f'cars within {RANGE_M:g} m; tracks of all', ['figure', 'value'], rows)
    return metrics


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan

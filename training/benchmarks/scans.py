# SPDX-License-Identifier: Apache-2.0
"""The scans that the benchmarks run on: real ones where they lie at hand, else made up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.scans import read_scan
from training.data.synthetic import make_street, scan_street

REAL = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'semantickitti' / 'sequences'
# bench.py --points: a variable, for the processes that a benchmark starts thin theirs as well
MOST_POINTS = 'LIDAR_KD_BENCH_POINTS'
FULL_POINTS = 120_000  # of a scan of 64 beams


def distinct_scans(count: int) -> tuple[list[NDArray[np.float32]], str]:
    """`count` different scans, and a word on where they come from."""
    scans, source = _whole_scans(count)
    most = most_points()
    if not most:
        return scans, source
    thinned = [scan[trial_rows(len(scan))] for scan in scans]
    return thinned, f'{source}, of which some {most} points each: a trial, not a measurement'


def most_points() -> int:
    """Of a scan; 0: all."""
    return int(os.environ.get(MOST_POINTS, 0))


def even_points() -> int:
    """What every scan is cut or repeated to where all must be of one size."""
    return most_points() or FULL_POINTS


def trial_rows(points: int) -> slice:
    """Those of so many points that a trial keeps; else all."""
    return slice(None, None, max(1, points // most_points()) if most_points() else 1)


def _whole_scans(count: int) -> tuple[list[NDArray[np.float32]], str]:
    files = sorted(REAL.glob('*/velodyne/*.bin'))
    if len(files) >= count:
        spread = [files[i * len(files) // count] for i in range(count)]
        return [read_scan(file) for file in spread], f'{count} real SemanticKITTI scans'
    scans = [scan_street(make_street(seed), seed)[0] for seed in range(count)]
    return scans, f'{count} synthetic 64-beam scans'

# SPDX-License-Identifier: Apache-2.0
"""The scans that the benchmarks run on: real ones where they lie at hand, else made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.scans import read_scan
from training.data.synthetic import make_street, scan_street

REAL = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'semantickitti' / 'sequences'


def distinct_scans(count: int) -> tuple[list[NDArray[np.float32]], str]:
    """`count` different scans, and a word on where they come from."""
    files = sorted(REAL.glob('*/velodyne/*.bin'))
    if len(files) >= count:
        spread = [files[i * len(files) // count] for i in range(count)]
        return [read_scan(file) for file in spread], f'{count} real SemanticKITTI scans'
    scans = [scan_street(make_street(seed), seed)[0] for seed in range(count)]
    return scans, f'{count} synthetic 64-beam scans'

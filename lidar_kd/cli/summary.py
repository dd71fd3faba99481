# SPDX-License-Identifier: Apache-2.0
"""What the command that segments scans tells at its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.console import Console
from lidar_kd.cli.page import PageWriter
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.segmenter import Segmentation


@dataclass(kw_only=True)
class LabellingSummary:
    """What happened to the scans of this process."""

    table: ClassTable
    page: PageWriter | None = None  # to look at the scans, where one is written
    skipped: int = 0
    failed: int = 0
    segmented: int = 0
    per_label: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    unseen: Counter[str] = field(default_factory=Counter)  # reason -> points
    timing_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, segmentation: Segmentation, read_ms: float) -> None:
        self.segmented += 1
        self.per_label += np.bincount(segmentation.labels, minlength=256)
        self.unseen.update({reason: n for reason, n in segmentation.unseen.items() if n})
        for stage, elapsed_ms in {'read file': read_ms, **segmentation.timing}.items():
            self.timing_ms[stage].append(elapsed_ms)

    def show(self, console: Console) -> None:
        if self.segmented:
            console.table('Classes', ('class', 'points', 'share'), self._list_classes())
            stages = [(stage, f'{median(ms):.1f}') for stage, ms in self.timing_ms.items()]
            console.table('Median latency', ('stage', 'ms'), stages)
        if self.unseen:
            console.line(f'points without a label: {list_reasons(self.unseen)}')
        console.line(
            f'{self.segmented} scans segmented ({self.per_label.sum():,} points), '
            f'{self.skipped} skipped because their labels exist, {self.failed} failed'
        )

    def _list_classes(self) -> list[tuple[str, str, str]]:
        total = self.per_label.sum()
        names = dict(enumerate(self.table.names)) | {IGNORE: 'no label'}
        order = sorted(np.flatnonzero(self.per_label).tolist(), key=lambda i: -self.per_label[i])
        return [
            (names[i], f'{self.per_label[i]:,}', f'{self.per_label[i] / total:.2%}') for i in order
        ]


def list_reasons(unseen: Mapping[str, int]) -> str:
    return ', '.join(f'{n:,} {reason.replace("_", " ")}' for reason, n in unseen.items() if n)

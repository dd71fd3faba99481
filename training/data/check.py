# SPDX-License-Identifier: Apache-2.0
"""Reads every scan of a data set and lists what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable
from training.data.scan import Scan, ScanSet


@dataclass(kw_only=True)
class Findings:
    """What a walk over a data set has seen."""

    table: ClassTable
    points: list[int] = field(default_factory=list)  # per readable scan
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    scans_with: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    labelled: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, scan: Scan, *, labelled: bool) -> None:
        self.points.append(len(scan))
        self.labelled += labelled
        if labelled:
            counts = np.bincount(scan.labels, minlength=256)
            self.counts += counts
            self.scans_with += counts > 0
        broken = int((~np.isfinite(scan.points).all(1)).sum())
        if broken:
            self.problems.append(
                f'{scan.name}: {broken} of {len(scan)} points are not finite; '
                'record or export the scan again.'
            )

    def class_rows(self) -> list[list[str]]:
        """name, points, share of the labelled points, scans it occurs in; then the ignored."""
        classes = self.table.num_classes
        total = max(1, int(self.counts[:classes].sum()))
        rows = [
            [name, str(self.counts[c]), f'{self.counts[c] / total:.3%}', str(self.scans_with[c])]
            for c, name in enumerate(self.table.names)
        ]
        return [*rows, ['(ignored)', str(self.counts[255]), '', str(self.scans_with[255])]]


def check_scans(scans: ScanSet, advance: Callable[[], None] = lambda: None) -> Findings:
    """Goes on after a problem, so that one walk finds them all."""
    findings = Findings(table=scans.table, problems=find_stray_labels(scans))
    for index, frame in enumerate(scans.frames):
        try:
            findings.add(scans[index], labelled=frame.labels is not None)
        except DataError as error:
            findings.problems.append(str(error))
        advance()
    return findings


def find_stray_labels(scans: ScanSet) -> list[str]:
    """Label files without a scan, in the folders that labels are read from."""
    known = {frame.labels for frame in scans.frames if frame.labels is not None}
    suffixes = {path.suffix for path in known}
    folders = sorted({path.parent for path in known})
    stray: list[Path] = [
        path
        for folder in folders
        if folder.name == 'labels'  # nuScenes keeps those of all splits in one folder
        for path in sorted(folder.iterdir())
        if path.suffix in suffixes and path not in known
    ]
    return [f'{path}: no scan of that name; copy the scan or remove the labels.' for path in stray]

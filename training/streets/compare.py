# SPDX-License-Identifier: Apache-2.0
"""How scans are made up, and two data sets beside each other: as tables and as a picture.

Every sequence weighs the same, however many of its scans are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError, write_atomically
from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.scans import read_scan

Array = NDArray[np.float64]
CLASSES = (*SEMANTICKITTI.names, 'no label')
RANGES_M = (0, 2.5, 5, 7.5, 10, 15, 20, 30, 40, 50, 60, 80, 200)
HEIGHTS_M = tuple(np.arange(-4, 8.01, 0.5).tolist())
INTENSITIES = tuple(np.linspace(-0.005, 1.005, 102).tolist())
VOXELS_M = (0.05, 0.1, 0.2)
_LABELLED_M = 50.0  # SemanticKITTI labels nothing beyond
_BEAMS = 64  # rows of the picture; scans of other sensors have fewer or more
_GROUPS = {'road': ['road'], 'car': ['car'], 'vegetation': ['vegetation'],
           'building, fence': ['building', 'fence'],
           'sidewalk, terrain': ['sidewalk', 'terrain']}  # fmt: skip


@dataclass(kw_only=True)
class Statistics:
    """Means over scans; shares add up to 1."""

    scans: int = 0
    points: float = 0.0
    classes: Array = field(default_factory=lambda: np.zeros(len(CLASSES)))
    occurs: Array = field(default_factory=lambda: np.zeros(len(CLASSES)))
    ranges: Array = field(default_factory=lambda: np.zeros(len(RANGES_M) - 1))
    heights: Array = field(default_factory=lambda: np.zeros(len(HEIGHTS_M) - 1))
    rows: Array = field(default_factory=lambda: np.zeros(_BEAMS))
    neighbours: Array = field(default_factory=lambda: np.zeros(len(VOXELS_M)))
    voxels: Array = field(default_factory=lambda: np.zeros(len(VOXELS_M)))
    intensity: Array = field(
        default_factory=lambda: np.zeros((len(CLASSES), len(INTENSITIES) - 1))
    )
    total: float = 0.0

    def add(self, points: NDArray[np.float32], train: NDArray[np.uint8], weight: float) -> None:
        row = np.where(train == IGNORE, len(CLASSES) - 1, train)
        distance = np.linalg.norm(points[:, :3], axis=1)
        counts = np.bincount(row[distance < _LABELLED_M], minlength=len(CLASSES))
        self.scans, self.total = self.scans + 1, self.total + weight
        self.points += weight * len(points)
        self.classes += weight * counts
        self.occurs += counts > 0
        self.ranges += weight * np.histogram(distance, RANGES_M)[0]
        self.heights += weight * np.histogram(points[:, 2], HEIGHTS_M)[0]
        self.rows += weight * _count_rows(points)
        for index, size in enumerate(VOXELS_M):
            voxels, neighbours = _count_neighbours(points[:, :3], size)
            self.voxels[index] += weight * voxels
            self.neighbours[index] += weight * neighbours
        for label in np.unique(row):
            self.intensity[label] += weight * np.histogram(points[row == label, 3], INTENSITIES)[0]

    @property
    def points_per_scan(self) -> float:
        return self.points / self.total

    def class_rows(self) -> list[tuple[str, str, str, str]]:
        """class, points per scan, share, scans with it."""
        shares = self.classes / self.classes.sum()
        return [
            (name, f'{count / self.total:,.0f}', f'{share:.3%}', f'{seen / self.scans:.0%}')
            for name, count, share, seen in zip(CLASSES, self.classes, shares, self.occurs)
        ]

    def median_intensity(self, label: int) -> float:
        histogram = np.cumsum(self.intensity[label])
        if not histogram[-1]:
            return float('nan')
        return float(np.searchsorted(histogram, histogram[-1] / 2)) / 100


def measure(folders: Sequence[Path], most: int, source: Path | None = None) -> Statistics:
    """Of at most about `most` scans spread over the sequences in `folders`."""
    statistics = Statistics()
    for folder in folders:
        scans = sorted((folder / 'velodyne').glob('*.bin'))
        step = max(1, round(len(scans) * len(folders) / most))
        for path in scans[::step]:
            points = read_scan(path)
            train = _read_labels(folder / 'labels' / f'{path.stem}.label', len(points))
            statistics.add(points, train, 1 / len(scans[::step]))
    if not statistics.scans:
        where = source or (folders[0] if folders else 'the data set')
        raise DataError(
            f'{where}: no scans found; expected sequences/XX/velodyne/*.bin and labels.'
        )
    return statistics


def _read_labels(path: Path, points: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise DataError(f'{path}: no such labels; only labelled sequences can be compared.')
    raw = np.fromfile(path, '<u4')
    if len(raw) != points:
        raise DataError(f'{path}: {len(raw)} labels for {points} points; write it again.')
    return SEMANTICKITTI.to_train(raw, str(path))


def _count_rows(points: NDArray[np.float32]) -> Array:
    """Points of each beam: the azimuth starts anew where the next beam begins."""
    azimuth = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    row = np.concatenate([[0], np.cumsum(np.diff(azimuth) < -np.pi)])
    return np.bincount(row.clip(0, _BEAMS - 1), minlength=_BEAMS).astype(float)


def _count_neighbours(xyz: NDArray[np.float32], size_m: float) -> tuple[int, float]:
    """Occupied voxels, and how many of the 27 around a voxel are occupied, itself included."""
    grid = np.floor(xyz / size_m).astype(np.int64)
    grid -= grid.min(0) - 1
    strides = np.array([(grid[:, 1].max() + 2) * (grid[:, 2].max() + 2), grid[:, 2].max() + 2, 1])
    keys = np.unique(grid @ strides)
    around = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 3) @ strides
    found = 0
    for offset in around:
        place = np.searchsorted(keys, keys + offset).clip(0, len(keys) - 1)
        found += int((keys[place] == keys + offset).sum())
    return len(keys), found / len(keys)


def tabulate(real: Statistics, streets: Statistics) -> dict[str, list[tuple[str, str, str]]]:
    """Tables by title; each row: what, real, simulated."""
    both = (real, streets)

    def row(name: str, values: Sequence[float], form: str) -> tuple[str, str, str]:
        first, second = (format(value, form) for value in values)
        return name, first, second

    scan = [row('points per scan', [each.points_per_scan for each in both], ',.0f')]
    for index, size in enumerate(VOXELS_M):
        counts = [each.voxels[index] / each.total for each in both]
        neighbours = [each.neighbours[index] / each.total for each in both]
        scan.append(row(f'voxels of {size} m', counts, ',.0f'))
        scan.append(row(f'neighbours per voxel of {size} m', neighbours, '.2f'))
    classes = [
        row(name, [each.classes[i] / each.classes.sum() for each in both], '.3%')
        for i, name in enumerate(CLASSES)
    ]
    ranges = [
        row(f'{low:g}-{high:g} m', [each.ranges[i] / each.ranges.sum() for each in both], '.2%')
        for i, (low, high) in enumerate(zip(RANGES_M, RANGES_M[1:]))
    ]
    intensity = [
        row(name, [each.median_intensity(i) for each in both], '.2f')
        for i, name in enumerate(CLASSES)
    ]
    return {'scans': scan, 'share of the points by class, within 50 m': classes,
            'share of the points by range': ranges, 'median intensity': intensity}  # fmt: skip


def draw_comparison(path: Path, real: Statistics, streets: Statistics) -> None:
    """Six panels: class, range, beam, height, intensity of all and of some classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 9), layout='constrained')
    axes = figure.subplots(2, 3).ravel()
    _draw_bars(axes[0], real, streets)
    curves = [
        ('points by range (share)', 'm', RANGES_M[:-1], 'ranges'),
        ('points by beam (share)', 'beam, from the top', range(_BEAMS), 'rows'),
        ('points by height (share)', 'm above the sensor', HEIGHTS_M[:-1], 'heights'),
    ]
    for axis, (title, unit, x, name) in zip(axes[1:], curves):
        for each, label in ((real, 'real'), (streets, 'streets')):
            values = getattr(each, name)
            axis.step(list(x), values / values.sum(), where='post', label=label)
        axis.set(title=title, xlabel=unit)
        axis.legend()
    _draw_intensities(axes[4], {'all': list(CLASSES)}, real, streets)
    _draw_intensities(axes[5], _GROUPS, real, streets)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format='png', dpi=90)


def _draw_bars(axis: Any, real: Statistics, streets: Statistics) -> None:
    x = np.arange(len(CLASSES))
    for offset, each, label in ((-0.2, real, 'real'), (0.2, streets, 'streets')):
        axis.bar(x + offset, each.classes / each.classes.sum(), 0.4, label=label)
    axis.set(title='points by class (share)', yscale='log', ylim=(1e-5, 1))
    axis.set_xticks(x, CLASSES, rotation=90, fontsize=8)
    axis.legend()


def _draw_intensities(
    axis: Any, groups: dict[str, list[str]], real: Statistics, streets: Statistics
) -> None:
    """Solid: real; dashed: simulated."""
    for number, (name, members) in enumerate(groups.items()):
        rows = [CLASSES.index(member) for member in members]
        for each, style in ((real, '-'), (streets, '--')):
            values = each.intensity[rows].sum(0)
            share = values / max(values.sum(), 1)
            label = name if style == '-' else None
            axis.plot(np.arange(len(share)) / 100, share, style, color=f'C{number}', label=label)
    axis.set(title='intensity (solid: real, dashed: streets)', ylim=(0, 0.12))
    axis.legend()

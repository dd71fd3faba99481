# SPDX-License-Identifier: Apache-2.0
"""Scans coloured by what is known about their points, for the viewer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from matplotlib import colormaps
import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.picture import colour_errors
from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE
from training.data.scan import Points, Scan, ScanSet
from training.scores.scoring import Answer, Labels
from training.views.perspective import Colours, Legend

COLOURINGS = ('prediction', 'labels', 'errors', 'intensity')


@dataclass(frozen=True, kw_only=True, eq=False)
class ColouredScan:
    title: str
    points: Points
    colours: Colours
    legend: Legend


class Scenes:
    """Reads and answers a scan once, however often its colours change."""

    def __init__(self, scans: ScanSet, answer: Answer | None) -> None:
        self._scans, self._answer = scans, answer
        self._table = scans.table
        self._open = lru_cache(maxsize=8)(self._read)

    def __len__(self) -> int:
        return len(self._scans)

    def colourings(self, index: int) -> list[str]:
        """What this scan can be coloured by."""
        labelled = self._scans.frames[index].labels is not None
        known = {
            'prediction': self._answer is not None,
            'labels': labelled,
            'errors': labelled and self._answer is not None,
            'intensity': True,
        }
        return [name for name in COLOURINGS if known[name]]

    def scene(self, index: int, colouring: str) -> ColouredScan:
        if colouring not in self.colourings(index):
            raise ConfigError(
                f"'{colouring}' needs {_needs(colouring)}; this scan can be coloured by "
                f'{", ".join(self.colourings(index))}.'
            )
        scan, answers = self._open(index)
        colours, legend = self._colour(scan, answers, colouring)
        title = f'{scan.name}   {colouring}   {len(scan):,} points'
        return ColouredScan(title=title, points=scan.points, colours=colours, legend=legend)

    def _read(self, index: int) -> tuple[Scan, Labels]:
        scan = self._scans[index]
        return scan, scan.labels if self._answer is None else self._answer(scan)

    def _colour(self, scan: Scan, answers: Labels, colouring: str) -> tuple[Colours, Legend]:
        if colouring == 'intensity':
            return colour_intensity(scan.points[:, 3]), []
        if colouring == 'errors':
            labelled = scan.labels != IGNORE
            share = (answers != scan.labels)[labelled].mean() if labelled.any() else 0.0
            wrong, right = colour_errors(np.array([0, 0], np.uint8), np.array([1, 0], np.uint8))
            names = f'wrong: {share:.1%} of the labelled points', 'right'
            return colour_errors(scan.labels, answers), [
                (tuple(colour), name) for colour, name in zip((wrong, right), names)
            ]
        labels = answers if colouring == 'prediction' else scan.labels
        return self._table.colour(labels), self._list_classes(labels)

    def _list_classes(self, labels: Labels) -> Legend:
        """Those that occur, the most frequent first."""
        counts = np.bincount(labels, minlength=256)[: self._table.num_classes]
        order = np.argsort(-counts, kind='stable')
        return [
            (self._table.palette[i], self._table.names[i]) for i in order.tolist() if counts[i]
        ]


def colour_intensity(intensity: NDArray[np.float32]) -> Colours:
    """From dark to bright between the 1st and the 99th percentile; most returns are weak."""
    finite = np.nan_to_num(intensity)
    low, high = np.percentile(finite, [1, 99]) if len(finite) else (0.0, 1.0)
    share = np.clip((finite - low) / max(high - low, 1e-9), 0, 1)
    colours: Colours = colormaps['viridis'](0.2 + 0.8 * np.sqrt(share), bytes=True)[:, :3]
    return colours


def _needs(colouring: str) -> str:
    needs = {'prediction': '--bundle or --predictions', 'labels': 'a label file'}
    return needs.get(colouring, 'labels, and --bundle or --predictions')

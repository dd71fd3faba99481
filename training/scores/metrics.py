# SPDX-License-Identifier: Apache-2.0
"""Scores of a segmentation: one confusion matrix, and means that always name their convention.

The same predictions give very different means under the conventions in use; see `Score`.
Train ids are 0..C-1; any other truth is ignored, any other prediction is "no answer".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
import torch
from torch import distributed

BINS_M = (0.0, 10.0, 25.0, 50.0)  # lower ends of the distance bins; the last one is open
Ious = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A mean IoU and what it is a mean of."""

    value: float  # 0 to 1, NaN where nothing can be said
    convention: str
    classes: int  # how many are in the mean

    def __str__(self) -> str:
        return f'{100 * self.value:.2f} mIoU ({self.convention}, {self.classes} classes)'


class Confusion:
    """Counts of (distance bin, truth, answer); the last answer is none.

    Processes and data sets are summed with `+=`, ranks with `sum_over_ranks`.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((len(BINS_M), classes, classes + 1), np.int64)

    def add(self, truth: ArrayLike, answer: ArrayLike, range_m: ArrayLike) -> None:
        """All (N,): train ids, and the distance from the sensor in metres."""
        truth, answer, range_m = np.asarray(truth), np.asarray(answer), np.asarray(range_m)
        if not truth.shape == answer.shape == range_m.shape:
            raise ValueError(
                f'truth {truth.shape}, answers {answer.shape} and ranges {range_m.shape} differ'
            )
        valid = (truth >= 0) & (truth < self.classes)
        given = np.where((answer >= 0) & (answer < self.classes), answer, self.classes)
        place = np.searchsorted(BINS_M[1:], range_m[valid], side='right')  # NaN: the last one
        cell = (place * self.classes + truth[valid].astype(np.int64)) * (self.classes + 1)
        cell += given[valid].astype(np.int64)
        self.counts += np.bincount(cell, minlength=self.counts.size).reshape(self.counts.shape)

    def __iadd__(self, other: Confusion) -> Confusion:
        self.counts += other.counts
        return self

    def sum_over_ranks(self, device: torch.device | str = 'cpu') -> None:
        """In every process the sum of all; `device` is one that the backend can use."""
        if distributed.is_available() and distributed.is_initialized():
            counts = torch.from_numpy(self.counts).to(device)
            distributed.all_reduce(counts)
            self.counts = counts.cpu().numpy()

    @property
    def matrix(self) -> NDArray[np.int64]:
        """(C, C + 1) truth by answer over all distances."""
        total: NDArray[np.int64] = self.counts.sum(0)
        return total

    @property
    def unanswered(self) -> int:
        """Points with a truth that got no answer."""
        return int(self.counts[:, :, -1].sum())

    @property
    def points(self) -> NDArray[np.int64]:
        """(C,) points of each class."""
        total: NDArray[np.int64] = self.counts.sum((0, 2))
        return total

    def iou(self) -> Ious:
        """(C,) tp / (tp + fp + fn); no answer is a miss; NaN where a class is nowhere."""
        return ious(self.matrix)

    def iou_by_range(self) -> dict[str, Ious]:
        """'0-10 m' and so on -> (C,)."""
        return {name: ious(counts) for name, counts in zip(range_names(), self.counts)}

    def accuracy(self) -> float:
        """Share of the points with a truth that got it."""
        matrix = self.matrix
        return _divide(np.trace(matrix), matrix.sum())

    def semantickitti(self, classes: Sequence[int] | None = None) -> Score:
        """The benchmark's: all classes, and one that is nowhere counts as 0."""
        return mean_absent_zero(self.iou(), classes)

    def nuscenes(self, classes: Sequence[int] | None = None) -> Score:
        """The benchmark's: classes that are nowhere left out, and points without an answer too.

        A submission must answer every point; `unanswered` tells whether this one does.
        """
        answered = self.matrix.copy()
        answered[:, -1] = 0
        return mean_without_nan(ious(answered), classes)

    def occurring(self, classes: Sequence[int] | None = None) -> Score:
        """The mean over the classes that the truth holds."""
        return mean_occurring(self.iou(), self.points, classes)

    def occurring_by_range(self) -> dict[str, Score]:
        """The same in each distance bin, over the classes that occur there."""
        return {
            name: mean_occurring(ious(counts), counts.sum(1))
            for name, counts in zip(range_names(), self.counts)
        }

    def official(self, table: str, classes: Sequence[int] | None = None) -> Score:
        """By the name of the label table; other tables have no benchmark."""
        if table == 'semantickitti':
            return self.semantickitti(classes)
        if table == 'nuscenes':
            return self.nuscenes(classes)
        return self.occurring(classes)


def ious(matrix: NDArray[np.int64]) -> Ious:
    """(C, C + 1) counts -> (C,)"""
    hits = np.diagonal(matrix).astype(np.float64)
    union = matrix.sum(1) + matrix[:, :-1].sum(0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_absent_zero(iou: Ious, classes: Sequence[int] | None = None) -> Score:
    chosen = np.nan_to_num(_choose(iou, classes))
    return _mean(chosen, 'SemanticKITTI official: absent class = 0')


def mean_without_nan(iou: Ious, classes: Sequence[int] | None = None) -> Score:
    chosen = _choose(iou, classes)
    return _mean(chosen[~np.isnan(chosen)], 'nuScenes official: absent class left out')


def mean_occurring(
    iou: Ious, points: NDArray[np.int64], classes: Sequence[int] | None = None
) -> Score:
    chosen = _choose(iou, classes)[_choose(points, classes) > 0]
    return _mean(chosen, 'classes that occur in the truth')


def range_names() -> list[str]:
    pairs = zip(BINS_M, BINS_M[1:])
    return [*(f'{low:g}-{high:g} m' for low, high in pairs), f'> {BINS_M[-1]:g} m']


def horizontal_range(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3+) -> (N,) metres from the sensor, seen from above."""
    return np.hypot(points[:, 0], points[:, 1])


def _choose(values: NDArray, classes: Sequence[int] | None) -> NDArray:
    return values if classes is None else values[np.asarray(classes, np.int64)]


def _mean(values: Ious, convention: str) -> Score:
    return Score(_divide(values.sum(), len(values)), convention, len(values))


def _divide(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else math.nan

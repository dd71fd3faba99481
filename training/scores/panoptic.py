# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality by SemanticKITTI's formula: PQ = SQ x RQ of each class.

A segment is all points of one class and one object number; what is no thing has number 0. Two
segments match where their IoU is above 0.5, which no segment can reach twice. With TP the
matches, FP and FN the segments of the answer and of the truth that have none:

  SQ = (sum of the IoUs of the matches) / TP        RQ = TP / (TP + FP / 2 + FN / 2)

Points without a truth are left out beforehand, so an answer that lies on them costs nothing;
segments of fewer than 50 points are no FP and no FN. (Kirillov et al. 2019, arXiv:1801.00868)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
import torch
from torch import distributed

from lidar_kd.labels import ClassTable
from lidar_kd.objects import find_objects, ObjectSettings
from training.data.scan import Scan
from training.scores.metrics import Ious
from training.scores.scoring import Answer, Labels

MIN_POINTS = 50
_EVERY = ObjectSettings(min_points=1, fewest_points=1)
_IOU, _TP, _FP, _FN = range(4)  # rows of the sums
Ids = NDArray[np.int64]
Number = Callable[[Scan, Labels], NDArray[np.uint32]]  # object numbers for answered labels


class PanopticQuality:
    """Sums over scans; processes are summed with `+=`, ranks with `sum_over_ranks`."""

    def __init__(self, classes: int, *, min_points: int = MIN_POINTS) -> None:
        self.classes, self.min_points = classes, min_points
        self.sums = np.zeros((4, classes))

    def add(
        self, truth: ArrayLike, objects: ArrayLike, answer: ArrayLike, answered_objects: ArrayLike
    ) -> None:
        """All (N,) of one scan: train ids and object numbers, of the truth and of the answer."""
        labels = np.asarray(truth)
        counted = (labels >= 0) & (labels < self.classes)
        true = self._name_segments(labels[counted], np.asarray(objects)[counted])
        given = self._name_segments(
            np.asarray(answer)[counted], np.asarray(answered_objects)[counted]
        )
        names, true_areas = _count(true)
        answered, areas = _count(given)
        pairs, overlaps = _count_pairs(true, given)
        row, column = np.searchsorted(names, pairs[0]), np.searchsorted(answered, pairs[1])
        iou = overlaps / (true_areas[row] + areas[column] - overlaps)
        match = iou > 0.5
        self._sum(_IOU, names[row[match]], iou[match])
        self._sum(_TP, names[row[match]])
        self._sum(_FN, self._unmatched(names, true_areas, row[match]))
        self._sum(_FP, self._unmatched(answered, areas, column[match]))

    def __iadd__(self, other: PanopticQuality) -> PanopticQuality:
        self.sums += other.sums
        return self

    def sum_over_ranks(self, device: torch.device | str = 'cpu') -> None:
        """In every process the sum of all; `device` is one that the backend can use."""
        if distributed.is_available() and distributed.is_initialized():
            sums = torch.from_numpy(self.sums).to(device)
            distributed.all_reduce(sums)
            self.sums = sums.cpu().numpy()

    @property
    def counts(self) -> Ids:
        """(3, C) matches, false positives, false negatives."""
        return self.sums[_TP:].astype(np.int64)

    def sq(self) -> Ious:
        """(C,) how well matches fit; 0 without any, as all three in the benchmark."""
        return self.sums[_IOU] / np.maximum(self.sums[_TP], 1)

    def rq(self) -> Ious:
        """(C,) how many segments were found."""
        tp, fp, fn = self.sums[_TP:]
        return tp / np.maximum(tp + (fp + fn) / 2, 0.5)

    def pq(self) -> Ious:
        return self.sq() * self.rq()

    def dagger(self, things: ArrayLike, iou: Ious) -> Ious:
        """(C,) PQ-dagger: the PQ of things, and the IoU of everything else."""
        chosen = np.nan_to_num(iou)
        chosen[np.asarray(things)] = self.pq()[np.asarray(things)]
        return chosen

    def _name_segments(self, labels: NDArray, objects: NDArray) -> Ids:
        """Class and object number in one; -1 where there is no class."""
        names = labels.astype(np.int64) << 32 | objects.astype(np.int64)
        return np.where((labels >= 0) & (labels < self.classes), names, -1)

    def _unmatched(self, names: Ids, areas: Ids, matched: Ids) -> Ids:
        left = areas >= self.min_points
        left[matched] = False
        return names[left]

    def _sum(self, row: int, names: Ids, values: Ious | None = None) -> None:
        self.sums[row] += np.bincount(names >> 32, values, minlength=self.classes)


@dataclass(frozen=True, eq=False)
class ScoredObjects:
    """An `Answer` whose objects are scored on the way: the network runs once for both scores."""

    answer: Answer
    number: Number
    quality: PanopticQuality

    def __call__(self, scan: Scan) -> Labels:
        labels = self.answer(scan)
        if scan.instances is not None and len(labels) == len(scan):
            own = slice(None) if scan.past is None else ~scan.past
            objects = self.number(scan, labels)
            self.quality.add(scan.labels[own], scan.instances[own], labels[own], objects[own])
        return labels


def number_objects(table: ClassTable, scan: Scan, labels: Labels) -> NDArray[np.uint32]:
    """(N,) of every object, however few points it has: one number each, never a common 0."""
    return find_objects(scan.points, labels, None, table, _EVERY).instances


def _count(names: Ids) -> tuple[Ids, Ids]:
    """The segments, ascending, and how many points each has."""
    found, areas = np.unique(names[names >= 0], return_counts=True)
    return found, areas.astype(np.int64)


def _count_pairs(true: Ids, given: Ids) -> tuple[Ids, Ids]:
    """(2, P) segments of one class that share points, and how many."""
    same = (true >> 32 == given >> 32) & (given >= 0)
    pairs, shared = np.unique(np.stack([true[same], given[same]]), axis=1, return_counts=True)
    return pairs, shared.astype(np.int64)

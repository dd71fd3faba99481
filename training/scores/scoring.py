# SPDX-License-Identifier: Apache-2.0
"""Scores answers over the original points of labelled scans: one pass, nothing left out.

Points that multi-scan fusion added are seen by the network and not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import time

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import ClassTable
from training.data.scan import Points, Scan, Scans
from training.scores.metrics import Confusion, horizontal_range

Labels = NDArray[np.uint8]
Segment = Callable[[Points], Labels]  # (N, 4) -> (N,) train ids, 255 where there is no answer
Answer = Callable[[Scan], Labels]  # the same for a scan whose name tells where its answers lie


def score(
    segment: Segment,
    scans: Scans,
    *,
    advance: Callable[[], None] = lambda: None,
    rank: int = 0,
    world: int = 1,
) -> Confusion:
    """Of this rank's share of the scans; `Confusion.sum_over_ranks` makes it that of all."""
    return score_answers(
        lambda scan: segment(scan.points), scans, advance=advance, rank=rank, world=world
    )


def score_answers(
    answer: Answer,
    scans: Scans,
    *,
    advance: Callable[[], None] = lambda: None,
    rank: int = 0,
    world: int = 1,
) -> Confusion:
    """The same for answers that depend on more than the points, such as stored predictions."""
    confusion = Confusion(scans.table.num_classes)
    for index in range(rank, len(scans), world):
        scan = scans[index]
        answers = answer(scan)
        if len(answers) != len(scan):
            raise DataError(
                f'{scan.name}: {len(answers)} answers for {len(scan)} points; '
                'predict this scan again.'
            )
        own = slice(None) if scan.past is None else ~scan.past
        confusion.add(scan.labels[own], answers[own], horizontal_range(scan.points[own]))
        advance()
    return confusion


def check_tables(answers: ClassTable, truth: ClassTable) -> None:
    """Train ids mean something within one table only."""
    if answers.names != truth.names:
        raise ConfigError(
            f"the bundle answers in the classes of '{answers.name}', the data are labelled in "
            f"those of '{truth.name}'; use a bundle trained on {truth.name}, or data of "
            f'{answers.name}.'
        )


@dataclass(eq=False)
class Stopwatch:
    """A Segment that remembers how long each scan took, in ms."""

    segment: Segment
    latency_ms: list[float] = field(default_factory=list)

    def __call__(self, points: Points) -> Labels:
        start = time.perf_counter()
        labels = self.segment(points)
        self.latency_ms.append(1e3 * (time.perf_counter() - start))
        return labels

# SPDX-License-Identifier: Apache-2.0
"""The mean of several answers: of one network to turned and mirrored views of a scan (test-time
augmentation), or of several networks to one scan.

Several passes instead of one, so their scores are named as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lidar_kd.labels import IGNORE
from lidar_kd.segmenter import Segmenter
from training.data.scan import Points
from training.scores.scoring import Labels

NAME = 'test-time augmentation: 4 turns by 90 degrees, each mirrored too'
TURNS = 4


def make_views(points: Points) -> list[Points]:
    """The scan turned by 0, 90, 180, 270 degrees about z, each also with y mirrored first."""
    views = []
    for mirror in (1, -1):
        x, y = points[:, 0], mirror * points[:, 1]
        for _ in range(TURNS):
            view = points.copy()
            view[:, 0], view[:, 1] = x, y
            views.append(view)
            x, y = -y, x
    return views


def segment_augmented(segmenter: Segmenter, points: Points) -> Labels:
    """(N,) train ids; 255 where no view has an answer."""
    return take_likeliest(segmenter.probabilities(view) for view in make_views(points))


def segment_together(segmenters: Sequence[Segmenter], points: Points) -> Labels:
    """(N,) train ids by the mean of their probabilities, as an ensemble teaches."""
    return take_likeliest(each.probabilities(points) for each in segmenters)


def take_likeliest(posteriors: Iterable[NDArray[np.float32]]) -> Labels:
    """Of several answers (N, C) about the same points, NaN where one has none."""
    total = sum(map(np.nan_to_num, posteriors), np.float32(0))
    best = total.argmax(1)
    best[total.max(1) == 0] = IGNORE
    return best.astype(np.uint8)

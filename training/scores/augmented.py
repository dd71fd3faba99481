# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: the mean of the probabilities over turned and mirrored views of a scan.

Eight passes instead of one, so its scores are named as such and never compared with others.
"""

from __future__ import annotations

import numpy as np

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
    total = np.zeros((len(points), segmenter.spec.labels.num_classes), np.float32)
    for view in make_views(points):
        total += np.nan_to_num(segmenter.probabilities(view))
    best = total.argmax(1)
    best[total.max(1) == 0] = IGNORE
    return best.astype(np.uint8)

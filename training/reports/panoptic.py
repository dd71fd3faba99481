# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality as rows of a table and as figures."""

from __future__ import annotations

import numpy as np

from lidar_kd.labels import ClassTable
from training.scores.metrics import Ious
from training.scores.panoptic import PanopticQuality

PANOPTIC_TITLE = 'panoptic quality %, SemanticKITTI official: absent class = 0'
PANOPTIC_COLUMNS = ('class', 'PQ', 'SQ', 'RQ', 'found', 'invented', 'missed')


def panoptic_rows(table: ClassTable, quality: PanopticQuality) -> list[tuple[str, ...]]:
    """The benchmark's means on top, then every class."""
    scores, counts = (quality.pq(), quality.sq(), quality.rq()), quality.counts
    movable = table.group_ids('movable').tolist()
    groups = {
        'all classes': list(range(table.num_classes)),
        'things': movable,
        'stuff': table.group_ids('static').tolist(),
    }
    rows = [
        (name, *(f'{100 * values[ids].mean():.2f}' for values in scores), '', '', '')
        for name, ids in groups.items()
    ]
    return rows + [
        (
            name + ' (thing)' * (index in movable),
            *(f'{100 * values[index]:.2f}' for values in scores),
            *(f'{count:,}' for count in counts[:, index]),
        )
        for index, name in enumerate(table.names)
    ]


def panoptic_figures(table: ClassTable, quality: PanopticQuality, iou: Ious) -> dict[str, float]:
    """Flat names, shares from 0 to 1."""
    pq, movable = quality.pq(), table.group_ids('movable')
    values = {
        'pq': np.mean(pq),
        'sq': np.mean(quality.sq()),
        'rq': np.mean(quality.rq()),
        'pq_things': np.mean(pq[movable]),
        'pq_stuff': np.mean(pq[table.group_ids('static')]),
        'pq_dagger': np.mean(quality.dagger(movable, iou)),
    }
    values |= {f'pq_{name}': each for name, each in zip(table.names, pq)}
    return {name: float(value) for name, value in values.items()}

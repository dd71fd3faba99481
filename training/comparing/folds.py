# SPDX-License-Identifier: Apache-2.0
"""Cross-validation: each sequence is scored once, by students that learnt from the others.

A fold has its own paths where the configuration writes {fold}: augmented scans must hold nothing
of what is scored, and a teacher must not have learnt from it either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from lidar_kd.errors import ConfigError
from training.comparing.figures import Outcome
from training.run.config import Config, TeacherSettings
from training.run.yaml_file import check_settings
from training.scores.metrics import ious, mean_occurring

PLACE = '{fold}'  # in a path: the number of the fold
Teacher = TypeVar('Teacher', bound=TeacherSettings)


def split_folds(config: Config, count: int | None) -> list[Config]:
    """One configuration per fold; the given one if there is nothing to split.

    Fold k scores the sequences k, k + count, ... of data.train and learns from the others.
    """
    if count is None:
        return [config]
    names = config.data.train
    if config.data.kind == 'streets' or isinstance(names, str) or not 2 <= count <= len(names):
        raise ConfigError(
            f'--folds {count}: data.train must name the sequences of a data set, as many as folds '
            'or more, and 2 folds are the fewest; name them, or leave --folds out.'
        )
    return [_choose_fold(config, fold, names[fold::count]) for fold in range(count)]


def _choose_fold(config: Config, fold: int, scored: Sequence[str | int]) -> Config:
    learnt = tuple(name for name in config.data.train if name not in scored)
    data = config.data.model_copy(
        update={
            'root': _place(config.data.root, fold),
            'train': learnt,
            'validation': tuple(scored),
        }
    )
    start = _place(config.model.warm_start, fold)
    teacher = config.teacher
    changes = {
        'data': data,
        'model': config.model.model_copy(update={'warm_start': start}),
        'teacher': None if teacher is None else _place_teacher(teacher, fold),
        'teachers': {name: _place_teacher(one, fold) for name, one in config.teachers.items()},
    }
    changed = config.model_copy(update=changes)
    return check_settings(changed.model_dump(by_alias=True), Config, f'fold {fold}')


def _place_teacher(teacher: Teacher, fold: int) -> Teacher:
    return teacher.model_copy(update={'bundle': _place(teacher.bundle, fold)})


def _place(path: Path | None, fold: int) -> Path | None:
    return None if path is None else Path(str(path).replace(PLACE, str(fold)))


def pool_folds(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of those of all folds: their points are counted together, not their scores."""
    if len(outcomes) == 1:
        return outcomes[0]
    first = outcomes[0]
    counts = np.concatenate([one.counts for one in outcomes if one.counts is not None])
    matrix = counts.sum(0)
    iou, points = ious(matrix), matrix.sum(1)
    weights = [0 if one.counts is None else int(one.counts.sum()) for one in outcomes]
    return Outcome(
        miou=mean_occurring(iou, points).value,
        hard_miou=mean_occurring(iou, points, first.hard).value,
        iou={name: None if np.isnan(v) else float(v) for name, v in zip(first.iou, iou)},
        step_ms=median(one.step_ms for one in outcomes),
        peak_gb=max(one.peak_gb for one in outcomes),
        agreement=float(np.average([one.agreement for one in outcomes], weights=weights)),
        curve=_mean_curve([one.curve for one in outcomes]),
        counts=counts,
        hard=first.hard,
    )


def _mean_curve(curves: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Where all folds were scored after as many steps."""
    return [
        (points[0][0], float(np.mean([value for _, value in points]))) for points in zip(*curves)
    ]

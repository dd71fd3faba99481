# SPDX-License-Identifier: Apache-2.0
"""Runs of the same student with and without each method, paired by seed, as figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
import math
from statistics import mean, median

import numpy as np

from training.run.config import MAIN

ALONE = 'alone'  # the student without a teacher
PSEUDO_LABELS = 'pseudo_labels'  # with the teacher's pseudo-labels and no method
Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
_GAINS = ('miou', 'hard_miou')


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run. Shares from 0 to 1."""

    miou: float  # over the classes that occur
    hard_miou: float
    iou: Mapping[str, float | None]  # by class
    step_ms: float
    peak_gb: float
    agreement: float = math.nan  # share of the points that get the teacher's label
    curve: Sequence[tuple[int, float]] = ()  # step, mIoU


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one scan costs a network."""

    name: str
    parameters: int
    gmacs: float
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class TeacherFigures:
    """`outcome` on the scans that the students are scored on, as these see them."""

    cost: Cost
    outcome: Outcome
    shown_the_past: Outcome | None = None  # on the same fused with theirs, as M2SKD asks it


@dataclass(frozen=True, kw_only=True)
class Gain:
    """One arm minus another, over the seeds that both have."""

    mean: float
    error: float  # standard error of the mean; NaN with one seed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    title: str
    arms: Mapping[str, Sequence[Outcome]]  # the first one is the student alone
    student: Cost
    teachers: Mapping[str, TeacherFigures] = field(default_factory=dict)  # MAIN, or a method's own
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def alone(self) -> Sequence[Outcome]:
        return self.arms[ALONE]

    @property
    def methods(self) -> list[str]:
        return [arm for arm in self.arms if arm != ALONE]

    def gain(self, arm: str, of: str = 'miou', over: str = ALONE) -> Gain:
        """`of`: 'miou' or 'hard_miou'; `over` another arm; seed by seed."""
        pairs = zip(self.arms[arm], self.arms[over])
        gains = [getattr(one, of) - getattr(other, of) for one, other in pairs]
        return Gain(mean=mean(gains), error=_deviation(gains) / math.sqrt(len(gains)))

    def figures(self) -> dict[str, float | None]:
        """By the names of the design; percentage points for gains and mIoU."""
        values = {'baseline_miou': 100 * mean(run.miou for run in self.alone)}
        for arm in self.methods:
            gain, hard = self.gain(arm), self.gain(arm, 'hard_miou')
            values |= {
                f'{arm}_miou': 100 * mean(run.miou for run in self.arms[arm]),
                f'{arm}_gain': 100 * gain.mean,
                f'{arm}_gain_se': 100 * gain.error,
                f'{arm}_hard_gain': 100 * hard.mean,
                f'{arm}_hard_gain_se': 100 * hard.error,
                f'{arm}_step_ratio': _step_ms(self.arms[arm]) / _step_ms(self.alone),
            }
        for one, other in permutations(self.methods, 2):
            gain = self.gain(one, over=other)
            values |= {
                f'{one}_over_{other}': 100 * gain.mean,
                f'{one}_over_{other}_se': 100 * gain.error,
            }
        for name, teacher in self.teachers.items():
            before = '' if name == MAIN else f'{name}_'
            values |= {
                f'{before}teacher_miou': 100 * teacher.outcome.miou,
                f'{before}macs_share': self.student.gmacs / teacher.cost.gmacs,
                f'{before}speedup': teacher.cost.latency_ms / self.student.latency_ms,
            }
            if teacher.shown_the_past:
                values[f'{before}teacher_fused_miou'] = 100 * teacher.shown_the_past.miou
        return {name: None if math.isnan(value) else value for name, value in values.items()}

    def tables(self) -> list[Table]:
        among = [self._differences()] if len(self.methods) > 1 else []
        return [self._scores(), *among, self._classes(), self._costs()]

    def _scores(self) -> Table:
        columns = ('', 'mIoU %', 'gain', 'hard classes %', 'gain', 'as the teacher %',
                   'step ms', 'peak GB')  # fmt: skip
        rows = [self._score_row(arm) for arm in self.arms]
        for name, teacher in self.teachers.items():
            rows.append(_teacher_row(title_of(name), teacher.outcome))
            if teacher.shown_the_past:
                rows.append(_teacher_row(f'{title_of(name)}, shown the past',
                                         teacher.shown_the_past))  # fmt: skip
        count = len(self.alone)
        title = (
            f'{self.title}: mean and standard deviation of {count} seed{"s" * (count > 1)}; gain '
            'over the student alone, paired by seed, and its standard error'
        )
        return title, columns, rows

    def _score_row(self, arm: str) -> tuple[str, ...]:
        runs = self.arms[arm]
        gains = ['', '']
        if arm != ALONE:
            gains = [_signed(self.gain(arm, of)) for of in _GAINS]
        return (
            arm if arm != ALONE else 'student alone',
            _spread([run.miou for run in runs]),
            gains[0],
            _spread([run.hard_miou for run in runs]),
            gains[1],
            _percent(mean(run.agreement for run in runs)),
            f'{_step_ms(runs):.0f}',
            f'{max(run.peak_gb for run in runs):.2f}',
        )

    def _differences(self) -> Table:
        rows = [
            (arm, *('' if arm == other else _signed(self.gain(arm, over=other))
                    for other in self.methods))
            for arm in self.methods
        ]  # fmt: skip
        title = 'mIoU of the row less that of the column, paired by seed, and its standard error'
        return title, ('', *self.methods), rows

    def _classes(self) -> Table:
        columns = ('class', *self.arms, *map(title_of, self.teachers))
        rows = [(name, *cells) for name, cells in self._class_cells()]
        return 'IoU % by class, means over the seeds', columns, rows

    def _class_cells(self) -> Iterator[tuple[str, list[str]]]:
        for name in self.alone[0].iou:
            cells = [_percent(_mean_known([run.iou[name] for run in runs]))
                     for runs in self.arms.values()]  # fmt: skip
            theirs = [teacher.outcome.iou[name] for teacher in self.teachers.values()]
            yield name, cells + [_percent(_mean_known([value])) for value in theirs]

    def _costs(self) -> Table:
        columns = ('network', 'parameters', 'G multiply-adds', 'ms per scan')
        costs = [*(teacher.cost for teacher in self.teachers.values()), self.student]
        rows: list[tuple[str, ...]] = [
            (c.name, f'{c.parameters:,}', f'{c.gmacs:.1f}', f'{c.latency_ms:.0f}') for c in costs
        ]
        return 'a scan from points to labels, medians, all in turns', columns, rows


def title_of(teacher: str) -> str:
    return teacher if teacher == MAIN else f"{teacher}'s teacher"


def _teacher_row(title: str, theirs: Outcome) -> tuple[str, ...]:
    return title, _percent(theirs.miou), '', _percent(theirs.hard_miou), '', '', '', ''


def _spread(values: Sequence[float]) -> str:
    return _with_error(_percent(mean(values)), _deviation(values))


def _signed(gain: Gain) -> str:
    text = '-' if math.isnan(gain.mean) else f'{100 * gain.mean:+.2f}'
    return _with_error(text, gain.error)


def _with_error(text: str, error: float) -> str:
    return text if math.isnan(error) else f'{text} +- {100 * error:.2f}'


def _deviation(values: Sequence[float]) -> float:
    """NaN for one value, and where one is NaN: no hard class may occur."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _percent(value: float) -> str:
    return '-' if math.isnan(value) else f'{100 * value:.2f}'


def _mean_known(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return mean(known) if known else math.nan


def _step_ms(runs: Sequence[Outcome]) -> float:
    return median(run.step_ms for run in runs)

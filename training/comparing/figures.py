# SPDX-License-Identifier: Apache-2.0
"""Runs of the same student with and without each method, paired by seed, as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
import math
from statistics import mean, median

from training.comparing.intervals import (
    bootstrap_gain,
    Counts,
    Interval,
    standard_error,
    t_interval,
    UNKNOWN,
)
from training.run.config import MAIN

ALONE = 'alone'  # the student without a teacher
LABEL_SMOOTHING = 'label_smoothing'  # likewise, its labels smoothed
SELF_TEACHER = 'self_teacher'  # what the configuration lists, from the first student alone
PSEUDO_LABELS = 'pseudo_labels'  # with the teacher's pseudo-labels and no method


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
    counts: Counts | None = None  # by street
    hard: Sequence[int] = ()  # classes


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
    seeds: Interval = UNKNOWN  # of the mean, by Student's t over the seeds
    streets: Interval = UNKNOWN  # likewise, by a bootstrap over the streets


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
        pairs = list(zip(self.arms[arm], self.arms[over]))
        gains = [getattr(one, of) - getattr(other, of) for one, other in pairs]
        return Gain(
            mean=mean(gains),
            error=standard_error(gains),
            seeds=t_interval(gains),
            streets=_bootstrap(pairs, only_hard=of == 'hard_miou'),
        )

    def figures(self) -> dict[str, float | None]:
        """By the names of the design; percentage points for gains and mIoU."""
        values = {'baseline_miou': 100 * mean(run.miou for run in self.alone)}
        for arm in self.methods:
            gain, hard = self.gain(arm), self.gain(arm, 'hard_miou')
            values |= {
                f'{arm}_miou': 100 * mean(run.miou for run in self.arms[arm]),
                f'{arm}_gain': 100 * gain.mean,
                f'{arm}_gain_se': 100 * gain.error,
                f'{arm}_gain_low': 100 * gain.seeds.low,
                f'{arm}_gain_high': 100 * gain.seeds.high,
                f'{arm}_gain_streets_low': 100 * gain.streets.low,
                f'{arm}_gain_streets_high': 100 * gain.streets.high,
                f'{arm}_hard_gain': 100 * hard.mean,
                f'{arm}_hard_gain_se': 100 * hard.error,
                f'{arm}_step_ratio': step_ms_of(self.arms[arm]) / step_ms_of(self.alone),
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


def _bootstrap(pairs: Sequence[tuple[Outcome, Outcome]], *, only_hard: bool) -> Interval:
    counts = [[run.counts for run in runs if run.counts is not None] for runs in zip(*pairs)]
    if any(len(each) < len(pairs) for each in counts):
        return UNKNOWN
    ours, others = counts
    classes = list(pairs[0][0].hard) if only_hard else list(range(ours[0].shape[1]))
    return bootstrap_gain(ours, others, classes)


def step_ms_of(runs: Sequence[Outcome]) -> float:
    return median(run.step_ms for run in runs)

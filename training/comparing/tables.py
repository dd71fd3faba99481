# SPDX-License-Identifier: Apache-2.0
"""The tables of a comparison: spreads and errors each in a column of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
from statistics import mean

from training.comparing.figures import ALONE, Comparison, Gain, Outcome, step_ms_of
from training.comparing.intervals import deviation, Interval
from training.run.config import MAIN

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, columns, rows


def make_tables(comparison: Comparison) -> list[Table]:
    methods = len(comparison.methods)
    tables = [_make_scores(comparison)]
    if methods:
        tables += [_make_gains(comparison, of) for of in ('miou', 'hard_miou')]
    if methods > 1:
        tables.append(_make_differences(comparison))
    return [*tables, _make_classes(comparison), _make_costs(comparison)]


def title_of(teacher: str) -> str:
    return teacher if teacher == MAIN else f"{teacher}'s teacher"


def _make_scores(comparison: Comparison) -> Table:
    columns = ('', 'mIoU %', 'deviation', 'hard classes %', 'deviation', 'as the teacher %',
               'step ms', 'peak GB')  # fmt: skip
    rows = [_score_row(_title_arm(arm), runs) for arm, runs in comparison.arms.items()]
    for name, teacher in comparison.teachers.items():
        rows.append(_teacher_row(title_of(name), teacher.outcome))
        if teacher.shown_the_past:
            past = f'{title_of(name)}, shown the past'
            rows.append(_teacher_row(past, teacher.shown_the_past))
    count = len(comparison.alone)
    seeds = f'{count} seed{"s" * (count > 1)}'
    return f'{comparison.title}: mean of {seeds}, and standard deviation', columns, rows


def _score_row(title: str, runs: Sequence[Outcome]) -> tuple[str, ...]:
    return (
        title,
        *_spread([run.miou for run in runs]),
        *_spread([run.hard_miou for run in runs]),
        _percent(mean(run.agreement for run in runs)),
        f'{step_ms_of(runs):.0f}',
        f'{max(run.peak_gb for run in runs):.2f}',
    )


def _teacher_row(title: str, theirs: Outcome) -> tuple[str, ...]:
    return title, _percent(theirs.miou), '', _percent(theirs.hard_miou), '', '', '', ''


def _make_gains(comparison: Comparison, of: str) -> Table:
    columns = ('', 'gain', 'standard error', '95 % by seeds (t)', '95 % by streets (bootstrap)')
    rows = [_gain_row(arm, comparison.gain(arm, of)) for arm in comparison.methods]
    what = 'mIoU' if of == 'miou' else 'hard classes'
    return f'{what}, points over the student alone, paired by seed', columns, rows


def _gain_row(arm: str, gain: Gain) -> tuple[str, ...]:
    error = _percent(gain.error)
    return _title_arm(arm), _signed(gain.mean), error, _range(gain.seeds), _range(gain.streets)


def _make_differences(comparison: Comparison) -> Table:
    methods = comparison.methods
    rows = [
        (one, *('' if one == other else _difference(comparison.gain(one, over=other))
                for other in methods))
        for one in methods
    ]  # fmt: skip
    title = 'mIoU of the row less that of the column, paired by seed, and its standard error'
    return title, ('', *methods), rows


def _difference(gain: Gain) -> str:
    text = _signed(gain.mean)
    return text if math.isnan(gain.error) else f'{text} +- {_percent(gain.error)}'


def _make_classes(comparison: Comparison) -> Table:
    columns = ('class', *comparison.arms, *map(title_of, comparison.teachers))
    rows = [(name, *cells) for name, cells in _class_cells(comparison)]
    return 'IoU % by class, means over the seeds', columns, rows


def _class_cells(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    for name in comparison.alone[0].iou:
        cells = [_percent(_mean_known([run.iou[name] for run in runs]))
                 for runs in comparison.arms.values()]  # fmt: skip
        theirs = [teacher.outcome.iou[name] for teacher in comparison.teachers.values()]
        yield name, cells + [_percent(_mean_known([value])) for value in theirs]


def _make_costs(comparison: Comparison) -> Table:
    columns = ('network', 'parameters', 'G multiply-adds', 'ms per scan')
    teachers = [teacher.cost for teacher in comparison.teachers.values()]
    rows: list[tuple[str, ...]] = [
        (c.name, f'{c.parameters:,}', f'{c.gmacs:.1f}', f'{c.latency_ms:.0f}')
        for c in (*teachers, comparison.student)
    ]
    return 'a scan from points to labels, medians, all in turns', columns, rows


def _title_arm(arm: str) -> str:
    return 'student alone' if arm == ALONE else arm.replace('_', ' ')


def _spread(values: Sequence[float]) -> tuple[str, str]:
    return _percent(mean(values)), _percent(deviation(values))


def _range(interval: Interval) -> str:
    if math.isnan(interval.low):
        return '-'
    return f'{100 * interval.low:+.2f} to {100 * interval.high:+.2f}'


def _signed(value: float) -> str:
    return '-' if math.isnan(value) else f'{100 * value:+.2f}'


def _percent(value: float) -> str:
    return '-' if math.isnan(value) else f'{100 * value:.2f}'


def _mean_known(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return mean(known) if known else math.nan

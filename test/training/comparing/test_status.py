# SPDX-License-Identifier: Apache-2.0
"""What is done, running and left of a comparison, and for how long."""

from __future__ import annotations

import json
from pathlib import Path
import sys

import pytest

from training import compare
from training.comparing.plan import plan_runs
from training.comparing.status import (
    left_s,
    read_statuses,
    RunStatus,
    tabulate_statuses,
    tell_duration,
    write_plan,
)
from training.run.config import load_config
from training.run.folder import RunFolder

SRKD = Path(__file__).resolve().parents[3] / 'config' / 'srkd.yaml'


def status(name: str, state: str, step: int, pace_s: float | None = None) -> RunStatus:
    return RunStatus(name=name, state=state, step=step, steps=100, pace_s=pace_s)


def test_what_is_left_is_told_by_the_pace_of_the_same_arm() -> None:
    runs = [
        status('alone-0', 'done', 100, 1.0),
        status('srkd-0', 'running', 40, 3.0),
        status('alone-1', 'left', 0),
        status('srkd-1', 'stopped', 90),
        status('pvkd-0', 'left', 0),  # as slow as the median of all, 2 s a step
    ]
    assert [left_s(run, runs) for run in runs] == [0, 180, 100, 30, 200]
    title, columns, rows = tabulate_statuses(runs)
    # 510 s
    assert title == ('1 running, 1 stopped, 2 left, 1 done; left, one after the other: 8 min')
    assert rows[0] == ('srkd-0', 'running', '40/100', '', '3 min')
    assert rows[-1] == ('alone-0', 'done', '100/100', '', '')


def test_nothing_is_promised_before_the_first_step() -> None:
    runs = [status('alone-0', 'left', 0)]
    title, _, rows = tabulate_statuses(runs)
    assert title.endswith('unknown yet')
    assert rows == [('alone-0', 'left', '0/100', '', '?')]


def test_durations_are_told_in_hours_and_minutes() -> None:
    assert [tell_duration(s) for s in (29, 31, 3599, 3 * 3600 + 60)] == [
        '0 min', '1 min', '1 h 0 min', '3 h 1 min'
    ]  # fmt: skip


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """Two comparisons of two arms, which share the student alone."""
    config = load_config(SRKD)
    for name, arm in (('one', 'srkd'), ('other', 'pvkd')):
        write_plan(tmp_path / name, plan_runs(config, ['alone', arm], 1, tmp_path / name))
    return tmp_path


def test_a_run_that_two_comparisons_share_is_told_once(planned: Path) -> None:
    runs = read_statuses(planned)
    assert [(run.name, run.state, run.step, run.steps) for run in runs] == [
        ('alone-0', 'left', 0, 800),
        ('srkd-0', 'left', 0, 800),
        ('pvkd-0', 'left', 0, 800),
    ]


def test_a_teacher_that_trains_beside_the_comparisons_is_told_too(planned: Path) -> None:
    teacher = planned / 'big'
    teacher.mkdir()
    (teacher / 'config.yaml').write_text('optim: {steps: 70}')
    first, *_ = read_statuses(planned)
    assert (first.name, first.state, first.steps) == ('big', 'left', 70)


def test_more_seeds_are_added_to_a_plan(planned: Path) -> None:
    config = load_config(SRKD)
    write_plan(planned / 'one', plan_runs(config, ['alone'], 2, planned / 'one'))
    names = [run.name for run in read_statuses(planned / 'one')]
    assert names == ['alone-0', 'srkd-0', 'alone-1']


def test_a_run_is_running_while_a_process_holds_it(planned: Path) -> None:
    folder = RunFolder(planned / 'one' / 'srkd-0')

    def state() -> str:
        return next(run.state for run in read_statuses(planned) if run.name == 'srkd-0')

    with folder.occupied():
        # 20 steps at 2 and 20 at 1 per second: 30 s, 0.75 s a step, 760 steps left
        folder.append({'step': 20, 'steps_per_s': 2.0})
        folder.append({'step': 40, 'steps_per_s': 1.0})
        assert state() == 'running'
    assert state() == 'stopped'
    runs = read_statuses(planned)
    one = next(run for run in runs if run.name == 'srkd-0')
    assert left_s(one, runs) == pytest.approx(570)
    for path in (folder.report, folder.bundle):
        path.write_text('')
    assert state() == 'done'


def test_the_command_tells_it(
    planned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['compare.py', '--status', str(planned)])
    assert compare.main() == 0
    assert '3 left' in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', ['compare.py', '--status', str(planned / 'nowhere')])
    assert compare.main() == 2
    assert 'no plan.json in it' in capsys.readouterr().err


def test_a_damaged_plan_is_told(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (planned / 'one' / 'plan.json').write_text(json.dumps({})[:1])
    with pytest.raises(ValueError, match=r'plan.json: is damaged .* start the comparison again'):
        read_statuses(planned)

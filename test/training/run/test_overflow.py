# SPDX-License-Identifier: Apache-2.0
"""A step whose gradient overflows float16 is left out and counted; the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import check_same, make_config, prepare, settings_on
import torch

from lidar_kd.cli.console import Console
from training.run import loop
from training.run.loop import Run
from training.run.perform import report_run

QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures('in_own_folder', 'half')


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with optim.precision float16, which a CPU would not be given."""
    monkeypatch.setattr(loop, 'amp_type', lambda *_: torch.float16)


def overflow_at(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """The gradient of these steps is infinite, as where a scaled one leaves float16."""
    learn: Callable[..., None] = Run._learn

    def learn_or_overflow(run: Run, batch: Any) -> None:
        weight = run.distillation.student.get_parameter('head.weight')
        factor = float('inf') if run.step in steps else 1.0
        hook = weight.register_hook(lambda gradient: gradient * factor)
        learn(run, batch)
        hook.remove()

    monkeypatch.setattr(Run, '_learn', learn_or_overflow)


def test_a_step_that_overflows_changes_nothing_but_the_count(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow_at(monkeypatch, {1})
    run = Run(prepare(make_config(tmp_path, settings_on(street)), tmp_path / 'run'), QUIET)
    batches = run._batches()
    run._learn(next(batches))
    before = {name: value.clone() for name, value in run.distillation.state_dict().items()}
    scale = run._scaler.get_scale()
    run._learn(next(batches))
    check_same(before, dict(run.distillation.state_dict()))  # batch norms' counts, too
    assert run._scaler.get_scale() == scale / 2
    assert run._running_mean.state()['left_out'] == 1
    assert run._running_mean.state()['counts']['loss'] == 1
    run._learn(next(batches))
    after = run.distillation.state_dict()
    assert not torch.equal(before['student.head.weight'], after['student.head.weight'])


def test_a_run_with_overflows_ends_and_tells_how_many(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    overflow_at(monkeypatch, {1, 2, 4})
    parts = prepare(make_config(tmp_path, settings_on(street, log_every=3)), tmp_path / 'run')
    run = Run(parts, Console())
    run.fit()
    rows = [row for row in run.folder.history() if 'loss' in row]
    assert [row['left_out'] for row in rows] == [2, 1]
    assert 'left out 2 (overflow)' in capsys.readouterr().out
    report_run(parts, Console())
    assert '3 steps that overflowed float16' in (run.folder.path / 'report.txt').read_text()

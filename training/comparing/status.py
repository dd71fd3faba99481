# SPDX-License-Identifier: Apache-2.0
"""How far the comparisons in a folder are: what is done, what runs, what is left, for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from lidar_kd.errors import ConfigError, DataError, write_atomically
from training.comparing.plan import Planned
from training.comparing.tables import Table
from training.run.folder import RunFolder

PLAN = 'plan.json'  # the runs of a comparison, written when it begins
DONE, RUNNING, STOPPED, LEFT = 'done', 'running', 'stopped', 'left'


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run of a plan; `pace_s` seconds per step, None before the first line of its log."""

    name: str
    state: str
    step: int
    steps: int
    pace_s: float | None = None
    miou: float | None = None

    @property
    def steps_left(self) -> int:
        return 0 if self.state == DONE else max(0, self.steps - self.step)

    @property
    def arm(self) -> str:
        return self.name.partition('-')[0]


def write_plan(out: Path, runs: Sequence[Planned]) -> None:
    """Adds to what an earlier call has planned here: others may have more seeds or arms."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / PLAN
    plan = _read_plan(path) if path.is_file() else {}
    for one in runs:
        folder = os.path.relpath(one.folder.path, out)
        plan[folder] = {'name': one.name, 'steps': one.config.optim.steps}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1) + '\n', encoding='utf-8')


def read_statuses(root: Path) -> list[RunStatus]:
    """Of all runs that the plans under a folder name, each once, and of those that lie in it."""
    plans = sorted(root.rglob(PLAN))
    if not plans:
        raise ConfigError(
            f'--status {root}: no {PLAN} in it; compare.py writes one into --out when it begins.'
        )
    runs = {path.parent.resolve(): _read_alone(path) for path in root.glob('*/config.yaml')}
    for path in plans:
        planned = _read_plan(path).items()
        runs |= {(path.parent / folder).resolve(): known for folder, known in planned}
    return [_read_status(RunFolder(folder), known) for folder, known in runs.items()]


def tabulate_statuses(runs: Sequence[RunStatus]) -> Table:
    """Those on top that go on next; how long all take one after the other is in the title."""
    order = (RUNNING, STOPPED, LEFT, DONE)
    rows = [_status_row(one, runs) for one in sorted(runs, key=lambda r: order.index(r.state))]
    counts = [(state, sum(run.state == state for run in runs)) for state in order]
    said = ', '.join(f'{count} {state}' for state, count in counts if count)
    lefts = [left_s(one, runs) for one in runs]
    known = [left for left in lefts if left is not None]
    total = tell_duration(sum(known)) if len(known) == len(lefts) else 'unknown yet'
    title = f'{said}; left, one after the other: {total}'
    return title, ('run', 'state', 'step', 'mIoU %', 'left'), rows


def left_s(one: RunStatus, runs: Sequence[RunStatus]) -> float | None:
    """By its own pace, else by that of its arm's other runs, else by that of all."""
    if not one.steps_left:
        return 0.0
    mates = [run.pace_s for run in runs if run.arm == one.arm and run.pace_s]
    paces = [run.pace_s for run in runs if run.pace_s]
    pace = one.pace_s or (median(mates) if mates else median(paces) if paces else None)
    return None if pace is None else pace * one.steps_left


def tell_duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min'


def _status_row(one: RunStatus, runs: Sequence[RunStatus]) -> tuple[str, ...]:
    left = left_s(one, runs)
    return (
        one.name,
        one.state,
        f'{one.step}/{one.steps}',
        '' if one.miou is None else f'{100 * one.miou:.2f}',
        '?' if left is None else tell_duration(left) if left else '',
    )


def _read_status(folder: RunFolder, known: Mapping[str, Any]) -> RunStatus:
    rows = folder.history()
    step = max((row['step'] for row in rows), default=0)
    scores = [row['miou'] for row in rows if 'miou' in row]
    return RunStatus(
        name=known['name'],
        state=_state_of(folder, step),
        step=step,
        steps=known['steps'] or step,
        pace_s=_pace_s(rows),
        miou=scores[-1] if scores else None,
    )


def _state_of(folder: RunFolder, step: int) -> str:
    if folder.is_finished:
        return DONE
    if folder.is_occupied:
        return RUNNING
    return STOPPED if step else LEFT


def _pace_s(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Of all steps: a shared machine is slow and fast in turns."""
    rates = [(row['step'], row['steps_per_s']) for row in rows if row.get('steps_per_s')]
    if not rates:
        return None
    starts = [0, *(step for step, _ in rates)]
    spent = sum((step - start) / rate for start, (step, rate) in zip(starts, rates))
    return spent / max(1, rates[-1][0])


def _read_alone(config: Path) -> dict[str, Any]:
    """A run that no plan names, as a teacher's."""
    settings = yaml.safe_load(config.read_text(encoding='utf-8')) or {}
    return {'name': config.parent.name, 'steps': settings.get('optim', {}).get('steps')}


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise DataError(
            f'{path}: is damaged ({error}); remove it and start the comparison again.'
        ) from None
    return plan

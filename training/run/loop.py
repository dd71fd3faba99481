# SPDX-License-Identifier: Apache-2.0
"""The run: batches in, a trained bundle, a report and checkpoints out; the same bits when resumed.

A step is a function of (configuration, step number, state), so a run that was killed and goes on
from its last checkpoint ends with the weights of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import math
import time
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn.parallel import DistributedDataParallel

from lidar_kd.bundle import BundleSpec, save_bundle
from lidar_kd.cli.console import Console
from training.data.batch import Batch
from training.data.loader import Loader
from training.data.scan import ScanSet
from training.run.board import Board, NoBoard, open_board
from training.run.checkpoint import (
    describe_machine,
    load_newest,
    save_checkpoint,
    State,
    told_as_damaged,
    warn_of_another_machine,
)
from training.run.config import Config
from training.run.folder import RunFolder
from training.run.interrupt import Interrupted, Interruption
from training.run.loss import DistillationLoss, Terms
from training.run.memory import peak_gb, reset_peak
from training.run.optimiser import (
    Average,
    clip_gradients,
    make_optimizer,
    make_schedule,
    NormCounts,
)
from training.run.random_state import random_state, set_random_state
from training.run.ranks import Ranks
from training.run.running_mean import RunningMean
from training.run.taken_steps import TakenStep, TakenSteps
from training.run.validation import Validation

_DRAW = 3  # a use of the seed; the loader has 1 and 2
_RELEASE_EVERY = 8  # steps; each time costs a small network 15 % of a step to take it back


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What a run is made of."""

    config: Config
    distillation: DistillationLoss
    spec: BundleSpec
    loader: Loader
    validation: ScanSet
    folder: RunFolder
    device: torch.device
    ranks: Ranks


class Run:
    def __init__(self, parts: Parts, console: Console) -> None:
        self.config, self.console, self.folder = parts.config, console, parts.folder
        self.distillation = parts.distillation.to(parts.device)
        self._parts, self._ranks, self._device = parts, parts.ranks, parts.device
        optim = parts.config.optim
        per_epoch = len(parts.loader)
        self.total = optim.steps or math.ceil(optim.epochs * per_epoch)
        validate = parts.config.validate_
        self._round = validate.steps or max(1, round(validate.every * per_epoch))
        self._amp = amp_type(optim.precision, parts.device)
        self._scaler = torch.amp.GradScaler(parts.device.type, enabled=self._amp == torch.float16)
        skips = self._scaler.is_enabled()
        self._optimizer = make_optimizer(self.distillation, optim, skips=skips)
        self._norms = NormCounts(self.distillation.student) if skips else None
        self._schedule = make_schedule(self._optimizer, optim, self.total)
        self._average = Average(self.distillation.student, optim.ema) if optim.ema else None
        self._teach: nn.Module = self.distillation
        if parts.ranks.world > 1:
            self._teach = DistributedDataParallel(self.distillation, find_unused_parameters=True)
        self.step = 0
        self.validation = Validation(
            validate, parts.validation, parts.spec, device=parts.device, ranks=parts.ranks
        )
        self._running_mean = RunningMean()
        self._taken = TakenSteps(self._running_mean, skips=skips)
        self._board: Board = NoBoard()
        self._has_warned = False

    def fit(self) -> None:
        """Trains from where the folder's checkpoint left off to the end."""
        self._resume()
        if self._ranks.is_first:
            self._board = open_board(self.folder.path / 'tensorboard')
        reset_peak(self._device)
        saved = time.monotonic()
        batches = self._batches()
        with Interruption() as interruption, self._progress() as advance:
            while self.step < self.total and not self.validation.is_stale:
                self._learn(next(batches))
                advance()
                if self.step % self.config.log_every == 0 or self.step == self.total:
                    self._log()
                if self.step % self._round == 0 or self.step == self.total:
                    self._validate()
                    saved = -math.inf
                    if self.validation.is_stale and self._has_unlogged_steps():
                        self._log()
                due = time.monotonic() - saved > self.config.save_every_s
                if self._ranks.any(due or interruption.wanted):
                    self._save(self.folder.last)
                    saved = time.monotonic()
                    if self._ranks.any(interruption.wanted):
                        raise Interrupted(self.folder.path, self.step)

    def _learn(self, batch: Batch) -> None:
        if not len(batch.voxels.level) and not self._has_warned:
            self._has_warned = True
            self.console.warn(
                f'step {self.step}: no point of {" ".join(batch.names)} lies in the grid: nothing '
                'to learn there; if these are no scans without echoes, change model.grid'
            )
        batch = batch.to(self._device)
        self.distillation.train()
        rng = np.random.default_rng([self.config.seed, _DRAW, self.step, self._ranks.rank])
        if self._norms is not None:
            self._norms.keep()
        with torch.autocast(self._device.type, self._amp, enabled=self._amp is not None):
            terms: Terms = self._teach(batch, rng)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(terms.loss).backward()
        self._scaler.unscale_(self._optimizer)
        norm = self._clip()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._norms is not None:
            self._norms.undo_unless(norm.isfinite())
        self._schedule.step()
        if self._average is not None:
            self._average.update(self.distillation.student, self.step)
        if self.step % _RELEASE_EVERY == 0:
            batch.voxels.level.engine.memory.release()
        self._taken.add(TakenStep(step=self.step, scans=batch.names, terms=terms, gradient=norm))
        if self._device.type == 'cpu':
            self._taken.settle()
        self.step += 1

    def _clip(self) -> Tensor:
        """The student's gradient and that of the adapters each have the limit to themselves."""
        limit = self.config.optim.clip_norm or math.inf
        theirs = clip_gradients(self.distillation.methods.parameters(), limit)
        norm = clip_gradients(self.distillation.student.parameters(), limit)
        if not self._scaler.is_enabled():
            return norm
        return norm + 0 * theirs  # the scaler leaves out the step where one of them overflows

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self._parts.loader

    def _log(self) -> None:
        loader = self._parts.loader
        self._taken.settle()
        row = self._running_mean.close(self.step, waited_s=loader.waited_s)
        row |= {'epoch': round(self.step / len(loader), 3)}
        row |= {'lr': self._schedule.get_last_lr()[0]}
        row |= {'peak_gb': peak_gb(self._device)}
        if not self._ranks.is_first:
            return
        self._record(row)
        if not self.console.is_terminal:
            self.console.line(self._describe(row))
        if self.distillation.weights.settled_within(self.config.log_every):
            self._show_weights()

    def _has_unlogged_steps(self) -> bool:
        return self.step < self.total and self.step % self.config.log_every > 0

    def _show_weights(self) -> None:
        """What the published weights cannot tell: how much each term pulls."""
        table = self.distillation.weights.table()
        columns = ['term', 'factor', 'gradient / supervision', 'weighted']
        rows = [[name, *(f'{value:.3g}' for value in values)] for name, *values in table]
        self.console.table('gradients at the shared features, by the warm-up', columns, rows)
        for name in self.distillation.weights.without_gradient():
            self.console.warn(f'{name} had no gradient in the warm-up, so it does not count')

    def _record(self, row: dict[str, Any]) -> None:
        self.folder.append(row)
        self._board.add(row)

    def _describe(self, row: dict[str, Any]) -> str:
        rate = row['steps_per_s']
        terms = '  '.join(f'{name} {row[name]:.3g}' for name in self._running_mean.names)
        left_out = f'  left out {row["left_out"]} (overflow)' if 'left_out' in row else ''
        left_s = (self.total - self.step) / max(rate, 1e-9)
        return (
            f'step {self.step}/{self.total}  {terms}{left_out}  lr {row["lr"]:.2g}  '
            f'{rate:.2f} steps/s  '
            f'waiting {row["wait_share"]:.0%}  ETA {left_s / 60:.0f} min'
        )

    def _validate(self) -> None:
        self._taken.settle()
        confusion = self.validation.score_network(self._network())
        kept = self.validation.keeps(confusion, self.step)
        if kept:
            self._save(self.folder.best)
        if not self._ranks.is_first:
            return
        row = self.validation.make_row(confusion, self.step)
        self._record(row)
        self.console.line(
            f'epoch {self.step / len(self._parts.loader):.1f}  step {self.step}/{self.total}  '
            f'mIoU {row["miou"]:.1%} (classes that occur)  hard classes {row["hard_miou"]:.1%}'
            f'{"  kept" * kept}'
        )
        if kept:
            spec = self.validation.describe_weights(confusion, f'{self.step} of {self.total}')
            save_bundle(self.folder.bundle, self._network(), spec)

    def _network(self) -> nn.Module:
        return self._average.model if self._average else self.distillation.student

    def _save(self, path: Any) -> None:
        """Every rank takes part; the first one writes."""
        self._taken.settle()
        rng = self._ranks.gather(random_state(self._device))
        if not self._ranks.is_first:
            return
        state: State = {
            'spec': self._parts.spec.model_dump_json(),
            'step': self.step,
            'model': self.distillation.student.state_dict(),
            'distillation': self.distillation.state(),
            'ema': self._average.model.state_dict() if self._average else None,
            'optimizer': self._optimizer.state_dict(),
            'schedule': self._schedule.state_dict(),
            'scaler': self._scaler.state_dict(),
            'loader': self._parts.loader.state(),
            'rng': rng,
            'running_mean': self._running_mean.state(),
            'best': self.validation.state(),
            'machine': describe_machine(self._device),
        }
        save_checkpoint(path, state)

    def _resume(self) -> None:
        state = load_newest(self.folder, self.console)
        if state is None:
            self._forget_rows()
            return
        with told_as_damaged(self.folder):
            self._restore(state)
        warn_of_another_machine(state, self._device, self.console)
        self._forget_rows()
        self.console.line(f'going on from step {self.step} of {self.total}')

    def _restore(self, state: State) -> None:
        self._parts.loader.load_state(state['loader'])
        self.distillation.student.load_state_dict(state['model'])
        self.distillation.load_state(state['distillation'])
        if self._average is not None:
            self._average.model.load_state_dict(state['ema'])
        self._optimizer.load_state_dict(state['optimizer'])
        self._scaler.load_state_dict(state['scaler'])
        self.step = state['step']
        self._schedule.load_state_dict(state['schedule'])
        set_random_state(state['rng'][self._ranks.rank], self._device)
        self._running_mean.load_state(state['running_mean'])
        self.validation.load_state(state['best'])

    def _forget_rows(self) -> None:
        """Those that an earlier try wrote and this one will write again."""
        if self._ranks.is_first:
            self.folder.forget_after(self.step)

    def _progress(self) -> Any:
        """A bar on a terminal; elsewhere the log lines tell."""
        if self.console.is_terminal:
            return self.console.progress(self.total - self.step, 'training', unit='steps')
        return Console(quiet=True).progress(self.total, '')


def amp_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of automatic mixed precision; none on a CPU, where `high` is faster."""
    on_cpu = device.type == 'cpu'
    high = precision == 'high' or (on_cpu and precision != 'float32')
    # both ways: an earlier run of this process, a teacher's, may have left the other
    torch.set_float32_matmul_precision('high' if high else 'highest')
    if on_cpu:
        return None
    types = {'bfloat16': torch.bfloat16, 'float16': torch.float16, 'auto': torch.bfloat16}
    return types.get(precision)

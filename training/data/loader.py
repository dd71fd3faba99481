# SPDX-License-Identifier: Apache-2.0
"""From a set of scans to batches, epoch after epoch.

The order of an epoch comes from (seed, epoch), what happens to a scan from (seed, epoch, index):
neither the number of workers nor an interruption changes a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
import os
import signal
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch.utils.data import DataLoader, Dataset

from lidar_kd.errors import ConfigError, DataError, LidarKdError
from lidar_kd.sensor.intensity import limit_intensity
from training.data.augment import augment, Augmentation
from training.data.batch import AnyGrid, Batch, make_batch, TeacherInput
from training.data.scan import Scan, Scans

# A seed sequence does not tell [s, e] from [s, e, 0], hence a number for each use.
_ORDER, _AUGMENT = 1, 2
State = dict[str, int]


class Turn(NamedTuple):
    """One scan's turn in one epoch."""

    epoch: int
    scan: int


def epoch_order(size: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(size)


class TrainingScans(Dataset[Scan]):
    """Scans as the network sees them in training; turn -> scan."""

    def __init__(
        self,
        scans: Scans,
        augmentation: Augmentation,
        *,
        seed: int,
        bank: Sequence[Scan] = (),
        intensity_scale: float = 1.0,  # as in the bundle's IntensitySpec
        keep_unmoved: bool = False,  # for a teacher that sees every scan as it is
    ) -> None:
        self.scans, self.augmentation = scans, augmentation
        self.seed, self.bank, self.intensity_scale = seed, bank, intensity_scale
        self.keep_unmoved = keep_unmoved

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, turn: Turn) -> Scan:
        rng = np.random.default_rng([self.seed, _AUGMENT, turn.epoch, turn.scan])
        scan = self.scans[turn.scan]
        if self.keep_unmoved:
            scan = replace(scan, unmoved=scan.points.copy())
        scan = augment(
            scan,
            self.augmentation,
            rng,
            table=self.scans.table,
            draw_scan=lambda: self.scans[int(rng.integers(len(self.scans)))],
            bank=self.bank,
        )
        for points in (scan.points, scan.unmoved):
            if points is not None:
                points[:, 3] *= self.intensity_scale
                limit_intensity(points[:, 3])  # as the Segmenter does
        return scan


class _Careful(Dataset['Scan | LidarKdError']):
    """Hands a scan's error on: raised in a worker it would come wrapped in a traceback."""

    def __init__(self, scans: TrainingScans) -> None:
        self._scans = scans

    def __getitem__(self, turn: Turn) -> Scan | LidarKdError:
        try:
            return self._scans[turn]
        except LidarKdError as error:
            return error


def _collate(
    scans: Sequence[Scan | LidarKdError], grid: AnyGrid, teacher_inputs: Sequence[TeacherInput]
) -> Batch | LidarKdError:
    whole = []
    for scan in scans:
        if isinstance(scan, LidarKdError):
            return scan
        whole.append(scan)
    try:
        return make_batch(whole, grid=grid, teacher_inputs=teacher_inputs)
    except LidarKdError as error:
        return error


class _Turns:
    """The turns of this rank from batch `first` of an epoch on; the ranks' batches side by side
    make the batch of one process.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._rank, self._whole = rank, batch_size * world
        self.epoch = self.first = 0

    def __len__(self) -> int:
        """Batches of an epoch; the rest that fills no batch waits for another epoch's order."""
        return max(1, self._size // self._whole)

    def __iter__(self) -> Iterator[list[Turn]]:
        epoch = self.epoch
        order = epoch_order(self._size, seed=self._seed, epoch=epoch)
        order = np.resize(order, len(self) * self._whole)  # repeats where a batch exceeds the set
        for batch in order.reshape(len(self), self._whole)[self.first :]:
            mine = batch[self._rank * self._batch_size :][: self._batch_size]
            yield [Turn(epoch, int(index)) for index in mine]


def explain_lost_worker(error: RuntimeError) -> DataError | None:
    """The sentence where torch says that a worker is gone, which it may do at any place."""
    if 'DataLoader worker' not in str(error):
        return None
    return DataError(
        'a process that loads scans was ended from outside, as the system does when memory runs '
        'out; set data.workers lower, then run the same command again: it goes on.'
    )


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C, and what `timeout` or a shell sends to a whole group of processes, are for the run
    alone, which saves itself and then ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)


class Loader:
    """Iterating gives the rest of the current epoch; the next iteration is the next epoch.

    `state()` tells what has been handed out, not what the workers have prepared; `load_state`
    goes on behind it. `waited_s` sums up the time that the caller had to wait for data.
    """

    def __init__(
        self,
        scans: TrainingScans,
        grid: AnyGrid,
        *,
        batch_size: int,
        teacher_inputs: Sequence[TeacherInput] = (),
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._turns = _Turns(len(scans), batch_size, scans.seed, rank, world)
        self._fixed = {
            'seed': scans.seed,
            'scans': len(scans),
            'batch_size': batch_size,
            'world': world,
        }
        self.epoch = self.batch = 0
        self.waited_s = 0.0
        self._loader: DataLoader[Scan | LidarKdError] = DataLoader(
            _Careful(scans),
            batch_sampler=self._turns,  # of turns, not numbers
            collate_fn=partial(_collate, grid=grid, teacher_inputs=teacher_inputs),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_the_run,
            # DataLoader draws a seed of its own per epoch: not from the run's generator
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._turns)

    def __iter__(self) -> Iterator[Batch]:
        self._turns.epoch, self._turns.first = self.epoch, self.batch
        batches = iter(self._loader)
        while self.batch < len(self):
            start = time.perf_counter()
            batch = self._next(batches)
            self.waited_s += time.perf_counter() - start
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def _next(self, batches: Iterator[Batch | LidarKdError]) -> Batch:
        batch = next(batches)
        if isinstance(batch, LidarKdError):
            raise batch
        return batch

    def state(self) -> State:
        return {'epoch': self.epoch, 'batch': self.batch, **self._fixed}

    def load_state(self, state: State) -> None:
        for key, value in self._fixed.items():
            if state.get(key) != value:
                raise ConfigError(
                    f'cannot resume: the interrupted run had {key} {state.get(key)}, this one '
                    f'has {value}; set it back or start a new run.'
                )
        self.epoch, self.batch = state['epoch'], state['batch']

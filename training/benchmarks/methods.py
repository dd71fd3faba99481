# SPDX-License-Identifier: Apache-2.0
"""`bench.py methods`: what each method's terms cost beside the student's step and the teacher.

Terms are timed from the networks' answers to the gradient at the student's answers, with the
smallest pair of networks, beside which they weigh most. Consistent teaching from disk is what a
teacher costs that has answered before: voxels of the scans as it saw them, and its answers read.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
import multiprocessing
from pathlib import Path
import tempfile

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn

from lidar_kd.cli.console import Console
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.models.output import Output
from lidar_kd.sparse import fold_norms, select_engine
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels
from training.benchmarks.clock import Clock
from training.benchmarks.scans import distinct_scans
from training.data.batch import Batch, make_batch
from training.data.scan import Scan
from training.methods import build_methods, METHODS
from training.methods.inputs import Inputs, LabelStatistics, Widths
from training.methods.m2skd import M2skdSettings
from training.methods.pvkd import PvkdSettings
from training.methods.srkd import SrkdSettings
from training.methods.supervised import Supervised, SupervisedSettings
from training.run.align import align_own, make_inputs
from training.run.loss import DistillationLoss
from training.run.teacher_cache import CachedTeacher

STUDENT, TEACHER, GRID = 'minkunet_quarter', 'minkunet_half', CartesianGrid(voxel_m=0.2)
BATCH = 4  # scans
CLASSES = SEMANTICKITTI.num_classes
SUPERVISED = 'supervised'
FROM_DISK = 'consistent teaching from disk'  # what it costs beside the student's step
WHATS = (*METHODS, SUPERVISED)


@dataclass(frozen=True)
class MethodSettings:
    srkd: SrkdSettings = SrkdSettings(points=1024)
    pvkd: PvkdSettings = PvkdSettings()
    m2skd: M2skdSettings = M2skdSettings()


def run_methods(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    pair, batches, source = _Pair(), *_make_batches(max(1, scans // BATCH))
    voxels = [len(batch.voxels.level) for batch in batches]
    console.banner(
        f'methods: {BATCH} scans per step at {GRID.voxel_m} m, {STUDENT} taught by {TEACHER}',
        {
            'scans': f'{source}, labels made up, {int(np.median(voxels))} voxels per step',
            'threads': torch.get_num_threads(),
        },
    )
    clock = Clock()
    with console.progress((repeats + 1) * len(batches), 'measuring') as advance:
        for repeat in range(repeats + 1):
            for index, batch in enumerate(batches):
                pair.measure(batch, index, clock if repeat else Clock())  # the first warms up
                advance()
    return _report(console, clock, peaks_mb())


class _Pair:
    """Both networks and what is between them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        select_engine('cpu').memory.tune(live=False)
        self.student = build_model(STUDENT, classes=CLASSES).train()
        self.teacher = fold_norms(build_model(TEACHER, classes=CLASSES).eval())
        self.teacher.requires_grad_(False)
        self.methods = build_methods(
            MethodSettings(),
            student=_widths(self.student),
            teachers=dict.fromkeys(METHODS, _widths(self.teacher)),
            statistics=LabelStatistics(
                table=SEMANTICKITTI, class_shares=np.full(CLASSES, 1 / CLASSES)
            ),
        )
        self.supervised = Supervised(SupervisedSettings(), torch.ones(CLASSES))
        self._step = DistillationLoss(self.student, self.supervised)
        self._folder = tempfile.TemporaryDirectory()
        self._kept = CachedTeacher(self._ask, Path(self._folder.name))

    def measure(self, batch: Batch, index: int, clock: Clock) -> None:
        clock.time('student step', index, lambda: self._learn(batch))
        theirs = clock.time('teacher', index, lambda: self.ask_teacher(batch))
        self.recall(batch)  # the first time it is asked
        clock.time(FROM_DISK, index, lambda: self.recall(batch))
        ours = self.answer(batch)
        for what in WHATS:
            inputs = compare(ours, theirs, batch)
            clock.time(what, index, partial(self.teach, what, inputs))

    def teach(self, what: str, inputs: Inputs) -> None:
        """The terms and their gradient at the student's answers."""
        if what == SUPERVISED:
            terms = self.supervised(inputs)
        else:
            terms = self.methods[what](inputs, np.random.default_rng(0))
        torch.stack(list(terms.values())).sum().backward()

    def answer(self, batch: Batch) -> Output:
        """What the student says; there the gradient ends."""
        with torch.no_grad():
            ours: Output = self.student(batch.voxels)
        for answer in (ours.voxel_logits, ours.voxel_features, ours.early_features):
            assert answer is not None
            answer.requires_grad_()
        return ours

    def ask_teacher(self, batch: Batch) -> Output:
        return self._ask(batch.voxels)

    def recall(self, batch: Batch) -> Output:
        """What the teacher said of these points, on voxels that are its own."""
        return self._kept(voxelize(batch.points, GRID, batch=batch.owner))

    @torch.no_grad()
    def _ask(self, voxels: Voxels) -> Output:
        answer: Output = self.teacher(voxels)
        return answer

    def _learn(self, batch: Batch) -> None:
        self._step(batch, np.random.default_rng(0)).loss.backward()
        self.student.zero_grad(set_to_none=True)
        batch.voxels.level.engine.memory.release()


def compare(ours: Output, theirs: Output, batch: Batch) -> Inputs:
    """A fresh comparison: what the answers remember of an earlier one is not taken over."""
    inputs = make_inputs(replace(ours), batch, CLASSES)
    return replace(inputs, teacher=align_own(replace(theirs)))


def _widths(network: nn.Module) -> Widths:
    point, voxel, early = (
        int(getattr(network, f'{kind}_width')) for kind in ('point', 'voxel', 'early')
    )
    return Widths(classes=CLASSES, point=point, voxel=voxel, early=early)


def _make_batches(count: int) -> tuple[list[Batch], str]:
    clouds, source = distinct_scans(count * BATCH)
    batches = [
        make_batch([_label(cloud) for cloud in clouds[first : first + BATCH]], GRID)
        for first in range(0, len(clouds), BATCH)
    ]
    return batches, source


def _label(cloud: NDArray[np.float32]) -> Scan:
    """Every cube of 2 m is an object of some class."""
    cells = np.floor(cloud[:, :3] / 2).astype(np.int64)
    number = np.abs(cells @ np.array([73856093, 19349663, 83492791]))
    return Scan(
        points=cloud,
        labels=(number % CLASSES).astype(np.uint8),
        instances=(number % 9973 + 1).astype(np.uint32),
    )


def _report(console: Console, clock: Clock, peaks: dict[str, float]) -> dict[str, float]:
    step, teacher = clock.median('student step'), clock.median('teacher')
    rows = [['student step', f'{step:.0f}', '', ''], ['teacher', f'{teacher:.0f}', '', '']]
    disk = clock.median(FROM_DISK)
    rows.append([f'{FROM_DISK}: {disk / step:.1%} of the step', f'{disk:.0f}', '', ''])
    metrics = {'student_step_ms': step, 'teacher_ms': teacher, 'from_disk_ms': disk}
    metrics['from_disk_share'] = disk / step
    for what in WHATS:
        ms = clock.median(what)
        share = ms / (step + teacher)
        rows.append([what, f'{ms:.0f}', f'{share:.1%}', f'{peaks[what]:.0f}'])
        metrics |= {f'{what}_ms': ms, f'{what}_share': share, f'{what}_mb': peaks[what]}
    columns = ['what', 'ms', 'of step and teacher', 'peak MB']
    console.table('medians; the supervised losses are part of the student step', columns, rows)
    return metrics


def peaks_mb() -> dict[str, float]:
    """Resident memory that the terms add at their peak, each in a process that has only imported.

    All of these are forks of one that did, for to import takes longer than to measure.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as importing:
        return importing.submit(_measure_peaks).result()


def _measure_peaks() -> dict[str, float]:
    peaks = {}
    for what in WHATS:
        with ProcessPoolExecutor(1, multiprocessing.get_context('fork')) as process:
            peaks[what] = process.submit(_measure_peak, what).result()
    return peaks


def _measure_peak(what: str) -> float:
    pair, (batches, _) = _Pair(), _make_batches(1)
    inputs = compare(pair.answer(batches[0]), pair.ask_teacher(batches[0]), batches[0])
    select_engine('cpu').memory.release()
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts again from here
    before = _status('VmRSS')
    pair.teach(what, inputs)
    return (_status('VmHWM') - before) / 1000


def _status(key: str) -> float:
    """A line of this process's status, in kB."""
    status = Path('/proc/self/status').read_text()
    return 1.024 * int(status.split(f'{key}:')[1].split()[0])

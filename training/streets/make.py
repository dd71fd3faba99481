# SPDX-License-Identifier: Apache-2.0
"""Makes whole data sets: many sequences, several processes, only what is still missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
import multiprocessing
import os
from pathlib import Path

from lidar_kd.errors import ConfigError
from training.live.tie import tie_worker
from training.streets.quarters import quarter
from training.streets.sensors import sensor
from training.streets.sequence import Sequence, Settings
from training.streets.writer import folder_of, is_done, prepare, write_drive, write_scan

_SCANS_PER_TASK = 25  # neighbours share a scene, so they are made by one process
MAX_SEQUENCES = 100  # two digits in the layout
EDITION = 2  # of the generator: another one makes other streets from the same seed


@dataclass(frozen=True, kw_only=True)
class Task:
    """Scans of one sequence for one process."""

    root: Path
    settings: Settings
    scans: tuple[int, ...]


def make_streets(
    root: Path,
    settings: Settings,
    *,
    sequences: int,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Make what is missing under `root`; returns the number of scans made.

    `settings.index` is the number of the first sequence; `progress` is called after each scan.
    """
    _check(settings, sequences, workers)
    tasks = list(plan(root, settings, sequences))
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            for _ in _run(task):
                progress()
    else:
        _run_in_processes(tasks, workers, progress)
    return sum(len(task.scans) for task in tasks)


def plan(root: Path, settings: Settings, sequences: int) -> Iterator[Task]:
    """Prepares the folders and cuts the missing scans into tasks."""
    for index in range(settings.index, settings.index + sequences):
        one = replace(settings, index=index)
        folder = folder_of(root, index)
        prepare(folder, _describe(one))
        missing = [scan for scan in range(one.scans) if not is_done(folder, scan)]
        for start in range(0, len(missing), _SCANS_PER_TASK):
            scans = tuple(missing[start : start + _SCANS_PER_TASK])
            yield Task(root=root, settings=one, scans=scans)


def _describe(settings: Settings) -> str:
    """All that a scan depends on; in streets.txt of the sequence."""
    return f'{settings}, edition {EDITION}\n'


def _check(settings: Settings, sequences: int, workers: int) -> None:
    sensor(settings.sensor)
    if settings.quarter != 'mixed':
        quarter(settings.quarter)
    if min(sequences, settings.scans, workers) < 1:
        raise ConfigError('sequences, scans and workers must be at least 1.')
    if settings.index < 0 or settings.index + sequences > MAX_SEQUENCES:
        raise ConfigError(f'sequence numbers must be within 0..{MAX_SEQUENCES - 1}.')
    if settings.seed < 0 or not 0 <= settings.enrich <= 1000:
        raise ConfigError('the seed must be at least 0 and enrich within 0..1000.')


def _run_in_processes(tasks: list[Task], workers: int, progress: Callable[[], None]) -> None:
    context = multiprocessing.get_context('spawn')  # Embree's threads do not survive a fork
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=tie_worker, initargs=(os.getpid(),)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_run_all, task) for task in tasks]):
                for _ in range(future.result()):
                    progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run_all(task: Task) -> int:
    return sum(1 for _ in _run(task))


def _run(task: Task) -> Iterator[int]:
    sequence = _sequence(task.settings)
    folder = folder_of(task.root, task.settings.index)
    if not (folder / 'times.txt').is_file():
        poses = [sequence.pose(scan) for scan in range(task.settings.scans)]
        write_drive(folder, poses, sequence.times_s())
    for scan in task.scans:
        write_scan(folder, scan, sequence.scan(scan))
        yield scan


@lru_cache(maxsize=1)
def _sequence(settings: Settings) -> Sequence:
    return Sequence(settings)

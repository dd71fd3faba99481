# SPDX-License-Identifier: Apache-2.0
"""Makes data sets of the varied world: many sequences, several processes, only what is missing."""

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
from training.streets.make import MAX_SEQUENCES
from training.streets.writer import folder_of, is_done, prepare, write_scan
from training.worlds.devices import ANY, DEVICES
from training.worlds.kinds import PLACES
from training.worlds.scene import VariedSequence, Variety
from training.worlds.standpoint import MOUNTS

EDITION = 4  # of the generator: another one makes another world from the same seed


@dataclass(frozen=True, kw_only=True)
class Portion:
    """Scans of one scene for one process."""

    root: Path
    variety: Variety
    scans: tuple[int, ...]


def generate_world(
    root: Path,
    variety: Variety,
    *,
    sequences: int,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Make what is missing under `root`; returns the number of scans made.

    `variety.index` is the number of the first sequence; `progress` is called after each scan.
    """
    check_variety(variety, sequences, workers)
    portions = list(divide(root, variety, sequences))
    if workers == 1 or len(portions) < 2:
        for portion in portions:
            _generate(portion, progress)
    else:
        _generate_in_processes(portions, workers, progress)
    return sum(len(portion.scans) for portion in portions)


def divide(root: Path, variety: Variety, sequences: int) -> Iterator[Portion]:
    """Prepares the folders and cuts the missing scans into portions of one scene each."""
    for index in range(variety.index, variety.index + sequences):
        one = replace(variety, index=index)
        folder = folder_of(root, index)
        prepare(folder, f'{one}, edition {EDITION}\n')
        for first in range(0, one.scans, one.scans_per_scene):
            scans = range(first, min(first + one.scans_per_scene, one.scans))
            if missing := tuple(scan for scan in scans if not is_done(folder, scan)):
                yield Portion(root=root, variety=one, scans=missing)


def check_variety(variety: Variety, sequences: int, workers: int) -> None:
    """A name nobody knows, or a number out of its range, in one sentence."""
    known = {'sensor': [ANY, *DEVICES], 'mount': [*MOUNTS], 'place': ['mixed', *PLACES]}
    for key, names in known.items():
        if (value := getattr(variety, key)) not in names:
            raise ConfigError(f"unknown {key} '{value}'; known are {', '.join(names)}.")
    if min(sequences, variety.scans, variety.scans_per_scene, workers) < 1:
        raise ConfigError('sequences, scans, scans per scene and workers must be at least 1.')
    if variety.index < 0 or variety.index + sequences > MAX_SEQUENCES:
        raise ConfigError(f'numbers of sequences must be within 0..{MAX_SEQUENCES - 1}.')
    if variety.seed < 0 or not 0 <= variety.enrich <= 1000:
        raise ConfigError('the seed must not be negative and enrich must be within 0..1000.')


def _generate_in_processes(
    portions: list[Portion], workers: int, progress: Callable[[], None]
) -> None:
    context = multiprocessing.get_context('spawn')  # Embree's threads do not survive a fork
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=tie_worker, initargs=(os.getpid(),)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_generate, each) for each in portions]):
                for _ in range(future.result()):
                    progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _generate(portion: Portion, progress: Callable[[], None] = lambda: None) -> int:
    sequence, folder = _sequence(portion.variety), folder_of(portion.root, portion.variety.index)
    for scan in portion.scans:
        write_scan(folder, scan, sequence.scan(scan))
        progress()
    return len(portion.scans)


@lru_cache(maxsize=1)
def _sequence(variety: Variety) -> VariedSequence:
    return VariedSequence(variety)

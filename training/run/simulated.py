# SPDX-License-Identifier: Apache-2.0
"""Simulated data of a configuration: made when missing, found again by a digest of its origin."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
import hashlib
from itertools import chain
from operator import itemgetter
import os
from pathlib import Path
from types import ModuleType

from lidar_kd.cli.console import Console
from training.data.settings import Streets, VARIED
from training.streets import make as streets_code
from training.streets.make import make_streets, plan
from training.streets.sequence import Settings
from training.worlds import generate as worlds_code
from training.worlds.generate import divide, generate_world
from training.worlds.scene import Variety

# what changed in the simulator's code while its streets did not: (now, then), so that streets that
# are there are found again
RENAMED = (
    (b'training.streets', b'training.data.streets'),
    (b'SimulatedScan', b'Scan'),
    (b'DataError, write_atomically', b'DataError\nfrom lidar_kd.files import write_atomically'),
    (b'temporary.write_bytes(scan.', b'scan.'),
    (b').tobytes())\n', b').tofile(temporary)\n'),
    (b'import multiprocessing\nimport os\n', b'import multiprocessing\n'),
    (b'from training.live.tie import tie_worker\n', b''),
    (b'(\n        workers, mp_context=context,', b'(workers, mp_context=context,'),
    (b', initializer=tie_worker, initargs=(os.getpid(),)\n    )', b')'),
)  # fmt: skip

Parts = list[tuple[int, int, float]]  # number of the first sequence, how many, enrich


def simulate(settings: Streets, root: Path, console: Console) -> Path:
    """The folder with these streets; makes what is missing of them."""
    folder = root / f'{settings.sensor}-{digest_streets(settings)}'
    scored = settings.train + settings.validation
    parts = [
        (0, settings.train, settings.enrich),
        (settings.train, settings.validation, settings.enrich_validation),
        (scored, settings.unlabelled, settings.enrich),
    ]
    chosen = list(filter(itemgetter(1), parts))
    make = _make_varied if settings.world == VARIED else _make_drives
    make(settings, chosen, folder, console)
    return folder


def _make_drives(settings: Streets, parts: Parts, folder: Path, console: Console) -> None:
    drives = {
        Settings(
            seed=settings.seed, index=first, scans=settings.scans, sensor=settings.sensor,
            quarter=settings.quarter, enrich=enrich,
        ): count
        for first, count, enrich in parts
    }  # fmt: skip
    tasks = chain.from_iterable(plan(folder, drive, count) for drive, count in drives.items())
    with _progress(console, sum(len(task.scans) for task in tasks)) as advance:
        for drive, count in drives.items():
            make_streets(folder, drive, sequences=count, workers=_workers(), progress=advance)


def _make_varied(settings: Streets, parts: Parts, folder: Path, console: Console) -> None:
    worlds = {
        Variety(
            seed=settings.seed, index=first, scans=settings.scans, sensor=settings.sensor,
            mount=settings.mount, place=settings.place, enrich=enrich,
        ): count
        for first, count, enrich in parts
    }  # fmt: skip
    portions = chain.from_iterable(divide(folder, each, n) for each, n in worlds.items())
    with _progress(console, sum(len(portion.scans) for portion in portions)) as advance:
        for world, count in worlds.items():
            generate_world(folder, world, sequences=count, workers=_workers(), progress=advance)


def _progress(console: Console, missing: int) -> AbstractContextManager[Callable[[], None]]:
    return console.progress(missing, 'simulating streets')


def _workers() -> int:
    return os.cpu_count() or 1


def digest_streets(settings: Streets) -> str:
    """Changes with the settings and with the simulator: old streets are never taken for new."""
    varied = settings.world == VARIED
    left_out = {'labelled', 'unlabelled', *(() if varied else ('world', 'mount', 'place'))}
    digest = hashlib.sha256(settings.model_dump_json(exclude=left_out).encode())
    for code in (streets_code, worlds_code) if varied else (streets_code,):
        for text in _read_code(code):
            digest.update(text)
    return digest.hexdigest()[:10]


def _read_code(module: ModuleType) -> list[bytes]:
    """All files of the module's room, as they were before what was renamed was renamed."""
    files = []
    for path in sorted(Path(str(module.__file__)).parent.glob('*.py')):
        text = path.read_bytes()
        for new, old in RENAMED:
            text = text.replace(new, old)
        files.append(text)
    return files

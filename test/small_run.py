# SPDX-License-Identifier: Apache-2.0
"""A street of six scans in SemanticKITTI's layout, and runs on it that take a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from started_command import run_command
import torch
from torch import Tensor
import yaml

from lidar_kd.bundle import BundleSpec, IntensitySpec, ModelSpec, save_bundle
from lidar_kd.cli.console import Console
from lidar_kd.labels import ClassTable, SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.run.build import build_parts
from training.run.config import Config, load_config
from training.run.folder import RunFolder
from training.run.loop import Parts, Run
from training.run.ranks import Ranks
from training.run.sources import open_sources
from training.run.teachers import FrozenTeacher, load_teacher
from training.run.teaching import plan_teaching

ROOT = Path(__file__).resolve().parents[1]
CALIB = 'Tr: 0 -1 0 0 0 0 -1 -1 1 0 0 0\n'
SEQUENCES = {'00': 4, '08': 2}  # scans to learn from and to score
ROAD, BUILDING, TREES, CAR, PERSON = 40, 50, 70, 252, 30  # raw ids
TIMES = {'steps_per_s', 'wait_share', 'peak_gb'}  # in metrics.jsonl, never the same twice
Settings = dict[str, Any]


def make_street(root: Path) -> Path:
    for name, count in SEQUENCES.items():
        sequence = root / 'sequences' / name
        for folder in ('velodyne', 'labels'):
            (sequence / folder).mkdir(parents=True)
        poses = ''.join(f'1 0 0 0 0 1 0 0 0 0 1 {frame}\n' for frame in range(count))
        (sequence / 'poses.txt').write_text(poses)
        (sequence / 'calib.txt').write_text(CALIB)
        for frame in range(count):
            points, raw = make_scan(np.random.default_rng([int(name), frame]), frame)
            points.tofile(sequence / 'velodyne' / f'{frame:06}.bin')
            raw.tofile(sequence / 'labels' / f'{frame:06}.label')
    return root


def make_scan(rng: np.random.Generator, frame: int) -> tuple[NDArray, NDArray]:
    """The sensor drives 1 m ahead per frame, between two walls with trees."""
    parts = (
        (ROAD, 900, (-20, -5, -1.75), (20, 5, -1.7)),
        (BUILDING, 500, (-20, 8, -1.7), (20, 8.3, 4)),
        (TREES, 400, (-20, -9, -1.7), (20, -7, 2)),
        (CAR | 1 << 16, 150, (8.0 - frame, 1, -1.7), (11.0 - frame, 2.5, -0.3)),
        (PERSON | 2 << 16, 80, (5.0 - frame, -3, -1.7), (5.5 - frame, -2.5, 0)),
    )
    points = [np.c_[rng.uniform(low, high, (n, 3)), rng.random(n)] for _, n, low, high in parts]
    raw = np.repeat([part[0] for part in parts], [part[1] for part in parts])
    return np.concatenate(points).astype('<f4'), raw.astype('<u4')


def settings_on(street: Path, **changes: Any) -> Settings:
    """A supervised run of 6 steps that validates every third; `a__b=c` changes the key a.b."""
    settings: Settings = {
        'name': 'small',
        'device': 'cpu',
        'threads': 2,
        'data': {'kind': 'semantickitti', 'root': str(street), 'train': ['00'], 'workers': 0},
        'model': {
            'name': 'minkunet',
            'settings': {'width': 0.125},
            'grid': {'kind': 'cartesian', 'voxel_m': 0.5},
        },
        'optim': {'steps': 6, 'batch_size': 2},
        'validate': {'every': 1.5, 'pictures': 0},
        'log_every': 1,
        'save_every_s': 1000.0,  # after a validation only
    }
    settings['data']['validation'] = ['08']
    for place, value in changes.items():
        *sections, key = place.split('__')
        section = settings
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return settings


def write_config(path: Path, settings: Settings) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def make_config(folder: Path, settings: Settings) -> Config:
    return load_config(write_config(folder / 'small.yaml', settings))


def save_teacher(
    path: Path,
    *,
    name: str = 'spvcnn',
    settings: Mapping[str, Any] | None = None,
    grid: CartesianGrid | CylinderGrid | None = None,
    table: ClassTable = SEMANTICKITTI,
    scale: float = 1.0,
) -> Path:
    """A bundle with random weights."""
    settings = {'width': 0.25} if settings is None else dict(settings)
    torch.manual_seed(5)
    spec = BundleSpec(
        model=ModelSpec(name=name, settings=settings),
        grid=grid or CartesianGrid(voxel_m=0.4),
        intensity=IntensitySpec(scale=scale),
        labels=table,
    )
    save_bundle(path, build_model(name, classes=table.num_classes, **settings), spec)
    return path


def prepare(
    config: Config,
    out: Path,
    ranks: Ranks | None = None,
    teachers: Mapping[str, FrozenTeacher] | None = None,
) -> Parts:
    """The teachers are those that the configuration names, unless they are passed in."""
    console = Console(quiet=True)
    sources = open_sources(config.data, console)
    folder = RunFolder(out)
    folder.claim(config, {})
    plan = plan_teaching(config, teachers or find_teachers(config))
    return build_parts(config, sources, folder, console, ranks or Ranks(), plan)


def find_teachers(config: Config) -> dict[str, FrozenTeacher]:
    cpu, scale = torch.device('cpu'), config.data.intensity_scale
    return {
        name: load_teacher([teacher.bundle, *teacher.ensemble], SEMANTICKITTI.name, scale, cpu)
        for name, teacher in config.asked_teachers.items()
        if teacher.bundle is not None
    }


def fit(config: Config, out: Path) -> Run:
    run = Run(prepare(config, out), Console(quiet=True))
    run.fit()
    return run


_DIES = """
import os, signal, sys
sys.path[0] = {root!r}
from training.run.loop import Run
from training.run.perform import {job}, main
from pathlib import Path
learn = Run._learn
def learn_or_die(self, batch):
    if self.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    learn(self, batch)
Run._learn = learn_or_die
main('', {job}, Path())
"""


def run_until_killed(job: str, arguments: list[str], *, step: int, cwd: Path) -> int:
    """The command `job`, which gets a kill -9 when so many steps are done; its exit status."""
    code = _DIES.format(root=str(ROOT), job=job, step=step)
    return run_command(['-c', code, *arguments], cwd=cwd).returncode


def check_same(one: Any, other: Any, place: str = 'state') -> None:
    """Bit for bit, however deep."""
    assert type(one) is type(other), place
    if isinstance(one, Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, Mapping):
        assert list(one) == list(other), place
        for key in one:
            check_same(one[key], other[key], f'{place}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other)):
            check_same(a, b, f'{place}.{index}')
    else:
        assert one == other, place


def without_times(rows: list[Settings]) -> list[Settings]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]

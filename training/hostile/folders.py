# SPDX-License-Identifier: Apache-2.0
"""Hostile archives, data sets and folders of runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
import io
import json
from pathlib import Path
import shutil
import sys
import zipfile

import numpy as np

from lidar_kd.errors import DataError
from training.data.kinds import open_dataset
from training.data.nuscenes import open_nuscenes
from training.hostile.damage import damage_bytes, pick, Rng, spoil_document
from training.hostile.networks import spoil_torch_file
from training.hostile.templates import POINTS
from training.run.perform import main, train
from training.scores.submission import find_problems

LEFT = ('last.pt', 'best.pt', 'metrics.jsonl', 'origins.json', 'config.yaml', 'report.json',
        'best.safetensors', 'log.txt')  # fmt: skip
BOMB_MB = 3000


def make_archive(folder: Path, rng: Rng, templates: Path) -> Path:
    """A submission for one of two servers."""
    kind = str(pick(('street', 'nuscenes'), rng))
    (folder / 'root').symlink_to(templates / kind)
    path = folder / f'{kind}.zip'
    labels = np.full(POINTS, 40, '<u4').tobytes() if kind == 'street' else b'\x01' * POINTS
    members = {
        'street': ('sequences/08/predictions/000000.label',),
        'nuscenes': ('lidarseg/val/k_lidarseg.bin', 'val/submission.json'),
    }[kind]
    meta = {'meta': {f'use_{name}': False for name in ('camera', 'lidar', 'radar', 'map')}}
    with zipfile.ZipFile(path, 'w', int(pick((0, 8, 12, 14), rng))) as file:
        for name in members:
            data = labels if not name.endswith('json') else json.dumps(meta).encode()
            if rng.random() < 0.3:
                data = damage_bytes(data, rng)
            if rng.random() < 0.02:
                data = bytes(64 << 20)
            if name.endswith('json') and rng.random() < 0.3:
                data = json.dumps(spoil_document(meta, rng)).encode()
            file.writestr(name, data)
    if rng.random() < 0.6:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))
    return path


def use_archive(path: Path) -> None:
    if path.stem == 'street':
        problems = find_problems(path, open_dataset('semantickitti', path.parent / 'root', '08'),
                                 'val')  # fmt: skip
    else:
        problems = find_problems(path, open_nuscenes(path.parent / 'root'), 'val')
    if problems:
        raise DataError(problems[0])


def spoil_tables(folder: Path, rng: Rng, templates: Path) -> Path:
    root = Path(shutil.copytree(templates / 'nuscenes', folder / 'nuscenes'))
    _damage_files(sorted(root.rglob('*.*')), rng)
    return root


def make_dataset(folder: Path, rng: Rng, templates: Path) -> Path:
    root = Path(shutil.copytree(templates / 'street', folder / 'street'))
    _damage_files(sorted(root.rglob('*.*')), rng)
    return root


def _damage_files(paths: Sequence[Path], rng: Rng) -> None:
    files = [path for path in paths if path.is_file()]
    for _ in range(int(rng.integers(1, 3))):
        path = Path(pick(files, rng))
        files.remove(path)  # damaged bytes are no document to spoil
        data = path.read_bytes()
        if path.suffix == '.json' and rng.random() < 0.7:
            data = json.dumps(spoil_document(json.loads(data), rng)).encode('utf-8', 'replace')
            path.write_bytes(data)
        else:
            path.write_bytes(damage_bytes(data, rng))


def use_dataset(root: Path) -> None:
    kind = 'nuscenes' if root.name == 'nuscenes' else 'semantickitti'
    scans = open_dataset(kind, root)
    for index in range(len(scans)):
        scans[index]


def make_run_folder(folder: Path, rng: Rng, templates: Path) -> Path:
    """A finished run, or one that was ended before its report, with a file or two spoilt."""
    run = Path(shutil.copytree(templates / 'run', folder / 'run'))
    if rng.random() < 0.8:
        (run / 'report.json').unlink(missing_ok=True)
    for _ in range(int(rng.integers(1, 3))):
        path = run / str(pick(LEFT, rng))
        if path.is_file():
            data = path.read_bytes()
            torch_file = path.suffix == '.pt' and rng.random() < 0.6
            path.write_bytes((spoil_torch_file if torch_file else damage_bytes)(data, rng))
    shutil.copy(templates / 'tiny.yaml', folder / 'tiny.yaml')
    return run


def use_run_folder(run: Path) -> None:
    """As train.py does; what it prints must be sentences."""
    words = ['train.py', '--cfg', str(run.parent / 'tiny.yaml'), '--out', str(run)]
    told, before = io.StringIO(), sys.argv
    try:
        sys.argv = words
        with redirect_stdout(told), redirect_stderr(told):
            code = main('', train, run)
    finally:
        sys.argv = before
    if code not in (0, 2) or 'Traceback' in told.getvalue():
        raise RuntimeError(f'exit {code}: {told.getvalue()[-2000:]}')
    if code == 2:
        raise DataError(told.getvalue().strip().splitlines()[-1])

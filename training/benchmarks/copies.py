# SPDX-License-Identifier: Apache-2.0
"""`bench.py copies`: how often a cloud's bytes are copied on their way to a node."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from training.live.processes import prepare_environment, require_ros, ROOT

SOURCE = Path(__file__).with_name('copies.c')
# else the compiler makes of the copying loop a call of what it is the body of
FLAGS = ['-O2', '-shared', '-fPIC', '-fno-builtin', '-fno-tree-loop-distribute-patterns']
LIMIT_S = 300.0
WORDS = {
    'serialise': 'serialise, without sending',
    'deserialise': 'deserialise',
    'publish': 'publish to the same process',
    'take': 'take in the same process',
    'publish_apart': 'publish to another process',
    'take_apart': 'take in another process',
    'hand_over': 'hand over, as replay_segment_node does',
}


def run_copies(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    """`scans` clouds are sent either way; `repeats` is not used."""
    require_ros()
    prepare_environment()
    with tempfile.TemporaryDirectory(prefix='copies-') as folder:
        library = _build_counter(Path(folder))
        apart = [_start(library, f'take_apart({scans})'), _start(library, f'send_apart({scans})')]
        found = {key: value for each in apart for key, value in _finish(each).items()}
        found |= _finish(_start(library, f'count_alone({scans})'))
    metrics = {f'{name}_copies': found[name] for name in WORDS}
    rows = [[words, f'{found[name]:.1f}'] for name, words in WORDS.items()]
    console.table('copies of a cloud of 2 MB', ['step', 'times its bytes'], rows)
    return metrics


def _build_counter(folder: Path) -> Path:
    if shutil.which('gcc') is None:
        raise ConfigError('copies are counted by a small C library; install gcc.')
    library = folder / 'copies.so'
    command = ['gcc', *FLAGS, str(SOURCE), '-o', str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f'gcc refused {SOURCE.name}: {done.stderr[-300:]}')
    return library


def _start(library: Path, call: str) -> subprocess.Popen[str]:
    code = f'from training.benchmarks.copied import *; {call}'
    environment = {
        **os.environ,
        'LD_PRELOAD': str(library),
        'PYTHONPATH': str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, '-c', code], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str]) -> dict[str, float]:
    """What it has counted, as it wrote it in JSON."""
    try:
        told, said = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise ConfigError(f'no answer within {LIMIT_S:.0f} s; try again.') from None
    if process.returncode:
        raise ConfigError(f'counting ended with {said.strip().splitlines()[-1:]}.')
    counted: dict[str, float] = json.loads(told)
    return counted

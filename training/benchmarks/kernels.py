# SPDX-License-Identifier: Apache-2.0
"""The native kernels compiled with ASan and UBSan, and random work for them in a process apart."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = 'gcc -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all'
# Python and torch leave memory to the end of the process; where they interpose, so do others
ASAN = 'detect_leaks=0:allocator_may_return_null=1:detect_odr_violation=0'
SHOWN = 30  # last lines of a report


def run_kernels(console: Console, *, cases: int, seed: int) -> dict[str, float]:
    console.line(f'{cases} cases, seed {seed}: the kernels under ASan and UBSan')
    with tempfile.TemporaryDirectory(prefix='kernels-') as scratch:
        folder = Path(scratch)
        _build(folder)
        done = _check(folder, cases, seed)
    if done.returncode:
        for line in (done.stdout + done.stderr).splitlines()[-SHOWN:]:
            console.line(line)
    found = 'nothing found' if done.returncode == 0 else f'exit code {done.returncode}'
    console.line(f'{cases} cases: {found}')
    return {'cases': float(cases), 'failures': float(done.returncode != 0)}


def _build(folder: Path) -> None:
    """A copy of the package, whose library is compiled otherwise than the one that runs here."""
    if shutil.which('gcc') is None:
        raise ConfigError('the sanitizers are those of gcc, which is not here; install gcc.')
    ignored = shutil.ignore_patterns('_kernels*', '__pycache__', '*.safetensors')
    shutil.copytree(ROOT / 'lidar_kd', folder / 'lidar_kd', ignore=ignored)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'README.md'):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / 'resource', folder / 'resource')
    recipe = folder / 'lidar_kd/sparse/engines/native/build_kernels.py'
    recipe.write_text(recipe.read_text().replace("'-O3'", "'-O1'"))  # a tenth of the time
    command = [sys.executable, 'setup.py', '-q', 'build_ext', '--inplace']
    done = subprocess.run(command, cwd=folder, env={**os.environ, 'CC': SANITIZED},
                          capture_output=True, text=True, check=False)  # fmt: skip
    if not list(folder.rglob('_kernels*.so')):
        raise ConfigError(f'the kernels do not compile with sanitizers: {done.stderr[-500:]}')


def _check(folder: Path, cases: int, seed: int) -> subprocess.CompletedProcess[str]:
    libraries = [_find_library(name) for name in ('libasan.so', 'libubsan.so')]
    environment = {
        **os.environ,
        'LD_PRELOAD': ' '.join(libraries),
        'ASAN_OPTIONS': ASAN,
        'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1',
        'PYTHONPATH': os.pathsep.join(map(str, (folder, ROOT))),
    }
    code = f'from training.hostile.kernels import check_kernels; check_kernels({cases}, {seed})'
    return subprocess.run([sys.executable, '-c', code], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip


def _find_library(name: str) -> str:
    found = subprocess.run(['gcc', f'-print-file-name={name}'], capture_output=True, text=True,
                           check=True).stdout.strip()  # fmt: skip
    if not Path(found).is_file():
        raise ConfigError(f'{name} is not here; install the sanitizers of gcc.')
    return found

# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while a command still loads what it needs, which takes seconds, ends in one line."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / 'training').glob('*.py') if path.stem != '__init__')
PIP = 'from lidar_kd.cli.start import {0}; {0}()'
COMMANDS = {
    **{name: [f'training/{name}'] for name in SCRIPTS},
    'lidar-kd-segment': ['-c', PIP.format('start_segment')],
    'lidar-kd-bag': ['-c', PIP.format('start_bag')],
    'python -m lidar_kd.cli.segment': ['-m', 'lidar_kd.cli.segment'],
    'python -m lidar_kd.cli.bag': ['-m', 'lidar_kd.cli.bag'],
}


@pytest.mark.parametrize('name', COMMANDS)
def test_ctrl_c_while_a_command_loads_ends_in_one_line(name: str, tmp_path: Path) -> None:
    pressed = 'import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n'
    for package in ('numpy', 'torch'):
        (tmp_path / f'{package}.py').write_text(pressed + 'raise SystemExit("not interrupted")\n')
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        [sys.executable, *COMMANDS[name]],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=_heed_ctrl_c,
    )
    assert (done.returncode, done.stderr) == (130, 'interrupted\n')


def _heed_ctrl_c() -> None:
    """A shell lets what runs in its background ignore it."""
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)

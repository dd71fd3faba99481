# SPDX-License-Identifier: Apache-2.0
"""What `import lidar_kd` brings, and what it leaves alone."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

import lidar_kd
from lidar_kd.cli.lacking import end_in_one_line

ROOT = Path(__file__).resolve().parents[2]


def answer(code: str, **changes: str) -> str:
    """What a fresh Python in the checkout prints."""
    ours = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')
    environment = {k: v for k, v in os.environ.items() if k not in ours} | changes
    command = [sys.executable, '-c', code]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_labels_alone_load_no_torch() -> None:
    assert answer("import lidar_kd.labels, sys; print('torch' in sys.modules)") == 'False'


def test_the_face_offers_what_it_names() -> None:
    from lidar_kd.bundle import load_bundle
    from lidar_kd.segmenter import Segmenter

    assert lidar_kd.load_bundle is load_bundle
    assert lidar_kd.Segmenter is Segmenter
    with pytest.raises(AttributeError, match="'segmentor'"):
        lidar_kd.__getattr__('segmentor')


def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise() -> None:
    names = "['OMP_WAIT_POLICY', 'GOMP_SPINCOUNT']"
    code = f'import lidar_kd, os; print(*map(os.environ.get, {names}))'
    assert answer(code) == 'passive 1000'
    assert answer(code, OMP_WAIT_POLICY='active') == 'active None'
    assert answer(code, GOMP_SPINCOUNT='7') == 'passive 7'


@pytest.mark.parametrize(
    ('error', 'code', 'said'),
    [
        (ModuleNotFoundError("No module named 'torch'", name='torch'), 2, 'has no torch; run in'),
        (KeyboardInterrupt(), 130, 'interrupted'),
        (ImportError('cannot load module more than once per process'), 130, 'interrupted'),
    ],
)
def test_a_command_that_cannot_start_says_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        end_in_one_line(type(error), error, None)
    shown = capsys.readouterr().err
    assert exited.value.code == code
    assert said in shown
    assert shown.count('\n') == 1


def test_every_command_has_a_python_without_the_packages_in_mind() -> None:
    # -S: without site-packages; nothing but the standard library is found
    for path in sorted((ROOT / 'training').glob('*.py')):
        done = subprocess.run(
            [sys.executable, '-S', str(path), '--help'],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, path
        assert done.stderr.startswith('error: ')
        assert done.stderr.count('\n') == 1

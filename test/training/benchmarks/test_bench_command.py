# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs to its table, with the peer beside it and on a machine without."""

from __future__ import annotations

from importlib.util import find_spec
import json
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from training.bench import BENCHMARKS
from training.benchmarks import gpu_segment
from training.benchmarks.gpu_segment import time_segment
from training.benchmarks.odometry import compare_poses, require_kiss_icp
from training.benchmarks.scans import distinct_scans

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    'live': ('--scans', '15'),
    'models': ('--scans', '1', '--presets', 'minkunet_quarter', 'litept_s'),
    'methods': ('--scans', '2'),
    'hostile': ('--cases', '120'),
    'kills': ('--cases', '10'),
}
WITH_PEER = ('engine', 'maps', 'train-step')
ELSEWHERE = {'gpu', 'kernels', *WITH_PEER}  # kernels: to compile them takes minutes
WITHOUT = 'import sys; sys.modules["spconv"] = None'
RUN = 'import runpy, sys; sys.path[0] = "training"; runpy.run_path({0!r}, run_name="__main__")'


def run_benchmark(
    name: str, folder: Path, *, first: str = 'pass', more: tuple[str, ...] = ()
) -> dict[str, float]:
    """Its figures, by a Python that begins with `first`; `more`: arguments that win."""
    figures = folder / 'figures.json'
    words = [
        'bench',
        name,
        *SMALL.get(name, ('--scans', '1')),
        '--repeats',
        '1',
        '--points',
        '1000',
        *more,
    ]
    code = f'import sys; sys.argv = {[*words, "--json", str(figures)]!r}; {first}\n'
    code += RUN.format(str(ROOT / 'training' / 'bench.py'))
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, float] = json.loads(figures.read_text())
    return found


@pytest.mark.parametrize(
    'name', [name for name in BENCHMARKS if name not in ('gpu', 'kernels', *WITH_PEER)]
)
def test_a_benchmark_runs_to_its_figures(name: str, tmp_path: Path) -> None:
    if name == 'live':
        pytest.importorskip('rclpy', reason='the node runs on ROS')
    if name == 'copies':
        pytest.importorskip('rclpy', reason='clouds are sent by ROS')
        if shutil.which('gcc') is None:
            pytest.skip('gcc is not here, which compiles what counts')
    if name == 'odometry':
        pytest.importorskip('kiss_icp', reason='KISS-ICP is not here: pip install kiss-icp')
    assert run_benchmark(name, tmp_path)


def test_live_tells_of_each_of_several_sensors(tmp_path: Path) -> None:
    pytest.importorskip('rclpy', reason='the nodes run on ROS')
    figures = run_benchmark('live', tmp_path, more=('--scans', '6', '--sensors', '2'))
    for number in range(2):
        assert 0 < figures[f'labelled_share_{number}'] <= 1
        assert 0 < figures[f'p50_ms_{number}'] <= figures[f'p95_ms_{number}']


def test_odometry_without_kiss_icp_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'kiss_icp', None)
    with pytest.raises(ConfigError, match='KISS-ICP is not here.*pip install kiss-icp'):
        require_kiss_icp()


def test_poses_are_compared_from_where_both_begin() -> None:
    truth = np.tile(np.eye(4), (3, 1, 1))
    truth[:, 0, 3] = [100, 101, 102]  # along x, from a place of its own
    found = np.tile(np.eye(4), (3, 1, 1))
    found[:, 0, 3] = [0, 1, 2]
    assert compare_poses(found, truth) == (0.0, 0.0)
    found[:, 1, 3] = [0, 3, 4]  # sideways by 3 and 4 m
    found[2, :2, :2] = [[0, -1], [1, 0]]  # and turned by 90 degrees at the end
    error_m, error_deg = compare_poses(found, truth)
    assert error_m == pytest.approx(np.sqrt((9 + 16) / 3))
    assert error_deg == pytest.approx(30.0)


@pytest.mark.parametrize('name', WITH_PEER)
def test_a_benchmark_runs_beside_the_peer(name: str, tmp_path: Path) -> None:
    if find_spec('spconv') is None:
        pytest.skip('spconv is not installed: no wheel for this Python or machine')
    assert any('speedup' in metric for metric in run_benchmark(name, tmp_path))


@pytest.mark.parametrize('name', WITH_PEER)
def test_a_benchmark_runs_where_there_is_no_peer(name: str, tmp_path: Path) -> None:
    figures = run_benchmark(name, tmp_path, first=WITHOUT)
    assert figures
    assert not any('speedup' in metric for metric in figures)


def test_the_gpu_benchmark_says_that_there_is_none(tmp_path: Path) -> None:
    command = [sys.executable, 'training/bench.py', 'gpu']
    without = {'CUDA_VISIBLE_DEVICES': '', 'PATH': '/usr/bin:/bin'}
    done = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True)
    assert done.returncode == 2
    assert 'torch sees no CUDA device here' in done.stdout + done.stderr


def test_segment_is_timed_layer_by_layer_and_at_fixed_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_segment, 'POINTS', 3000)
    clouds, _ = distinct_scans(1)
    metrics = time_segment(Console(quiet=True), [clouds[0][::400]], 1, 'cpu')
    assert len(metrics) == 8
    assert all(ms > 0 for ms in metrics.values())

# SPDX-License-Identifier: Apache-2.0
"""Every benchmark runs to its table, with the peer beside it and on a machine without."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
import json
import os
from pathlib import Path
import shutil
import sys

import numpy as np
import pytest
from shrunk import PTV3
from started_command import run_command

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.models import fixed_sizes, PRESETS
from training.bench import BENCHMARKS
from training.benchmarks import gpu_segment
from training.benchmarks.gpu_segment import time_segment
from training.benchmarks.odometry import (
    compare_poses,
    draw_as_many,
    read_raw_labels,
    require_kiss_icp,
)
from training.benchmarks.scans import distinct_scans

ROOT = Path(__file__).resolve().parents[3]
SMALL = {
    'live': ('--scans', '15'),
    'models': ('--scans', '1', '--presets', 'minkunet_quarter', 'litept_s'),
    'methods': ('--scans', '2'),
    'train-step': ('--scans', '1', '--presets', 'minkunet_quarter'),
    'hostile': ('--cases', '100'),  # of every kind there is
    'kills': ('--cases', '4'),
}
WITH_PEER = ('engine', 'maps', 'train-step')
# kernels, triton-offline: to compile them takes minutes
ELSEWHERE = ('gpu', 'kernels', 'triton-offline', *WITH_PEER)
# they start processes, or may lack something
OF_ITSELF = ('live', 'copies', 'hostile', 'kills', 'odometry')
TOGETHER = tuple(name for name in BENCHMARKS if name not in (*ELSEWHERE, *OF_ITSELF))
# The peaks are those of processes of their own, which know nothing of what is missing here.
WITHOUT = """
sys.modules['spconv'] = None
if {peaks_are_known}:
    train_step.train_peak_gb = lambda name, preset: 1.0
"""
# Of the processes that a peak is measured in one is started for each benchmark, which takes 3 s;
# what they do is done here for the others.
RUN = """
import runpy, sys, traceback
from training.benchmarks import clock, models, train_step
clock.GEMM_SIZE, clock.COPY_BYTES = 256, 1 << 20
apart = models.preset_peak_gb, train_step.train_peak_gb
def preset_peak_gb(name):
    return (apart[0] if name == 'litept_s' else models._measure_peak)(name)
def train_peak_gb(name, preset):
    return (apart[1] if name == 'torch' else train_step._measure_peak)(name, preset)
models.preset_peak_gb, train_step.train_peak_gb = preset_peak_gb, train_peak_gb
{first}
for words in {commands!r}:
    sys.argv, sys.path[0] = ['bench', *words], 'training'
    try:
        runpy.run_path('training/bench.py', run_name='__main__')
    except SystemExit as end:
        print(words, 'ended with', end.code)
    except Exception:
        print(words, 'failed')
        traceback.print_exc()
"""
Figures = dict[str, float]


def run_benchmarks(names: Iterable[str], folder: Path, *, first: str = '') -> dict[str, Figures]:
    """Their figures, by one Python that begins with `first`: what it takes to begin is shared."""
    small = ('--repeats', '1', '--points', '1000', '--json')
    commands = [
        [name, *SMALL.get(name, ('--scans', '1')), *small, str(folder / name)] for name in names
    ]
    code = RUN.format(first=first, commands=commands)
    one_thread = {**os.environ, 'OMP_NUM_THREADS': '1'}  # other tests run beside it
    done = run_command(['-c', code], cwd=ROOT, env=one_thread, timeout=1200)
    ended = [line for line in done.stdout.splitlines() if line.endswith('ended with 0')]
    assert len(ended) == len(commands), done.stdout[-4000:] + done.stderr[-4000:]
    return {name: json.loads((folder / name).read_text()) for name in names}


def test_the_benchmarks_of_one_process_run_to_their_figures(tmp_path: Path) -> None:
    assert TOGETHER
    assert all(run_benchmarks(TOGETHER, tmp_path).values())


@pytest.mark.parametrize('name', OF_ITSELF)
def test_a_benchmark_runs_to_its_figures(name: str, tmp_path: Path) -> None:
    if name in ('live', 'copies'):
        pytest.importorskip('rclpy', reason='the node runs on ROS')
    if name == 'copies' and shutil.which('gcc') is None:
        pytest.skip('gcc is not here, which compiles what counts')
    if name == 'odometry':
        pytest.importorskip('kiss_icp', reason='KISS-ICP is not here: pip install kiss-icp')
    assert run_benchmarks([name], tmp_path)[name]


def test_live_tells_of_each_of_several_sensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('rclpy', reason='the nodes run on ROS')
    monkeypatch.setitem(SMALL, 'live', ('--scans', '6', '--sensors', '2'))
    figures = run_benchmarks(['live'], tmp_path)['live']
    for number in range(2):
        assert 0 < figures[f'labelled_share_{number}'] <= 1
        assert 0 < figures[f'p50_ms_{number}'] <= figures[f'p95_ms_{number}']


def test_odometry_without_kiss_icp_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'kiss_icp', None)
    with pytest.raises(ConfigError, match='KISS-ICP is not here.*pip install kiss-icp'):
        require_kiss_icp()


def test_as_many_points_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    scan = tmp_path / 'velodyne' / '000007.bin'
    (tmp_path / 'labels').mkdir()
    # three parked cars, of objects 1 to 3, and a moving one
    np.array([10 | 1 << 16, 10 | 2 << 16, 10 | 3 << 16, 252], '<u4').tofile(
        tmp_path / 'labels' / '000007.label'
    )
    assert read_raw_labels(scan).tolist() == [10, 10, 10, 252]
    chosen = np.arange(100) < 30
    drawn = draw_as_many(chosen, scan)
    assert drawn.sum() == 30
    assert (drawn != chosen).any()
    np.testing.assert_array_equal(draw_as_many(chosen, scan), drawn)


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


def test_benchmarks_run_beside_the_peer(tmp_path: Path) -> None:
    if find_spec('spconv') is None:
        pytest.skip('spconv is not installed: no wheel for this Python or machine')
    for name, figures in run_benchmarks(WITH_PEER, tmp_path).items():
        assert any('speedup' in metric for metric in figures), name


def test_benchmarks_run_where_there_is_no_peer(tmp_path: Path) -> None:
    first = WITHOUT.format(peaks_are_known=find_spec('spconv') is not None)
    for name, figures in run_benchmarks(WITH_PEER, tmp_path, first=first).items():
        assert figures, name
        assert not any('speedup' in metric for metric in figures), name


def test_the_gpu_benchmark_says_that_there_is_none(tmp_path: Path) -> None:
    without = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
    done = run_command(['training/bench.py', 'gpu'], cwd=ROOT, env=without)
    assert done.returncode == 2
    assert 'torch sees no CUDA device here' in done.stdout + done.stderr


def test_segment_is_timed_layer_by_layer_and_at_fixed_shapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_segment, 'POINTS', 800)
    monkeypatch.setitem(PRESETS, gpu_segment.PTV3, ('ptv3', PTV3))
    monkeypatch.setattr(fixed_sizes, 'SIZES', (1024,))
    clouds, _ = distinct_scans(1)
    metrics = time_segment(Console(quiet=True), [clouds[0][::400]], 1, 'cpu')
    assert len(metrics) == 6 * 4  # three networks and types, two ways; p50, p99, launches, waits
    assert all(value > 0 for name, value in metrics.items() if name.endswith('_ms'))
    assert metrics['segment_ptv3_half_fixed_float16_waits'] == 0  # of CUDA's, on a CPU

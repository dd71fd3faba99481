# SPDX-License-Identifier: Apache-2.0
"""The node live: scans of about 120,000 points at 10 Hz in one process, the node in a second, this
one listens.

python training/bench.py live --scans 600 --every-topic
python training/bench.py live --scans 200 --sensors 2
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
import secrets
import tempfile
import time

import numpy as np

from lidar_kd.bundle import find_shipped_bundle
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from training.benchmarks.live_figures import measure_live, report_live
from training.benchmarks.live_sensors import run_sensors
from training.benchmarks.scans import most_points, trial_rows
from training.live.processes import (
    check_alive,
    prepare_environment,
    require_ros,
    resident_mb,
    running,
    wait_until,
)
from training.streets.make import make_streets
from training.streets.sequence import Settings

DISTINCT, DISTINCT_IN_A_TRIAL = 40, 3  # scans that are repeated
SETTLED = 100  # scans after which memory should no longer grow
START_LIMIT_S = 180.0  # for the node to load torch and its bundle
SLACK_S = 60.0  # for the replay to find its listener, beyond the time of its scans
NAMESPACE = f'/live_{secrets.token_hex(4)}'  # nobody else's
CACHE = Path('runs/cache/live')
EVERY = ('objects', 'markers', 'static')  # those whose message packages are here


def run_live(
    console: Console, *, scans: int, repeats: int, every_topic: bool = False, sensors: int = 1
) -> dict[str, float]:
    """`repeats` is not used: one long run is what is asked for."""
    require_ros()
    prepare_environment()
    bundle = find_shipped_bundle()
    drive = _simulate(console)
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder, 'scans')
        links.mkdir()
        for number in range(scans):
            _repeat(drive[number % len(drive)], links / f'{number:06d}.bin')
        if sensors > 1:
            metrics = run_sensors(console, links, scans, sensors)
        else:
            metrics = _run(console, links, scans, bundle, EVERY if every_topic else ())
    return metrics


def _repeat(scan: Path, place: Path) -> None:
    if not most_points():
        place.symlink_to(scan)
        return
    points = np.fromfile(scan, '<f4').reshape(-1, 4)
    points[trial_rows(len(points))].tofile(place)


def _simulate(console: Console) -> list[Path]:
    root, count = CACHE, DISTINCT
    if most_points():
        root, count = CACHE.with_name('live-trial'), DISTINCT_IN_A_TRIAL
    settings = Settings(seed=2026, index=0, scans=count, quarter='city')
    with console.progress(count, 'simulating') as step:
        make_streets(root, settings, sequences=1, progress=step)
    return sorted(path.resolve() for path in root.glob('sequences/00/velodyne/*.bin'))


def _run(
    console: Console, scans: Path, count: int, bundle: Path, others: Sequence[str]
) -> dict[str, float]:
    from training.live.listener import listening

    rss_mb: list[float] = []
    with ExitStack() as stack:
        listener, listen = stack.enter_context(
            listening(NAMESPACE, 'segmented', lambda one: one.latency_ms, others, most=1)
        )
        logs = scans.with_name('node.log'), scans.with_name('replay.log')
        parameters = {'model': bundle.resolve(), 'reliability': 'reliable'}
        remaps = {'__ns': NAMESPACE, '~/points': 'points'}
        node = stack.enter_context(running('segment_node', parameters, remaps, logs[0]))

        def is_ready() -> bool:
            check_alive(node, logs[0])
            if listener.problem.startswith('not configured'):
                raise ConfigError(listener.problem)
            return listener.is_ready

        hint = f'the node was not heard of within {START_LIMIT_S:.0f} s; run make demo.'
        wait_until(is_ready, listen, START_LIMIT_S, hint)
        replayed = {'path': scans, 'loop': False, 'listeners': 1}
        replay = stack.enter_context(
            running('replay_node', replayed, {'__ns': NAMESPACE}, logs[1])
        )
        end_s = time.monotonic() + 0.1 * count + SLACK_S
        with console.progress(count, 'live') as step:
            while replay.poll() is None:
                if time.monotonic() > end_s:
                    raise ConfigError('the replay did not end in time; run make demo.')
                before = len(listener.kept)
                listen(0.5)
                for _ in range(len(listener.kept) - before):
                    step()
                if len(listener.kept) > SETTLED:
                    rss_mb.append(resident_mb(node))
        check_alive(replay, logs[1])
        listen(1.5)
        metrics = measure_live(listener, count)
        if rss_mb:
            metrics['rss_growth_mb'] = rss_mb[-1] - rss_mb[0]
        report_live(console, metrics, listener.status)
        return metrics

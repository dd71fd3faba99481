# SPDX-License-Identifier: Apache-2.0
"""`bench.py node`: a cloud from the driver's bytes to all outputs of the node, without network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.console import Console
from lidar_kd.cloud import Cloud, decode, encode_labeled, encode_segmented, Payload, select
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.ros.replay.layouts import encode_scan, find_layout, LAYOUTS
from training.benchmarks.clock import Clock, threads
from training.benchmarks.engine import rounds
from training.benchmarks.node_scene import run_scenes
from training.benchmarks.scans import distinct_scans, even_points

STAGES = ('decode', 'segmented', 'labeled', 'filter')
FILTER = 'obstacle'
ROUNDS = 10  # per repeat: the stages take less than a millisecond


def run_node(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    clouds, source = distinct_scans(scans)
    points = even_points()
    console.banner(
        f'node: {points} points, every output, one thread',
        {'scans': source, 'filter': f'the group {FILTER}; labels made up'},
    )
    keeps = np.zeros(256, np.bool_)
    keeps[SEMANTICKITTI.group_ids(FILTER)] = True
    clocks = {name: Clock() for name in LAYOUTS}
    with threads(1), console.progress(len(LAYOUTS), 'measuring', unit='layouts') as advance:
        for name, clock in clocks.items():
            payloads = [
                encode_scan(np.resize(cloud, (points, 4)), find_layout(name)) for cloud in clouds
            ]
            for _, scan in rounds(len(clouds), repeats * ROUNDS):
                _measure(clock, scan, payloads[scan], keeps)
            advance()
    return {**_report(console, clocks), **run_scenes(console, clouds, repeats)}


def _measure(clock: Clock, scan: int, message: Payload, keeps: NDArray[np.bool_]) -> None:
    cloud = clock.time('decode', scan, lambda: decode(message))
    labels, probability, entropy = _answer(cloud, scan)
    clock.time('segmented', scan, lambda: encode_segmented(cloud, labels, probability, entropy))
    clock.time('labeled', scan, lambda: encode_labeled(cloud, labels, SEMANTICKITTI))
    clock.time('filter', scan, lambda: select(cloud, keeps[labels]))


def _answer(
    cloud: Cloud, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """As from a network; points without an echo have none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(SEMANTICKITTI.num_classes, size=len(cloud), dtype=np.uint8)
    probability = rng.random(len(cloud), dtype=np.float32)
    return labels, probability, 1 - probability


def _report(console: Console, clocks: dict[str, Clock]) -> dict[str, float]:
    rows, totals = [], {}
    for name, clock in clocks.items():
        stages = [clock.median(stage) for stage in STAGES]
        totals[name] = sum(stages)
        rows.append([name, *(f'{ms:.2f}' for ms in (*stages, totals[name]))])
    columns = ['layout', *(f'{stage} ms' for stage in STAGES), 'together ms']
    console.table('medians over scans', columns, rows)
    slowest = max(totals, key=totals.__getitem__)
    console.line(f'slowest: {slowest}')
    each = {f'{name}_ms': ms for name, ms in totals.items()}
    return {'codec_ms': totals[slowest], **each}

# SPDX-License-Identifier: Apache-2.0
"""A part of `bench.py node`: objects, tracks, markers, the cloud for SLAM and the costmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.bundle import find_shipped_bundle
from lidar_kd.cli.console import Console
from lidar_kd.cloud import Cloud, decode, select
from lidar_kd.labels import ClassTable
from lidar_kd.ros.costmap import draw_costmap
from lidar_kd.ros.replay.layouts import encode_scan, find_layout
from lidar_kd.ros.scene import keep_points, SceneFinder, SeenObjects
from lidar_kd.ros.settings import Filter, NodeSettings
from lidar_kd.segmenter import Segmentation, Segmenter
from training.benchmarks.clock import Clock, threads
from training.benchmarks.engine import rounds

SCENE_STAGES = ('objects', 'markers', 'static', 'costmap')
_STATIC = Filter(name='static', classes=('static', 'resting'), min_probability=0.0)
_HERE = np.eye(4)
Maker = Callable[[SeenObjects, ClassTable], Any]


def run_scenes(
    console: Console, scans: list[NDArray[np.float32]], repeats: int
) -> dict[str, float]:
    """The shipped student labels each scan once, outside of what is measured."""
    segmenter, layout = Segmenter(find_shipped_bundle()), find_layout('xyzi')
    clouds = [decode(encode_scan(scan, layout)) for scan in scans]
    answers = [segmenter.segment(cloud.points) for cloud in clouds]
    clock, finder, make = Clock(), SceneFinder(), _find_maker()
    with threads(1):
        for turn, scan in rounds(len(clouds), repeats):
            seen = clouds[scan], answers[scan], segmenter.spec.labels
            moment_s = 0.1 * (turn * len(clouds) + scan)
            _time_scene(clock, (scan, moment_s), seen, finder, make)
    stages = [stage for stage in SCENE_STAGES if stage != 'markers' or make]
    rows = [[stage, f'{clock.median(stage):.2f}'] for stage in stages]
    console.table('objects, one thread', ['output', 'ms'], rows)
    return {f'{stage}_ms': clock.median(stage) for stage in stages}


def _time_scene(
    clock: Clock, moment: tuple[int, float], seen: tuple[Cloud, Segmentation, ClassTable],
    finder: SceneFinder, make: Maker | None,
) -> None:  # fmt: skip
    (scan, time_s), (cloud, answer, table) = moment, seen
    settings = NodeSettings(filters=(_STATIC,))
    scene = clock.time(
        'objects', scan, lambda: finder.find(cloud, answer, table, settings, (time_s, _HERE))
    )
    clock.time('static', scan, lambda: select(cloud, keep_points(_STATIC, answer, table, scene)))
    clock.time('costmap', scan, lambda: draw_costmap(cloud.points, answer.labels, table, settings))
    if make:
        clock.time('markers', scan, lambda: make(scene, table))


def _find_maker() -> Maker | None:
    """Where visualization_msgs is not here, there are no markers to measure."""
    try:
        from std_msgs.msg import Header

        from lidar_kd.ros.markers import make_markers
    except ImportError:
        return None
    return lambda scene, table: make_markers(Header(), scene, table)

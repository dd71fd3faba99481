# SPDX-License-Identifier: Apache-2.0
"""Replay and node in one process: clouds are handed over, not sent."""

from __future__ import annotations

from pathlib import Path
import threading
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from ros_partner import leave_domain, Partner, scatter, wait_for

from lidar_kd.ros.pipeline import Pipeline
from lidar_kd.ros.replay.composed import composed_nodes, main
from lidar_kd.ros.replay.source import ScanFiles


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    file = tmp_path / 'scan.bin'
    file.write_bytes(scatter(400).tobytes())
    return file


def test_the_node_labels_the_very_clouds_that_the_replay_made(
    scan: Path, small_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    labelled: list[Any] = []
    read, label = ScanFiles.read, Pipeline.label

    def spy_read(self: ScanFiles, index: int) -> Any:
        made.append(read(self, index))
        return made[-1]

    def spy_label(self: Pipeline, message: Any, *rest: Any) -> Any:
        labelled.append(message)
        return label(self, message, *rest)

    monkeypatch.setattr(ScanFiles, 'read', spy_read)
    monkeypatch.setattr(Pipeline, 'label', spy_label)
    leave_domain()
    context = Context()
    rclpy.init(context=context, args=[])
    values = {'path': str(scan), 'model': small_bundle, 'warm_up_points': 0}
    given = [Parameter(name, value=value) for name, value in values.items()]
    partner = Partner(context)
    executor = SingleThreadedExecutor(context=context)
    with composed_nodes(context=context, parameter_overrides=given) as (replay, node):
        heard = partner.listen('/lidar_kd/segmented')
        for each in (replay, node, partner):
            executor.add_node(each)
        node.start()
        thread = threading.Thread(target=executor.spin)
        thread.start()
        wait_for(lambda: heard and heard[0].width == 400, 'an answer')
        executor.shutdown()
        thread.join()
    partner.destroy_node()
    rclpy.shutdown(context=context)
    assert any(labelled[0].data is each.payload.data for each in made)


def test_a_folder_that_is_not_there_ends_both_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_domain()
    words = ['--ros-args', '-p', f'replay:path:={tmp_path / "none"}', '-p', 'lidar_kd:threads:=1']
    assert main(words) == 2
    said = capsys.readouterr().err
    assert 'none' in said
    assert 'unknown' not in said

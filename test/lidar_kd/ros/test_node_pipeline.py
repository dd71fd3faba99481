# SPDX-License-Identifier: Apache-2.0
"""The node without ROS: what it takes for the intensity, and whose threads it uses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
import logging
from typing import Any

from cloud_messages import FakeCloud, pack
import numpy as np
import pytest
import torch

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from lidar_kd.labels import IGNORE
from lidar_kd.ros.pipeline import Pipeline, set_threads
from lidar_kd.ros.settings import NodeSettings


def scan(intensity: float) -> FakeCloud:
    """64 points of an Ouster, whose rings are their numbers."""
    return pack('ouster', [(i % 8 - 4, i // 8 - 4, 0, intensity) for i in range(64)])


@pytest.fixture
def settings(small_bundle: str) -> dict[str, Any]:
    return {'model': small_bundle, 'device': 'cpu', 'warm_up_points': 0}


@pytest.fixture
def pipeline(settings: dict[str, Any], threads: int) -> Iterator[Pipeline]:
    pipeline = Pipeline(NodeSettings(**settings))
    yield pipeline
    pipeline.release()


def told(pipeline: Pipeline) -> tuple[str, str]:
    facts = pipeline.intensity_facts()
    return facts['intensity field'], facts['intensity full scale']


def test_points_outside_the_crop_stay_in_place_without_an_answer(
    pipeline: Pipeline, settings: dict[str, Any]
) -> None:
    asked = NodeSettings(**settings, crop_box=[-1.0, 9.0, -9.0, 9.0, -9.0, 9.0])
    labelled = pipeline.label(scan(0.5), asked)
    # 3 of 8 columns, x -4, -3, -2; and point 36 lies at the sensor itself: no echo
    assert (len(labelled.cloud), labelled.unlabelled) == (64, 25)
    unlabelled = np.flatnonzero(labelled.result.labels == IGNORE).tolist()
    assert set(unlabelled) == {36, *(i for i in range(64) if i % 8 <= 2)}


def test_another_field_has_a_scale_of_its_own(
    pipeline: Pipeline, settings: dict[str, Any]
) -> None:
    assert told(pipeline) == ('-', '-')
    pipeline.label(scan(60000), NodeSettings(**settings))
    assert told(pipeline) == ('intensity', '65535')
    pipeline.label(scan(60000), NodeSettings(**settings, intensity_field='ring'))
    assert told(pipeline) == ('ring', '255')
    pipeline.label(scan(60000), NodeSettings(**settings, intensity_field='none'))
    assert told(pipeline) == ('none', '-')
    pipeline.label(scan(60000), NodeSettings(**settings, intensity_scale=0.1))
    assert told(pipeline) == ('intensity', '-')


def test_the_scale_grows_with_the_fifth_bright_scan_and_one_warning(
    pipeline: Pipeline, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, 'lidar_kd')
    found = []
    for intensity in (0.5, *[200] * 7):
        pipeline.label(scan(intensity), NodeSettings(**settings))
        found.append(told(pipeline)[1])
    assert found == ['1'] * 5 + ['255'] * 3
    (warning,) = caplog.messages
    assert warning.startswith('the full scale of intensity is 255 from now on, after 1; set')


def test_a_new_beginning_forgets_the_sensor(pipeline: Pipeline, settings: dict[str, Any]) -> None:
    pipeline.label(scan(60000), NodeSettings(**settings))
    pipeline.begin()
    assert told(pipeline) == ('-', '-')
    pipeline.label(scan(200), NodeSettings(**settings))
    assert told(pipeline) == ('intensity', '255')


def test_zero_threads_are_those_before_the_first_change(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('lidar_kd.ros.pipeline.default_threads', cache(torch.get_num_threads))
    counts = []
    for wanted in (0, 1, 3, 0):
        set_threads(wanted)
        counts.append(torch.get_num_threads())
    assert counts == [threads, 1, 3, threads]

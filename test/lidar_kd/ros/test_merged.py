# SPDX-License-Identifier: Apache-2.0
"""One cloud of several sensors: whose parts it holds, and when it is complete."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from lidar_kd.cloud import Payload
from lidar_kd.cloud.codec import SEGMENTED_FIELDS, SEGMENTED_STEP
from lidar_kd.ros.merged import join_payloads, Merger


def header(ms: int, frame: str = 'base') -> Any:
    sec, rest_ms = divmod(ms, 1000)
    return SimpleNamespace(
        frame_id=frame, stamp=SimpleNamespace(sec=sec, nanosec=rest_ms * 1_000_000)
    )


def add_all(merger: Merger, scans: list[tuple[str, int]]) -> list[list[str]]:
    """Names of the scans in each cloud that becomes complete, in order."""
    found = []
    for sensor, ms in scans:
        for parts in merger.add(sensor, (header(ms), f'{sensor}{ms}')):  # type: ignore[arg-type]
            found.append([str(payload) for _, payload in parts])
    return found


def test_a_cloud_holds_the_newest_scan_of_each_sensor() -> None:
    merger = Merger()
    # nobody knows yet that there is a second sensor
    assert add_all(merger, [('a', 0)]) == [['a0']]
    assert add_all(merger, [('b', 50), ('a', 100), ('b', 150), ('a', 200)]) == [
        ['a100', 'b50'],
        ['a200', 'b150'],
    ]


def test_a_sensor_that_sends_more_often_does_not_wait_for_the_others() -> None:
    merger = Merger()
    add_all(merger, [('a', 0), ('b', 1), ('a', 2)])
    scans = [('a', 100), ('a', 200), ('b', 210)]
    assert add_all(merger, scans) == [['a100'], ['a200', 'b210']]


def test_nobody_waits_for_a_sensor_that_has_fallen_silent() -> None:
    merger = Merger()
    add_all(merger, [('a', 0), ('b', 50), ('a', 100)])
    # 550 ms: b was heard of 500 ms ago
    scans = [('a', 200), ('a', 300), ('a', 400), ('a', 500), ('a', 550), ('a', 650)]
    found = add_all(merger, scans)
    assert found == [['a200'], ['a300'], ['a400'], ['a500'], ['a550'], ['a650']]


def test_stamps_that_jump_back_keep_nobody_waiting() -> None:
    merger = Merger()
    add_all(merger, [('a', 100_000), ('b', 100_050), ('a', 100_100)])
    assert add_all(merger, [('a', 0), ('b', 50), ('a', 100)]) == [['a0'], ['a100', 'b50']]


def test_parts_of_two_frames_do_not_meet() -> None:
    merger = Merger()
    merger.add('a', (header(0), 'a0'))  # type: ignore[arg-type]
    merger.add('b', (header(50), 'b50'))  # type: ignore[arg-type]
    assert merger.find_other_frame('a', 'base') == ''
    assert merger.find_other_frame('a', 'lidar') == 'base'
    assert merger.find_other_frame('b', 'lidar') == ''  # it replaces its own


def make_payload(first: int, count: int, *, is_dense: bool) -> Payload:
    return Payload(
        data=array('B', [first]) * (SEGMENTED_STEP * count),
        fields=SEGMENTED_FIELDS,
        height=1,
        width=count,
        point_step=SEGMENTED_STEP,
        is_bigendian=False,
        is_dense=is_dense,
    )


def test_payloads_are_joined_end_to_end() -> None:
    parts = [make_payload(1, 2, is_dense=True), make_payload(2, 3, is_dense=False)]
    joined = join_payloads(parts)
    assert (joined.height, joined.width, joined.row_step) == (1, 5, 120)
    assert bytes(joined.data) == bytes([1]) * 48 + bytes([2]) * 72
    assert not joined.is_dense
    assert len(parts[0].data) == 48  # it may still be on its way

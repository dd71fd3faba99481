# SPDX-License-Identifier: Apache-2.0
"""The node over real DDS: its life, what it answers, what it refuses, what it says."""

from __future__ import annotations

from collections.abc import Iterator
import gc
import json
import os
from pathlib import Path
import threading
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from ros_partner import (
    make_scan,
    NAME,
    Partner,
    scatter,
    values_of,
    wait_for,
)
from std_msgs.msg import Float64, String
import torch

from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.ros.labelled import build_clouds
from lidar_kd.ros.node import SegmentNode
from lidar_kd.ros.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[3]
CPE = np.dtype(
    {
        'names': ['x', 'y', 'z', 'class_id', 'probability', 'entropy'],
        'formats': ['<f4', '<f4', '<f4', 'u1', '<f4', '<f4'],
        'offsets': [0, 4, 8, 12, 16, 20],
        'itemsize': 24,
    }
)


def test_a_life_twice_around_leaves_nothing_behind(node: SegmentNode, partner: Partner) -> None:
    counts = []
    for _ in range(3):
        partner.activate()
        partner.ask(make_scan(scatter(2000)))
        assert partner.state() == 'active'
        assert partner.change('deactivate')
        wait_for(lambda: not partner.has_listener(), 'the end of the subscription')
        assert partner.change('cleanup')
        assert partner.state() == 'unconfigured'
        entities = [*node.subscriptions, *node.publishers, *node.timers, *node.services]
        counts.append((len(entities), threading.active_count()))
    assert counts[0] == counts[1] == counts[2]


def test_cleanup_frees_the_network(node: SegmentNode, partner: Partner) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(each) is Pipeline for each in gc.get_objects())

    assert partner.change('configure')
    assert alive() == 1
    assert partner.change('cleanup')
    assert alive() == 0


def test_every_point_is_answered_in_place_under_the_same_header(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    points = scatter(4096)
    points['x'][::7] = np.nan
    points[5] = 0  # no return
    scan = make_scan(points, height=16, stamp_ns=1_700_000_000_123_456_789, frame='os_lidar')
    answer = partner.ask(scan)
    assert answer.header == scan.header
    layout = [(f.name, f.offset, f.datatype, f.count) for f in answer.fields]
    assert layout == [
        ('x', 0, 7, 1), ('y', 4, 7, 1), ('z', 8, 7, 1),
        ('class_id', 12, 2, 1), ('probability', 16, 7, 1), ('entropy', 20, 7, 1),
    ]  # fmt: skip
    assert (answer.point_step, answer.is_bigendian, len(answer.data)) == (24, False, 24 * 4096)
    labelled = np.frombuffer(answer.data, CPE)
    for name in 'xyz':
        np.testing.assert_array_equal(labelled[name], points[name])
    unseen = np.isnan(points['x'])
    unseen[5] = True
    np.testing.assert_array_equal(labelled['class_id'] == 255, unseen)
    assert (labelled['probability'][unseen] == 0).all()
    assert np.isnan(labelled['entropy'][unseen]).all()
    assert (labelled['probability'][~unseen] >= 1 / SEMANTICKITTI.num_classes).all()


def test_an_organised_cloud_stays_organised_and_keeps_its_fields(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    points = scatter(4096)
    scan = make_scan(points, height=16)
    answer = partner.ask(scan, 'labeled')
    assert (answer.height, answer.width) == (16, 256)
    assert [f.name for f in answer.fields] == ['x', 'y', 'z', 'intensity', 'label', 'rgb']
    rows = np.frombuffer(answer.data, np.uint8).reshape(4096, answer.point_step)
    assert rows[:, :16].tobytes() == points.tobytes()
    labels = np.frombuffer(partner.ask(scan).data, CPE)['class_id']
    np.testing.assert_array_equal(rows[:, answer.fields[4].offset], labels)


def test_an_empty_cloud_is_answered_with_an_empty_cloud(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    answer = partner.ask(make_scan(scatter(0)))
    assert (answer.width, len(answer.data)) == (0, 0)


def test_what_nobody_listens_to_is_not_computed(
    node: SegmentNode, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def spy(*arguments: Any) -> Iterator[Any]:
        for name, payload in build_clouds(*arguments):
            built.append(name)
            yield name, payload

    monkeypatch.setattr('lidar_kd.ros.outputs.build_clouds', spy)
    partner.activate()
    for _ in range(3):
        partner.publish(make_scan(scatter(2000)))
    skipped = 'skipped, nobody listens'
    wait_for(lambda: int(values_of(partner.diagnose())[skipped]), 'a scan that nobody wants')
    assert built == []
    partner.ask(make_scan(scatter(2000)), 'ground')
    assert built == ['ground']


def test_debug_times_have_autowares_names_and_add_up(node: SegmentNode, partner: Partner) -> None:
    partner.activate()
    stages = ('preprocess_ms', 'inference_ms', 'postprocess_ms', 'total_ms')
    topics = ['cyclic_time_ms', 'pipeline_latency_ms']
    topics += [f'processing_time/{stage}' for stage in stages]
    for topic in topics:
        partner.listen(f'/{NAME}/debug/{topic}', Float64)
    partner.ask(make_scan(scatter(2000)))
    partner.ask(make_scan(scatter(2000)))
    heard = [partner.heard[f'/{NAME}/debug/{topic}'] for topic in topics]
    wait_for(lambda: [len(each) for each in heard] == [1, 2, 2, 2, 2, 2], 'the times of two scans')
    cyclic, latency, *parts, total = (each[-1].data for each in heard)
    assert sum(parts) == pytest.approx(total)
    assert 0 < total <= latency
    assert cyclic >= total


def test_label_info_reaches_who_comes_late(node: SegmentNode, partner: Partner) -> None:
    partner.activate()
    heard = partner.listen(f'/{NAME}/label_info', String, latched=True)
    info = json.loads(wait_for(lambda: heard and heard[0].data, 'the label info'))
    assert [each['name'] for each in info['classes']] == list(SEMANTICKITTI.names)
    assert info['classes'][0] == {
        'id': 0,
        'name': 'car',
        'colour': [100, 150, 245],
        'autoware_id': 0,
    }
    assert info['groups']['ground'] == list(SEMANTICKITTI.groups['ground'])


def test_while_the_network_runs_parameters_are_answered_and_the_newest_scan_waits(
    node: SegmentNode, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go_on = threading.Event(), threading.Event()
    label = Pipeline.label

    def hold(*arguments: Any) -> Any:
        held.set()
        go_on.wait(60)
        return label(*arguments)

    partner.activate()
    partner.ask(make_scan(scatter(500)))
    wait_for(lambda: partner.find_reliabilities() == ['RELIABLE'], 'a reliable subscription')
    monkeypatch.setattr(Pipeline, 'label', hold)
    first, *others = (make_scan(scatter(500, turn)) for turn in range(8))
    partner.publish(first)
    assert held.wait(60)
    for turn, scan in enumerate(others):
        partner.publish(scan)
        assert partner.alter('max_age_s', 3000.0 + turn) == ''
        # the scan of `ask`, the first, and these
        wait_for(lambda count=3 + turn: has_received(partner, count), 'the scan')
    go_on.set()
    heard = partner.heard[f'/{NAME}/segmented']
    wait_for(lambda: values_of(partner.diagnose())['labelled'] == '3', 'the answers')
    wait_for(lambda: len(heard) == 3, 'their arrival')
    assert [each.header for each in heard[1:]] == [first.header, others[-1].header]
    assert values_of(partner.diagnose())['dropped: queue'] == '6'


def has_received(partner: Partner, count: int) -> bool:
    return values_of(partner.diagnose())['received'] == str(count)


def test_malformed_clouds_are_counted_while_good_ones_between_them_are_answered(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    partner.ask(make_scan(scatter(500)))
    for turn in range(5):
        malformed, good = make_scan(scatter(500)), make_scan(scatter(500, turn))
        malformed.fields[turn % 3].offset = 1000
        partner.publish(malformed)
        time.sleep(0.01)
        assert partner.ask(good).header == good.header
        partner.publish(malformed)
        time.sleep(0.01)
    wait_for(lambda: values_of(partner.diagnose())['dropped: malformed'] == '10', 'all counted')
    assert values_of(partner.diagnose())['labelled'] == '6'


def test_running_out_of_gpu_memory_drops_the_scan_and_goes_on(
    node: SegmentNode, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    partner.activate()
    partner.ask(make_scan(scatter(500)))
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')

        patch.setattr(Pipeline, 'label', fail)
        partner.publish(make_scan(scatter(500)))
        wait_for(lambda: values_of(partner.diagnose()).get('dropped: GPU memory') == '1', 'a drop')
    partner.ask(make_scan(scatter(500)))


def test_memory_does_not_grow_with_the_scans(node: SegmentNode, partner: Partner) -> None:
    partner.activate()
    scan = make_scan(scatter(4000))
    grown_mb = []
    for _ in range(3):  # the first round fills the pools
        before_mb = resident_mb()
        for _ in range(40):
            partner.ask(scan)
            partner.heard[f'/{NAME}/segmented'].clear()
        grown_mb.append(resident_mb() - before_mb)
    assert min(grown_mb[1:]) < 2  # keeping 40 scans and answers would be 6.4 MB


def resident_mb() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGESIZE') / 1e6

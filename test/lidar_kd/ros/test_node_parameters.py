# SPDX-License-Identifier: Apache-2.0
"""The node's parameters over real DDS: what each changes, what is refused, and what is said."""

from __future__ import annotations

from array import array
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
from pretend_tf import PretendTf
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from ros_partner import (
    leave_domain,
    make_scan,
    NAME,
    Partner,
    running_node,
    scatter,
    spinning,
    values_of,
    wait_for,
)
from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header
import yaml

from lidar_kd.cloud import Payload
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.ros.node import SegmentNode
from lidar_kd.ros.topics import explain_losses, make_cloud

ROOT = Path(__file__).resolve().parents[3]
CPE = np.dtype(
    {
        'names': ['x', 'y', 'z', 'class_id', 'probability', 'entropy'],
        'formats': ['<f4', '<f4', '<f4', 'u1', '<f4', '<f4'],
        'offsets': [0, 4, 8, 12, 16, 20],
        'itemsize': 24,
    }
)


@pytest.mark.parametrize(
    ('wrong', 'says'),
    [
        ({'model': 'missing.safetensors'}, 'no such bundle; check the path'),
        ({'model': 'corrupt'}, 'not a complete safetensors file'),
        ({'device': 'cuda:7'}, 'device cuda:7: this'),
        ({'device': 'gpu'}, "device 'gpu' is unknown: use auto, cpu"),
        ({'device': 'meta'}, "device 'meta' is unknown: use auto, cpu"),
        ({'target_frame': 'base_link'}, 'needs tf2_ros: sudo apt install'),
        ({'filters.ground.classes': ['floor']}, "'floor' is no class"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_configured_says_the_remedy_and_can_be_put_right(
    wrong: dict[str, Any],
    says: str,
    small_bundle: str,
    node: SegmentNode,
    partner: Partner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)  # not importable, whatever is installed
    if wrong.get('model') == 'corrupt':
        (tmp_path / 'corrupt').write_bytes(Path(small_bundle).read_bytes()[:-1000])
        wrong = {'model': str(tmp_path / 'corrupt')}
    right = {
        'model': small_bundle,
        'device': 'cpu',
        'target_frame': '',
        'filters.ground.classes': ['road'],
    }
    for name, value in wrong.items():
        assert partner.alter(name, value) == ''
    assert not partner.change('configure')
    assert partner.state() == 'unconfigured'
    status = partner.diagnose()
    assert (status.level, says in status.message) == (b'\x02', True), status.message
    for name in wrong:
        assert partner.alter(name, right[name]) == ''
    assert partner.change('configure')
    assert partner.diagnose().level == b'\x00'


def test_a_filter_follows_its_parameters_while_the_node_runs(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    scan = make_scan(scatter(4096))
    segmented = np.frombuffer(partner.ask(scan).data, CPE)
    common = np.bincount(segmented['class_id']).argmax()
    for least in (0.0, float(np.median(segmented['probability']))):
        assert partner.alter('filters.ground.classes', [SEMANTICKITTI.names[common]]) == ''
        assert partner.alter('filters.ground.min_probability', least) == ''
        answer = partner.ask(scan, 'ground')
        kept = segmented['class_id'] == common
        kept &= segmented['probability'] >= np.float32(least)
        expected = np.frombuffer(scan.data, np.uint8).reshape(-1, 16)[kept]
        assert bytes(answer.data) == expected.tobytes()
        assert answer.header == scan.header


def test_autoware_ids_are_the_default_and_can_be_changed(
    small_bundle: str, partner: Partner
) -> None:
    with running_node(model=small_bundle):
        partner.activate()
        scan = make_scan(scatter(2000))
        autoware = np.frombuffer(partner.ask(scan).data, CPE)['class_id']
        assert partner.alter('output_classes', 'train') == ''
        train = np.frombuffer(partner.ask(scan).data, CPE)['class_id']
    np.testing.assert_array_equal(autoware, SEMANTICKITTI.to_autoware(train))


def test_scans_older_than_max_age_are_dropped_and_counted(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    assert partner.alter('max_age_s', 5.0) == ''
    partner.ask(make_scan(scatter(500)))
    partner.publish(make_scan(scatter(500), stamp_ns=time.time_ns() - 6 * 10**9))
    wait_for(lambda: values_of(partner.diagnose())['dropped: age'] == '1', 'the drop')


def test_parameters_are_those_of_the_yaml_and_say_what_they_are(
    node: SegmentNode, partner: Partner
) -> None:
    content = yaml.safe_load((ROOT / 'config' / 'node' / 'segment.yaml').read_text())['/**']
    flat: dict[str, Any] = {}

    def walk(tree: dict[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f'{prefix}{key}.')
            else:
                flat[prefix + key] = value

    walk(content['ros__parameters'], '')
    of_rclpy = {'use_sim_time', 'start_type_description_service'}
    assert partner.list_parameters() - of_rclpy == set(flat)
    described = {name: partner.describe(name) for name in flat}
    assert all(each.description for each in described.values())
    once = {n for n, each in described.items() if 'read once' in each.additional_constraints}
    assert once == {'autostart', 'filter_names'}
    assert described['max_age_s'].floating_point_range[0].to_value == 3600
    assert described['threads'].integer_range[0].to_value == 256


def test_what_needs_a_reload_is_refused_while_the_bundle_is_loaded(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    assert 'clean up the node' in partner.alter('device', 'cpu')
    assert 'deactivate the node' in partner.alter('reliability', 'reliable')
    assert 'is read once' in partner.alter('autostart', False)
    assert "'floor' is no class" in partner.alter('filters.ground.classes', ['floor'])
    assert partner.alter('min', 1) != ''  # unknown
    assert partner.change('deactivate')
    assert partner.alter('reliability', 'reliable') == ''


@pytest.mark.parametrize('best_effort', [True, False], ids=['best-effort', 'reliable'])
def test_reliability_follows_the_publisher(small_bundle: str, best_effort: bool) -> None:
    leave_domain()
    with (
        running_node(model=small_bundle),
        spinning(lambda context: Partner(context, best_effort=best_effort)) as partner,
    ):
        partner.activate()
        wanted = 'BEST_EFFORT' if best_effort else 'RELIABLE'
        wait_for(lambda: partner.find_reliabilities() == [wanted], wanted)
        partner.ask(make_scan(scatter(500)))


def test_a_driver_of_another_reliability_in_place_of_the_first_is_followed_and_told(
    small_bundle: str, capfd: pytest.CaptureFixture[str]
) -> None:
    leave_domain()
    with running_node(model=small_bundle):
        for best_effort in (False, True):
            with spinning(lambda context: Partner(context, best_effort=best_effort)) as partner:  # noqa: B023
                if not best_effort:
                    partner.activate()
                wanted = 'BEST_EFFORT' if best_effort else 'RELIABLE'
                wait_for(lambda: partner.find_reliabilities() == [wanted], wanted)  # noqa: B023
                partner.ask(make_scan(scatter(500)))
    assert 'points changed: best_effort from now on' in capfd.readouterr().err


def test_qos_overrides_hold_for_input_and_outputs(partner: Partner, small_bundle: str) -> None:
    overrides = {
        f'qos_overrides./{NAME}/points.subscription.reliability': 'best_effort',
        f'qos_overrides./{NAME}/labeled.publisher.reliability': 'best_effort',
    }
    with running_node(model=small_bundle, **overrides):
        partner.activate()
        # auto would follow the partner, who is reliable
        (asked,) = partner.get_subscriptions_info_by_topic(f'/{NAME}/points')
        (offered,) = partner.get_publishers_info_by_topic(f'/{NAME}/labeled')
        (stock,) = partner.get_publishers_info_by_topic(f'/{NAME}/segmented')
    names = [each.qos_profile.reliability.name for each in (asked, offered, stock)]
    assert names == ['BEST_EFFORT', 'BEST_EFFORT', 'RELIABLE']


def test_a_cloud_is_sent_without_a_copy_of_its_bytes() -> None:
    payload = Payload(
        data=array('B', bytes(16)),
        fields=(),
        height=1,
        width=1,
        point_step=16,
        is_bigendian=False,
        is_dense=True,
    )
    assert make_cloud(Header(), payload).data is payload.data


def test_silence_is_explained(small_bundle: str) -> None:
    leave_domain()
    with (
        running_node(model=small_bundle, reliability='reliable', max_silence_ms=200.0),
        spinning(lambda context: Partner(context, best_effort=True)) as partner,
    ):
        assert partner.change('configure')
        assert partner.change('activate')
        wait_for(lambda: partner.diagnose().level == b'\x02', 'an error', 5)
        said = partner.diagnose().message
        assert f'no scan on /{NAME}/points for' in said
        assert '1 publishers, incompatible QoS' in said
        partner.destroy_publisher(partner._scans)
        wait_for(
            lambda: 'start the driver, or remap' in partner.diagnose().message, 'no publisher'
        )
        partner.create_publisher(LaserScan, f'/{NAME}/points', 1)
        wait_for(
            lambda: 'a scan in one plane shows no classes' in partner.diagnose().message,
            'a word on LaserScan',
        )


def test_lost_clouds_are_explained_by_the_middleware_in_use() -> None:
    profile = {'FASTRTPS_DEFAULT_PROFILES_FILE': 'profile.xml'}
    for name in ('rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp'):
        assert 'fastdds_large_clouds.xml' in explain_losses(name, {})
        assert 'fastdds_large_clouds.xml' not in explain_losses(name, profile)
    assert 'net.core.rmem_max' in explain_losses('rmw_cyclonedds_cpp', profile)
    assert explain_losses('rmw_zenoh_cpp', {}).startswith('does rmw_zenoh_cpp lose big clouds?')


# a sensor that hangs upside down, 2 m ahead of `base`
HANGING = {('base', 'velodyne'): ((1.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0))}


def test_scans_are_brought_into_the_target_frame_or_dropped(
    small_bundle: str, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', PretendTf(HANGING))
    with running_node(model=small_bundle, target_frame='base'):
        partner.activate()
        points = scatter(1000)
        scan = make_scan(points)
        answer = partner.ask(scan)
        assert answer.header.frame_id == 'base'
        assert answer.header.stamp == scan.header.stamp
        moved = np.frombuffer(answer.data, CPE)
        np.testing.assert_allclose(moved['x'], points['x'] + 2, atol=1e-5)
        np.testing.assert_allclose(moved['y'], -points['y'], atol=1e-5)
        np.testing.assert_allclose(moved['z'], -points['z'], atol=1e-5)
        partner.publish(make_scan(points, frame='unknown'))
        wait_for(lambda: values_of(partner.diagnose()).get('dropped: transform') == '1', 'a drop')
        assert len(partner.heard[f'/{NAME}/segmented']) == 1


def test_tf_is_forgotten_when_the_time_jumps_back(
    small_bundle: str, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = PretendTf(HANGING)
    monkeypatch.setitem(sys.modules, 'tf2_ros', tf)
    with running_node(model=small_bundle, target_frame='base', use_sim_time=True) as node:
        partner.activate()
        for seconds in (100, 101):
            partner.set_time(node, seconds)
        assert tf.cleared == 0
        partner.set_time(node, 7)
        wait_for(lambda: tf.cleared == 1, 'the buffer to be cleared')
        assert partner.change('deactivate')
        assert partner.change('cleanup')
        partner.set_time(node, 1)
        assert tf.cleared == 1

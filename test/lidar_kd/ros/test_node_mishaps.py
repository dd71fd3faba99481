# SPDX-License-Identifier: Apache-2.0
"""What nobody expected: the node says it, lives on, and can be put right."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from ros_partner import make_scan, Partner, running_node, scatter, values_of, wait_for

from lidar_kd.ros.node import SegmentNode
from lidar_kd.ros.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[3]


def fail(*_: Any) -> None:
    raise KeyError('nobody thought of it')


@pytest.mark.parametrize(
    ('part', 'transition', 'stays'),
    [('Pipeline', 'configure', 'unconfigured'), ('Input', 'activate', 'inactive')],
)
def test_an_unexpected_error_fails_the_transition_with_its_type_and_traceback(
    part: str,
    transition: str,
    stays: str,
    node: SegmentNode,
    partner: Partner,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if transition == 'activate':
        assert partner.change('configure')
    with monkeypatch.context() as patch:
        patch.setattr(f'lidar_kd.ros.node.{part}', fail)
        assert not partner.change(transition)
        assert partner.state() == stays
    sentence = f"not {transition}d: KeyError: 'nobody thought of it'"
    status = partner.diagnose()
    assert (status.level, status.message) == (b'\x02', sentence)
    said = capfd.readouterr().err
    assert sentence in said
    assert 'in fail' in said  # the traceback's last frame
    assert partner.change(transition)
    wait_for(lambda: sentence not in partner.diagnose().message, 'health')


def test_an_unexpected_error_drops_the_scan_and_the_worker_goes_on(
    node: SegmentNode,
    partner: Partner,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    partner.activate()
    partner.ask(make_scan(scatter(500)))
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, 'label', fail)
        partner.publish(make_scan(scatter(500)))
        wait_for(lambda: values_of(partner.diagnose()).get('dropped: error') == '1', 'a drop')
    said = capfd.readouterr().err
    assert "scan dropped: KeyError: 'nobody thought of it'" in said
    assert 'in fail' in said
    partner.ask(make_scan(scatter(500)))


def test_a_stamp_before_1970_is_answered_and_kept(node: SegmentNode, partner: Partner) -> None:
    partner.activate()
    scan = make_scan(scatter(500), stamp_ns=-(10**9))
    assert partner.ask(scan).header == scan.header


STRUCK = """
import os, signal, sys
import lidar_kd.ros.node as node
signal.signal(signal.SIGINT, signal.SIG_DFL)
make = node.Pipeline
def strike(*given):
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    return make(*given)
node.Pipeline = strike
sys.exit(node.main(['--ros-args', '-p', 'warm_up_points:=0']))
"""


@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_a_signal_while_it_configures_ends_it_without_a_traceback(name: str) -> None:
    done = subprocess.run(
        [sys.executable, '-c', STRUCK, name],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, 'Traceback' in done.stderr) == (0, False), done.stderr


def test_a_misspelt_parameter_is_told_with_the_nearest_name(
    small_bundle: str, partner: Partner, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_node(model=small_bundle, max_age=1.0, filters__obstacle__classes=['car']):
        partner.state()
    said = capfd.readouterr().err
    assert 'parameter max_age is unknown and ignored. Did you mean max_age_s?' in said
    assert (
        'filters.obstacle.classes is unknown and ignored. Did you mean filters.obstacles.cl'
        in said
    )


def test_a_silent_clock_is_told_and_silences_nothing_else(
    small_bundle: str, partner: Partner
) -> None:
    sentence = 'use_sim_time is set but /clock is silent'
    with running_node(model=small_bundle, use_sim_time=True) as node:
        partner.activate()
        scan = make_scan(scatter(500))
        assert partner.ask(scan).header == scan.header
        status = partner.diagnose()
        assert status.level in (b'\x01', b'\x02')
        assert sentence in status.message
        partner.set_time(node, 5)
        wait_for(lambda: sentence not in partner.diagnose().message, 'health')


@pytest.mark.parametrize(
    ('script', 'missing', 'says'),
    [
        ('segment_node', 'torch', '-m pip install -c constraints.txt torch ('),
        ('segment_node', 'rclpy', 'source your distribution'),
        ('replay_node', 'yaml', '-m pip install -c constraints.txt pyyaml ('),
        ('replay_node', 'rclpy', 'source your distribution'),
    ],
)
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    script: str, missing: str, says: str, tmp_path: Path
) -> None:
    error = f"No module named '{missing}'"
    (tmp_path / f'{missing}.py').write_text(
        f'raise ModuleNotFoundError({error!r}, name={missing!r})'
    )
    said = start(script, path=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert f'{sys.executable} cannot import {missing} ({error}); ' in said
    assert says in said


def test_a_python_without_the_package_is_told_in_one_line() -> None:
    said = start('segment_node', '-S')
    assert said == f'error: {sys.executable} has no lidar_kd; activate its environment.\n'


def start(script: str, *flags: str, path: str = '') -> str:
    """What a script says that cannot start."""
    done = subprocess.run(
        [sys.executable, *flags, str(ROOT / 'scripts' / script)],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_a_second_node_of_the_name_is_told_and_so_are_the_transitions(
    node: SegmentNode, partner: Partner, small_bundle: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def is_told(sentence: str) -> bool:
        said.append(''.join(capfd.readouterr()))
        return sentence in ''.join(said)

    with running_node(model=small_bundle):
        wait_for(lambda: is_told('another node is called /lidar_kd'), 'the warning')
    partner.activate()
    for _ in range(5):
        partner.ask(make_scan(scatter(500)))
    wait_for(lambda: is_told('scans come at '), 'their rate')
    assert partner.change('deactivate')
    told = 'activated: listens to /lidar_kd/points, answers on /lidar_kd/{segmented,labeled,'
    wait_for(lambda: is_told(told), 'what it does')
    wait_for(lambda: is_told('first scan labelled: 1 x 500 points of 16 bytes (x y z in'), 'it')
    wait_for(lambda: is_told('deactivated'), 'the end')

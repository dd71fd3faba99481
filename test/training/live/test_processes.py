# SPDX-License-Identifier: Apache-2.0
"""What the demo starts: in a domain of its own, tied to its parent, never waited for for ever."""

from __future__ import annotations

from contextlib import suppress
import fcntl
import os
from pathlib import Path
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from ros_partner import leave_domain, wait_for

from lidar_kd.errors import ConfigError
from lidar_kd.ros.log_folder import check_log_folder
from training.live.leftovers import sweep
from training.live.listener import listening
from training.live.processes import choose_domain, prepare_environment, ROOT, wait_until

PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.live.leftovers import sweeping
from training.live.listener import listening
from training.live.processes import prepare_environment, running
prepare_environment()
parameters, log = {'path': sys.argv[2], 'listeners': 2}, Path(sys.argv[3])
with (
    sweeping() as pipe,
    listening('/drive', 'labeled', lambda one: one) as (_, listen),
    running('replay_node', parameters, {}, log, held=[pipe]) as child,
):
    print(child.pid, flush=True)
    listen(600)
"""

SIMULATING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.streets.make import make_streets
from training.streets.sequence import Settings
if __name__ == '__main__':
    make_streets(Path(sys.argv[2]), Settings(seed=1, index=0, scans=80), sequences=1, workers=2)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is set is put back."""
    for name in ('ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOG_DIR', 'ROS_HOME'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', '')
    monkeypatch.setenv('FASTRTPS_DEFAULT_PROFILES_FILE', '')
    monkeypatch.setenv('AMENT_PREFIX_PATH', os.environ['AMENT_PREFIX_PATH'])


def test_a_parent_that_is_killed_leaves_no_child_and_no_shared_memory(tmp_path: Path) -> None:
    (tmp_path / 'scan.bin').write_bytes(bytes(16))
    words = [sys.executable, '-c', PARENT, str(ROOT), str(tmp_path), str(tmp_path / 'log')]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path('/proc', parent.stdout.readline().strip())
    wait_for(lambda: 'waiting for 2' in (tmp_path / 'log').read_text(), 'the replay')
    children, mapped = children_of(parent.pid), shared_by(parent.pid)
    assert child in children
    assert len(children) == 2  # the replay, and who sweeps
    parent.kill()
    parent.communicate()
    wait_for(lambda: all(map(is_gone, children)), 'the end of the children')
    wait_for(lambda: not unused(mapped), 'the sweep')


def unused(paths: list[Path]) -> list[Path]:
    """What is still there though nobody alive has mapped it: ports are shared with other tests."""
    used: set[str] = set()
    for maps in Path('/proc').glob('[0-9]*/maps'):
        with suppress(OSError):  # gone meanwhile
            used.update(line.split()[-1] for line in maps.read_text().splitlines())
    return [path for path in paths if path.exists() and str(path) not in used]


def shared_by(number: int) -> list[Path]:
    """Files of Fast DDS that a process has mapped: its segments, and the ports it knows."""
    lines = Path('/proc', str(number), 'maps').read_text().splitlines()
    found = {line.split()[-1] for line in lines if '/dev/shm/fast' in line}
    assert found
    return [Path(name) for name in found]


def test_shared_memory_that_nobody_has_locked_is_swept(tmp_path: Path) -> None:
    alive, dead = 'fastdds_0123456789abcdef', 'fastdds_00000000000000ff'
    port, others = 'fastrtps_port7400', ['lttng-ust-wait-6', 'fastdds_mine', 'sem.other_mutex']
    left = [alive, f'{alive}_el', *others]
    swept = [dead, f'{dead}_el', port, f'{port}_sl', f'sem.{port}_mutex']
    for name in left + swept:
        (tmp_path / name).touch()
    now_s = (tmp_path / dead).stat().st_ctime
    with (tmp_path / f'{alive}_el').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path, now_s)
        assert {path.name for path in tmp_path.iterdir()} == {*left, *swept}  # too young
        assert not sweep(tmp_path, now_s + 60)
        assert {path.name for path in tmp_path.iterdir()} == set(left)


def test_the_simulator_that_is_killed_leaves_no_worker_behind(tmp_path: Path) -> None:
    pytest.importorskip('open3d', reason='the simulator needs open3d')
    script = tmp_path / 'simulate.py'  # a file: the workers import what their parent runs
    script.write_text(SIMULATING)
    parent = subprocess.Popen([sys.executable, str(script), str(ROOT), str(tmp_path / 'town')])
    made = tmp_path / 'town' / 'sequences' / '00' / 'labels'
    wait_for(lambda: list(made.glob('*.label')), 'the first scan')
    workers = children_of(parent.pid)
    parent.kill()
    parent.wait()
    assert len(workers) >= 2
    wait_for(lambda: all(map(is_gone, workers)), 'the end of the workers')


def children_of(number: int) -> list[Path]:
    tasks = Path('/proc', str(number), 'task').glob('*/children')
    return [Path('/proc', word) for each in tasks for word in each.read_text().split()]


def is_gone(process: Path) -> bool:
    """Ended, perhaps not yet asked for its exit code by whoever inherited it."""
    try:
        return (process / 'stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except OSError:
        return True


@pytest.mark.usefixtures('environment')
def test_the_domain_is_never_that_of_the_environment_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('ROS_DOMAIN_ID', '42')
    assert 42 not in {choose_domain() for _ in range(2000)}
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'OFF')
    prepare_environment(42)
    assert os.environ['ROS_DOMAIN_ID'] == '42'
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_what_does_not_happen_ends_with_the_sentence() -> None:
    heard: list[float] = []
    with pytest.raises(ConfigError, match='the node was not heard of'):
        wait_until(lambda: False, heard.append, 0.0, 'the node was not heard of')


@pytest.mark.usefixtures('environment')
def test_a_home_that_cannot_be_written_leaves_the_log_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'home').touch()  # no folder, so nothing can be made in it, not even by root
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    check_log_folder()
    assert os.environ['ROS_LOG_DIR'] == str(tmp_path / f'ros-log-{os.getuid()}')
    assert Path(os.environ['ROS_LOG_DIR']).is_dir()
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'home' / 'log'))
    with pytest.raises(ConfigError, match=r'home/log, which cannot be written; set it'):
        check_log_folder()


def test_a_home_that_can_be_written_stays_the_place(
    environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    check_log_folder()
    assert 'ROS_LOG_DIR' not in os.environ


def test_strangers_are_all_nodes_outside_the_namespace() -> None:
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node

    leave_domain()
    context = Context()
    rclpy.init(context=context, args=[])
    nodes = [
        Node('lidar_kd', context=context),
        Node('lidar_kd', namespace='/drive', context=context),
    ]
    try:
        with listening('/drive', 'labeled', lambda one: one) as (listener, listen):
            wait_until(listener.strangers, listen, 30.0, 'no stranger')
            assert listener.strangers() == ['/lidar_kd']
    finally:
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown(context=context)

# SPDX-License-Identifier: Apache-2.0
"""The node and the replay as processes of their own.

They end with the block that started them, and with this process however that ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

from lidar_kd.errors import ConfigError
from lidar_kd.ros.log_folder import check_log_folder
from training.live.tie import make_tie

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / 'config' / 'node' / 'fastdds_large_clouds.xml'
PATIENCE_S = 10.0
_DOMAINS = range(1, 101)  # above, ports meet those of outgoing connections


def require_ros() -> None:
    try:
        import rclpy  # noqa: F401
        import sensor_msgs  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f'ROS 2 is not here ({error}); source a distribution (. /opt/ros/jazzy/setup.bash)'
            " or, on x86-64 Linux, run: .venv/bin/pip install -c constraints.txt -e '.[ros]'."
        ) from None


def prepare_environment(domain: int | None = None) -> None:
    """For this process and those it starts; before rclpy is loaded.

    `domain`: ROS_DOMAIN_ID; None: any but the one that a robot on this network may have.
    """
    check_log_folder()
    os.environ.setdefault(find_profile_variable(), str(PROFILE))
    os.environ['ROS_DOMAIN_ID'] = str(choose_domain() if domain is None else domain)
    # From Iron on: all that takes part is on this machine, and OFF would keep them apart.
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, prefixes))


def choose_domain() -> int:
    taken = os.environ.get('ROS_DOMAIN_ID', '')
    return random.choice([each for each in _DOMAINS if str(each) != taken])


def find_profile_variable() -> str:
    """Fast DDS 3, of Kilted and newer, renamed it and warns of the old name."""
    release = os.environ.get('ROS_DISTRO')
    old = release in ('humble', 'iron', 'jazzy')
    if not release:
        old = int(metadata.version('ros-rclpy').partition('.')[0]) < 9  # PyPI's wheels
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if old else 'FASTDDS_DEFAULT_PROFILES_FILE'


def end_on_sigterm() -> None:
    """kill ends this process as Ctrl-C does: its children first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def running(
    executable: str,
    parameters: Mapping[str, object],
    remaps: Mapping[str, str],
    log: Path,
    *,
    own: Sequence[str] = (),
    held: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """scripts/`executable` with parameters; what it says goes to `log`.

    A remap named __ns gives it a namespace. `own`: arguments that are not for ROS; `held`:
    descriptors that stay open while it lives.
    """
    words = [sys.executable, str(ROOT / 'scripts' / executable), *own, '--ros-args']
    for name, value in parameters.items():
        words += ['-p', f'{name}:={str(value).lower() if isinstance(value, bool) else value}']
    for name, topic in remaps.items():
        words += ['-r', f'{name}:={topic}']
    with log.open('wb') as sink:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *_python_path()])},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through us, once
            preexec_fn=make_tie(),
            pass_fds=held,
        )
        try:
            yield process
        finally:
            _end(process)


def wait_until(
    happened: Callable[[], object], listen: Callable[[float], None], limit_s: float, hint: str
) -> None:
    """Listens until it happened, or raises ConfigError with the hint after `limit_s`."""
    end_s = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > end_s:
            raise ConfigError(hint)
        listen(0.2)


def check_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None and process.returncode:
        lines = log.read_text(errors='replace').strip().splitlines()
        raise ConfigError(
            f'{Path(str(process.args[1])).name} ended: '  # type: ignore[index]
            f'{lines[-1] if lines else process.returncode} (all it said is in {log}).'
        )


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    pages = int(Path(f'/proc/{process.pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGESIZE') / 1e6


def _python_path() -> list[str]:
    return [path for path in os.environ.get('PYTHONPATH', '').split(os.pathsep) if path]


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would, then as kill -9."""
    end_s = time.monotonic() + PATIENCE_S
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    while process.poll() is None and time.monotonic() < end_s:
        time.sleep(0.02)
    if process.poll() is None:
        process.kill()
    process.wait()

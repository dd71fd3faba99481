# SPDX-License-Identifier: Apache-2.0
"""The robot's way, live, on any machine: `make demo`.

A drive through a made-up town (kept in runs/demo) is replayed as a driver would publish it, the
node labels it with the shipped student, and this process listens: three processes over real DDS.
It ends with a table, pictures, and what to try next.
`make demo SCANS=PATH` does the same with scans of yours: a folder of them, a sequence or a bag.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
import os
from pathlib import Path
import secrets
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from lidar_kd.bundle import find_shipped_bundle, read_spec
from lidar_kd.cli.console import Console
from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from lidar_kd.errors import ConfigError, LidarKdError, prepare_folder
from lidar_kd.ros.replay.source import open_source
from training.live.leftovers import sweeping
from training.live.processes import (
    check_alive,
    end_on_sigterm,
    prepare_environment,
    require_ros,
    running,
    wait_until,
)
from training.streets.make import make_streets
from training.streets.sequence import Settings
from training.views.drive import animate_drive, draw_drive, write_drive_page
from training.views.drive_table import compare_with_truth, report_drive

if TYPE_CHECKING:
    from training.live.listener import Listener

SEED = 2026  # streets that no shipped student was trained on
START_LIMIT_S = 180.0  # for the node to load torch and its bundle, perhaps on a busy machine
STATIC, MARKERS = 'static', 'markers'  # topics that are shown as well
AUTO = 'auto'  # the node chooses among the networks that ship
SCAN_S = 0.1
SLACK_S = 60.0  # for the replay to find its listener, beyond the time of its scans


def parse_demo() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--bundle', type=Path, help='the network (default: the largest that ships and keeps up)')
    add('--scans', type=int, default=100, help='at most so many, at 10 Hz (default 100)')
    add('--own', type=Path, metavar='PATH', help='scans of yours instead: a folder or a bag')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default auto)')
    add('--out', type=Path, default=Path('runs/demo'), help='output folder (default runs/demo)')
    add('--animation', type=Path, metavar='GIF', help='also draw the drive as a moving picture')
    add(
        '--domain',
        type=int,
        metavar='ID',
        help="ROS_DOMAIN_ID of the three processes (default: another than the environment's)",
    )
    return parser.parse_args()


def open_scans(arguments: argparse.Namespace, console: Console) -> tuple[Path, int]:
    """Where they lie, and how many are shown."""
    if arguments.own is None:
        return simulate_drive(arguments.out, arguments.scans, console), arguments.scans
    return arguments.own, min(arguments.scans, len(open_source(str(arguments.own))))


def simulate_drive(out: Path, scans: int, console: Console) -> Path:
    """The folder of the drive; made once."""
    settings = Settings(seed=SEED, index=0, scans=scans, quarter='city', enrich=3.0)
    root = out / f'streets-{scans}'
    with console.progress(scans, 'simulating the drive') as step:
        made = make_streets(root, settings, sequences=1, workers=2, progress=step)
        for _ in range(scans - made):
            step()
    return root / 'sequences' / '00'


def drive(folder: Path, scans: int, arguments: argparse.Namespace, console: Console) -> Listener:
    """Node, replay and listener until the last scan is answered."""
    from training.live.listener import listening

    namespace = f'/demo_{secrets.token_hex(4)}'  # nobody else's: what is counted is this drive
    with ExitStack() as stack:
        held = [stack.enter_context(sweeping())]
        listener, listen = stack.enter_context(
            listening(namespace, 'labeled', lambda received: received, (STATIC, MARKERS))
        )
        names = {'__ns': namespace, '~/points': 'points'}
        parameters = {
            'model': arguments.bundle.resolve() if arguments.bundle else AUTO,
            'device': arguments.device,
            'reliability': 'reliable',  # auto would take a moment to find it out
        }
        log = arguments.out / 'node.log'
        node = stack.enter_context(running('segment_node', parameters, names, log, held=held))

        def is_ready() -> bool:
            check_alive(node, log)
            if listener.problem.startswith('not configured'):
                raise ConfigError(listener.problem)
            return listener.is_ready

        hint = f'the node was not heard of within {START_LIMIT_S:.0f} s; see {log}.'
        wait_until(is_ready, listen, START_LIMIT_S, hint)
        warn_of_strangers(listener.strangers(), namespace, console)
        log = arguments.out / 'replay.log'
        replayed = {'path': folder.resolve(), 'scans': scans, 'truth': arguments.own is None}
        own_names = {'__ns': namespace}
        replay = stack.enter_context(
            running(
                'replay_node',
                {**replayed, 'loop': False, 'listeners': 1},
                own_names,
                log,
                held=held,
            )
        )
        _follow_to_the_end(replay, log, scans, (listener, listen), console)
        return listener


def warn_of_strangers(others: list[str], namespace: str, console: Console) -> None:
    if others:
        console.warn(
            f'others are in ROS domain {os.environ["ROS_DOMAIN_ID"]}, too: {", ".join(others)}; '
            f'they get nothing of this drive, whose names begin with {namespace}'
        )


def _follow_to_the_end(
    replay: subprocess.Popen[bytes],
    log: Path,
    scans: int,
    heard: tuple[Listener, Callable[[float], None]],
    console: Console,
) -> None:
    """From the first scan to the last answer that is wanted."""
    limit_s = SCAN_S * scans + SLACK_S
    with console.progress(scans, 'driving') as step:
        for _ in follow(*heard, replay.poll, limit_s, scans):
            step()
    check_alive(replay, log)
    if replay.poll() is None and len(heard[0].kept) < scans:
        raise ConfigError(f'the replay did not end within {limit_s:.0f} s; see {log}.')
    heard[1](1.5)  # the last answers, and diagnostics that count them


def follow(
    listener: Listener,
    listen: Callable[[float], None],
    ended: Callable[[], int | None],
    limit_s: float,
    most: int,
) -> Iterator[None]:
    """Yields once per labelled scan until the replay has ended, or enough are, or time is up."""
    seen, end_s = 0, time.monotonic() + limit_s
    while ended() is None and time.monotonic() < end_s and seen < most:
        listen(0.2)
        while seen < len(listener.kept):
            seen += 1
            yield


def run_demo(arguments: argparse.Namespace, console: Console) -> None:
    start_s = time.perf_counter()
    require_ros()
    prepare_environment(arguments.domain)
    bundle = arguments.bundle or find_shipped_bundle()
    table = read_spec(bundle).labels
    prepare_folder(arguments.out)
    folder, scans = open_scans(arguments, console)
    listener = drive(folder, scans, arguments, console)
    if not listener.kept:
        raise ConfigError(
            f'no labelled scan came back ({listener.problem or "the node is silent"}); '
            f'see {arguments.out / "node.log"} and {arguments.out / "replay.log"}.'
        )
    found = [] if arguments.own else compare_with_truth(listener.kept, folder, table)
    report_drive(console, listener, scans, found)
    for path in draw_drive(listener, table, arguments.out):
        console.line(f'picture {path}')
    page = arguments.out / 'drive.html'
    write_drive_page(page, listener.kept, table)
    console.line(f'to look at in a browser: {page}')
    if arguments.animation:
        animate_drive(listener, table, arguments.animation)
        console.line(f'animation {arguments.animation}')
    console.line(f'done in {time.perf_counter() - start_s:.0f} s. Next:')
    console.line('  ros2 launch lidar_kd segment.launch.py points:=/velodyne_points rviz:=true \\')
    console.line('      fixed_frame:=velodyne')
    named = f' --bundle {shlex.quote(str(arguments.bundle))}' if arguments.bundle else ''
    console.line(f'  .venv/bin/lidar-kd-segment SCAN_OR_FOLDER{named} --picture')
    console.line('  docs/robot.md: parameters, topics, Nav2, Jetson, Docker, Foxglove')


def main() -> int:
    arguments, console = parse_demo(), Console()
    end_on_sigterm()
    try:
        run_demo(arguments, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    except KeyboardInterrupt:
        console.warn('interrupted; the node and the replay have ended')
        return EXIT_INTERRUPTED
    return 0


if __name__ == '__main__':
    sys.exit(main())

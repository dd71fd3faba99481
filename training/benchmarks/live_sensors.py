# SPDX-License-Identifier: Apache-2.0
"""A part of `bench.py live`: several sensors at 10 Hz each, one process and network for all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
import secrets
import time
from typing import TYPE_CHECKING

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from training.benchmarks.live_figures import measure_live, report_live
from training.live.processes import check_alive, running, wait_until

if TYPE_CHECKING:
    from training.live.listener import Listener

NAMESPACE = f'/live_{secrets.token_hex(4)}'  # nobody else's
START_LIMIT_S = 180.0  # for the node to load torch and its bundle
SLACK_S = 60.0  # for the replays to find their listeners, beyond the time of their scans


def run_sensors(console: Console, scans: Path, count: int, sensors: int) -> dict[str, float]:
    """Every sensor sends all `scans` to the network that keeps up with them; metrics of sensor k
    end in _k.
    """
    from training.live.listener import listening_to

    places = [f'{NAMESPACE}/s{number}' for number in range(sensors)]
    file, log = scans.with_name('sensors.yaml'), scans.with_name('node.log')
    file.write_text(
        'sensors:\n'
        + ''.join(f'  {p.rpartition("/")[2]}: {{points: {p}/points}}\n' for p in places)
    )
    parameters = {'model': 'auto', 'reliability': 'reliable'}
    with ExitStack() as stack:
        listeners, listen = stack.enter_context(
            listening_to(places, 'segmented', lambda one: one.latency_ms, most=1)
        )
        own = [str(file), NAMESPACE]
        node = stack.enter_context(running('sensors_node', parameters, {}, log, own=own))

        def are_ready() -> bool:
            check_alive(node, log)
            return all(listener.is_ready for listener in listeners)

        hint = f'the nodes were not heard of within {START_LIMIT_S:.0f} s; run make demo.'
        wait_until(are_ready, listen, START_LIMIT_S, hint)
        replayed = {'path': scans, 'loop': False, 'listeners': 1}
        logs = [scans.with_name(f'replay{number}.log') for number in range(sensors)]
        replays = [
            stack.enter_context(running('replay_node', replayed, {'__ns': place}, log))
            for place, log in zip(places, logs)
        ]
        _listen_to_the_end(console, listeners, listen, count, lambda: [r.poll() for r in replays])
    return _report_each(console, listeners, count)


def _listen_to_the_end(
    console: Console,
    listeners: list[Listener],
    listen: Callable[[float], None],
    count: int,
    poll: Callable[[], list[int | None]],
) -> None:
    end_s, seen = time.monotonic() + 0.1 * count + SLACK_S, 0
    with console.progress(count * len(listeners), 'live') as step:
        while None in poll():
            if time.monotonic() > end_s:
                raise ConfigError('a replay did not end in time; run make demo.')
            listen(0.5)
            for _ in range(sum(len(each.kept) for each in listeners) - seen):
                step()
                seen += 1
    hint = 'a sensor got no labels; run make demo.'
    wait_until(lambda: all(each.kept for each in listeners), listen, SLACK_S, hint)
    listen(1.5)


def _report_each(console: Console, listeners: list[Listener], count: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for number, listener in enumerate(listeners):
        found = measure_live(listener, count)
        report_live(console, found, listener.status)
        metrics |= {f'{name}_{number}': value for name, value in found.items()}
    return metrics

# SPDX-License-Identifier: Apache-2.0
"""Measures the package on this machine: `python training/bench.py engine --json figures.json`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import os
from pathlib import Path
import sys
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from lidar_kd.cli.console import Console
from lidar_kd.cli.numbers import read_count
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.models import PRESETS
from training.benchmarks.copies import run_copies
from training.benchmarks.data import run_data
from training.benchmarks.engine import run_engine, run_maps
from training.benchmarks.gpu import run_gpu
from training.benchmarks.hostile import run_hostile
from training.benchmarks.kernels import run_kernels
from training.benchmarks.kills import run_kills
from training.benchmarks.live import run_live
from training.benchmarks.methods import run_methods
from training.benchmarks.models import run_models
from training.benchmarks.node import run_node
from training.benchmarks.objects import run_objects
from training.benchmarks.odometry import run_odometry
from training.benchmarks.row_order import run_row_order
from training.benchmarks.scans import MOST_POINTS
from training.benchmarks.segment import run_segment
from training.benchmarks.sensitivity import run_sensitivity
from training.benchmarks.train_step import run_train_step
from training.benchmarks.triton_offline import run_triton_offline, TYPES

BENCHMARKS: dict[str, tuple[Callable[..., dict[str, float]], str]] = {
    'engine': (run_engine, 'network time of every engine beside spconv and the GEMM floor'),
    'maps': (run_maps, 'kernel maps of every engine beside spconv'),
    'train-step': (run_train_step, 'forward and backward, and peak memory, beside spconv'),
    'gpu': (run_gpu, 'engines and number types on a CUDA device, forward and training step'),
    'triton-offline': (
        run_triton_offline,
        'the Triton kernels compiled for GPUs that are not here; exit 1 on a spill',
    ),
    'row-order': (run_row_order, 'products of the Triton engine over those that count'),
    'segment': (run_segment, 'a scan from points to labels, stage by stage'),
    'node': (run_node, 'a cloud from bytes to points, and to every output of the node'),
    'objects': (run_objects, 'boxes and tracks beside the true ones of simulated drives'),
    'live': (run_live, 'the node at 10 Hz: scans labelled, latency, memory; three processes'),
    'copies': (run_copies, "how often a cloud's bytes are copied on their way to a node"),
    'sensitivity': (
        run_sensitivity,
        'mIoU of the shipped student under other intensities, mountings and beams, auto and off',
    ),
    'odometry': (run_odometry, 'KISS-ICP on a drive with traffic, with and without ~/static'),
    'models': (run_models, 'parameters, work, time and memory of every preset'),
    'methods': (run_methods, 'the terms of every method beside the step they are part of'),
    'hostile': (run_hostile, 'hostile files by the thousand; exit 1 if one gets through'),
    'kernels': (run_kernels, 'random work for the native kernels under ASan and UBSan'),
    'kills': (run_kills, 'tiny runs killed at any moment, beside one that was left alone'),
    'data': (run_data, 'a scan from labels and points to a batch, and the wait for data'),
}


def parse_bench_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='\n'.join(f'  {name:12} {text}' for name, (_, text) in BENCHMARKS.items()),
    )
    parser.add_argument('name', choices=BENCHMARKS, help='what to measure')
    parser.add_argument('--scans', type=read_count, default=8, help='distinct scans (default 8)')
    parser.add_argument(
        '--repeats', type=read_count, default=3, help='rounds over them (default 3)'
    )
    parser.add_argument(
        '--points', type=int, default=0,
        help='thin every scan to about so many: to try a benchmark out, not to measure',
    )  # fmt: skip
    parser.add_argument(
        '--presets', nargs='+', choices=PRESETS, metavar='PRESET',
        help='of models and triton-offline: only these (default all); of train-step: this one '
        '(default minkunet)',
    )  # fmt: skip
    parser.add_argument(
        '--arch', nargs='+', type=int, default=[87, 90, 110], metavar='N',
        help='of triton-offline: compute capabilities, 87 for 8.7 (default 87 90 110)',
    )  # fmt: skip
    parser.add_argument(
        '--types', nargs='+', choices=TYPES, metavar='TYPE',
        help=f'of triton-offline: only these of {", ".join(TYPES)} (default all)',
    )  # fmt: skip
    parser.add_argument(
        '--cases', type=read_count, default=2000, help='of hostile, kernels, kills'
    )
    parser.add_argument('--seed', type=int, default=0, help='of hostile, kernels, kills')
    parser.add_argument(
        '--first', type=int, default=0, help='of hostile: number of the first case'
    )
    parser.add_argument('--kind', help='of hostile: only this kind of file')
    parser.add_argument(
        '--every-topic', action='store_true',
        help='of live: somebody also listens to objects, markers and the static cloud',
    )  # fmt: skip
    parser.add_argument(
        '--sensors', type=read_count, default=1,
        help='of live: so many at 10 Hz each, labelled by one process (default 1)',
    )  # fmt: skip
    parser.add_argument('--json', type=Path, help='write metric -> number to this file')
    return parser.parse_args()


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.name in ('kernels', 'kills'):
        return {key: getattr(arguments, key) for key in ('cases', 'seed')}
    if arguments.name == 'hostile':
        return {key: getattr(arguments, key) for key in ('cases', 'seed', 'first', 'kind')}
    if arguments.name == 'triton-offline':
        only = {'presets': arguments.presets, 'types': arguments.types}
        return {'arch': arguments.arch, **{key: value for key, value in only.items() if value}}
    chosen = {'scans': arguments.scans, 'repeats': arguments.repeats}
    if arguments.every_topic:
        if arguments.name != 'live':
            raise ConfigError(f'--every-topic: {arguments.name} has none; leave it out.')
        chosen['every_topic'] = True
    if arguments.sensors > 1:
        if arguments.name != 'live' or arguments.every_topic:
            raise ConfigError('--sensors: is of live, and not beside --every-topic; leave it out.')
        chosen['sensors'] = arguments.sensors
    if not arguments.presets:
        return chosen
    if arguments.name not in ('models', 'train-step'):
        raise ConfigError(f'--presets: {arguments.name} has none; leave it out.')
    return {**chosen, 'presets': arguments.presets}


def main() -> int:
    arguments, console = parse_bench_options(), Console()
    run, _ = BENCHMARKS[arguments.name]
    if arguments.points > 0:
        os.environ[MOST_POINTS] = str(arguments.points)
    try:
        metrics = run(console, **options(arguments))
        if arguments.json:
            arguments.json.write_text(json.dumps(metrics, indent=1) + '\n')
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return int(metrics.get('failures', 0) > 0)


if __name__ == '__main__':
    sys.exit(main())

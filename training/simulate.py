# SPDX-License-Identifier: Apache-2.0
"""Simulates LiDAR drives through towns in SemanticKITTI's layout, or compares them with real ones.

  python training/simulate.py --out runs/streets --sequences 4 --scans 50 --workers 2
  python training/simulate.py --out runs/varied --world varied --sequences 60 --scans 20
  python training/simulate.py compare --real REAL --streets runs/streets --picture compare.png

Run again, the first lines make only what is missing. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import sys
import time

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from lidar_kd.cli.console import Console
from lidar_kd.errors import LidarKdError
from training.streets.compare import draw_comparison, measure, Statistics, tabulate
from training.streets.make import make_streets
from training.streets.quarters import QUARTERS
from training.streets.sensors import SENSORS
from training.streets.sequence import Settings
from training.streets.writer import folder_of
from training.worlds.devices import ANY, DEVICES
from training.worlds.generate import generate_world
from training.worlds.kinds import PLACES
from training.worlds.scene import Variety
from training.worlds.standpoint import ANY_MOUNT, MOUNTS


def parse_simulate_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if words[:1] == ['compare']:
        return parse_compare(parser, words[1:])
    parser.add_argument('--out', type=Path, required=True, help='root of the data set')
    parser.add_argument('--sequences', type=int, default=4, help='drives (default 4)')
    parser.add_argument('--first', type=int, default=0, help='number of the first (default 0)')
    parser.add_argument('--scans', type=int, default=50, help='scans of each drive, at 10 Hz')
    parser.add_argument(
        '--world',
        choices=['streets', 'varied'],
        default='streets',
        help='drives along a street (default), or scans that each stand alone, of any place, '
        'sensor and mounting',
    )
    parser.add_argument(
        '--sensor',
        choices=sorted({ANY, *SENSORS, *DEVICES}),
        help='default hdl64; in the varied world any, drawn for every scan',
    )
    parser.add_argument('--seed', type=int, default=0, help='another seed, other streets')
    parser.add_argument('--workers', type=int, default=1, help='processes (default 1)')
    parser.add_argument(
        '--quarter', choices=['mixed', *QUARTERS], default='mixed', help='default: mixed'
    )
    parser.add_argument('--place', choices=['mixed', *PLACES], default='mixed', help='varied')
    parser.add_argument('--mount', choices=MOUNTS, default=ANY_MOUNT, help='varied; default any')
    parser.add_argument(
        '--enrich', type=float, default=1.0,
        help='times as many people, two-wheelers, trucks, buses as in reality (default 1)',
    )  # fmt: skip
    parser.add_argument(
        '--distortion', action='store_true', help='leave the ego motion within a turn in the scan'
    )
    arguments = parser.parse_args(words)
    arguments.run = simulate_drives
    return arguments


def parse_compare(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    parser.prog += ' compare'
    parser.add_argument('--real', type=Path, required=True, help='root of the real data set')
    parser.add_argument('--streets', type=Path, required=True, help='root of the simulated one')
    parser.add_argument('--picture', type=Path, help='PNG with the curves of both')
    parser.add_argument('--scans', type=int, default=40, help='scans of each (default 40)')
    arguments = parser.parse_args(words)
    arguments.run = compare_drives
    return arguments


def simulate_drives(arguments: argparse.Namespace, console: Console) -> None:
    sequences, first = arguments.sequences, arguments.first
    make = make_varied if arguments.world == 'varied' else make_drives
    total, start = sequences * arguments.scans, time.perf_counter()
    with console.progress(total, 'streets') as step:
        made = make(arguments, step)
    seconds = time.perf_counter() - start
    folders = [folder_of(arguments.out, first + each) for each in range(sequences)]
    statistics = measure(folders, most=40)
    rows = [row for row in statistics.class_rows() if row[1] != '0']
    console.table('classes', ('class', 'points/scan', 'share', 'scans with it'), rows)
    console.line(
        f'{made} scans made, {total - made} were there; {made / seconds:.2f} scans/s with '
        f'{arguments.workers} processes; {statistics.points_per_scan:,.0f} points per scan; '
        f'{arguments.out}'
    )


def make_drives(arguments: argparse.Namespace, progress: Callable[[], None]) -> int:
    """The number of scans made."""
    settings = Settings(
        seed=arguments.seed,
        index=arguments.first,
        scans=arguments.scans,
        sensor=arguments.sensor or 'hdl64',
        quarter=arguments.quarter,
        enrich=arguments.enrich,
        distortion=arguments.distortion,
    )
    return make_streets(
        arguments.out, settings, sequences=arguments.sequences, workers=arguments.workers,
        progress=progress,
    )  # fmt: skip


def make_varied(arguments: argparse.Namespace, progress: Callable[[], None]) -> int:
    """The number of scans made."""
    variety = Variety(
        seed=arguments.seed,
        index=arguments.first,
        scans=arguments.scans,
        sensor=arguments.sensor or ANY,
        mount=arguments.mount,
        place=arguments.place,
        enrich=arguments.enrich,
    )
    return generate_world(
        arguments.out, variety, sequences=arguments.sequences, workers=arguments.workers,
        progress=progress,
    )  # fmt: skip


def compare_drives(arguments: argparse.Namespace, console: Console) -> None:
    both: list[Statistics] = []
    for root in (arguments.real, arguments.streets):
        folders = sorted((root / 'sequences').glob('[0-9]*'))
        both.append(measure(folders, most=arguments.scans, source=root))
    for title, rows in tabulate(*both).items():
        console.table(title, ('', 'real', 'streets'), rows)
    if arguments.picture:
        draw_comparison(arguments.picture, *both)
        console.line(f'picture: {arguments.picture}')


def main() -> int:
    arguments, console = parse_simulate_options(sys.argv[1:]), Console()
    try:
        arguments.run(arguments, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


if __name__ == '__main__':
    sys.exit(main())

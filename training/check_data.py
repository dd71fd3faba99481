# SPDX-License-Identifier: Apache-2.0
"""Reads every scan and label of a data set; says what is in it and what is wrong with it.

python training/check_data.py ROOT
python training/check_data.py ROOT --sequences 00 07     # or a split: --sequences val
python training/check_data.py ROOT --kind nuscenes --sequences mini_val
Exit code 2: there are problems; each is one line with its remedy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

import numpy as np

from lidar_kd.cli.console import Console, EXIT_BAD_INPUT
from lidar_kd.errors import LidarKdError
from training.data.check import check_scans, Findings
from training.data.kinds import KINDS, open_dataset

SHOWN = 30  # problems


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    console = Console()
    names = options.sequences
    try:
        scans = open_dataset(
            options.kind, options.root, names[0] if names and len(names) == 1 else names
        )
    except LidarKdError as error:
        return console.fail(error)
    console.line(scans.describe())
    with console.progress(len(scans), 'checking') as advance:
        findings = check_scans(scans, advance)
    _report(console, findings, len(scans))
    return EXIT_BAD_INPUT if findings.problems else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=Path, metavar='ROOT', help='the root folder of the data set')
    parser.add_argument(
        '--kind', choices=KINDS, default='semantickitti', help='its layout (default %(default)s)'
    )
    parser.add_argument(
        '--sequences',
        nargs='+',
        metavar='NAME',
        help='a split (train, val, test), or sequences, scenes or subfolders (default all)',
    )
    return parser.parse_args(argv)


def _report(console: Console, findings: Findings, scans: int) -> None:
    if findings.labelled:
        title = f'classes of {findings.labelled} labelled scans'
        console.table(title, ['class', 'points', 'share', 'scans'], findings.class_rows())
    if findings.points:
        low, middle, high = np.percentile(findings.points, [0, 50, 100])
        console.line(
            f'{len(findings.points)} of {scans} scans readable, {sum(findings.points)} points; '
            f'{low:.0f} to {high:.0f} per scan, {middle:.0f} in the middle'
        )
    for problem in findings.problems[:SHOWN]:
        console.warn(problem)
    if len(findings.problems) > SHOWN:
        console.warn(f'and {len(findings.problems) - SHOWN} more')
    console.line(f'{len(findings.problems)} problems')


if __name__ == '__main__':
    sys.exit(main())

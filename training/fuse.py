# SPDX-License-Identifier: Apache-2.0
"""Builds the instance bank of some sequences, tells what is in it and draws a fused scan.

  python training/fuse.py --data ROOT --sequences 00 06 --picture fused.png
  python training/fuse.py --data runs/streets --past-scans 2

The bank is kept in --cache and found there by a training run on the same sequences.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
from typing import get_args

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

import numpy as np
from numpy.typing import NDArray

from lidar_kd.cli.console import Console
from lidar_kd.cli.numbers import read_count
from lidar_kd.errors import LidarKdError
from training.data.class_counts import CACHE
from training.data.fusion import (
    build_bank,
    FusedScans,
    InstanceBank,
    LEFT_OUT,
    Moving,
    PASSES,
    PAST_SCANS,
    REGISTERED,
    STILL,
)
from training.data.fusion_picture import draw_fusion
from training.data.kinds import KINDS, open_dataset

COLUMNS = (
    *('class', 'objects', 'sightings', 'points', 'past points'),
    *('past views', 'still', 'registered', 'left out', 'still off by', 'registered off by'),
)


def main(argv: Sequence[str] | None = None) -> int:
    options, console = _parse(argv), Console()
    try:
        _run(options, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, required=True, help='the root of the data set')
    parser.add_argument(
        '--kind', choices=KINDS, default='semantickitti', help='its layout (default %(default)s)'
    )
    parser.add_argument(
        '--sequences', nargs='+', metavar='NAME', help='a split or sequences (default all)'
    )
    parser.add_argument(
        '--past-scans', type=read_count, default=PAST_SCANS, help='default %(default)s'
    )
    parser.add_argument(
        '--moving', choices=get_args(Moving), default='registered',
        help='how objects that moved are aligned (default %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--cache', type=Path, default=CACHE, help='folder of the bank (default %(default)s)'
    )
    parser.add_argument('--picture', type=Path, help='PNG: a single scan beside the fused one')
    return parser.parse_args(argv)


def _run(options: argparse.Namespace, console: Console) -> None:
    names = options.sequences
    scans = open_dataset(
        options.kind, options.data, names[0] if names and len(names) == 1 else names
    )
    console.line(scans.describe())
    with console.progress(PASSES * len(scans), 'instance bank') as advance:
        bank = build_bank(
            scans,
            past_scans=options.past_scans,
            moving=options.moving,
            cache=options.cache,
            advance=advance,
        )
    fused = FusedScans(scans, bank)
    console.table(f'fused with {options.past_scans} past scans', COLUMNS, tabulate_fused(fused))
    console.line(bank.describe())
    if options.picture:
        name = draw_fusion(options.picture, fused)
        console.line(f'picture of {name}: {options.picture}')


def tabulate_fused(scans: FusedScans) -> list[list[str]]:
    """A row for each class that occurs and one for all; distances are means over past points."""
    bank = scans.bank
    of_link = bank.sightings.label[bank.links.present]
    every = np.ones(len(bank.sightings), np.bool_), np.ones(len(bank.links), np.bool_)
    rows = []
    for train_id in np.unique(bank.sightings.label):
        chosen = bank.sightings.label == train_id, of_link == train_id
        rows.append([scans.table.names[train_id], *_count(scans, *chosen)])
    return [*rows, ['all', *_count(scans, *every)]]


def _count(scans: FusedScans, sightings: NDArray[np.bool_], links: NDArray[np.bool_]) -> list[str]:
    found, bank = scans.bank.sightings, scans.bank
    objects = {
        (scans.frames[found.frame[s]].sequence, int(found.label[s]), int(found.number[s]))
        for s in np.flatnonzero(sightings)
    }
    how = np.bincount(bank.links.how[links], minlength=LEFT_OUT + 1)
    used = links & (bank.links.how != LEFT_OUT)
    points = int(found.sizes[sightings].sum())
    added = int(found.sizes[bank.links.past[used]].sum())
    counts = [len(objects), int(sightings.sum()), points, added, int(links.sum()), *how]
    distances = [_mean_distance(bank, links, landing) for landing in (STILL, REGISTERED)]
    return [*(f'{count:,}' for count in counts), *distances]


def _mean_distance(bank: InstanceBank, links: NDArray[np.bool_], how: int) -> str:
    chosen = links & (bank.links.how == how)
    if not chosen.any():
        return '-'
    sizes = bank.sightings.sizes[bank.links.past[chosen]]
    return f'{np.average(bank.links.distance_m[chosen], weights=sizes):.3f} m'


if __name__ == '__main__':
    sys.exit(main())

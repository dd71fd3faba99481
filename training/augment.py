# SPDX-License-Identifier: Apache-2.0
"""Writes augmented versions of every scan to a folder that teacher and student learn from.

  python training/augment.py runs/streets/X runs/augmented --sequences 00 01 --versions 8
  python training/augment.py IN OUT --versions 4 --augment '{polarmix: 0.5, paste: 4, drop: 0.1}' \
      --plain 08
  python training/distill.py --cfg config/srkd.yaml --set data.kind=semantickitti \
      --set data.root=OUT --set 'data.augment={rotation_deg: 180, flip: true}'

Mixes, pasting and drops are done here, once, so that teacher.cache may be true: its answers are
kept for exactly the points that the student sees, and a student alone learns from the same folder.
IN and OUT have SemanticKITTI's layout; poses are left out, as they no longer hold. For a teacher
of M2SKD, which sees scans fused with their past, --past-scans 4 fuses them first and keeps what
that adds beside them. Run again, the same line makes only what is missing; a larger --versions, or
--past-scans, adds to what is there.
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

from lidar_kd.cli.console import Console
from lidar_kd.cli.numbers import read_count
from lidar_kd.errors import ConfigError, LidarKdError
from training.data.augment import Augmentation
from training.data.augmented import AugmentedSettings, link_sequences, write_augmented
from training.data.fusion import Moving
from training.data.kinds import open_dataset
from training.run.yaml_file import check_settings, parse_yaml

KIND = 'semantickitti'
DEFAULT = '{jitter_m: 0.01, polarmix: 0.5, lasermix: 0.3, paste: 4, drop: 0.1}'


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
    parser.add_argument('data', type=Path, metavar='IN', help='the root of a labelled data set')
    parser.add_argument('out', type=Path, metavar='OUT', help='new, or made by this command')
    parser.add_argument(
        '--sequences', nargs='+', metavar='NAME', help='a split or sequences (default all)'
    )
    parser.add_argument(
        '--versions', type=read_count, default=4, help='of each scan (default %(default)s)'
    )
    parser.add_argument(
        '--augment', default=DEFAULT, metavar='YAML', help='as data.augment (default %(default)s)'
    )
    parser.add_argument(
        '--plain', nargs='+', metavar='NAME', help='a split or sequences to score, linked as is'
    )
    parser.add_argument(
        '--past-scans', type=read_count, default=0, metavar='N',
        help="fuse each with its hard objects' past of N scans and keep that in past/: for M2SKD",
    )  # fmt: skip
    parser.add_argument(
        '--moving', choices=get_args(Moving), default='registered',
        help='how objects that moved are aligned (default %(default)s)',
    )  # fmt: skip
    parser.add_argument('--seed', type=int, default=0, help='default %(default)s')
    parser.add_argument('--workers', type=read_count, default=1, help='default %(default)s')
    return parser.parse_args(argv)


def _run(options: argparse.Namespace, console: Console) -> None:
    scans = open_dataset(KIND, options.data, _names(options.sequences))
    plain = open_dataset(KIND, options.data, _names(options.plain)) if options.plain else None
    if options.seed < 0:
        raise ConfigError(f'--seed: {options.seed}: give a number from 0 up.')
    settings = AugmentedSettings(
        augmentation=read_augmentation(options.augment),
        versions=options.versions,
        seed=options.seed,
        past_scans=options.past_scans,
        moving=options.moving,
    )
    console.line(scans.describe())
    with console.progress(settings.versions * len(scans), 'augmented scans') as advance:
        made = write_augmented(
            scans, options.out, settings, workers=options.workers, advance=advance
        )
    if plain is not None:
        link_sequences(plain, options.out)
    total = settings.versions * len(scans)
    console.line(f'{made} scans written, {total - made} were there: {options.out}')


def _names(words: list[str] | None) -> str | list[str] | None:
    return words[0] if words and len(words) == 1 else words


def read_augmentation(text: str) -> Augmentation:
    given = parse_yaml(text, '--augment')
    if not isinstance(given, dict):
        raise ConfigError("--augment: write a mapping, '{polarmix: 0.5, paste: 4}'.")
    return check_settings(given, Augmentation, '--augment')


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Compares methods: the same student with and without each, seed by seed, in one table.

  python training/compare.py --cfg config/srkd.yaml --methods srkd --seeds 3
  python training/compare.py --cfg config/srkd.yaml --methods srkd pvkd srkd+pvkd --jobs 2

Every run has a folder of its own; interrupted, the same line goes on with the run it was in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from lidar_kd.console import Console
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.files import write_atomically
from training.comparing.figures import ALONE, Comparison, show, write
from training.comparing.plot import draw
from training.comparing.runs import answer_all, measure_costs, read_run, score_run
from training.comparing.side_by_side import SideBySide
from training.config import Config, load_config
from training.data.scan import ScanSet
from training.run.folder import RunFolder
from training.run.interrupt import EXIT_INTERRUPTED, Interrupted
from training.run.perform import find_teacher, perform, RUNS
from training.run.ranks import join_ranks, Ranks
from training.run.sources import fuse, open_sources

Runs = dict[str, list[RunFolder]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--cfg', type=Path, default=ROOT / 'config' / 'srkd.yaml', help='a distill configuration'
    )
    parser.add_argument(
        '--methods', nargs='+', metavar='METHOD',
        help='what to compare with the student alone: srkd, pvkd, m2skd, or sums as srkd+m2skd '
        '(default: what the configuration lists)',
    )  # fmt: skip
    parser.add_argument('--seeds', type=int, default=3, help='runs of each (default 3)')
    parser.add_argument(
        '--set', action='append', default=[], metavar='KEY=VALUE', help='change one key for all'
    )
    parser.add_argument('--out', type=Path, help='folder (default runs/compare-NAME)')
    parser.add_argument('--json', type=Path, help='write the figures here, too')
    parser.add_argument(
        '--jobs', type=int, default=1,
        help='runs side by side, which share the cores of a CPU (default 1)',
    )  # fmt: skip
    parser.add_argument('--only', help=argparse.SUPPRESS)  # one of the runs: for --jobs
    return parser.parse_args()


def arm_config(config: Config, arm: str, seed: int) -> Config:
    """The configuration of one run."""
    method = () if arm == ALONE else tuple(arm.split('+'))
    changes = {'method': method, 'seed': seed, 'name': f'{config.name}-{arm}-{seed}'}
    return Config.model_validate(config.model_dump(by_alias=True) | changes)


def run(arguments: argparse.Namespace, console: Console, ranks: Ranks) -> None:
    config = load_config(arguments.cfg, arguments.set)
    for option in ('seeds', 'jobs'):
        if getattr(arguments, option) < 1:
            raise ConfigError(f'--{option} {getattr(arguments, option)}: at least 1.')
    folder = arguments.out or RUNS / f'compare-{config.name}'
    arms = [ALONE, *(arguments.methods or ['+'.join(config.method)])]
    seeds = range(config.seed, config.seed + arguments.seeds)
    configs = {f'{arm}-{seed}': arm_config(config, arm, seed) for seed in seeds for arm in arms}
    teacher = find_teacher(config, console, ranks)
    if arguments.only is None and arguments.jobs > 1 and ranks.world == 1:
        train_side_by_side(arguments.jobs, config, list(configs), folder, console)
    else:
        for name in configs if arguments.only is None else [arguments.only]:
            console.line(name)
            perform(configs[name], RunFolder(folder / name), console, ranks, teacher)
    if ranks.is_first and arguments.only is None:
        runs = {arm: [RunFolder(folder / f'{arm}-{seed}') for seed in seeds] for arm in arms}
        report(config, runs, teacher, folder, console)
        if arguments.json:
            write_figures(arguments.json, folder)


def train_side_by_side(
    jobs: int, config: Config, names: Sequence[str], folder: Path, console: Console
) -> None:
    open_sources(config.data, console)  # streets are simulated once
    again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], '--only']
    runs = {name: (RunFolder(folder / name), [*again, name]) for name in names}
    SideBySide(runs, jobs, console).finish()


def report(
    config: Config, runs: Runs, teacher: Path | None, folder: Path, console: Console
) -> None:
    """Scores every bundle again on the same scans; tables, a plot, files."""
    scans = open_sources(config.data, console).validation
    student = runs[ALONE][0].bundle
    theirs = answer_all(teacher, _seen_by_teacher(config, runs, console)) if teacher else []
    costs = measure_costs([student, *([teacher] if teacher else [])], scans, console)
    comparison = Comparison(
        title=config.name,
        arms={
            arm: [read_run(run, scans, theirs) for run in folders] for arm, folders in runs.items()
        },
        student=costs[0],
        teacher=costs[1] if teacher else None,
        teacher_outcome=score_run(scans, theirs, step_ms=0.0, peak_gb=0.0) if teacher else None,
    )
    show(console, comparison)
    write(folder, comparison)
    draw(folder / 'comparison.png', comparison)
    console.line(f'comparison.txt, .md, .json and .png in {folder}')


def _seen_by_teacher(config: Config, runs: Runs, console: Console) -> ScanSet:
    """A teacher of M2SKD knows the past of every scan."""
    scans = open_sources(config.data, console).validation
    return fuse(scans, config.data, console) if any('m2skd' in arm for arm in runs) else scans


def write_figures(path: Path, folder: Path) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text((folder / 'comparison.json').read_text())


def main() -> int:
    arguments = parse()
    with join_ranks() as ranks:
        console = Console(quiet=not ranks.is_first)
        try:
            run(arguments, console, ranks)
        except Interrupted as interrupted:
            console.warn(str(interrupted))
            return EXIT_INTERRUPTED
        except (LidarKdError, OSError) as error:
            return console.fail(error)
    return 0


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Compares methods: the same student with and without each, seed by seed, in one table.

  python training/compare.py --cfg config/srkd.yaml --methods srkd --seeds 3
  python training/compare.py --cfg config/srkd.yaml --methods srkd pvkd srkd+pvkd --jobs 2
  python training/compare.py --status runs

Every run has a folder of its own; interrupted, the same line goes on with the run it was in, seed
by seed, and with a larger --seeds adds to what is there. The student alone lies beside the
comparisons, in alone-*: the next one finds it there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from lidar_kd.cli.console import Console
from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from lidar_kd.errors import ConfigError, LidarKdError, write_atomically
from training.comparing.figures import ALONE, Comparison, TeacherFigures
from training.comparing.folds import pool_folds, split_folds
from training.comparing.parts import describe_parts, open_part, Part, pool_arms, score_part
from training.comparing.plan import plan_folds, Planned
from training.comparing.plot import draw_runs
from training.comparing.runs import CHOICE, measure_costs, REPORT
from training.comparing.side_by_side import SideBySide
from training.comparing.status import read_statuses, tabulate_statuses, write_plan
from training.comparing.written import show_comparison, write
from training.run.config import Config, load_config, MAIN
from training.run.interrupt import Interrupted
from training.run.perform import find_teachers, perform, RUNS
from training.run.ranks import join_ranks, Ranks
from training.run.sources import open_sources


def parse_comparison() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--cfg', type=Path, default=ROOT / 'config' / 'srkd.yaml', help='a distill configuration'
    )
    parser.add_argument(
        '--methods', '--arms', nargs='+', metavar='ARM',
        help='what to compare with the student alone: srkd, pvkd, m2skd, or sums as srkd+m2skd; '
        'label_smoothing; self_teacher: what the configuration lists, taught by the first '
        'student alone; pseudo_labels: only those of the teacher (teacher.pseudo_labels) '
        '(default: what the configuration lists)',
    )  # fmt: skip
    parser.add_argument('--seeds', type=int, default=3, help='runs of each (default 3)')
    parser.add_argument(
        '--set', action='append', default=[], metavar='KEY=VALUE', help='change one key for all'
    )
    parser.add_argument(
        '--half', choices=[CHOICE, REPORT],
        help='score on one half of the streets only: choose settings on one, report on the other',
    )  # fmt: skip
    parser.add_argument(
        '--folds', type=int, metavar='N',
        help='cross-validate: the sequences of data.train in N parts, each scored by students '
        'that learnt from the others; {fold} in a path is its number',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, help='folder (default runs/compare-NAME)')
    parser.add_argument('--json', type=Path, help='write the figures here, too')
    parser.add_argument(
        '--jobs', type=int, default=1,
        help='runs side by side, which share the cores of a CPU (default 1)',
    )  # fmt: skip
    parser.add_argument(
        '--status', type=Path, metavar='RUNS',
        help='only tell what is done, running and left of the comparisons in a folder, as runs/',
    )  # fmt: skip
    parser.add_argument('--only', help=argparse.SUPPRESS)  # one of the runs: for --jobs
    return parser.parse_args()


def run_comparison(arguments: argparse.Namespace, console: Console, ranks: Ranks) -> None:
    if arguments.status is not None:
        console.table(*tabulate_statuses(read_statuses(arguments.status)))
        return
    config = load_config(arguments.cfg, arguments.set)
    for option in ('seeds', 'jobs'):
        if getattr(arguments, option) < 1:
            raise ConfigError(f'--{option} {getattr(arguments, option)}: at least 1.')
    if arguments.folds and arguments.half:
        raise ConfigError('--half: a cross-validation scores every sequence; leave out --folds.')
    out = arguments.out or RUNS / f'compare-{config.name}'
    arms = [ALONE, *(arguments.methods or ['+'.join(config.method)])]
    folds = split_folds(config, arguments.folds)
    runs = plan_folds(folds, arms, arguments.seeds, out)
    if ranks.is_first and arguments.only is None:
        write_plan(out, runs)
    chosen = [run for run in runs if arguments.only in (None, run.name)]
    teachers = [find_teachers(_own(chosen, fold), console, ranks) for fold in range(len(folds))]
    if arguments.only is None and arguments.jobs > 1 and ranks.world == 1:
        train_side_by_side(arguments.jobs, folds, runs, console)
    else:
        for one in chosen:
            console.line(one.name)
            theirs = _teachers_of(one, teachers[one.fold or 0])
            perform(one.config, one.folder, console, ranks, theirs)
    if ranks.is_first and arguments.only is None:
        parts = [
            Part(fold, open_part(fold, arguments.half, console), theirs, _of(runs, number))
            for number, (fold, theirs) in enumerate(zip(folds, teachers))
        ]
        out = out / (arguments.half or '')
        out.mkdir(parents=True, exist_ok=True)
        report_comparison(config.name, parts, out, console)
        if arguments.json:
            write_figures(arguments.json, out)


def _of(runs: Sequence[Planned], fold: int) -> list[Planned]:
    return [run for run in runs if (run.fold or 0) == fold]


def _own(runs: Sequence[Planned], fold: int) -> list[Config]:
    """Of runs whose teachers are none of these runs."""
    return [one.config for one in _of(runs, fold) if one.taught_by is None]


def _teachers_of(one: Planned, teachers: Mapping[str, Path]) -> dict[str, Path]:
    if one.taught_by is not None:
        return {MAIN: one.taught_by.folder.bundle}
    return {name: teachers[name] for name in one.config.asked_teachers}


def train_side_by_side(
    jobs: int, folds: Sequence[Config], runs: Sequence[Planned], console: Console
) -> None:
    for config in folds:
        open_sources(config.data, console)  # streets are simulated once
    again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], '--only']
    commands = {one.name: (one.folder, [*again, one.name]) for one in runs}
    after = {one.name: one.taught_by.name for one in runs if one.taught_by is not None}
    SideBySide(commands, jobs, console, after=after).finish()


def report_comparison(name: str, parts: Sequence[Part], folder: Path, console: Console) -> None:
    """Scores every bundle again on the same scans; tables, a plot, files."""
    scored = [score_part(part, console) for part in parts]
    student, *teachers = measure_costs(scored[0].bundles, parts[0].sources.validation, console)
    comparison = Comparison(
        title=f'{name}, scored on {describe_parts(parts)}',
        arms=pool_arms([one.arms for one in scored]),
        student=student,
        teachers={
            teacher: TeacherFigures(
                cost=cost,
                outcome=pool_folds([one.teachers[teacher] for one in scored]),
                shown_the_past=pool_folds([one.shown_the_past[teacher] for one in scored])
                if teacher in scored[0].shown_the_past
                else None,
            )
            for teacher, cost in zip(scored[0].teachers, teachers)
        },
    )
    show_comparison(console, comparison)
    write(folder, comparison)
    draw_runs(folder / 'comparison.png', comparison)
    console.line(f'comparison.txt, .md, .json and .png in {folder}')


def write_figures(path: Path, folder: Path) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text((folder / 'comparison.json').read_text())


def main() -> int:
    arguments, console = parse_comparison(), Console()
    try:
        with join_ranks() as ranks:
            console = Console(quiet=not ranks.is_first)
            run_comparison(arguments, console, ranks)
    except Interrupted as interrupted:
        console.warn(str(interrupted))
        return EXIT_INTERRUPTED
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


if __name__ == '__main__':
    sys.exit(main())

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
from dataclasses import replace
from pathlib import Path
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from lidar_kd.bundle import read_spec
from lidar_kd.cli.console import Console
from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from lidar_kd.errors import ConfigError, LidarKdError, write_atomically
from lidar_kd.labels import ClassTable
from training.comparing.figures import ALONE, Comparison, Outcome, TeacherFigures
from training.comparing.plan import plan_runs, Planned
from training.comparing.plot import draw_runs
from training.comparing.runs import (
    answer_all,
    CHOICE,
    choose_half,
    measure_costs,
    read_run,
    REPORT,
    score_teacher,
)
from training.comparing.side_by_side import SideBySide
from training.comparing.status import read_statuses, tabulate_statuses, write_plan
from training.comparing.written import show_comparison, write
from training.run.config import Config, load_config, MAIN
from training.run.interrupt import Interrupted
from training.run.perform import find_teachers, perform, RUNS
from training.run.ranks import join_ranks, Ranks
from training.run.sources import fuse_scans, open_sources, Sources


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
    out = arguments.out or RUNS / f'compare-{config.name}'
    arms = [ALONE, *(arguments.methods or ['+'.join(config.method)])]
    runs = plan_runs(config, arms, arguments.seeds, out)
    if ranks.is_first and arguments.only is None:
        write_plan(out, runs)
    chosen = [run for run in runs if arguments.only in (None, run.name)]
    own = [one.config for one in chosen if one.taught_by is None]
    teachers = find_teachers(own, console, ranks)
    if arguments.only is None and arguments.jobs > 1 and ranks.world == 1:
        train_side_by_side(arguments.jobs, config, runs, console)
    else:
        for one in chosen:
            console.line(one.name)
            perform(one.config, one.folder, console, ranks, _teachers_of(one, teachers))
    if ranks.is_first and arguments.only is None:
        sources = open_sources(config.data, console)
        if arguments.half:
            half = choose_half(sources.validation, arguments.half)
            sources, out = replace(sources, validation=half), out / arguments.half
        out.mkdir(parents=True, exist_ok=True)
        report_comparison(config, runs, teachers, out, sources, console)
        if arguments.json:
            write_figures(arguments.json, out)


def _teachers_of(one: Planned, teachers: Mapping[str, Path]) -> dict[str, Path]:
    if one.taught_by is not None:
        return {MAIN: one.taught_by.folder.bundle}
    return {name: teachers[name] for name in one.config.asked_teachers}


def train_side_by_side(
    jobs: int, config: Config, runs: Sequence[Planned], console: Console
) -> None:
    open_sources(config.data, console)  # streets are simulated once
    again = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], '--only']
    commands = {one.name: (one.folder, [*again, one.name]) for one in runs}
    after = {one.name: one.taught_by.name for one in runs if one.taught_by is not None}
    SideBySide(commands, jobs, console, after=after).finish()


def report_comparison(
    config: Config,
    runs: Sequence[Planned],
    teachers: Mapping[str, Path],
    folder: Path,
    sources: Sources,
    console: Console,
) -> None:
    """Scores every bundle again on the same scans; tables, a plot, files."""
    scans = sources.validation
    student = runs[0].folder.bundle
    teachers = keep_answering(teachers, scans.table, console)
    answers = {name: answer_all(path, scans) for name, path in teachers.items()}
    costs = measure_costs([student, *teachers.values()], scans, console)
    arms: dict[str, list[Outcome]] = {}
    for one in runs:
        asked = next(iter([*one.config.asked_teachers, *answers]), None)  # the first of its own
        theirs = answers.get(asked or '', [])
        arms.setdefault(one.arm, []).append(read_run(one.folder, scans, theirs))
    comparison = Comparison(
        title=f'{config.name}, scored on {scans.describe()}',
        arms=arms,
        student=costs[0],
        teachers={
            name: TeacherFigures(
                cost=cost,
                outcome=score_teacher(scans, answers[name]),
                shown_the_past=_score_with_the_past(path, sources, config, console)
                if any(one.config.is_shown_the_past(name) for one in runs)
                else None,
            )
            for (name, path), cost in zip(teachers.items(), costs[1:])
        },
    )
    show_comparison(console, comparison)
    write(folder, comparison)
    draw_runs(folder / 'comparison.png', comparison)
    console.line(f'comparison.txt, .md, .json and .png in {folder}')


def keep_answering(
    teachers: Mapping[str, Path], labels: ClassTable, console: Console
) -> dict[str, Path]:
    """Those that can be scored; others teach by their features alone."""
    kept = {name: p for name, p in teachers.items() if read_spec(p).labels.name == labels.name}
    for name in teachers.keys() - kept.keys():
        console.line(f'{name} teaches by features alone and is not scored')
    return kept


def _score_with_the_past(
    teacher: Path, sources: Sources, config: Config, console: Console
) -> Outcome:
    """M2SKD asks its teacher about scans with their past, which only labelled scans have."""
    fused = fuse_scans(sources.validation, sources.scored, config.data, console)
    return score_teacher(sources.validation, answer_all(teacher, fused))


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

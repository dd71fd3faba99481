# SPDX-License-Identifier: Apache-2.0
"""A whole run, as train.py, distill.py and compare.py start it: sources, loop, report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from shlex import quote

from lidar_kd.bundle import digest_of, read_spec
from lidar_kd.cli.console import Console
from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from lidar_kd.errors import ConfigError, DataError, LidarKdError
from lidar_kd.labels import NO_CLASSES
from lidar_kd.segmenter import choose_device, Segmenter
from lidar_kd.sensor import EACH_ALONE
from training.data.batch import make_batch
from training.data.loader import explain_lost_worker
from training.methods.by_features import outputs_of
from training.reports.known_gain import quote_gain
from training.reports.page import rated_by, write_answer_page
from training.reports.report import Result, show, write_pictures, write_report
from training.run.build import build_parts, open_sources_once
from training.run.config import Config, load_config, MAIN, TeacherSettings
from training.run.folder import RunFolder
from training.run.interrupt import Interrupted
from training.run.loop import Parts, Run
from training.run.macs import gmacs
from training.run.ranks import join_ranks, Ranks
from training.run.simulated import digest_streets
from training.run.sources import Sources
from training.run.teachers import FrozenTeacher, load_teacher
from training.run.teaching import plan_teaching, TeachingPlan
from training.scores.scoring import score, Stopwatch

RUNS = Path('runs')
Job = Callable[[Config, RunFolder, Console, Ranks], None]


def main(description: str, job: Job, default: Path) -> int:
    """Parses the command line and does the job; returns the exit code."""
    arguments = parse_run_options(description, default)
    try:
        with join_ranks() as ranks:
            return _main(arguments, job, ranks)
    except LidarKdError as error:
        return Console().fail(error)


def _main(arguments: argparse.Namespace, job: Job, ranks: Ranks) -> int:
    console = Console(quiet=not ranks.is_first)
    try:
        config = load_config(arguments.cfg, arguments.set)
        folder = RunFolder(arguments.out or RUNS / config.name)
        if arguments.fresh and ranks.is_first:
            folder.clear()
        ranks.barrier()
        job(config, folder, console, ranks)
    except Interrupted as interrupted:
        console.warn(str(interrupted))
        return EXIT_INTERRUPTED
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    except RuntimeError as error:
        if (sentence := explain_lost_worker(error)) is None:
            raise
        return console.fail(sentence)
    return 0


def parse_run_options(description: str, default: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--cfg', type=Path, default=default, help=f'configuration (default config/{default.name})'
    )
    parser.add_argument(
        '--set', action='append', default=[], metavar='KEY=VALUE',
        help='change one key, as in optim.lr=5e-4; may be repeated',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, help='run folder (default runs/NAME)')
    parser.add_argument(
        '--fresh', action='store_true', help='start over; without it an interrupted run goes on'
    )
    return parser.parse_args()


def train(config: Config, folder: RunFolder, console: Console, ranks: Ranks) -> None:
    """A supervised run from its configuration to its report."""
    if config.method:
        raise ConfigError(
            f'method: {" + ".join(config.method)} needs a teacher to train with; start '
            "training/distill.py, or train the student alone with --set 'method=[]' --set "
            'teacher=null.'
        )
    if config.learns_from_teacher:
        raise ConfigError(
            'teacher.pseudo_labels: a teacher gives pseudo-labels in training/distill.py; start '
            'that, or train the student alone with --set teacher=null.'
        )
    perform(config, folder, console, ranks, {})


def distill(config: Config, folder: RunFolder, console: Console, ranks: Ranks) -> None:
    """The same with a teacher, which is trained first if its configuration says so."""
    if not config.learns_from_teacher:
        raise ConfigError(
            'method: none, so there is nothing to distill; name some, as in '
            "--set 'method=[srkd]', set teacher.pseudo_labels, or start training/train.py."
        )
    perform(config, folder, console, ranks, find_teachers([config], console, ranks))


def find_teachers(configs: Sequence[Config], console: Console, ranks: Ranks) -> dict[str, Path]:
    """The bundle of each teacher that the configurations ask; the main one first."""
    asked = {name: each for config in configs for name, each in config.asked_teachers.items()}
    names = sorted(asked, key=lambda name: name != MAIN)
    return {name: _find_teacher(asked[name], console, ranks) for name in names}


def _find_teacher(teacher: TeacherSettings, console: Console, ranks: Ranks) -> Path:
    if teacher.bundle is not None:
        return teacher.bundle
    assert teacher.config is not None, 'the configuration checks it'
    theirs = load_config(teacher.config)
    folder = RunFolder(RUNS / theirs.name)
    console.line(f'the teacher: {theirs.name}, in {folder.path}')
    changes = folder.changed_origins(find_origins(theirs, {}))
    if folder.is_finished and changes:
        folder.claim(theirs, {})
        console.warn(
            f'{folder.path}: the finished teacher is taken, though it learnt from something else '
            f'({"; ".join(changes)}); remove the folder to train it anew'
        )
    else:
        train(theirs, folder, console, ranks)
    return folder.bundle


def perform(
    config: Config,
    folder: RunFolder,
    console: Console,
    ranks: Ranks,
    teachers: Mapping[str, Path],
) -> None:
    """Trains in the folder to the end, or from where an earlier run of the same was ended."""
    with folder.occupied() if ranks.is_first else nullcontext():
        _perform(config, folder, console, ranks, teachers)


def _perform(
    config: Config,
    folder: RunFolder,
    console: Console,
    ranks: Ranks,
    teachers: Mapping[str, Path],
) -> None:
    with ranks.first_one_first():
        folder.claim(config, find_origins(config, teachers))
    if folder.is_finished:
        console.line(f'{folder.path}: this run is finished; its report is there. --fresh: anew')
        return
    choose_device(config.device)  # what is wrong is told before minutes of simulating, not after
    for bundle in filter(None, [config.model.warm_start, *teachers.values()]):
        read_spec(bundle)
    with console.copied_to(folder.log):
        sources = open_sources_once(config.data, console, ranks)
        plan = plan_teaching(config, _load_teachers(config, sources, teachers))
        parts = build_parts(config, sources, folder, console, ranks, plan)
        if ranks.is_first:
            console.banner(config.name, describe_run(parts, sources, plan))
        run = Run(parts, console)
        run.fit()
        if ranks.is_first:
            report_run(parts, console)
    ranks.barrier()


def find_origins(config: Config, teachers: Mapping[str, Path]) -> dict[str, str]:
    """Digests of what may change while the configuration stays the same."""
    bundles = dict(teachers)
    for name, teacher in config.asked_teachers.items():
        bundles |= {f'{name}.ensemble.{n}': path for n, path in enumerate(teacher.ensemble)}
    if config.model.warm_start is not None:
        bundles['model.warm_start'] = config.model.warm_start
    there = {name: path for name, path in bundles.items() if path.is_file()}
    origins = {name: digest_of(path) for name, path in there.items()}
    if config.data.kind == 'streets':
        origins['streets'] = digest_streets(config.data.streets)
    return origins


def _load_teachers(
    config: Config, sources: Sources, paths: Mapping[str, Path]
) -> dict[str, FrozenTeacher]:
    device, labels = choose_device(config.device), sources.train.table.name
    scale = config.data.intensity_scale
    more = {name: teacher.ensemble for name, teacher in config.asked_teachers.items()}
    return {
        name: load_teacher([path, *more[name]], labels, scale, device)
        for name, path in paths.items()
    }


def describe_run(parts: Parts, sources: Sources, plan: TeachingPlan) -> dict[str, object]:
    """The banner: what learns what from what."""
    config, student = parts.config, parts.distillation.student
    batch = make_batch([sources.validation[0]], config.model.grid)
    millions = sum(p.numel() for p in student.parameters()) / 1e6
    optim = config.optim
    rows: dict[str, object] = {
        'learns from': sources.train.describe(),
        'scored on': sources.validation.describe(),
        'network': f'{config.model.name}, {millions:.2f} M parameters, '
        f'{gmacs(student, batch):.1f} G multiply-adds for a scan',
        'supervision': ', '.join(f'{k} {v:g}' for k, v in config.loss.model_dump().items() if v),
        'optimiser': f'{optim.name}, rate {optim.lr:g}, {optim.schedule}, batches of '
        f'{optim.batch_size * parts.ranks.world}',
        'runs on': f'{parts.device}, engine {batch.voxels.level.engine.name}, '
        f'{parts.ranks.world} process{"es" * (parts.ranks.world > 1)}',
        'folder': parts.folder.path,
    }
    for number, more in enumerate(sources.labelled, start=2):
        rows[f'and from ({number})'] = more.describe()
    if config.model.warm_start is not None:
        rows['warm start'] = config.model.warm_start
    if plan.is_its_own:
        rows['teacher'] = 'the student itself, looking at the fused scans'
    for name, teacher in plan.networks.items():
        theirs = make_batch([sources.validation[0]], teacher.spec.grid)
        rows[MAIN if name == MAIN else f'teacher of {name}'] = (
            f'{teacher.name} ({teacher.spec.model.name}), {teacher.parameters / 1e6:.2f} M '
            f'parameters, {gmacs(teacher.network, theirs):.1f} G multiply-adds'
        )
    if plan.teachers:
        rows['methods'] = config.taught_by
    rows |= describe_feature_teachers(config, plan)
    return rows


def describe_feature_teachers(config: Config, plan: TeachingPlan) -> dict[str, str]:
    """Which teachers have no answers in the classes of the data, and what falls away with them."""
    rows = {}
    for name, teacher in plan.networks.items():
        if teacher.by_features:
            taught = [method for method, asked in plan.of_method.items() if asked == name]
            gone = [t for m in taught for t in outputs_of(m, getattr(config.methods, m))]
            has = teacher.spec.labels
            why = 'it has no head' if has == NO_CLASSES else f'it answers in those of {has.name}'
            rows[f'{name} teaches'] = (
                f'by features and relations alone, for {why}; left out: {", ".join(gone)}'
            )
    return rows


def report_run(parts: Parts, console: Console) -> None:
    """Scores the best bundle as a robot would run it, and says how to use it."""
    folder, scans = parts.folder, parts.validation
    if not folder.bundle.is_file():
        raise DataError(
            f'{folder.bundle}: it was there and is gone; make it of the checkpoint again: '
            f'training/export.py {quote(str(folder.path))} --out {quote(str(folder.bundle))}'
        )
    segmenter = Segmenter(folder.bundle, device=str(parts.device), sensor=EACH_ALONE)
    segmenter.warm_up()
    watch = Stopwatch(lambda points: segmenter.segment(points).labels)
    with console.progress(len(scans), 'scoring the best bundle') as advance:
        confusion = score(watch, scans, advance=advance)
    row, history = parts.config.known_gain, folder.history()
    known = None if row is None else quote_gain(row)
    left_out = sum(each.get('left_out', 0) for each in history)
    result = Result(
        title=parts.config.name,
        table=parts.spec.labels,
        confusion=confusion,
        facts={
            'scored on': scans.describe(),
            **segmenter.spec.provenance,
            **({'measured before': known} if known else {}),
            **({'left out': f'{left_out} steps that overflowed float16'} if left_out else {}),
        },
        latency_ms=watch.latency_ms,
    )
    show(console, result)
    most = parts.config.validate_.pictures
    write_pictures(folder.path, watch, scans, most=most)
    if most:
        page = folder.path / 'scans.html'
        write_answer_page(page, parts.config.name, rated_by(segmenter), scans, most=most)
        console.line(f'to look at in a browser: {page}')
    write_report(folder.path, result, history)  # last: its report.json says finished
    say_goodbye(folder, confusion.occurring().value, console)


def say_goodbye(folder: RunFolder, miou: float, console: Console) -> None:
    console.line(f'report and pictures in {folder.path}: report.txt, curves.png, ...')
    console.line(f'best mIoU {miou:.1%} (classes that occur): {folder.bundle}')
    console.line('run it on a robot:')
    model = quote(str(folder.bundle.resolve()))
    console.line(f'  ros2 launch lidar_kd segment.launch.py model:={model} points:=/YOUR/TOPIC')
    console.line('or on files:')
    bundle = quote(str(folder.bundle))
    console.line(f'  lidar-kd-segment SCAN_OR_FOLDER --bundle {bundle} --picture')

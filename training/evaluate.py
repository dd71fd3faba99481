# SPDX-License-Identifier: Apache-2.0
"""Scores a bundle, or the stored predictions of any other network, on labelled scans.

  python training/evaluate.py --bundle best.safetensors --data KITTI --sequences val --out report
  python training/evaluate.py --bundle best.safetensors --data KITTI --sequences 07 09 --tta
  python training/evaluate.py --predictions FOLDER --data NUSCENES --kind nuscenes --sequences val
  python training/evaluate.py --bundle best.safetensors --data KITTI --sequences 08 --panoptic
  python training/evaluate.py --bundle best.safetensors --data KITTI --html look.html
  torchrun --nproc-per-node 4 training/evaluate.py --bundle best.safetensors --data KITTI

Every original point counts, in a single pass over each scan unless --tta says otherwise. Every
mean IoU is printed with the convention it follows: SemanticKITTI's, nuScenes' and ours.
--panoptic also finds the objects in the answers and prints their panoptic quality by class;
with --predictions of panoptic submissions, --panoptic stored scores the objects in them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
import json
import math
from pathlib import Path
import sys
from typing import Literal

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

import torch

from lidar_kd.bundle import Bundle, find_shipped_bundle, load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.errors import (
    ConfigError,
    DataError,
    LidarKdError,
    prepare_folder,
    write_atomically,
    writing,
)
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sensor import EACH_ALONE
from training.data.kinds import KINDS, open_dataset
from training.data.nuscenes import SPLITS
from training.data.scan import Points, ScanSet
from training.reports.page import rated_by, RatedAnswer, without_probability, write_answer_page
from training.reports.report import (
    choose_spread,
    figures,
    Result,
    show,
    write_answer_pictures,
    write_report,
)
from training.run.ranks import join_ranks, Ranks
from training.scores.augmented import NAME as AUGMENTED
from training.scores.augmented import segment_augmented
from training.scores.panoptic import number_objects, PanopticQuality, ScoredObjects
from training.scores.predictions import StoredPredictions
from training.scores.scoring import Answer, check_tables, Labels, score_answers, Stopwatch

PAGE_SCANS = 20


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    data: Path
    kind: str = 'semantickitti'
    sequences: list[str] | None = None
    scans: int | None = None
    bundle: Path | None = None
    predictions: Path | None = None
    tta: bool = False
    panoptic: Literal['answers', 'truth', 'stored'] | None = None
    out: Path | None = None
    pictures: int = 3
    json: Path | None = None
    html: Path | None = None
    device: str = 'auto'
    precision: Precision = 'auto'


def main(argv: Sequence[str] | None = None) -> int:
    options = ScoringOptions(**vars(make_evaluate_parser().parse_args(argv)))
    console = Console()
    try:
        with join_ranks() as ranks:
            console = Console(quiet=not ranks.is_first)
            evaluate(options, ranks, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


def make_evaluate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--data', type=Path, required=True, metavar='ROOT', help='the root of the data set')
    add('--kind', choices=KINDS, default='semantickitti', help='its layout (%(default)s)')
    add('--sequences', nargs='+', metavar='NAME', help='a split, or sequences or scenes (all)')
    add('--scans', type=_positive, metavar='N', help='so many, evenly spread (all)')
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument('--bundle', type=Path, metavar='FILE', help='default: the shipped one')
    answers.add_argument(
        '--predictions',
        type=Path,
        metavar='FOLDER',
        help="another network's answers in the benchmark's layout: "
        'sequences/XX/predictions/*.label or lidarseg/SPLIT/*_lidarseg.bin',
    )
    add('--tta', action='store_true', help=AUGMENTED)
    add(
        '--panoptic',
        nargs='?',
        const='answers',
        choices=('answers', 'truth', 'stored'),
        help='panoptic quality beside the IoU, of the objects found in the answers; "truth": of '
        'those found in the true labels, which is what clustering alone can reach; "stored": of '
        'those that panoptic predictions hold',
    )
    add('--out', type=Path, metavar='FOLDER', help='write report.{txt,md,json,csv} and pictures')
    add('--pictures', type=int, default=3, metavar='N', help='scans to draw (%(default)s)')
    add('--json', type=Path, metavar='FILE', help='write the figures as one flat object')
    add(
        '--html',
        type=Path,
        metavar='FILE',
        help=f'write a page to look around in with any browser: at most {PAGE_SCANS} of the scans',
    )
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (%(default)s)')
    add(
        '--precision',
        default='auto',
        choices=('auto', 'float32', 'bfloat16', 'float16'),
        help='of the network (%(default)s)',
    )
    return parser


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Whose answers are scored."""

    name: str
    facts: dict[str, str]
    answer: Answer
    rated: RatedAnswer | None = None  # the same with probabilities, where there are some
    latency_ms: Sequence[float] = ()  # grows with every answer
    device: str = 'cpu'


def evaluate(options: ScoringOptions, ranks: Ranks, console: Console) -> Result:
    files = filter(None, (options.json, options.html))
    for folder in (options.out, *(file.parent for file in files)):
        if folder is not None:
            prepare_folder(folder)
    scans = open_labelled_scans(options)
    candidate = open_candidate(options, scans, ranks)
    scored = score_objects(options, candidate.answer, scans)
    with console.progress(math.ceil(len(scans) / ranks.world), 'scoring') as advance:
        confusion = score_answers(
            scored or candidate.answer,
            scans,
            advance=advance,
            rank=ranks.rank,
            world=ranks.world,
        )
    confusion.sum_over_ranks(candidate.device)
    if scored:
        scored.quality.sum_over_ranks(candidate.device)
    result = Result(
        title=f'{candidate.name} on {scans.describe()}',
        table=scans.table,
        confusion=confusion,
        facts=candidate.facts,
        latency_ms=tuple(candidate.latency_ms),
        panoptic=scored.quality if scored else None,
    )
    if ranks.is_first:
        show(console, result)
        leave_files(options, result, candidate, scans, console)
    return result


def open_labelled_scans(options: ScoringOptions) -> ScanSet:
    """Labelled scans; all, or some spread over the set."""
    names = options.sequences
    wanted = names[0] if names and len(names) == 1 else names
    scans = open_dataset(options.kind, options.data, wanted).require_labels()
    if options.scans is None:
        return scans
    chosen = choose_spread(len(scans), options.scans)
    return replace(scans, frames=tuple(scans.frames[index] for index in chosen))


def score_objects(options: ScoringOptions, answer: Answer, scans: ScanSet) -> ScoredObjects | None:
    """The answer whose objects are scored as well, where --panoptic asks for it."""
    if options.panoptic is None:
        return None
    if scans[0].instances is None:
        raise DataError(f'{scans.root}: no object numbers to score against; drop --panoptic.')
    quality = PanopticQuality(scans.table.num_classes)
    if options.panoptic != 'stored':
        return ScoredObjects(answer, partial(number_objects, scans.table), quality)
    if not isinstance(answer, StoredPredictions):
        raise ConfigError('--panoptic stored needs predictions that hold objects: --predictions.')
    return ScoredObjects(answer, answer.number, quality)


def open_candidate(options: ScoringOptions, scans: ScanSet, ranks: Ranks) -> Candidate:
    if options.panoptic == 'truth':
        facts = {'answers': 'the true labels: objects are found in them'}
        return Candidate(name='truth', facts=facts, answer=lambda scan: scan.labels)
    if options.predictions is None:
        return _load_network(options, scans, ranks)
    if options.tta:
        raise ConfigError('--tta needs a network to run: use it with --bundle.')
    named = [name for name in options.sequences or () if name in SPLITS]
    answers = StoredPredictions(options.predictions, scans, split=named[0] if named else None)
    facts = {'answers': f'{options.predictions}, read from files'}
    return Candidate(name=options.predictions.name, facts=facts, answer=answers)


def _load_network(options: ScoringOptions, scans: ScanSet, ranks: Ranks) -> Candidate:
    bundle = load_bundle(options.bundle or find_shipped_bundle())
    check_tables(bundle.spec.labels, scans.table)
    device = options.device
    if device == 'auto' and ranks.world > 1 and torch.cuda.is_available():
        device = f'cuda:{ranks.local}'
    segmenter = Segmenter(bundle, device=device, precision=options.precision, sensor=EACH_ALONE)
    segmenter.warm_up()

    def segment(points: Points) -> Labels:
        if options.tta:
            return segment_augmented(segmenter, points)
        return segmenter.segment(points).labels

    stopwatch = Stopwatch(segment)
    return Candidate(
        name=bundle.name,
        facts={
            'bundle': f'{bundle.path} ({bundle.sha256})',
            'network': _describe_network(bundle),
            'device': f'{segmenter.device}, engine {segmenter.engine.name}, '
            + str(segmenter.dtype).removeprefix('torch.'),
            'passes': AUGMENTED if options.tta else 'a single one over each scan',
        },
        answer=lambda scan: stopwatch(scan.points),
        rated=None if options.tta else rated_by(segmenter),
        latency_ms=stopwatch.latency_ms,
        device=str(segmenter.device),
    )


def _describe_network(bundle: Bundle) -> str:
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    grid = bundle.spec.grid.model_dump(mode='json', exclude_none=True)
    cells = ' '.join(str(value) for value in grid.values())
    return f'{bundle.spec.model.name}, {parameters / 1e6:.2f} M parameters, grid {cells}'


def leave_files(
    options: ScoringOptions, result: Result, candidate: Candidate, scans: ScanSet, console: Console
) -> None:
    if options.json is not None:
        with writing(options.json), write_atomically(options.json) as temporary:
            temporary.write_text(json.dumps(figures(result), indent=1) + '\n', encoding='utf-8')
        console.line(f'figures: {options.json}')
    if options.html is not None:
        rated = candidate.rated or without_probability(candidate.answer)
        with console.progress(min(PAGE_SCANS, len(scans)), 'writing the page') as advance:
            write_answer_page(
                options.html, result.title, rated, scans, most=PAGE_SCANS, advance=advance
            )
        console.line(f'to look at in a browser: {options.html}')
    if options.out is None:
        return
    written = write_report(options.out, result)
    count = min(options.pictures, len(scans))
    with console.progress(count, 'drawing', unit='pictures') as advance:
        written += write_answer_pictures(
            options.out, candidate.answer, scans, most=count, advance=advance
        )
    console.line(f'report: {options.out}: {" ".join(path.name for path in written)}')


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value}: at least 1 is needed')
    return value


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""What the runs of a comparison left, scored again side by side: answers, agreement and cost.

Answers are kept on disk, so that a comparison that grows seed by seed asks each network once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
import hashlib
from itertools import groupby
import math
from pathlib import Path
from statistics import median
import time
from typing import Any

import numpy as np

from lidar_kd.bundle import digest_of, load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, prepare_folder, write_atomically
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE
from training.comparing.figures import Cost, Outcome
from training.data.batch import make_batch
from training.data.class_counts import CACHE
from training.data.fusion import FusedScans
from training.data.instances import digest_files
from training.data.kept_past import KeptPast
from training.data.scan import ScanSet
from training.run.folder import RunFolder
from training.run.macs import gmacs
from training.scores.augmented import segment_together
from training.scores.metrics import Confusion
from training.scores.scoring import Labels, score_answers

CHOICE, REPORT = 'choice', 'report'  # halves of the streets
_TIMED_SCANS = 20


def read_run(folder: RunFolder, scans: ScanSet, theirs: Sequence[Labels]) -> Outcome:
    """`theirs`: the teacher's labels of each scan, or nothing."""
    answers = answer_all(folder.bundle, scans)
    rows = folder.history()
    steps = [row for row in rows if 'steps_per_s' in row]
    return score_run(
        scans,
        answers,
        step_ms=median(1e3 / row['steps_per_s'] for row in steps) if steps else math.nan,
        peak_gb=max((row['peak_gb'] for row in steps), default=math.nan),
        agreement=_agreement(answers, theirs),
        curve=[(row['step'], row['miou']) for row in rows if 'miou' in row],
    )


def score_teacher(scans: ScanSet, answers: Sequence[Labels]) -> Outcome:
    return score_run(scans, answers, step_ms=0.0, peak_gb=0.0)


def score_run(scans: ScanSet, answers: Sequence[Labels], **facts: Any) -> Outcome:
    whole = Confusion(scans.table.num_classes)
    counts = []
    for street in _score_streets(scans, answers):
        counts.append(street.matrix)
        whole += street
    hard = [int(train_id) for train_id in scans.table.hard_ids]
    iou = [None if np.isnan(value) else float(value) for value in whole.iou()]
    return Outcome(
        miou=whole.occurring().value,
        hard_miou=whole.occurring(hard).value,
        iou=dict(zip(scans.table.names, iou)),
        counts=np.stack(counts),
        hard=hard,
        **facts,
    )


def _score_streets(scans: ScanSet, answers: Sequence[Labels]) -> list[Confusion]:
    """Each sequence by itself: a whole one is what a bootstrap draws."""
    by_name = {frame.name: labels for frame, labels in zip(scans.frames, answers)}
    streets = groupby(scans.frames, key=lambda frame: frame.sequence)
    return [
        score_answers(lambda scan: by_name[scan.name], replace(scans, frames=tuple(frames)))
        for _, frames in streets
    ]


def choose_half(scans: ScanSet, half: str) -> ScanSet:
    """The first half of the sequences to choose settings by, or the second one to report on."""
    names = list(dict.fromkeys(frame.sequence for frame in scans.frames))
    if len(names) < 2:
        raise ConfigError(
            f'--half {half}: {scans.root} has {len(names)} sequence to score on; name more of '
            'them in data.validation, or leave --half out.'
        )
    middle = len(names) // 2
    chosen = {*(names[:middle] if half == CHOICE else names[middle:])}
    frames = tuple(frame for frame in scans.frames if frame.sequence in chosen)
    return replace(scans, frames=frames)


def answer_all(bundle: Path, scans: ScanSet, others: Sequence[Path] = ()) -> list[Labels]:
    """Labels of each scan's own points; what fusion added is seen and not answered for.

    others: those of an ensemble, whose posteriors are averaged with its own.
    """
    bundles = [bundle, *others]
    if isinstance(scans, FusedScans | KeptPast):
        return _ask(bundles, scans)
    digests = ' '.join([*map(digest_of, bundles), digest_files(scans)])
    name = hashlib.sha256(digests.encode()).hexdigest()
    path = CACHE / 'answers' / f'{name[:16]}.npz'
    if not path.is_file():
        prepare_folder(path.parent)
        with write_atomically(path) as temporary, temporary.open('wb') as file:
            np.savez_compressed(file, *_ask(bundles, scans))
    with np.load(path) as kept:
        return [kept[name] for name in kept.files]


def _ask(bundles: Sequence[Path], scans: ScanSet) -> list[Labels]:
    segmenters, answers = [Segmenter(each, sensor=EACH_ALONE) for each in bundles], []
    for index in range(len(scans)):
        scan = scans[index]
        if len(segmenters) == 1:
            labels = segmenters[0].segment(scan.points).labels
        else:
            labels = segment_together(segmenters, scan.points)
        answers.append(labels if scan.past is None else labels[~scan.past])
    return answers


def measure_costs(bundles: Sequence[Path], scans: ScanSet, console: Console) -> list[Cost]:
    """The networks take turns scan by scan, so that whatever disturbs the machine hits all."""
    segmenters = [Segmenter(bundle) for bundle in bundles]
    times: list[list[float]] = [[] for _ in bundles]
    count = min(len(scans), _TIMED_SCANS)
    with console.progress(count, 'timing the networks') as advance:
        for index in range(count):
            points = scans[index].points
            for segmenter, spent in zip(segmenters, times):
                start = time.perf_counter()
                segmenter.segment(points)
                spent.append(1e3 * (time.perf_counter() - start))
            advance()
    return [_cost(path, scans, median(spent[1:] or spent)) for path, spent in zip(bundles, times)]


def _cost(path: Path, scans: ScanSet, latency_ms: float) -> Cost:
    bundle = load_bundle(path)
    return Cost(
        name=bundle.spec.model.name,
        parameters=sum(p.numel() for p in bundle.model.parameters()),
        gmacs=gmacs(bundle.model, make_batch([scans[0]], bundle.spec.grid)),
        latency_ms=latency_ms,
    )


def _agreement(ours: Sequence[Labels], theirs: Sequence[Labels]) -> float:
    if not theirs:
        return float('nan')
    same = sum(int((a == b).sum()) for a, b in zip(ours, theirs))
    return same / sum(len(a) for a in ours)

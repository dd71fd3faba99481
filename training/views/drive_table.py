# SPDX-License-Identifier: Apache-2.0
"""What the demo tells of a drive: scans, latencies, and how right the labels are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lidar_kd.cli.console import Console
from lidar_kd.labels import ClassTable
from lidar_kd.objects import find_objects
from training.scores.metrics import Confusion, horizontal_range
from training.scores.panoptic import PanopticQuality
from training.views.drive import read_labelled

if TYPE_CHECKING:
    from training.live.listener import Listener, Received

KNOWN_BY = 16  # points that tell a scan from all others


def score_drive(answers: list[Received], table: ClassTable) -> Confusion:
    confusion = Confusion(table.num_classes)
    for received in answers:
        points, truth, labels = read_labelled(received)
        confusion.add(truth, labels, horizontal_range(points))
    return confusion


def score_drive_objects(
    answers: list[Received], folder: Path, table: ClassTable
) -> PanopticQuality:
    """Objects are found in the labels that came back, as the node finds those of ~/objects. The
    scan of an answer is found by its first points: some may have been dropped.
    """
    files = {
        np.fromfile(file, '<f4', 4 * KNOWN_BY).tobytes(): file
        for file in sorted((folder / 'velodyne').glob('*.bin'))
    }
    quality = PanopticQuality(table.num_classes)
    for received in answers:
        points, truth, labels = read_labelled(received)
        file = files[points[:KNOWN_BY].tobytes()]
        true_objects = np.fromfile(folder / 'labels' / f'{file.stem}.label', '<u4') >> 16
        found = find_objects(points, labels, None, table)
        quality.add(truth, true_objects, labels, found.instances)
    return quality


def describe_quality(quality: PanopticQuality, table: ClassTable) -> str:
    """The mean of the classes that occur, and the movable ones among them."""
    pq, occurs = 100 * quality.pq(), quality.counts[[0, 2]].sum(0) > 0
    things = [i for i in table.group_ids('movable').tolist() if occurs[i]]
    shown = ', '.join(f'{table.names[i]} {pq[i]:.0f}' for i in things)
    return f'{pq[occurs].mean() if occurs.any() else 0:.1f} % ({shown})'


def compare_with_truth(
    answers: list[Received], folder: Path, table: ClassTable
) -> list[list[object]]:
    """Rows of the table."""
    confusion = score_drive(answers, table)
    objects = describe_quality(score_drive_objects(answers, folder, table), table)
    return [
        ['points labelled right', f'{100 * confusion.accuracy():.1f} %'],
        ['against the truth', str(confusion.occurring())],
        ['panoptic quality of its objects', objects],
    ]


def report_drive(
    console: Console, listener: Listener, sent: int, found: list[list[object]]
) -> None:
    status, answers = listener.status, listener.kept
    dropped = {
        key.removeprefix('dropped: '): value
        for key, value in status.items()
        if key.startswith('dropped: ') and value != '0'
    }
    rows: list[list[object]] = [
        ['scans sent', sent],
        ['received by the node', status.get('received', '?')],
        ['labelled', status.get('labelled', '?')],
        ['dropped', ', '.join(f'{n} {why}' for why, n in dropped.items()) or '0'],
        ['labelled scans that came back here', len(answers)],
        *_list_latencies(listener),
        *_list_stages(listener),
        ['network', status.get('chosen', status.get('bundle', '?'))],
        ['mounting', status.get('mounting', '?')],
        ['intensity level', status.get('intensity level', '?')],
        *found,
    ]
    facts = ', '.join(status[key] for key in ('device', 'engine', 'precision') if key in status)
    console.table(f'the drive ({facts})', ['', 'value'], rows)


def _list_latencies(listener: Listener) -> list[list[object]]:
    """From the stamp that the replay gives a cloud before it sends it, p50 and p95."""
    ways = {
        'stamp to labelled cloud sent': listener.times_ms['pipeline_latency_ms'],
        'stamp to labelled cloud received here': [each.latency_ms for each in listener.kept],
        'stamp to boxes sent': listener.times_ms['objects_latency_ms'],
    }
    return [
        [f'latency, {way}', f'p50 {p50:.1f} ms, p95 {p95:.1f} ms']
        for way, times_ms in ways.items()
        if times_ms
        for p50, p95 in [np.percentile(times_ms, (50, 95))]
    ]


def _list_stages(listener: Listener) -> list[list[object]]:
    means = {name: float(np.mean(times)) for name, times in listener.times_ms.items() if times}
    total = means.get('total_ms', 0.0)
    return [
        [f'  {part}, mean', f'{means[key]:.1f} ms, {100 * means[key] / total:.0f} %']
        for part in (
            'of it preprocess',
            'of it inference',
            'of it postprocess',
            '  of that objects',
        )
        if (key := f'{part.split()[-1]}_ms') in means
    ]

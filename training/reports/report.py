# SPDX-License-Identifier: Apache-2.0
"""A result as tables, and as report.txt, .md, .json, .csv, confusion.png and curves.png."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import csv
from dataclasses import dataclass, field
import io
import json
import math
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lidar_kd.cli.console import Console
from lidar_kd.cli.picture import draw_truth_and_answer, save_picture
from lidar_kd.errors import write_atomically, writing
from lidar_kd.labels import ClassTable
from training.data.scan import Scans
from training.reports.draw import draw_confusion, draw_curves
from training.reports.panoptic import (
    PANOPTIC_COLUMNS,
    panoptic_figures,
    panoptic_rows,
    PANOPTIC_TITLE,
)
from training.scores.metrics import Confusion, Score
from training.scores.panoptic import PanopticQuality
from training.scores.scoring import Answer, Segment

NOTHING = '-'  # shown where there is no number


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a report is about; nothing in it needs a network."""

    title: str
    table: ClassTable
    confusion: Confusion
    facts: Mapping[str, str] = field(default_factory=dict)  # shown above the tables
    latency_ms: Sequence[float] = ()  # per scan
    panoptic: PanopticQuality | None = None  # where objects were scored too


class Tabulation(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(result: Result) -> list[Tabulation]:
    found = [_means(result), _classes(result), _ranges(result)]
    if result.panoptic is not None:
        rows = panoptic_rows(result.table, result.panoptic)
        found.append(Tabulation(PANOPTIC_TITLE, PANOPTIC_COLUMNS, rows))
    return found


def show(console: Console, result: Result) -> None:
    """The facts and the tables."""
    console.banner(result.title, {**result.facts, **_asides(result)})
    for each in tables(result):
        console.table(*each)


def figures(result: Result) -> dict[str, float | None]:
    """Every number of the result by a flat name; shares from 0 to 1, None where there is none."""
    confusion, table = result.confusion, result.table
    values: dict[str, float] = {
        'miou': confusion.official(table.name).value,
        'miou_semantickitti': confusion.semantickitti().value,
        'miou_nuscenes': confusion.nuscenes().value,
        'miou_occurring': confusion.occurring().value,
        'hard_miou': _hard(result).value,
        'accuracy': confusion.accuracy(),
        'points': float(confusion.points.sum()),
        'unanswered': float(confusion.unanswered),
        'latency_ms': median(result.latency_ms) if result.latency_ms else math.nan,
    }
    values |= {f'iou_{name}': float(iou) for name, iou in zip(table.names, confusion.iou())}
    if result.panoptic is not None:
        values |= panoptic_figures(table, result.panoptic, confusion.iou())
    by_range = confusion.occurring_by_range()
    values |= {f'miou_{_plain(name)}': score.value for name, score in by_range.items()}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_report(
    folder: Path, result: Result, history: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Writes what there is to say into the folder; the paths of the files.

    `history`: the rows of a run's metrics.jsonl; without any there are no curves.
    """
    texts = {
        'report.txt': as_text(result),
        'report.md': as_markdown(result),
        'report.csv': as_csv(result),
        'report.json': as_json(result),  # last: it says that the rest is there
    }
    pictures = {'confusion.png': draw_confusion(result.confusion, result.table)}
    curves = draw_curves(history)
    if curves is not None:
        pictures['curves.png'] = curves
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            save_picture(folder / name, picture)
        for name, text in texts.items():
            with write_atomically(folder / name) as temporary:
                temporary.write_text(text, encoding='utf-8')
    return [folder / name for name in (*texts, *pictures)]


def write_pictures(
    folder: Path,
    segment: Segment,
    scans: Scans,
    *,
    most: int = 3,
    advance: Callable[[], None] = lambda: None,
) -> list[Path]:
    """bev_NAME.png of a few scans spread over the set: truth | prediction | errors."""
    return write_answer_pictures(
        folder, lambda scan: segment(scan.points), scans, most=most, advance=advance
    )


def write_answer_pictures(
    folder: Path,
    answer: Answer,
    scans: Scans,
    *,
    most: int = 3,
    advance: Callable[[], None] = lambda: None,
) -> list[Path]:
    """The same for answers that depend on more than the points."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index in choose_spread(len(scans), most):
        scan = scans[index]
        picture = draw_truth_and_answer(
            scan.points, scan.labels, answer(scan), scans.table, title=scan.name
        )
        written.append(folder / f'bev_{scan.name.replace("/", "_")}.png')
        save_picture(written[-1], picture)
        advance()
    return written


def choose_spread(size: int, most: int) -> list[int]:
    """At most so many of `size` things, from the middle of equal parts."""
    count = min(size, most)
    return [(2 * part + 1) * size // (2 * count) for part in range(count)]


def as_text(result: Result) -> str:
    """What `show` prints, columns aligned."""
    facts = {**result.facts, **_asides(result)}
    width = max(map(len, facts), default=0)
    parts = [result.title, *(f'  {name:{width}}  {value}' for name, value in facts.items())]
    for title, columns, rows in tables(result):
        parts += ['', title, *_align([columns, *rows])]
    return '\n'.join(parts) + '\n'


def as_markdown(result: Result) -> str:
    facts = {**result.facts, **_asides(result)}
    parts = [f'# {result.title}', '\n'.join(f'- {name}: {value}' for name, value in facts.items())]
    for title, columns, rows in tables(result):
        ruler = '|'.join([' --- ', *[' ---: '] * (len(columns) - 1)])
        lines = [f'| {" | ".join(cells)} |' for cells in rows]
        parts.append(
            '\n'.join([f'## {title}\n', f'| {" | ".join(columns)} |', f'|{ruler}|', *lines])
        )
    return '\n\n'.join(parts) + '\n'


def as_json(result: Result) -> str:
    """The figures, the facts, and the confusion: rows truth, columns answers, none last."""
    document = {
        'title': result.title,
        'facts': dict(result.facts),
        'classes': list(result.table.names),
        'figures': figures(result),
        'scores': [vars(score) for score in _scores(result.confusion)],
        'confusion': result.confusion.matrix.tolist(),
    }
    return json.dumps(_without_nan(document), indent=1, allow_nan=False) + '\n'


def as_csv(result: Result) -> str:
    """One row per class, numbers from 0 to 1 and unrounded."""
    confusion, table = result.confusion, result.table
    by_range = confusion.iou_by_range()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['class', 'hard', 'points', 'iou', *(f'iou {name}' for name in by_range)])
    for index, (name, iou) in enumerate(zip(table.names, confusion.iou())):
        numbers = [iou, *(values[index] for values in by_range.values())]
        shown = ['' if math.isnan(number) else float(number) for number in numbers]
        writer.writerow([name, int(name in table.hard), int(confusion.points[index]), *shown])
    return file.getvalue()


def _means(result: Result) -> Tabulation:
    confusion, hard = result.confusion, result.table.hard_ids.tolist()
    rows = [
        (score.convention, str(score.classes), _percent(score.value), _percent(hard_score.value))
        for score, hard_score in zip(_scores(confusion), _scores(confusion, hard))
    ]
    columns = ('mean over', 'classes', 'mIoU %', 'hard classes %')
    return Tabulation('mIoU by convention', columns, rows)


def _classes(result: Result) -> Tabulation:
    """Every class with its points; the hard ones apart, below the others."""
    confusion, table = result.confusion, result.table
    ious, by_range = confusion.iou(), confusion.iou_by_range()
    hard = table.hard_ids.tolist()
    easy = [index for index in range(table.num_classes) if index not in hard]
    rows = [
        (
            table.names[index] + ' (hard)' * (index in hard),
            f'{confusion.points[index]:,}',
            _percent(ious[index]),
            *(_percent(values[index]) for values in by_range.values()),
        )
        for index in [*easy, *hard]
    ]
    return Tabulation('IoU % by class', ('class', 'points', 'IoU', *by_range), rows)


def _ranges(result: Result) -> Tabulation:
    points = result.confusion.counts.sum((1, 2))
    rows = [
        (name, f'{count:,}', str(score.classes), _percent(score.value))
        for count, (name, score) in zip(points, result.confusion.occurring_by_range().items())
    ]
    title = 'mIoU % by distance, over the classes that occur there'
    return Tabulation(title, ('distance', 'points', 'classes', 'mIoU'), rows)


def _scores(confusion: Confusion, classes: Sequence[int] | None = None) -> list[Score]:
    return [
        confusion.semantickitti(classes),
        confusion.nuscenes(classes),
        confusion.occurring(classes),
    ]


def _hard(result: Result) -> Score:
    return result.confusion.occurring(result.table.hard_ids.tolist())


def _asides(result: Result) -> dict[str, str]:
    """What the tables leave out."""
    confusion = result.confusion
    points = int(confusion.points.sum())
    asides = {'points': f'{points:,} labelled, {_percent(confusion.accuracy())} % of them right'}
    if confusion.unanswered:
        asides['no answer'] = (
            f'{confusion.unanswered:,} points: misses, except under the nuScenes convention'
        )
    if result.latency_ms:
        low, high = min(result.latency_ms), max(result.latency_ms)
        asides['latency'] = (
            f'{median(result.latency_ms):.0f} ms per scan in the median, {low:.0f} to {high:.0f}'
        )
    return asides


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *others in rows:
        cells = [f'{cell:>{width}}' for cell, width in zip(others, widths[1:])]
        yield '  '.join([f'{first:<{widths[0]}}', *cells])


def _percent(share: float) -> str:
    return NOTHING if math.isnan(share) else f'{100 * share:.2f}'


def _plain(name: str) -> str:
    """'0-10 m' -> '0_10_m', '> 50 m' -> 'above_50_m'"""
    return name.replace('> ', 'above_').replace('-', '_').replace(' ', '_')


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value

# SPDX-License-Identifier: Apache-2.0
"""The command that segments scans on disk; `python -m lidar_kd.cli.segment --help` explains it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
import shlex
import sys
import time

from lidar_kd.cli.lacking import EXIT_INTERRUPTED, explain_failed_imports

if __name__ == '__main__':
    explain_failed_imports()

import numpy as np
from numpy.typing import NDArray
import torch

from lidar_kd.bundle import Bundle, find_shipped_bundle, load_bundle
from lidar_kd.cli.console import Console, EXIT_BAD_INPUT
from lidar_kd.cli.jobs import check_output, Job, plan_jobs, Rank, show_some
from lidar_kd.cli.numbers import read_positive
from lidar_kd.cli.page import PageScan, PageWriter, writing_page
from lidar_kd.cli.picture import draw_scan, save_picture
from lidar_kd.cli.summary import LabellingSummary, list_reasons
from lidar_kd.errors import ConfigError, DataError, LidarKdError, write_atomically
from lidar_kd.labels import ClassTable, IGNORE
from lidar_kd.scans import find_full_scale, read_scan
from lidar_kd.scans.bags import is_bag
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sensor import EACH_ALONE

_DESCRIPTION = """\
Write one label per point of LiDAR scans.

For every scan (.bin, .pcd.bin, .pcd, .ply, .npy, .npz) a file of the same name with the suffix
.label is written: per point one little-endian uint32, the raw class id of the bundle's label
table (SemanticKITTI's layout, whatever the table); with --format train one uint8, the train id.
Points that the network cannot see get raw id 0 or train id 255. Folders are searched through,
and their structure is kept. Scans that have their labels are skipped, so an interrupted run
continues where it stopped. Exit code 2: something could not be segmented.
"""
_EXAMPLES = """\
examples:
  python -m lidar_kd.cli.segment scan.pcd --picture
  python -m lidar_kd.cli.segment sequences/08/velodyne --html look.html
  python -m lidar_kd.cli.segment sequences/08/velodyne -o labels --bundle student.safetensors
  torchrun --nproc-per-node 4 -m lidar_kd.cli.segment sequences -o labels
"""
_BYTES_PER_POINT = {'raw': 4, 'train': 1}


@dataclass(frozen=True, kw_only=True)
class LabellingOptions:
    inputs: list[Path]
    output: Path | None = None
    bundle: Path | None = None
    device: str = 'auto'
    precision: Precision = 'auto'
    picture: bool = False
    html: Path | None = None
    format: str = 'raw'
    columns: int | None = None
    intensity_scale: float | None = None  # to 0..1; None: found
    overwrite: bool = False
    intensity_factor: float = 1.0  # to what the bundle expects; found when the run begins


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(argv)
    console = Console()
    try:
        rank = Rank.from_environment()
        console = Console(quiet=rank.index > 0)
        return label_files(options, rank, console)
    except LidarKdError as error:
        return console.fail(error)
    except KeyboardInterrupt:
        console.warn('interrupted; the same command continues where it stopped')
        return EXIT_INTERRUPTED


def parse_options(argv: Sequence[str] | None = None) -> LabellingOptions:
    parser = argparse.ArgumentParser(
        prog='lidar-kd-segment',
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('inputs', nargs='+', type=Path, metavar='SCAN_OR_FOLDER')
    add(
        '-o',
        '--output',
        type=Path,
        metavar='OUT',
        help="folder of the labels (default: a folder 'predictions' beside the scans)",
    )
    add('--bundle', type=Path, metavar='FILE', help='the network (default: the shipped one)')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: auto)')
    precisions = ('auto', 'float32', 'bfloat16', 'float16')
    add('--precision', default='auto', choices=precisions, help='of the network (default: auto)')
    add('--picture', action='store_true', help="also draw a bird's-eye view, .png")
    add(
        '--html',
        type=Path,
        metavar='FILE',
        help='also write a page to look around in with any browser: the scans, or a hundred of '
        'them, evenly chosen, which are segmented even where their labels exist',
    )
    add(
        '--format',
        default='raw',
        choices=tuple(_BYTES_PER_POINT),
        help='ids to write (default: raw)',
    )
    add(
        '--columns',
        type=int,
        metavar='N',
        help='float32 per point of .bin files (default: 4; 5 for .pcd.bin)',
    )
    add(
        '--intensity-scale',
        type=read_positive,
        metavar='FACTOR',
        help='times the stored intensity gives 0 to 1 (default: 1, 1/255, 1/4095 or 1/65535, '
        'by what some of the scans hold)',
    )
    add('--overwrite', action='store_true', help='segment again where labels exist')
    return LabellingOptions(**vars(parser.parse_args(argv)))


def label_files(options: LabellingOptions, rank: Rank, console: Console) -> int:
    bag = next((path for path in options.inputs if is_bag(path)), None)
    if bag:
        raise DataError(
            f'{bag}: a bag is no scan file; label it with lidar-kd-bag '
            f'{shlex.quote(str(bag))} OUT.'
        )
    if options.html and rank.world > 1:
        raise ConfigError('--html: one process writes the page; start this without torchrun.')
    jobs = plan_jobs(options.inputs, options.output, pictures=options.picture)
    jobs = show_some(jobs) if options.html else jobs
    bundle = load_bundle(options.bundle or find_shipped_bundle())
    device = rank.choose_device(options.device)
    segmenter = Segmenter(bundle, device=device, precision=options.precision, sensor=EACH_ALONE)
    for folder in sorted({job.label.parent for job in jobs}):
        check_output(folder)
    share = rank.take_share(jobs)
    scale = options.intensity_scale or 1 / _find_full_scale(jobs, options)
    facts = {
        'scans': f'{len(share)} of {len(jobs)}',
        'intensity': f'0 to {1 / scale:g} as stored; --intensity-scale if that is wrong',
    }
    _show_banner(console, bundle, segmenter, rank, facts)
    options = replace(options, intensity_factor=scale / bundle.spec.intensity.scale)
    with _opening_page(options.html, bundle) as page:
        summary = LabellingSummary(table=bundle.spec.labels, page=page)
        segment_all(share, segmenter, options, summary, console)
    summary.show(console)
    if options.html:
        console.line(f'to look at in a browser: {options.html}')
    return EXIT_BAD_INPUT if summary.failed else 0


@contextmanager
def _opening_page(path: Path | None, bundle: Bundle) -> Iterator[PageWriter | None]:
    if path is None:
        yield None
        return
    with writing_page(path, f'labelled by {bundle.name}', bundle.spec.labels) as page:
        yield page


def _find_full_scale(jobs: Sequence[Job], options: LabellingOptions) -> float:
    """Of all scans, also those that are done or another process's: they are one sensor's."""

    def intensity_of(index: int) -> NDArray[np.float32]:
        try:
            return read_scan(jobs[index].scan, columns=options.columns)[:, 3]
        except LidarKdError:
            return np.zeros(0, np.float32)  # segmenting it tells what is wrong

    return find_full_scale(len(jobs), intensity_of)


def segment_all(
    jobs: Sequence[Job],
    segmenter: Segmenter,
    options: LabellingOptions,
    summary: LabellingSummary,
    console: Console,
) -> None:
    """Segment what is not done yet; a bad scan is told and the others go on."""
    size = _BYTES_PER_POINT[options.format]
    todo = [job for job in jobs if options.overwrite or not job.is_done(size, options.columns)]
    summary.skipped = len(jobs) - len(todo)
    with console.progress(len(todo), 'segment') as step:
        for job in todo:
            try:
                segment_one(job, segmenter, options, summary)
            except LidarKdError as error:
                summary.failed += 1
                console.fail(error)
            step()


def segment_one(
    job: Job, segmenter: Segmenter, options: LabellingOptions, summary: LabellingSummary
) -> None:
    start = time.perf_counter()
    points = read_scan(job.scan, columns=options.columns)
    read_ms = (time.perf_counter() - start) * 1000
    if not len(points):
        raise DataError(f'{job.scan}: holds no points; record or export it again.')
    if not options.overwrite:
        job.check_label(len(points) * _BYTES_PER_POINT[options.format])
    points[:, 3] *= np.float32(options.intensity_factor)
    try:
        segmentation = segmenter.segment(points)
    except torch.cuda.OutOfMemoryError:
        raise DataError(
            f'{job.scan}: {len(points):,} points are too many for the GPU memory; '
            'use --device cpu or --precision float16.'
        ) from None
    if (segmentation.labels == IGNORE).all():
        raise DataError(
            f'{job.scan}: the network can see none of its {len(points):,} points '
            f'({list_reasons(segmentation.unseen)}); check its units and its columns.'
        )
    _write(job, points, segmentation.labels, options, summary.table)
    summary.add(segmentation, read_ms)
    if summary.page and job.shown:
        labels, probability = segmentation.labels, segmentation.probability
        scan = PageScan(name=job.name, points=points, labels=labels, probability=probability)
        summary.page.add(scan)


def _write(
    job: Job,
    points: NDArray[np.float32],
    labels: NDArray[np.uint8],
    options: LabellingOptions,
    table: ClassTable,
) -> None:
    """The picture first: the label file says that the scan is done."""
    stored = table.to_raw(labels).astype('<u4') if options.format == 'raw' else labels
    try:
        job.label.parent.mkdir(parents=True, exist_ok=True)
        if job.picture:
            save_picture(job.picture, draw_scan(points, labels, table, title=job.name))
        if options.overwrite or not job.label.is_file():  # else the picture was missing
            with write_atomically(job.label) as temporary:
                temporary.write_bytes(stored.tobytes())  # tofile hides why it failed
    except OSError as error:
        raise DataError(
            f'{job.label}: cannot be written ({error.strerror or error}); '
            'free some space or choose another folder with -o.'
        ) from None


def _show_banner(
    console: Console,
    bundle: Bundle,
    segmenter: Segmenter,
    rank: Rank,
    facts: Mapping[str, str],
) -> None:
    precision = str(segmenter.dtype).removeprefix('torch.')
    rows = {
        'bundle': f'{bundle.path} ({bundle.sha256})',
        'network': bundle.spec.model.name,
        'labels': f'{bundle.spec.labels.name}, {bundle.spec.labels.num_classes} classes',
        'device': f'{segmenter.device}, {segmenter.engine.name} engine, {precision}',
        **facts,
    }
    if rank.world > 1:
        rows['process'] = f'{rank.index} of {rank.world}; the others report errors only'
    console.banner('lidar-kd-segment', rows)


if __name__ == '__main__':
    sys.exit(main())

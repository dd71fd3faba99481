# SPDX-License-Identifier: Apache-2.0
"""Writes and checks archives for the servers of SemanticKITTI and nuScenes-lidarseg.

  python training/submit.py --bundle best.safetensors --data KITTI --out submission.zip
  python training/submit.py --bundle best.safetensors --data NUSCENES --kind nuscenes --out s.zip
  python training/submit.py --bundle best.safetensors --data KITTI --panoptic --out panoptic.zip
  python training/submit.py check submission.zip --data KITTI

The predictions are kept in a folder beside the archive: an interrupted command goes on where it
stopped. Labels are raw ids (SemanticKITTI) or the challenge's 1 to 16 (nuScenes);
--panoptic adds the numbers of the objects found in them, in the upper 16 bits (SemanticKITTI).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

from lidar_kd.bundle import Bundle, load_bundle
from lidar_kd.cli.console import Console, EXIT_BAD_INPUT
from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from lidar_kd.errors import ConfigError, LidarKdError, prepare_folder, write_atomically, writing
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE
from training.data.kinds import open_dataset
from training.data.scan import ScanSet
from training.scores.augmented import NAME as AUGMENTED
from training.scores.augmented import segment_augmented
from training.scores.panoptic import number_objects
from training.scores.predictions import layout_of, LAYOUTS
from training.scores.scoring import check_tables
from training.scores.submission import count_points, fill_unanswered, find_problems, pack

SHOWN = 20  # problems


def main(argv: Sequence[str] | None = None) -> int:
    words, console = list(sys.argv[1:] if argv is None else argv), Console()
    checking = words[:1] == ['check']
    parser = make_check_parser() if checking else make_submit_parser()
    options = parser.parse_args(words[1:] if checking else words)
    try:
        return check_archive(options, console) if checking else submit(options, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    except KeyboardInterrupt:
        console.warn('interrupted; the same command goes on where it stopped')
        return EXIT_INTERRUPTED


def make_submit_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--bundle', type=Path, required=True, metavar='FILE', help='the network')
    _add_data(parser)
    add('--out', type=Path, default=Path('submission.zip'), metavar='FILE', help='%(default)s')
    add('--folder', type=Path, help='where the predictions are kept (beside the archive)')
    add('--tta', action='store_true', help=AUGMENTED)
    add('--panoptic', action='store_true', help='with object numbers (semantickitti)')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (%(default)s)')
    add(
        '--precision',
        default='auto',
        choices=('auto', 'float32', 'bfloat16', 'float16'),
        help='of the network (%(default)s)',
    )
    return parser


def make_check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='submit.py check', description='Checks an archive as the server would.'
    )
    parser.add_argument('archive', type=Path, metavar='FILE')
    _add_data(parser)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--data', type=Path, required=True, metavar='ROOT', help='the root of the data set')
    add('--kind', choices=LAYOUTS, default='semantickitti', help='its benchmark (%(default)s)')
    add('--sequences', nargs='+', default=['test'], metavar='NAME', help='a split, or some (test)')


def open_split(options: argparse.Namespace) -> tuple[ScanSet, str]:
    """The scans to predict, and the name of their split for nuScenes."""
    names: list[str] = options.sequences
    scans = open_dataset(options.kind, options.data, names[0] if len(names) == 1 else names)
    return scans, names[0]


def submit(options: argparse.Namespace, console: Console) -> int:
    scans, split = open_split(options)
    bundle = load_bundle(options.bundle)
    check_tables(bundle.spec.labels, scans.table)
    archive: Path = options.out
    folder = options.folder or archive.with_name(f'{archive.stem}_predictions')
    prepare_folder(archive.parent)
    if options.panoptic:
        layout_of(scans.kind).require_objects()
    claim(prepare_folder(folder), bundle, augmented=options.tta, panoptic=options.panoptic)
    predict(options, bundle, scans, folder, console)
    with console.progress(len(scans), 'packing') as advance:
        pack(archive, folder, scans, split, advance)
    return _report(archive, scans, split, console)


def claim(folder: Path, bundle: Bundle, *, augmented: bool, panoptic: bool = False) -> None:
    """Answers of two networks, or of two kinds, must not meet in one archive."""
    mark = folder / 'network.txt'
    own = f'{bundle.sha256}{" augmented" * augmented}{" panoptic" * panoptic}\n'
    if mark.is_file() and mark.read_text(encoding='utf-8') != own:
        raise ConfigError(
            f'{folder}: holds predictions of another network; '
            'choose another --folder, or remove this one.'
        )
    with writing(mark), write_atomically(mark) as temporary:
        temporary.write_text(own, encoding='utf-8')


def predict(
    options: argparse.Namespace, bundle: Bundle, scans: ScanSet, folder: Path, console: Console
) -> None:
    """Writes what is not there yet, scan by scan."""
    layout = layout_of(scans.kind)
    split = options.sequences[0]
    paths = [folder / layout.place(frame, split) for frame in scans.frames]
    sizes = [count_points(frame, scans.kind) * layout.stored.itemsize for frame in scans.frames]
    missing = [
        index
        for index, (path, size) in enumerate(zip(paths, sizes))
        if not path.is_file() or path.stat().st_size != size
    ]
    console.line(f'{scans.describe()}; {len(scans) - len(missing)} predicted before')
    segmenter = Segmenter(
        bundle, device=options.device, precision=options.precision, sensor=EACH_ALONE
    )
    with console.progress(len(missing), 'predicting') as advance:
        for index in missing:
            scan = scans[index]
            points = scan.points
            labels = (
                segment_augmented(segmenter, points)
                if options.tta
                else segmenter.segment(points).labels
            )
            labels = fill_unanswered(points, labels)
            numbers = number_objects(scans.table, scan, labels) if options.panoptic else None
            layout.write(paths[index], labels, scans.table, numbers)
            advance()


def check_archive(options: argparse.Namespace, console: Console) -> int:
    scans, split = open_split(options)
    return _report(options.archive, scans, split, console)


def _report(archive: Path, scans: ScanSet, split: str, console: Console) -> int:
    with console.progress(len(scans), 'checking') as advance:
        problems = find_problems(archive, scans, split, advance)
    for problem in problems[:SHOWN]:
        console.warn(problem)
    size_mb = archive.stat().st_size / 1e6
    found = f'{len(problems)} problems' if problems else 'complete and valid'
    console.line(f'{archive}: {len(scans)} scans, {size_mb:.1f} MB: {found}')
    return EXIT_BAD_INPUT if problems else 0


if __name__ == '__main__':
    sys.exit(main())

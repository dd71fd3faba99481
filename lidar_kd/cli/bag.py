# SPDX-License-Identifier: Apache-2.0
"""The command that labels recordings; `python -m lidar_kd.cli.bag --help` explains it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import sys

from lidar_kd.cli.lacking import EXIT_INTERRUPTED, explain_failed_imports

if __name__ == '__main__':
    explain_failed_imports()

from lidar_kd.bundle import Bundle, find_shipped_bundle, load_bundle
from lidar_kd.cli.console import Console, EXIT_BAD_INPUT
from lidar_kd.cli.jobs import Rank
from lidar_kd.cli.labelled_bag import BagPlan, describe_origin, LABELED, LabelledBag
from lidar_kd.cli.numbers import read_positive
from lidar_kd.cli.offline import all_done, CloudLabeller, Destination, label_share
from lidar_kd.cli.sequence_folder import require_semantickitti, SequenceFolder
from lidar_kd.errors import DataError, LidarKdError
from lidar_kd.scans.recording import Recording
from lidar_kd.scans.rewriting import read_metadata, STORAGES
from lidar_kd.segmenter import Precision, Segmenter
from lidar_kd.sensor import EACH_ALONE

_DESCRIPTION = """\
Label every cloud of a recorded bag, without dropping any.

OUT becomes a bag with the same messages at the same times: each PointCloud2 with label and rgb
behind its own fields, everything else byte by byte as it was. With --to semantickitti OUT becomes
a folder of labelled scans with poses, to correct (point_labeler) and to train on. A command that
was interrupted, or killed, goes on where it stopped; several processes (torchrun) share the work.
Exit code 2: something could not be labelled.
"""
_EXAMPLES = """\
examples:
  lidar-kd-bag drive drive_labelled
  lidar-kd-bag drive drive_labelled --topics /front/points --outputs labeled static --keep
  lidar-kd-bag drive my_data --to semantickitti --poses odom
  torchrun --nproc-per-node 4 -m lidar_kd.cli.bag drive drive_labelled
"""
_SHOWN = 5  # clouds that could not be read


@dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    bag: Path
    out: Path
    to: str = 'bag'
    topics: tuple[str, ...] = ()
    outputs: tuple[str, ...] = (LABELED,)
    keep: bool = False
    storage: str | None = None
    sequence: int = 0
    poses: str = ''
    bundle: Path | None = None
    device: str = 'auto'
    precision: Precision = 'auto'
    intensity_scale: float | None = None


def main(argv: Sequence[str] | None = None) -> int:
    options = RecordingOptions(**vars(make_bag_parser().parse_args(argv)))
    console = Console()
    try:
        rank = Rank.from_environment()
        console = Console(quiet=rank.index > 0)
        with Recording(options.bag, options.topics) as recording:
            return label_recording(recording, options, rank, console)
    except LidarKdError as error:
        return console.fail(error)
    except KeyboardInterrupt:
        console.warn('interrupted; the same command continues where it stopped')
        return EXIT_INTERRUPTED


def make_bag_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='lidar-kd-bag',
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('bag', type=Path, metavar='IN', help='a folder with metadata.yaml')
    add('out', type=Path, metavar='OUT', help='must not exist yet, or be of the same command')
    add('--to', choices=('bag', 'semantickitti'), default='bag', help='(default: %(default)s)')
    add('--topics', nargs='+', default=(), metavar='TOPIC', help='with clouds to label (all)')
    add('--bundle', type=Path, metavar='FILE', help='the network (default: the shipped one)')
    _add_bag_options(parser.add_argument_group('a bag'))
    _add_folder_options(parser.add_argument_group('a SemanticKITTI folder'))
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (%(default)s)')
    precisions = ('auto', 'float32', 'bfloat16', 'float16')
    add('--precision', default='auto', choices=precisions, help='of the network (%(default)s)')
    add(
        '--intensity-scale',
        type=read_positive,
        metavar='FACTOR',
        help='times the recorded intensity gives 0 to 1 (default: found in some of the clouds)',
    )
    return parser


def _add_bag_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--outputs',
        nargs='+',
        default=(LABELED,),
        metavar='NAME',
        help='labeled (default): in the place of the recorded cloud; segmented (as Autoware wants '
        'it), static, ground, car ... (the points of a group or class): go to TOPIC/NAME',
    )
    group.add_argument(
        '--keep',
        action='store_true',
        help='the recorded clouds, too: labeled goes to TOPIC/labeled',
    )
    group.add_argument('--storage', choices=STORAGES, help='(default: that of IN)')


def _add_folder_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--sequence', type=int, default=0, metavar='N', help='number of the first topic (0)'
    )
    group.add_argument(
        '--poses',
        default='',
        metavar='SOURCE',
        help="a fixed frame in TF, a topic with odometry, or none (default: TF's root, else the "
        'odometry)',
    )


def label_recording(
    recording: Recording, options: RecordingOptions, rank: Rank, console: Console
) -> int:
    bundle = load_bundle(options.bundle or find_shipped_bundle())
    plan = plan_bag(recording, options, bundle)
    if options.to == 'bag' and plan.is_done():
        plan.clear()
        console.line(f'{plan.out}: is complete')
        return 0
    destination = open_destination(recording, options, plan, bundle)
    device = rank.choose_device(options.device)
    segmenter = Segmenter(bundle, device=device, precision=options.precision, sensor=EACH_ALONE)
    labeller = CloudLabeller(segmenter, recording, options.intensity_scale)
    show_banner(recording, bundle, labeller, segmenter, console)
    label_share(recording, labeller, destination, rank, console)
    if not all_done(recording, destination):
        console.line('this share is done; the process that finishes last writes the rest')
        return 0
    return finish_output(destination, labeller, options.out)


def finish_output(destination: Destination, labeller: CloudLabeller, out: Path) -> int:
    """What the last process does, whichever it is."""
    console = Console()
    problems = destination.unreadable.sentences()
    destination.finish(labeller, console)
    console.line(f'{out}: complete')
    for problem in problems[:_SHOWN]:
        console.warn(problem)
    if len(problems) > _SHOWN:
        console.warn(f'and {len(problems) - _SHOWN} more clouds')
    return EXIT_BAD_INPUT if problems else 0


def plan_bag(recording: Recording, options: RecordingOptions, bundle: Bundle) -> BagPlan:
    outputs = tuple(dict.fromkeys(options.outputs))
    storage = options.storage or str(
        read_metadata(recording.path).get('storage_identifier', STORAGES[0])
    )
    given = [*outputs, *['recorded'] * options.keep, storage]
    if options.to == 'semantickitti':
        given = [options.to]
    if options.intensity_scale:
        given.append(f'intensity times {options.intensity_scale:g}')
    return BagPlan(
        out=options.out,
        storage=storage,
        outputs=outputs,
        keeps_recorded=options.keep,
        origin=describe_origin(recording, bundle.sha256, given),
    )


def open_destination(
    recording: Recording, options: RecordingOptions, plan: BagPlan, bundle: Bundle
) -> Destination:
    if options.to == 'semantickitti':
        require_semantickitti(bundle.spec.labels.names, bundle.path)
        return SequenceFolder(recording, options.out, options.sequence, options.poses, plan.origin)
    if recording.is_ros1:
        raise DataError(
            f'{recording.path}: a ROS 1 bag; make it one of ROS 2 first: rosbags-convert --src '
            f'{recording.path} --dst FOLDER.'
        )
    return LabelledBag(recording, plan, bundle.spec.labels)


def show_banner(
    recording: Recording,
    bundle: Bundle,
    labeller: CloudLabeller,
    segmenter: Segmenter,
    console: Console,
) -> None:
    precision = str(segmenter.dtype).removeprefix('torch.')
    scales = ', '.join(f'0 to {scale:g}' for scale in labeller.full_scale.values())
    rows = {
        'recording': f'{recording.path}, {recording.size} messages',
        'clouds': ', '.join(f'{topic} ({recording.count(topic)})' for topic in recording.topics),
        'intensity': f'{scales} as recorded; --intensity-scale if that is wrong',
        'bundle': f'{bundle.path} ({bundle.sha256})',
        'device': f'{segmenter.device}, {segmenter.engine.name} engine, {precision}',
    }
    console.banner('lidar-kd-bag', rows)


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Shows scans with their labels, predictions and errors in a window, or draws them as a PNG.

  python training/view.py KITTI --sequences 08 --bundle best.safetensors
  python training/view.py scan.pcd --bundle best.safetensors --picture view.png
  python training/view.py KITTI --sequences 08 --predictions FOLDER --colour errors --scan 120

Keys: n and p the next and the previous scan, l the next colouring (labels, prediction, errors,
intensity), q quits; the mouse turns, shifts and zooms. Without a display a picture is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
import os
from pathlib import Path
import sys

sys.path[0] = str(Path(__file__).resolve().parents[1])

from lidar_kd.cli.lacking import explain_failed_imports

explain_failed_imports()

import numpy as np

from lidar_kd.bundle import Bundle, load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.cli.picture import save_picture
from lidar_kd.errors import ConfigError, DataError, LidarKdError
from lidar_kd.scans.bags import is_bag
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE
from training.data.folder import open_folder
from training.data.kinds import KINDS, open_dataset
from training.data.scan import Scan, ScanSet
from training.scores.predictions import StoredPredictions
from training.scores.scoring import Answer, check_tables, Labels
from training.views.perspective import annotate, Camera, draw_perspective
from training.views.scenes import COLOURINGS, Scenes

WITHOUT_LABELS = ('folder', 'bags')


def main(argv: Sequence[str] | None = None) -> int:
    options, console = make_view_parser().parse_args(argv), Console()
    try:
        view(options, console)
    except (LidarKdError, OSError) as error:
        return console.fail(error)
    return 0


def make_view_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('data', type=Path, metavar='DATA', help='a data set, a folder of scans, or one scan')
    add('--kind', choices=KINDS, help='its layout (found out)')
    add('--sequences', nargs='+', metavar='NAME', help='a split, or sequences or scenes (all)')
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument('--bundle', type=Path, metavar='FILE', help='predict with this network')
    answers.add_argument('--predictions', type=Path, metavar='FOLDER', help='stored predictions')
    add('--scan', type=int, default=0, metavar='N', help='the first to show (%(default)s)')
    add('--colour', choices=COLOURINGS, help='what to colour by first (what there is)')
    add('--picture', type=Path, metavar='FILE', help='draw that scan as a PNG, open no window')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (%(default)s)')
    return parser


def view(options: argparse.Namespace, console: Console) -> None:
    scans = open_shown_scans(options)
    bundle = load_bundle(options.bundle) if options.bundle else None
    scans, answer = open_answers(options, scans, bundle)
    if not 0 <= options.scan < len(scans):
        raise ConfigError(f'--scan {options.scan}: there are scans 0 to {len(scans) - 1}.')
    scenes = Scenes(scans, answer)
    colouring = options.colour or scenes.colourings(options.scan)[0]
    if options.picture is None and has_display():
        console.line(f'{scans.describe()}; keys: n p next and previous scan, l colouring, q quit')
        from training.views.window3d import show_window  # here: pictures need no Open3D

        if show_window(scenes, options.scan, colouring, Camera(), console.line):
            return
    picture = options.picture or Path('view.png')
    scene = scenes.scene(options.scan, colouring)
    camera = Camera()
    drawn = draw_perspective(scene.points, scene.colours, camera)
    save_picture(picture, annotate(drawn, scene.title, scene.legend))
    console.line(f'picture: {picture} ({scene.title})')


def open_shown_scans(options: argparse.Namespace) -> ScanSet:
    data: Path = options.data
    if data.is_file() and not is_bag(data):
        scans = open_folder(data.parent)
        only = tuple(frame for frame in scans.frames if frame.scan == data)
        if not only:
            raise DataError(f'{data}: no scan that can be read; use .bin, .pcd, .ply or .npy.')
        return replace(scans, frames=only)
    names = options.sequences
    wanted = names[0] if names and len(names) == 1 else names
    return open_dataset(options.kind or guess_kind(data), data, wanted)


def guess_kind(root: Path) -> str:
    if is_bag(root):
        return 'bags'
    if any(root.glob('v1.0-*/scene.json')):
        return 'nuscenes'
    layouts = ('sequences/*/velodyne', '*/velodyne')
    return 'semantickitti' if any(any(root.glob(each)) for each in layouts) else 'folder'


def open_answers(
    options: argparse.Namespace, scans: ScanSet, bundle: Bundle | None
) -> tuple[ScanSet, Answer | None]:
    """The scans in the classes of what answers, and the answers."""
    if options.predictions is not None:
        return scans, StoredPredictions(options.predictions, scans)
    if bundle is None:
        return scans, None
    scale = 1.0  # a data set's intensity is as its bundles expect it
    if scans.kind in WITHOUT_LABELS:
        scans = replace(scans, table=bundle.spec.labels)
        scale = 1 / scans.find_full_scale() / bundle.spec.intensity.scale
    check_tables(bundle.spec.labels, scans.table)
    segmenter = Segmenter(bundle, device=options.device, sensor=EACH_ALONE)

    def answer(scan: Scan) -> Labels:
        points = scan.points.copy()
        points[:, 3] *= np.float32(scale)
        return segmenter.segment(points).labels

    return scans, answer


def has_display() -> bool:
    """macOS and Windows have one; X and Wayland say so."""
    return sys.platform != 'linux' or any(map(os.environ.get, ('DISPLAY', 'WAYLAND_DISPLAY')))


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""`bench.py sensitivity`: labelled scans as another sensor, or another mounting, would give them.

Every disturbance is scored with the node's defaults (mounting and intensity: auto) and with both
off. `--scans 48` takes all real scans at hand; `--repeats` is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lidar_kd.bundle import find_shipped_bundle, load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import SensorOptions
from training.benchmarks.scans import most_points, REAL, trial_rows
from training.data.scan import Scan, ScanSet
from training.data.semantickitti import open_semantickitti
from training.scores.metrics import Confusion, horizontal_range
from training.streets.make import make_streets
from training.streets.sequence import Settings

DRIVE_SCANS = 100  # of make demo, at 10 Hz; fewer where a tenth of them is not asked for
CACHE = Path('runs/demo')
OFF = SensorOptions(mounting='off', intensity='off')
Disturb = Callable[[Scan], Scan]


def brighten(scan: Scan, gain: float) -> Scan:
    points = scan.points.copy()
    points[:, 3] *= np.float32(gain)
    return scan.with_points(points)


def remount(scan: Scan, *, up_m: float = 0, roll_deg: float = 0, pitch_deg: float = 0) -> Scan:
    """As a frame sees it that is so much lower than the sensor, and so turned."""
    roll, pitch = np.radians((roll_deg, pitch_deg))
    c, s = np.cos((roll, pitch)), np.sin((roll, pitch))
    about_x = np.array([[1, 0, 0], [0, c[0], -s[0]], [0, s[0], c[0]]])
    about_y = np.array([[c[1], 0, s[1]], [0, 1, 0], [-s[1], 0, c[1]]])
    points = scan.points.copy()
    points[:, :3] = points[:, :3] @ (about_y @ about_x).astype(np.float32).T
    points[:, 2] += np.float32(up_m)
    return scan.with_points(points)


def halve_beams(scan: Scan) -> Scan:
    """Every other beam; points lie beam by beam, and an azimuth that jumps back begins one."""
    azimuth = np.arctan2(scan.points[:, 1], scan.points[:, 0]) % (2 * np.pi)
    beam = np.cumsum(np.diff(azimuth, prepend=azimuth[:1]) < -np.pi)
    return scan.take(beam % 2 == 0)


DISTURBANCES: dict[str, Disturb] = {
    'as is': lambda scan: scan,
    'intensity x 0.1': partial(brighten, gain=0.1),
    'intensity x 3': partial(brighten, gain=3),
    'intensity 0': partial(brighten, gain=0),
    'height -1.2 m': partial(remount, up_m=-1.2),
    'height +0.6 m': partial(remount, up_m=0.6),
    'height +1.73 m': partial(remount, up_m=1.73),
    'pitch 5 deg': partial(remount, pitch_deg=5),
    'pitch 15 deg': partial(remount, pitch_deg=15),
    'roll 10 deg': partial(remount, roll_deg=10),
    'upside down': partial(remount, roll_deg=180),
    'half the beams': halve_beams,
}


def run_sensitivity(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    sets = find_sets(scans if most_points() else min(DRIVE_SCANS, 10 * scans), console)
    bundle = load_bundle(find_shipped_bundle())
    segmenters = {'off': Segmenter(bundle, sensor=OFF), 'auto': Segmenter(bundle)}
    figures: dict[str, float] = {}
    for name, found in sets.items():
        rows = np.unique(np.linspace(0, len(found) - 1, min(scans, len(found))).astype(int))
        chosen = [_thinned(found[row]) for row in rows.tolist()]
        with console.progress(len(DISTURBANCES), f'disturbing {name}') as advance:
            scores = {}
            for what, disturb in DISTURBANCES.items():
                seen = [disturb(scan) for scan in chosen]
                for how, segmenter in segmenters.items():
                    scores[what, how] = score_disturbed(segmenter, seen, found.table.num_classes)
                advance()
        figures |= _show_scores(console, f'{name}, {len(chosen)} scans', name, scores)
    return figures


def _thinned(scan: Scan) -> Scan:
    kept = np.zeros(len(scan.points), np.bool_)
    kept[trial_rows(len(kept))] = True
    return scan.take(kept)


def find_sets(length: int, console: Console) -> dict[str, ScanSet]:
    """The drive of `make demo`, and real scans where they lie at hand."""
    settings = Settings(seed=2026, index=0, scans=length, quarter='city', enrich=3.0)
    root = CACHE / f'streets-{length}'
    with console.progress(length, 'simulating the drive') as advance:
        make_streets(root, settings, sequences=1, workers=2, progress=advance)
    found = {'drive': open_semantickitti(root, None)}
    if REAL.is_dir():
        found['kitti'] = open_semantickitti(REAL.parent, None)
    return found


def score_disturbed(segmenter: Segmenter, scans: list[Scan], classes: int) -> Confusion:
    """In order, as a node sees them; another sequence is another drive."""
    confusion, sequence = Confusion(classes), ''
    for scan in scans:
        if scan.name.rpartition('/')[0] != sequence:
            sequence = scan.name.rpartition('/')[0]
            segmenter.sensor.begin()
        labels = segmenter.segment(scan.points).labels
        confusion.add(scan.labels, labels, horizontal_range(scan.points))
    return confusion


def _show_scores(
    console: Console, title: str, name: str, scores: dict[tuple[str, str], Confusion]
) -> dict[str, float]:
    """mIoU in percent; the loss is against the scans as they are, with both off."""
    reference = 100 * scores['as is', 'off'].occurring().value
    rows, figures = [], {}
    for what in DISTURBANCES:
        row = [what]
        for how in ('off', 'auto'):
            score = scores[what, how]
            miou, accuracy = 100 * score.occurring().value, 100 * score.accuracy()
            row += [f'{miou:.1f}', f'{miou - reference:+.1f}', f'{accuracy:.1f} %']
            figures[f'{name}_{what.replace(" ", "_")}_{how}'] = miou
        rows.append(row)
    columns = [f'{how}: {part}' for how in ('off', 'auto') for part in ('mIoU', 'change', 'right')]
    console.table(title, ['scans', *columns], rows)
    return figures

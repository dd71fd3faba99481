# SPDX-License-Identifier: Apache-2.0
"""`bench.py odometry`: KISS-ICP on a simulated drive with traffic, with and without `~/static`.

Its poses are held against the simulator's. KISS-ICP (Vizzo et al. 2023, arXiv:2209.15397) comes
from PyPI: pip install kiss-icp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.bundle import find_shipped_bundle
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.labels import ClassTable, SEMANTICKITTI
from lidar_kd.scans import read_scan
from lidar_kd.segmenter import Segmenter
from training.streets.make import make_streets
from training.streets.sequence import Sequence, Settings

SCANS_EACH = 15  # of the drive, for one of --scans
QUARTER, ENRICH = 'suburb', 4.0  # four times the usual traffic
SETTLED = 10  # scans before: a drive that begins at full speed is no test of its start
CACHE = Path('runs/cache/odometry')
FIRST_MOVING = 252  # SemanticKITTI's ids from here on are of things that move
RANGE_M = 100.0  # as KISS-ICP's own default
Points = NDArray[np.float32]
Poses = NDArray[np.float64]  # (S, 4, 4) sensor to world
Keep = Callable[[Points, Path], NDArray[np.bool_]]  # which points of a scan are used


def run_odometry(console: Console, *, scans: int, repeats: int) -> dict[str, float]:
    """`repeats` is not used: the registration gives the same every time."""
    odometry = require_kiss_icp()
    settings = Settings(
        seed=2027, index=0, scans=max(20, SCANS_EACH * scans), quarter=QUARTER, enrich=ENRICH
    )
    truth, files = _simulate(console, settings)
    segmenter = Segmenter(find_shipped_bundle())
    choices: dict[str, Keep] = {
        'all': lambda points, file: np.ones(len(points), np.bool_),
        'static': lambda points, file: is_static(
            segmenter.segment(points).labels, segmenter.spec.labels
        ),
        'truth': lambda points, file: is_static(read_labels(file), SEMANTICKITTI),
        'unmoved': lambda points, file: read_raw_labels(file) < FIRST_MOVING,
        'random': lambda points, file: draw_as_many(
            is_static(read_labels(file), SEMANTICKITTI), file
        ),
    }
    metrics: dict[str, float] = {}
    for name, keep in choices.items():
        with console.progress(len(files), name) as advance:
            found, share = _register(odometry, files, keep, advance)
        error_m, error_deg = compare_poses(found[SETTLED:], truth[SETTLED:])
        metrics |= {f'{name}_m': error_m, f'{name}_deg': error_deg, f'{name}_share': share}
    _report(console, metrics, truth)
    return metrics


def require_kiss_icp() -> Any:
    """A function that makes a new KISS-ICP."""
    try:
        from kiss_icp.config import KISSConfig
        from kiss_icp.kiss_icp import KissICP
    except ImportError as error:
        raise ConfigError(f'KISS-ICP is not here ({error}): pip install kiss-icp.') from None

    def make() -> Any:
        config = KISSConfig()
        config.data.deskew = False  # each simulated scan is taken at one moment
        config.data.max_range = RANGE_M
        config.mapping.voxel_size = RANGE_M / 100
        return KissICP(config)

    return make


def _simulate(console: Console, settings: Settings) -> tuple[Poses, list[Path]]:
    root = CACHE / f'{settings.quarter}-{settings.scans}'
    with console.progress(settings.scans, 'simulating') as step:
        made = make_streets(root, settings, sequences=1, workers=2, progress=step)
        for _ in range(settings.scans - made):
            step()
    sequence = Sequence(settings)
    poses = np.stack([sequence.pose(scan) for scan in range(settings.scans)])
    return poses, sorted(root.glob('sequences/00/velodyne/*.bin'))


def _register(
    make: Callable[[], Any], files: list[Path], keep: Keep, advance: Callable[[], None]
) -> tuple[Poses, float]:
    """The poses found, and the share of points that was used."""
    odometry, poses, used, seen = make(), [], 0, 0
    for points, file in _read(files):
        kept = points[keep(points, file), :3].astype(np.float64)
        odometry.register_frame(kept, np.zeros(len(kept)))
        poses.append(odometry.last_pose.copy())
        used, seen = used + len(kept), seen + len(points)
        advance()
    return np.stack(poses), used / max(seen, 1)


def _read(files: list[Path]) -> Iterator[tuple[Points, Path]]:
    for file in files:
        yield read_scan(file), file


def read_labels(scan: Path) -> NDArray[np.uint8]:
    """The train ids of a scan in SemanticKITTI's layout."""
    return SEMANTICKITTI.to_train(read_raw_labels(scan), str(scan))


def read_raw_labels(scan: Path) -> NDArray[np.uint32]:
    """SemanticKITTI's own ids, which tell what moves."""
    raw = np.fromfile(scan.parents[1] / 'labels' / f'{scan.stem}.label', '<u4')
    ids: NDArray[np.uint32] = raw & np.uint32(0xFFFF)
    return ids


def draw_as_many(chosen: NDArray[np.bool_], scan: Path) -> NDArray[np.bool_]:
    """So many points, but any: what their number alone does to the error."""
    return np.random.default_rng(int(scan.stem)).permutation(chosen)


def is_static(labels: NDArray[np.uint8], table: ClassTable) -> NDArray[np.bool_]:
    """(N,) what ~/static holds with the node's own settings."""
    return np.isin(labels, table.group_ids('static'))


def compare_poses(found: Poses, truth: Poses) -> tuple[float, float]:
    """Both begin at the same place: the root mean square of the distances in metres, and the mean
    angle in degrees, over the scans.
    """
    ours, own = (np.linalg.inv(poses[0]) @ poses for poses in (found, truth))
    apart_m = np.linalg.norm(ours[:, :3, 3] - own[:, :3, 3], axis=1)
    turns = np.swapaxes(ours[:, :3, :3], 1, 2) @ own[:, :3, :3]
    cosine = np.clip((np.trace(turns, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return float(np.sqrt((apart_m**2).mean())), float(np.degrees(np.arccos(cosine)).mean())


def _report(console: Console, metrics: dict[str, float], truth: Poses) -> None:
    length_m = float(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum())
    names = {
        'all': 'all points',
        'static': '~/static by the shipped student',
        'truth': '~/static by true labels',
        'unmoved': 'all but what moves, by true labels',
        'random': 'as many as that ~/static, any',
    }
    rows = [
        [
            words,
            f'{100 * metrics[f"{name}_share"]:.1f} %',
            f'{metrics[f"{name}_m"]:.3f} m',
            f'{metrics[f"{name}_deg"]:.3f} deg',
        ]
        for name, words in names.items()
    ]
    title = f'KISS-ICP over {length_m:.0f} m in {len(truth)} scans, {QUARTER}'
    console.table(title, ['points', 'used', 'trajectory error', 'rotation error'], rows)

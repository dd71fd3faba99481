# SPDX-License-Identifier: Apache-2.0
"""What becomes of objects that move: how many views are left out, and M2SKD's own alignment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.fusion import build_bank
from training.data.scan import ScanSet
from training.data.semantickitti import open_semantickitti

RAW_PERSON = 30 | 5 << 16  # person number 5


def walk(root: Path) -> ScanSet:
    """Three scans of a person of 4 points, too few to register, who walks 1 m per scan."""
    sequence = root / 'sequences' / '00'
    for folder in ('velodyne', 'labels'):
        (sequence / folder).mkdir(parents=True)
    for index in range(3):
        points = [[9 - index, 1.0, 0.1 * k, index] for k in range(4)]
        np.array(points, '<f4').tofile(sequence / 'velodyne' / f'{index:06}.bin')
        np.full(4, RAW_PERSON, '<u4').tofile(sequence / 'labels' / f'{index:06}.label')
    poses = [f'1 0 0 {2 * index} 0 1 0 0 0 0 1 0\n' for index in range(3)]
    (sequence / 'poses.txt').write_text(''.join(poses))
    (sequence / 'calib.txt').write_text('Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n')
    return open_semantickitti(root)


def test_a_bank_tells_how_much_of_what_moved_was_left_out(tmp_path: Path) -> None:
    bank = build_bank(walk(tmp_path), cache=tmp_path / 'cache')
    assert bank.moving_share_left_out == 1
    # one view in scan 1, two in scan 2
    assert bank.describe() == (
        '3 past views of hard objects: 0 stood still, 3 moved, of which 100% were left out'
    )


def test_by_centroids_nothing_is_left_out_and_the_cache_knows_the_difference(
    tmp_path: Path,
) -> None:
    scans = walk(tmp_path)
    build_bank(scans, cache=tmp_path / 'cache')
    bank = build_bank(scans, moving='centroid', cache=tmp_path / 'cache')
    assert bank.moving_share_left_out == 0
    past = bank.recall(2)
    assert past is not None
    for view in np.split(past.points[:, :3], 2):
        np.testing.assert_allclose(view, scans[2].points[:, :3], atol=1e-5)

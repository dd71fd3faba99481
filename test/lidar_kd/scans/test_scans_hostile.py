# SPDX-License-Identifier: Apache-2.0
"""Headers that promise what no file can hold: one sentence, and no memory is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lidar_kd.errors import DataError
from lidar_kd.scans import read_scan

PLY = """ply
format ascii 1.0
element vertex {count}
property float x
property float y
property float z
end_header
1 2 3
"""
PCD = """FIELDS x y z more
SIZE 4 4 4 4
TYPE F F F F
COUNT 1 1 1 {count}
WIDTH 1
HEIGHT 1
POINTS 1
DATA ascii
1 2 3 4
"""


def test_an_array_larger_than_any_memory_is_refused(tmp_path: Path) -> None:
    with (tmp_path / 'a.npy').open('wb') as file:
        header = {'descr': '<f4', 'fortran_order': False, 'shape': (10**14, 4)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(160))
    with pytest.raises(DataError, match='a.npy: not a readable numpy file'):
        read_scan(tmp_path / 'a.npy')


@pytest.mark.parametrize('suffix', ['.npy', '.npz'])
def test_whichever_byte_is_damaged_there_is_one_kind_of_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'a{suffix}'
    points = np.zeros((2, 4), np.float32)
    np.save(path, points) if suffix == '.npy' else np.savez_compressed(path, points=points)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        for damage in (0x00, 0x28, 0xFF):
            path.write_bytes(content[:place] + bytes([damage]) + content[place + 1 :])
            try:
                read_scan(path)
            except DataError:
                refused += 1
    assert refused > len(content) / 2


@pytest.mark.parametrize('count', [-3, 10**12])
def test_a_number_of_vertices_that_cannot_be_is_refused(tmp_path: Path, count: int) -> None:
    (tmp_path / 'a.ply').write_text(PLY.format(count=count))
    with pytest.raises(DataError, match='a.ply: '):
        read_scan(tmp_path / 'a.ply')


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ('end_header', 'comment not yet the end_header\nend_header'),
        ('end_header\n', 'end_header \n'),
        ('1 2 3\n', '\n1 2 3\n\n'),
        ('\n', '\r\n'),
    ],
)
def test_what_other_programs_write_between_the_lines_of_a_ply_is_passed_over(
    before: str, after: str, tmp_path: Path
) -> None:
    text = PLY.format(count=1).replace(before, after)
    (tmp_path / 'a.ply').write_bytes(text.encode())
    assert read_scan(tmp_path / 'a.ply').tolist() == [[1, 2, 3, 0]]


@pytest.mark.parametrize('count', [10**9, 2**30 - 3])  # the second one wraps to 0 bytes
def test_points_of_gigabytes_are_refused(tmp_path: Path, count: int) -> None:
    (tmp_path / 'a.pcd').write_text(PCD.format(count=count))
    with pytest.raises(DataError, match=r'a.pcd: .*COUNT makes points of 4[0-9]{9} bytes'):
        read_scan(tmp_path / 'a.pcd')

# SPDX-License-Identifier: Apache-2.0
"""Small files that claim, or grow to, more than any scan has are refused before that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import struct
import zipfile

import numpy as np
import pytest

from lidar_kd.errors import DataError
from lidar_kd.scans import read_scan
from lidar_kd.scans.limits import MOST_BYTES, MOST_POINTS
from lidar_kd.scans.pcd import decompress_lzf
from lidar_kd.scans.text import find_line, parse_numbers

LZF = """FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH 1
HEIGHT 1
POINTS 1
DATA binary_compressed
"""
PLY = """ply
format binary_little_endian 1.0
element vertex {count}
end_header
"""


def write_bomb(path: Path) -> None:
    """Zeros, three times as many as a scan may have."""
    with (
        zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open('points.npy', 'w', force_zip64=True) as member,
    ):
        for _ in range(3 * (MOST_BYTES >> 20)):
            member.write(bytes(1 << 20))


def write_packed(path: Path) -> None:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('points.npy', bytes(100))


def write_no_array(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('points', b'no array')


def write_sparse(path: Path) -> None:
    with path.open('wb') as file:
        file.truncate(8 << 30)


@pytest.mark.parametrize(
    ('name', 'write', 'sentence'),
    [
        ('a.npz', write_bomb, 'points.npy grows to 1,610,612,736 bytes'),
        ('a.npz', write_packed, 'points.npy is packed as numpy never packs'),
        ('a.npz', write_no_array, 'its points is no array'),
        ('a.bin', write_sparse, '8,589,934,592 bytes are no single scan'),
        ('a.npy', write_sparse, 'no single scan'),
        ('a.pcd', write_sparse, 'no single scan'),
    ],
)
def test_more_than_a_scan_is_refused(
    name: str, write: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=sentence):
        read_scan(tmp_path / name)


def test_a_vertex_without_properties_may_not_be_there_10_to_the_18_times(tmp_path: Path) -> None:
    (tmp_path / 'a.ply').write_text(PLY.format(count=10**18))
    with pytest.raises(DataError, match='1,000,000,000,000,000,000 points are no single scan'):
        read_scan(tmp_path / 'a.ply')


def test_one_point_too_many_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.zeros((MOST_POINTS + 1, 3), np.uint8))
    with pytest.raises(DataError, match='16,777,217 points are no single scan'):
        read_scan(tmp_path / 'a.npy')


def test_lzf_stops_where_more_comes_than_is_announced(tmp_path: Path) -> None:
    # two zeros literally (control 1), then 264 bytes from one back, three bytes each time
    packed = b'\x01\x00\x00' + b'\xe0\xff\x00' * 1000
    assert len(decompress_lzf(packed, 12)) == 2 + 264
    path = tmp_path / 'a.pcd'
    path.write_bytes(LZF.encode() + struct.pack('<II', len(packed), 12) + packed)
    with pytest.raises(DataError, match='compressed PCD data is cut off or damaged'):
        read_scan(path)


def test_numbers_in_text_are_read_in_pieces_and_counted() -> None:
    text = b' '.join(b'%d' % number for number in range(300_000))  # two pieces of a megabyte
    assert np.array_equal(parse_numbers(text, 300_000), np.arange(300_000))
    assert len(parse_numbers(text, 5)) == 6  # one more says that there are more
    assert parse_numbers(b' \n', 5).tolist() == []
    with pytest.raises(ValueError, match='x'):
        parse_numbers(b'1 x', 2)


def test_empty_lines_do_not_count() -> None:
    text = b'face\n\n \nx\ny'
    assert text[find_line(text, 1) :] == b'\n \nx\ny'
    assert text[find_line(text, 2) :] == b'y'
    assert find_line(text, 9) == len(text)

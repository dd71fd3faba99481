# SPDX-License-Identifier: Apache-2.0
"""Packed parts of a bag grow to what they declare and no further."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from pathlib import Path
import struct
from typing import Any

from lz4.frame import compress as pack_lz4
from lz4.frame import LZ4FrameDecompressor
import pytest

from lidar_kd.errors import DataError
from lidar_kd.scans.bags import Bag
from lidar_kd.scans.unpacking import import_zstd, unpack_part

zstd = import_zstd()
MAGIC = b'\x89MCAP0\r\n'
METADATA = """rosbag2_bagfile_information:
  version: 5
  storage_identifier: mcap
  duration: {nanoseconds: 1}
  starting_time: {nanoseconds_since_epoch: 0}
  message_count: 1
  topics_with_message_count: []
  compression_format: ''
  compression_mode: ''
  relative_file_paths: [bag.mcap]
"""


def record(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + struct.pack('<Q', len(content)) + content


def text(word: bytes) -> bytes:
    return struct.pack('<I', len(word)) + word


def write_mcap(folder: Path, packing: bytes, declared: int, packed: bytes) -> Path:
    """A bag of one chunk, without an index: it is read to find what it holds."""
    head = struct.pack('<QQQI', 0, 1, declared, 0)
    chunk = record(6, head + text(packing) + struct.pack('<Q', len(packed)) + packed)
    start = MAGIC + record(1, text(b'ros2') + text(b''))
    (folder / 'bag.mcap').write_bytes(start + chunk + record(2, bytes(20)) + MAGIC)
    (folder / 'metadata.yaml').write_text(METADATA)
    return folder


@pytest.mark.parametrize(
    ('packing', 'declared', 'reason'),
    [
        (b'zstd', 1000, 'grows to more than 1,000 bytes'),
        (b'lz4', 1000, 'grows to more than 1,000 bytes'),
        (b'zstd', 3 << 30, 'a chunk of 3,221,225,472 bytes, at most 536,870,912'),
        (b'lz4', 1 << 63, 'a chunk of 9,223,372,036,854,775,808 bytes'),
    ],
)
def test_a_chunk_that_grows_beyond_what_it_declares_is_refused(
    tmp_path: Path, packing: bytes, declared: int, reason: str
) -> None:
    pack = zstd.compress if packing == b'zstd' else pack_lz4
    bag = write_mcap(tmp_path, packing, declared, pack(bytes(4 << 20)))
    with pytest.raises(DataError, match=f'the bag is damaged .*{reason}'):
        Bag(bag)


@pytest.mark.parametrize(
    ('pack', 'new'),
    [
        (zstd.compress, zstd.ZstdDecompressor),
        (pack_lz4, LZ4FrameDecompressor),
        (bz2.compress, bz2.BZ2Decompressor),
    ],
)
def test_a_part_of_several_streams_is_whole_up_to_its_last_byte(
    pack: Callable[[bytes], bytes], new: Callable[[], Any]
) -> None:
    packed = pack(b'one ' * 100) + pack(b'two')
    assert unpack_part(new, packed, 403) == b'one ' * 100 + b'two'
    with pytest.raises(ValueError, match='grows to more than 402 bytes'):
        unpack_part(new, packed, 402)
    with pytest.raises(ValueError, match='cut off'):
        unpack_part(new, packed[:-1], 403)
    assert unpack_part(new, pack(b'')) == b''

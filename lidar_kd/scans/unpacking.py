# SPDX-License-Identifier: Apache-2.0
"""Packed parts of recordings, unpacked to what they declare and to MOST_BYTES at the most.

rosbags unpacks a chunk or a message to whatever it grows to; its unpackers are replaced by these.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable
from functools import cache
import sys
from types import SimpleNamespace
from typing import Any

from lidar_kd.scans.limits import MOST_BYTES


def unpack_part(new: Callable[[], Any], data: bytes, most: int = MOST_BYTES) -> bytes:
    """new: makes a decompressor as bz2 has them; a part may be several streams in a row."""
    parts, size = [], 0
    while True:
        stream = new()
        parts.append(stream.decompress(data, most - size + 1))
        size += len(parts[-1])
        if size > most:
            raise ValueError(f'a packed part grows to more than {most:,} bytes')
        if not stream.eof:
            raise ValueError('a packed part is cut off')
        data = stream.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b''.join(parts)


def _unpack_chunk(new: Callable[[], Any]) -> Callable[[bytes, int], bytes]:
    def unpack(data: bytes, declared: int) -> bytes:
        if declared > MOST_BYTES:
            raise ValueError(f'a chunk of {declared:,} bytes, at most {MOST_BYTES:,}')
        return unpack_part(new, data, declared)

    return unpack


def import_zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd  # rosbags needs it too
    return zstd


@cache
def bound_rosbags() -> None:
    """For this process; to call before a bag is opened."""
    from lz4.frame import LZ4FrameDecompressor
    from rosbags.rosbag1 import reader as bag1
    from rosbags.rosbag2 import reader as bag2
    from rosbags.rosbag2 import storage_mcap as mcap

    zstd = import_zstd()
    vars(bag1)['decompressors'] |= {
        'bz2': lambda data: unpack_part(bz2.BZ2Decompressor, data),
        'lz4': lambda data: unpack_part(LZ4FrameDecompressor, data),
    }
    vars(mcap)['DECOMPRESSORS'] |= {
        'lz4': _unpack_chunk(LZ4FrameDecompressor),
        'zstd': _unpack_chunk(zstd.ZstdDecompressor),
    }
    vars(bag2)['zstd'] = SimpleNamespace(
        open=zstd.open, decompress=lambda data: unpack_part(zstd.ZstdDecompressor, data)
    )

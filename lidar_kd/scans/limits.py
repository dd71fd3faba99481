# SPDX-License-Identifier: Apache-2.0
"""How large the file of one scan may be: a small one may claim, or grow to, any size."""

from pathlib import Path

from lidar_kd.errors import DataError

MOST_POINTS = 1 << 24  # the densest sensors give 262,144; fused scans some millions
MOST_BYTES = 512 << 20  # of a file, and of what is unpacked from it
MOST_TEXT = 128 << 20  # as text, which takes several times its size while it is read
MOST_HEADER = 1 << 16


def check_file_size(size: int, path: Path, most: int = MOST_BYTES) -> None:
    if size > most:
        kind = ' of text' if most == MOST_TEXT else ''
        raise DataError(
            f'{path}: {size:,} bytes{kind} are no single scan (at most {most:,}); split it.'
        )


def check_point_count(count: int, path: Path) -> None:
    if count > MOST_POINTS:
        raise DataError(
            f'{path}: {count:,} points are no single scan (at most {MOST_POINTS:,}); split it.'
        )

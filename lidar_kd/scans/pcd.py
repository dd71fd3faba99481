# SPDX-License-Identifier: Apache-2.0
"""Reads PCD files (ascii, binary, binary_compressed) in plain numpy: no open3d on the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.scans.limits import check_file_size, check_point_count, MOST_HEADER, MOST_TEXT
from lidar_kd.scans.text import parse_numbers

_KINDS = {'F': 'f', 'I': 'i', 'U': 'u'}
_SIZES = {'F': (4, 8), 'I': (1, 2, 4, 8), 'U': (1, 2, 4, 8)}


@dataclass(frozen=True, kw_only=True)
class _Header:
    names: tuple[str, ...]
    formats: tuple[str, ...]  # one numpy format per field
    counts: tuple[int, ...]  # values per point and field
    dtype: np.dtype[np.void]  # one point
    points: int
    encoding: str  # what follows DATA
    size: int  # bytes up to the first point


def read_pcd(path: Path) -> dict[str, NDArray[np.generic]]:
    """Field name -> (N,) values; fields with several values per point are left out."""
    content = path.read_bytes()
    header = _read_header(content, path)
    body = content[header.size :]
    if header.encoding == 'ascii':
        columns = _read_ascii(body, header, path)
    elif header.encoding == 'binary':
        columns = _read_binary(body, header, path)
    elif header.encoding == 'binary_compressed':
        columns = _read_compressed(body, header, path)
    else:
        raise DataError(
            f"{path}: PCD data '{header.encoding}' is unknown; "
            'save it as ascii, binary or binary_compressed.'
        )
    named = zip(header.names, header.counts, columns, strict=True)
    return {name: column for name, count, column in named if count == 1}


def decompress_lzf(data: bytes, size: int) -> bytes:
    """LZF, the compression PCL uses; IndexError where the data ends too early.

    size: that is announced; what goes beyond it is not unpacked.
    """
    out = bytearray()
    at = 0
    while at < len(data) and len(out) <= size:
        control = data[at]
        at += 1
        if control < 32:  # a run of control + 1 literal bytes
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        start = len(out) - ((control & 31) << 8) - data[at] - 1
        at += 1
        if start < 0:
            raise IndexError('reference before the start')
        copied = out[start : start + length + 2]
        # a reference may run into what it writes itself: the pattern then repeats
        repeats = -(-(length + 2) // len(copied))
        out += (copied * repeats)[: length + 2]
    return bytes(out)


def _read_header(content: bytes, path: Path) -> _Header:
    entries: dict[str, list[str]] = {}
    at = 0
    while 'DATA' not in entries:
        end = content.find(b'\n', at, MOST_HEADER)
        if end < 0:
            raise DataError(
                f'{path}: the PCD header has no DATA line; the file is cut off or no PCD.'
            )
        words = content[at:end].decode('ascii', 'replace').split()
        at = end + 1
        if words and not words[0].startswith('#'):
            entries[words[0].upper()] = words[1:]
    try:
        header = _parse_header(entries, at)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        raise DataError(
            f'{path}: the PCD header is damaged ({error}); export the scan again.'
        ) from None
    check_point_count(header.points, path)
    return header


def _parse_header(entries: dict[str, list[str]], size: int) -> _Header:
    names = tuple(entries['FIELDS'])
    counts = tuple(int(word) for word in entries.get('COUNT', ['1'] * len(names)))
    if 'POINTS' in entries:
        points = int(entries['POINTS'][0])
    else:
        points = int(entries['WIDTH'][0]) * int(entries['HEIGHT'][0])
    kinds = zip(entries['TYPE'], entries['SIZE'], strict=True)
    formats = tuple(_name_format(kind.upper(), int(width)) for kind, width in kinds)
    if not len(names) == len(formats) == len(counts) or points < 0 or min(counts) < 1:
        raise ValueError('FIELDS, SIZE, TYPE, COUNT and POINTS disagree')
    return _Header(
        names=names,
        formats=formats,
        counts=counts,
        dtype=_point_type(formats, counts),
        points=points,
        encoding=entries['DATA'][0].lower(),
        size=size,
    )


def _point_type(formats: Sequence[str], counts: Sequence[int]) -> np.dtype[np.void]:
    """Positions as names, because PCL repeats the name '_' for padding."""
    fields = list(zip(formats, counts, strict=True))
    size = sum(np.dtype(fmt).itemsize * count for fmt, count in fields)
    if size >= 2**31:  # numpy counts the bytes of one element in 32 bits, and wraps
        raise ValueError(f'COUNT makes points of {size} bytes')
    return np.dtype([(str(i), fmt, (count,)) for i, (fmt, count) in enumerate(fields)])


def _name_format(kind: str, width: int) -> str:
    if width not in _SIZES[kind]:
        raise ValueError(f'no type {kind}{width}')
    return f'<{_KINDS[kind]}{width}'


def _read_ascii(body: bytes, header: _Header, path: Path) -> list[NDArray[np.generic]]:
    check_file_size(len(body), path, MOST_TEXT)
    width = sum(header.counts)
    try:
        values = parse_numbers(body, header.points * width)
    except ValueError as error:
        raise DataError(f'{path}: not a number in the PCD data ({error}); repair it.') from None
    if len(values) != header.points * width:
        raise DataError(
            f'{path}: {header.points} points of {width} values are announced, '
            f'{len(values)} or more values follow; the file is cut off or damaged.'
        )
    starts = np.cumsum((0, *header.counts[:-1]))
    return [values.reshape(-1, width)[:, start] for start in starts]


def _read_binary(body: bytes, header: _Header, path: Path) -> list[NDArray[np.generic]]:
    _check_size(len(body), header, path)
    points = np.frombuffer(body, header.dtype, header.points)
    return [points[name][:, 0] for name in header.dtype.names or ()]


def _read_compressed(body: bytes, header: _Header, path: Path) -> list[NDArray[np.generic]]:
    """Compressed clouds lie field after field, not point after point."""
    if len(body) < 8:
        raise DataError(f'{path}: the compressed PCD data is cut off; copy the file again.')
    compressed, size = (int(word) for word in np.frombuffer(body, '<u4', 2))
    check_file_size(size, path)
    try:
        data = decompress_lzf(body[8 : 8 + compressed], size)
    except IndexError:
        data = b''
    if len(body) - 8 < compressed or len(data) != size:
        raise DataError(f'{path}: the compressed PCD data is cut off or damaged; copy it again.')
    _check_size(size, header, path)
    columns: list[NDArray[np.generic]] = []
    at = 0
    for fmt, count in zip(header.formats, header.counts, strict=True):
        column = np.frombuffer(data, fmt, header.points * count, at)
        columns.append(column[::count])
        at += column.nbytes
    return columns


def _check_size(available: int, header: _Header, path: Path) -> None:
    needed = header.points * header.dtype.itemsize
    if available < needed:
        raise DataError(
            f'{path}: {header.points} points of {header.dtype.itemsize} bytes are announced, '
            f'{available} of {needed} bytes are there; the file is cut off.'
        )

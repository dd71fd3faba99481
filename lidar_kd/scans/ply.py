# SPDX-License-Identifier: Apache-2.0
"""Reads the vertices of PLY files (ascii, binary) in plain numpy: no open3d on the robot."""

from dataclasses import dataclass, field
from pathlib import Path
import re

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.scans.limits import check_file_size, check_point_count, MOST_HEADER, MOST_TEXT
from lidar_kd.scans.text import find_line, parse_numbers

_FORMATS = {
    'char': 'i1',
    'int8': 'i1',
    'uchar': 'u1',
    'uint8': 'u1',
    'short': 'i2',
    'int16': 'i2',
    'ushort': 'u2',
    'uint16': 'u2',
    'int': 'i4',
    'int32': 'i4',
    'uint': 'u4',
    'uint32': 'u4',
    'float': 'f4',
    'float32': 'f4',
    'double': 'f8',
    'float64': 'f8',
}
_BYTE_ORDERS = {'ascii': '=', 'binary_little_endian': '<', 'binary_big_endian': '>'}


@dataclass
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)  # name, numpy format
    has_lists: bool = False


def read_ply(path: Path) -> dict[str, NDArray[np.generic]]:
    """Property name -> (N,) values of the vertices."""
    content = path.read_bytes()
    try:
        encoding, elements, body = _parse_header(content)
        vertex = next(element for element in elements if element.name == 'vertex')
        before = elements[: elements.index(vertex)]
        check_point_count(vertex.count, path)
        if encoding == 'ascii':
            return _read_ascii(body, before, vertex, path)
        return _read_binary(body, before, vertex, path)
    except DataError:
        raise
    except (KeyError, IndexError, ValueError, ArithmeticError, StopIteration) as error:
        detail = str(error) or 'it has no vertex element'
        raise DataError(f'{path}: not a readable PLY file ({detail}); export it again.') from None


def _parse_header(content: bytes) -> tuple[str, list[_Element], bytes]:
    mark = re.search(rb'^end_header[ \t]*\r?\n', content[:MOST_HEADER], re.MULTILINE)
    if not content.startswith(b'ply') or not mark:
        raise ValueError("no 'ply' ... 'end_header'")
    header = content[: mark.start()]
    lines = [line.split() for line in header.decode('ascii', 'replace').splitlines()[1:]]
    encoding = next(words[1] for words in lines if words and words[0] == 'format')
    order = _BYTE_ORDERS[encoding]
    elements: list[_Element] = []
    for words in lines:
        if words and words[0] == 'element':
            elements.append(_Element(words[1], _read_count(words[2])))
        elif words and words[0] == 'property' and words[1] == 'list':
            elements[-1].has_lists = True
        elif words and words[0] == 'property':
            elements[-1].properties.append((words[2], order + _FORMATS[words[1]]))
    return encoding, elements, content[mark.end() :]


def _read_count(word: str) -> int:
    if int(word) < 0:
        raise ValueError(f'an element occurs {word} times')
    return int(word)


def _read_ascii(
    body: bytes, before: list[_Element], vertex: _Element, path: Path
) -> dict[str, NDArray[np.generic]]:
    check_file_size(len(body), path, MOST_TEXT)
    names = [name for name, _ in vertex.properties]
    first = find_line(body, sum(element.count for element in before))
    last = first + find_line(body[first:], vertex.count)
    try:
        values = parse_numbers(body[first:last], vertex.count * len(names))
    except ValueError as error:
        raise DataError(f'{path}: not a number in the PLY data ({error}); repair it.') from None
    if vertex.has_lists or len(values) != vertex.count * len(names):
        raise DataError(
            f'{path}: {vertex.count} vertices of {len(names)} values are announced, '
            f'{len(values)} or more values follow; the file is cut off or damaged.'
        )
    columns = values.reshape(vertex.count, len(names)).T
    return dict(zip(names, columns))


def _read_binary(
    body: bytes, before: list[_Element], vertex: _Element, path: Path
) -> dict[str, NDArray[np.generic]]:
    if any(element.has_lists for element in [*before, vertex]):
        raise DataError(
            f'{path}: PLY lists before or in the vertices are not supported; '
            'export the points alone.'
        )
    start = sum(element.count * np.dtype(element.properties).itemsize for element in before)
    point = np.dtype(vertex.properties)
    needed = start + vertex.count * point.itemsize
    if len(body) < needed:
        raise DataError(
            f'{path}: {vertex.count} vertices of {point.itemsize} bytes are announced, '
            f'{len(body)} of {needed} bytes are there; the file is cut off.'
        )
    points = np.frombuffer(body, point, vertex.count, start)
    return {name: points[name] for name, _ in vertex.properties}

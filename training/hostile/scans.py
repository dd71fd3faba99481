# SPDX-License-Identifier: Apache-2.0
"""Hostile scan files: .npy, .npz, .bin, .pcd, .ply."""

from __future__ import annotations

import io
from pathlib import Path
import struct
import zipfile
import zlib

import numpy as np

from lidar_kd.scans import count_points_in_file, read_scan
from training.hostile.damage import damage_bytes, pick, Rng

ZIPS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DTYPES = ('<f4', '<f8', '>f4', '<i4', '<u2', '<f2', '?', '<c8', 'S5', '<U3', '<M8[s]')
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 4), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3, %s), }",
    "{'descr': '%s', 'fortran_order': False, 'shape': (3, 4), }",
    "{'descr': [('x', '<f4', (%s,)), ('y', '<f4'), ('z', '<f4')], 'fortran_order': False, "
    "'shape': (2,), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (%s,), }",
    "{'descr': '|V%s', 'fortran_order': False, 'shape': (9,), }",
    "{'descr': '<f4', 'fortran_order': %s, 'shape': (3, 4), }",
    '%s',
)
NUMBERS = ('0', '-1', '1', '5', '10**30', str(10**18), str(2**31), str(2**61), 'None', '()', "'a'")
BOMB_MB = 4200
PCD = """# .PCD v0.7
VERSION 0.7
FIELDS x y z intensity
SIZE {size} 4 4 4
TYPE F F F {kind}
COUNT 1 1 1 {count}
WIDTH {width}
HEIGHT {height}
POINTS {points}
DATA {encoding}
"""
PLY = """ply
format {encoding} 1.0
element {before} {faces}
property {kind} a
element vertex {points}
{properties}end_header
"""
PROPERTIES = 'property float x\nproperty float y\nproperty float z\n'


def points(rng: Rng) -> np.ndarray:
    return rng.normal(0, 10, (int(rng.integers(1, 60)), 4)).astype('<f4')


def make_npy(folder: Path, rng: Rng) -> Path:
    path = folder / 'scan.npy'
    path.write_bytes(_npy(rng))
    return path


def _npy(rng: Rng) -> bytes:
    chance = rng.random()
    if chance < 0.4:
        text = str(pick(HEADERS, rng))
        header = text.replace('%s', str(pick((*NUMBERS, *DTYPES), rng)))
        return npy_with_header(header, rng.bytes(int(rng.integers(200))))
    file = io.BytesIO()
    array = points(rng)
    if chance < 0.6:
        shape = tuple(rng.integers(0, 4, int(rng.integers(0, 5))).tolist())
        array = np.zeros(shape, pick(DTYPES, rng))
    elif chance < 0.7:
        kinds = [(name, pick(DTYPES, rng)) for name in pick(('xyz', 'xyzxi', 'XYZ', 'xy'), rng)]
        array = np.zeros(3, np.dtype(list(dict(kinds).items())))
    np.save(file, array)
    return damage_bytes(file.getvalue(), rng) if rng.random() < 0.8 else file.getvalue()


def npy_with_header(header: str, data: bytes = b'') -> bytes:
    text = (header + ' ' * (-(len(header) + 11) % 64) + '\n').encode('latin1', 'replace')
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text) % 65536) + text + data


def make_npz(folder: Path, rng: Rng) -> Path:
    path = folder / 'scan.npz'
    if rng.random() < 0.02:
        write_bomb(path)
        return path
    names = pick((('points',), ('xyz', 'intensity'), ('a', 'b'), ('', 'points'), ()), rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', int(pick(ZIPS, rng))) as archive:
        for name in names:
            content = _npy(rng) if rng.random() < 0.7 else rng.bytes(int(rng.integers(300)))
            archive.writestr(pick((f'{name}.npy', name or 'scan', f'../{name}.npy'), rng), content)
    data = file.getvalue()
    path.write_bytes(damage_bytes(data, rng) if rng.random() < 0.6 else data)
    return path


def write_bomb(path: Path) -> None:
    """Some MB that grow to 4 GB: the same megabyte of zeros over and over."""
    header = npy_with_header(
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({BOMB_MB << 16}, 4), }}"
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = start + block * BOMB_MB + packer.flush()
    size, name = len(header) + (BOMB_MB << 20), b'points.npy'
    # the checksum is wrong, which only shows when all has been read
    entry = struct.pack('<HHHHHIIIHH', 20, 0, 8, 0, 33, 1, len(body), size & 0xFFFFFFFF,
                        len(name), 20)  # fmt: skip
    extra = struct.pack('<HHQQ', 1, 16, size, len(body))
    entry = entry[:14] + b'\xff' * 8 + entry[22:]
    local = b'PK\x03\x04' + entry + name + extra + body
    central = b'PK\x01\x02' + struct.pack('<H', 20) + entry + struct.pack('<HHHII', 0, 0, 0, 0, 0)
    central += name + extra
    end = struct.pack('<IHHHHIIH', 0x06054B50, 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def make_bin(folder: Path, rng: Rng) -> Path:
    path = folder / str(pick(('scan.bin', 'scan.pcd.bin', 'SCAN.BIN'), rng))
    if rng.random() < 0.02:
        with path.open('wb') as file:
            file.truncate(8 << 30)  # no disk holds it: sparse
        return path
    sizes = (0, 1, 12, 16, 20, 60, 80, 240, 4000)
    path.write_bytes(rng.bytes(int(pick(sizes, rng)) + int(rng.integers(3))))
    return path


def make_pcd(folder: Path, rng: Rng) -> Path:
    path = folder / 'scan.pcd'
    array = points(rng)
    encoding = str(pick(('ascii', 'binary', 'binary_compressed', 'binary', 'zip'), rng))
    header = PCD.format(
        size=4, kind='F', count=1, width=len(array), height=1, points=len(array), encoding=encoding
    ).encode()
    body = _pcd_body(encoding, array, rng)
    if rng.random() < 0.5:
        header = damage_bytes(header, rng)
    if rng.random() < 0.4:
        body = damage_bytes(body, rng)
    path.write_bytes(header + body)
    return path


def _pcd_body(encoding: str, array: np.ndarray, rng: Rng) -> bytes:
    if encoding == 'ascii':
        return '\n'.join(' '.join(map(str, row)) for row in array.tolist()).encode()
    if encoding != 'binary_compressed':
        return array.tobytes()
    if rng.random() < 0.05:
        packed = b'\x00\x00' + b'\xe0\xff\x00' * (3 << 20)  # each 3 bytes become 264
        return struct.pack('<II', len(packed), int(pick((12, array.nbytes), rng))) + packed
    columns = array.T.copy().tobytes()
    parts = [columns[i : i + 32] for i in range(0, len(columns), 32)]
    packed = b''.join(bytes([len(part) - 1]) + part for part in parts)
    return struct.pack('<II', len(packed), len(columns)) + packed


def make_ply(folder: Path, rng: Rng) -> Path:
    path = folder / 'scan.ply'
    array = points(rng)[:, :3]
    encoding = str(pick(('ascii', 'binary_little_endian', 'binary_big_endian', 'zip'), rng))
    count = pick((len(array), len(array), len(array), 10**18, 0, -1, 'x', 10**30), rng)
    properties = pick((PROPERTIES, PROPERTIES, PROPERTIES, '', 'property float x\n' * 4,
                       'property list uchar int x\n', PROPERTIES * 1000), rng)  # fmt: skip
    header = PLY.format(
        encoding=encoding, before=pick(('face', 'vertex'), rng), points=count, faces=0,
        kind=pick(('float', 'list uchar int', 'x'), rng), properties=properties,
    ).encode()  # fmt: skip
    text = '\n'.join(' '.join(map(str, row)) for row in array.tolist()).encode()
    body = text if encoding == 'ascii' else array.tobytes()
    data = header + body
    path.write_bytes(damage_bytes(data, rng) if rng.random() < 0.6 else data)
    return path


def use_scan(path: Path) -> None:
    read_scan(path)
    count_points_in_file(path)

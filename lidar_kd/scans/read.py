# SPDX-License-Identifier: Apache-2.0
"""Scans on disk -> points (N, 4) float32: x, y, z in metres, intensity as stored."""

from collections.abc import Callable, Mapping
from pathlib import Path
import struct
import tokenize
from typing import Any
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.scans.limits import check_file_size, check_point_count, MOST_BYTES
from lidar_kd.scans.pcd import read_pcd
from lidar_kd.scans.ply import read_ply
from lidar_kd.sensor.intensity import IntensityRange

SUFFIXES = ('.pcd.bin', '.bin', '.pcd', '.ply', '.npy', '.npz')
_INTENSITY_FIELDS = (
    'intensity',
    'scalar_intensity',
    'reflectivity',
    'scalar_reflectivity',
    'reflectance',
    'signal',
)
# what numpy raises at a damaged file, by the byte that is hit
DAMAGED = (
    *(ValueError, KeyError, EOFError, RuntimeError, MemoryError, SyntaxError, TypeError),
    *(ArithmeticError, AttributeError, IndexError, struct.error),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
_LOOKED_AT = 5  # scans, to find the range of their intensity
_NPZ_KEYS = ('points', 'xyz', 'scan', 'cloud')


def read_scan(path: str | Path, *, columns: int | None = None) -> NDArray[np.float32]:
    """Read one scan; `columns` is the number of float32 per point of .bin files.

    Without `columns`, .bin files have 4 (KITTI) and .pcd.bin files 5 (nuScenes). A scan without
    intensity gets zeros. NaN and infinite points stay in place.
    """
    path = Path(path)
    try:
        _check_file(path)
        # What float32 cannot hold becomes infinite, and is reported as such by the Segmenter.
        with np.errstate(over='ignore'):
            return _read_kind(path, _find_suffix(path), columns)
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror or error}).') from None


def count_points_in_file(path: Path, *, columns: int | None = None) -> int:
    """What read_scan would return, for .bin files without reading them."""
    suffix = _find_suffix(path)
    if suffix in ('.bin', '.pcd.bin'):
        return path.stat().st_size // (4 * _choose_columns(suffix, columns))
    return len(read_scan(path, columns=columns))


def find_full_scale(count: int, intensity_of: Callable[[int], NDArray[Any]]) -> float:
    """What the intensity of one sensor's scans goes up to: 1, 255, 4095 or 65535.

    The same few of `count` scans are looked at whichever are wanted first.
    """
    seen = IntensityRange()
    for index in np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int)).tolist():
        seen.find(intensity_of(index))
    return seen.full_scale


def find_scans(folder: str | Path) -> list[Path]:
    """All scans below a folder, sorted; at least one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f'{folder}: no such folder; check the path.')
    scans = sorted(path for path in folder.rglob('*') if _is_scan(path))
    if not scans:
        raise DataError(
            f'{folder}: no scans found; expected files like *{", *".join(SUFFIXES[1:])}.'
        )
    return scans


def strip_suffix(path: Path) -> str:
    """The file name of a scan without its suffix: 'a.bin' and 'a.pcd.bin' -> 'a'."""
    return path.name[: -len(_find_suffix(path))]


def _read_kind(path: Path, suffix: str, columns: int | None) -> NDArray[np.float32]:
    if suffix == '.pcd':
        return _join_fields(read_pcd(path), path)
    if suffix == '.ply':
        return _join_fields(read_ply(path), path)
    if suffix in ('.npy', '.npz'):
        return _read_numpy(path)
    return _read_bin(path, _choose_columns(suffix, columns))


def _choose_columns(suffix: str, columns: int | None) -> int:
    if columns is None:
        return 5 if suffix == '.pcd.bin' else 4
    if columns < 3:
        raise ConfigError(f'columns is {columns}; a point has at least x, y, z: pass 3 or more.')
    return columns


def _find_suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise DataError(
        f"{path}: unknown kind of scan '{path.suffix}'; "
        f'use one of {", ".join(suffix[1:] for suffix in SUFFIXES[1:])}.'
    )


def _is_scan(path: Path) -> bool:
    name = path.name.lower()
    # nuScenes keeps its labels, one byte per point, in .bin files of their own
    is_label = name.endswith('_lidarseg.bin')
    return name.endswith(SUFFIXES) and not name.startswith('.') and not is_label and path.is_file()


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f'{path}: a folder, not a scan; pass one of the files in it.')
    if not path.exists():
        raise DataError(f'{path}: no such file; check the path.')
    if path.stat().st_size == 0:
        raise DataError(f'{path}: the file is empty; copy or record it again.')
    check_file_size(path.stat().st_size, path)


def _read_bin(path: Path, columns: int) -> NDArray[np.float32]:
    size = path.stat().st_size
    if size % (4 * columns):
        fitting = [str(n) for n in (4, 5, 6, 3, 7, 8) if size % (4 * n) == 0]
        remedy = f'columns {" or ".join(fitting)} would fit' if fitting else 'copy it again'
        raise DataError(
            f'{path}: {size} bytes are no multiple of a point ({columns} float32 = '
            f'{4 * columns} bytes); the file is cut off or has other columns: {remedy}.'
        )
    check_point_count(size // (4 * columns), path)
    return _pad(np.fromfile(path, '<f4').reshape(-1, columns))


def _read_numpy(path: Path) -> NDArray[np.float32]:
    try:
        check_packing(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _from_array(loaded, path)
        with loaded:
            return _from_archive(loaded, path)
    except DataError:
        raise
    except DAMAGED as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise DataError(f'{path}: not a readable numpy file ({reason}); write it again.') from None


def check_packing(path: Path) -> None:
    """What a .npz unpacks to is bounded only where Python stops at the announced size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > MOST_BYTES:
                raise DataError(
                    f'{path}: {member.filename} grows to {member.file_size:,} bytes (at most '
                    f'{MOST_BYTES:,}); write it again, of one scan.'
                )
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(
                    f'{path}: {member.filename} is packed as numpy never packs; write it again '
                    'with numpy.savez or savez_compressed.'
                )


def _from_archive(archive: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.float32]:
    keys = list(archive)
    key = next((key for key in _NPZ_KEYS if key in keys), keys[0] if len(keys) == 1 else None)
    if key is None:
        raise DataError(
            f'{path}: no array named {" or ".join(_NPZ_KEYS)} among {", ".join(keys) or "none"}; '
            'rename the one that holds the points.'
        )
    array = archive[key]
    if not isinstance(array, np.ndarray):
        raise DataError(f'{path}: its {key} is no array; write it again with numpy.savez.')
    points = _from_array(array, path)
    if 'intensity' in keys and array.ndim == 2 and array.shape[1] == 3:
        points[:, 3] = archive['intensity'].reshape(-1)
    return points


def _from_array(array: NDArray[Any], path: Path) -> NDArray[np.float32]:
    check_point_count(len(array) if array.ndim else 0, path)
    if array.dtype.names:
        return _join_fields({name: array[name].ravel() for name in array.dtype.names}, path)
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in 'fiu':
        raise DataError(
            f'{path}: an array of shape {array.shape} and type {array.dtype} is no scan; '
            'expected numbers of shape (N, 3) or (N, 4).'
        )
    return _pad(array)


def _pad(points: NDArray[Any]) -> NDArray[np.float32]:
    """(N, >= 3) of any type -> (N, 4) float32, zeros where there is no intensity."""
    padded = np.zeros((len(points), 4), np.float32)
    used = min(points.shape[1], 4)
    padded[:, :used] = points[:, :used]
    return padded


def _join_fields(fields: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.float32]:
    by_name = {name.lower(): values for name, values in fields.items()}
    missing = [name for name in 'xyz' if name not in by_name]
    if missing:
        raise DataError(
            f'{path}: no field {", ".join(missing)} among {", ".join(fields) or "none"}; '
            'export the scan with x, y and z.'
        )
    points = np.zeros((len(by_name['x']), 4), np.float32)
    intensity = next((name for name in _INTENSITY_FIELDS if name in by_name), None)
    for column, name in enumerate(('x', 'y', 'z', intensity)):
        if name is not None:
            points[:, column] = by_name[name]
    return points

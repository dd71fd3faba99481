# SPDX-License-Identifier: Apache-2.0
"""The C library that was compiled with the package, as ctypes sees it."""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
from functools import lru_cache
from pathlib import Path
import re
from zlib import crc32

import torch
from torch import Tensor

from lidar_kd.sparse.engines.native.structs import (
    ConvJob,
    Int32,
    Int64,
    layouts_differ,
    MapView,
    Pointer,
)

FOLDER = Path(__file__).parent
NO_MEMORY, NOT_SORTED, OUT_OF_RANGE = -1, -2, -3  # as kernels.h has them


def _share_torch_threads() -> None:
    """Makes the OpenMP that torch loaded visible, so that our loops run on torch's threads.

    A second OpenMP would spin on the same cores as torch's.
    """
    loaded = find_openmp(Path('/proc/self/maps').read_text())
    ctypes.CDLL(loaded or 'libgomp.so.1', ctypes.RTLD_GLOBAL)


def find_openmp(maps: str) -> str | None:
    """The first OpenMP library among a process's memory maps; a path may hold spaces."""
    found = re.search(r'(?:/.*)?/libi?[go]omp[^/\s]*\.so\S*', maps)
    return found[0] if found else None


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    files = sorted(FOLDER.glob('_kernels*.so'))
    if not files:
        return 'the native kernel was not compiled (install gcc, then reinstall lidar_kd)'
    try:
        _share_torch_threads()
        library = ctypes.CDLL(str(files[0]))
    except OSError as error:
        return f'the native kernel does not load ({error})'
    if _is_stale(library):
        return 'the native kernel was compiled from other sources than these (reinstall lidar_kd)'
    if layouts_differ(library):
        return 'the native kernel lays out its structures otherwise (reinstall lidar_kd)'
    for name in ('lk_find', 'lk_search_new'):
        getattr(library, name).restype = Pointer
    for name in ('lk_packed', 'lk_group', 'lk_stride'):
        getattr(library, name).restype = Int64
    library.lk_name.restype = ctypes.c_char_p
    library.lk_packed.argtypes = [Pointer, Int64, Int64, Int64]
    library.lk_run.argtypes = [Pointer, ctypes.POINTER(MapView), ctypes.POINTER(ConvJob)]
    return library


def _is_stale(library: ctypes.CDLL) -> bool:
    """Whether it is older or newer than the sources beside it, as in a checkout after a pull: its
    functions may have the same names and expect other arguments.
    """
    sources = sorted(FOLDER.glob('*.[ch]'))
    if not sources:
        return False  # an installed package
    if not hasattr(library, 'lk_sources'):
        return True
    library.lk_sources.restype = ctypes.c_char_p
    digest = f'{crc32(b"".join(path.read_bytes() for path in sources)):08x}'
    return bool(library.lk_sources().decode() != digest)


def native_missing() -> str:
    """Why the native engine cannot run here; empty when it can."""
    library = _load()
    return library if isinstance(library, str) else ''


def library() -> ctypes.CDLL:
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(loaded)
    return loaded


def address(tensor: Tensor | None) -> Pointer:
    return Pointer(None if tensor is None else tensor.data_ptr())


def succeed(status: int) -> None:
    """Of a call that can only fail for want of memory."""
    if status < 0:
        raise MemoryError('the native kernel got no memory: use smaller scans or fewer threads')


def readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What the C code reads: values of one type, those of a row side by side."""
    if tensor.dtype is dtype and tensor.stride(-1) == 1:
        return tensor
    return tensor.detach().to(dtype).contiguous()


def int32s(values: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    return (Int32 * len(values))(*values)

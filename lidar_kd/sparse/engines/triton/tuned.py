# SPDX-License-Identifier: Apache-2.0
"""What tuning.py found: a JSON file for each GPU, its software and our kernels, in the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, replace
from importlib import metadata
import json
import logging
from pathlib import Path
from typing import Any

import torch

from lidar_kd.errors import write_atomically
from lidar_kd.sparse.engines.trial import cache_folder, short_digest
from lidar_kd.sparse.engines.triton.tiles import capability_of, DeviceTiles, tiles_of, TileSizes

log = logging.getLogger(__name__)
MOST = TileSizes(rows=128, columns=128, depth=128, warps=8, stages=5)


def tiles_for(device: torch.device) -> DeviceTiles:
    """Those that ship, and what was tuned for this GPU."""
    tiles = tiles_of(capability_of(device))
    path = tuned_file(torch.cuda.get_device_name(device))
    return replace(tiles, tuned=read_tuned(path, tiles.rows))


def tuned_file(gpu: str) -> Path:
    """Another one where anything changes that the times depend on."""
    here = Path(__file__).parent
    ours = [(here / name).read_text(encoding='utf-8') for name in ('kernels.py', 'tiles.json')]
    return cache_folder() / f'tiles-{short_digest([*_versions(gpu).values(), *ours])}.json'


def write_tuned(path: Path, gpu: str, tuned: Mapping[str, TileSizes]) -> None:
    sizes = {key: list(astuple(each)) for key, each in sorted(tuned.items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps({**_versions(gpu), 'sizes': sizes}, indent=1) + '\n')


def read_tuned(path: Path, rows: int) -> dict[str, TileSizes]:
    """rows: of every tile of a convolution. Nothing where there is no file, or a damaged one."""
    if not path.is_file():
        return {}
    try:
        written = json.loads(path.read_text(encoding='utf-8'))['sizes']
        tuned = {key: _sizes_of(key, numbers, rows) for key, numbers in written.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning('%s: not read (%s): tiles as they ship; tune again or remove it', path, error)
        return {}
    return tuned


def _sizes_of(key: str, numbers: Any, rows: int) -> TileSizes:
    sizes = TileSizes(*numbers)
    for name, most in vars(MOST).items():
        value = getattr(sizes, name)
        whole = isinstance(value, int) and 0 < value <= most
        if not whole or (name != 'stages' and value & (value - 1)):
            raise ValueError(f'{key}: {name} {value!r}')
    if key.startswith('convolution') and sizes.rows != rows:
        raise ValueError(f'{key}: {sizes.rows} rows, where maps are arranged by {rows}')
    return sizes


def _versions(gpu: str) -> dict[str, str]:
    try:
        triton = metadata.version('triton')
    except metadata.PackageNotFoundError:
        triton = 'none'
    return {'gpu': gpu, 'torch': torch.__version__, 'triton': triton}

# SPDX-License-Identifier: Apache-2.0
"""Points per class of a training split, counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import write_atomically
from training.data.scan import ScanSet

log = logging.getLogger(__name__)
CACHE = Path('runs') / 'cache'
Counts = NDArray[np.int64]


def count_classes(
    scans: ScanSet, *, cache: Path = CACHE, advance: Callable[[], None] = lambda: None
) -> Counts:
    """(C,) labelled points per class; read from the cache when no label file has changed."""
    classes = scans.table.num_classes
    path = cache / f'class_counts_{fingerprint(scans)}.json'
    counts = _load(path, classes)
    if counts is None:
        counts = np.zeros(classes, np.int64)
        for index in range(len(scans)):
            counts += np.bincount(scans.read_labels(index), minlength=256)[:classes]
            advance()
        _save(path, counts)
    return counts


def fingerprint(scans: ScanSet) -> str:
    """Changes with the label table, the list of frames, and any label file's size or time."""
    digest = hashlib.sha256(json.dumps(scans.table.to_dict(), sort_keys=True).encode())
    for part in _describe_files(scans):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _describe_files(scans: ScanSet) -> Iterable[str]:
    for frame in scans.frames:
        yield f'{frame.name} {_describe_file(frame.labels)}\n'
        if frame.numbers is not None:
            yield f'{_describe_file(frame.numbers)}\n'


def _describe_file(path: Path | None) -> str:
    stat = path.stat() if path is not None and path.is_file() else None
    return f'{path} {(stat.st_size, stat.st_mtime_ns) if stat else None}'


def _load(path: Path, classes: int) -> Counts | None:
    try:
        counts = np.array(json.loads(path.read_text()), np.int64)
    except (OSError, ValueError, TypeError):
        return None  # not there or not ours: counted again
    return counts if counts.shape == (classes,) else None


def _save(path: Path, counts: Counts) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(counts.tolist()))
    except OSError as error:
        log.warning(
            '%s: cannot be written (%s); every run will count the classes again.',
            path,
            error.strerror or error,
        )

# SPDX-License-Identifier: Apache-2.0
"""A folder of scans without labels, of any kind that lidar_kd.scans.read reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable, SEMANTICKITTI
from lidar_kd.scans import find_scans, strip_suffix
from training.data.scan import Frame, Raw, ScanSet


def open_folder(
    root: str | Path,
    sequences: str | Sequence[str | int] | None = None,
    *,
    table: ClassTable = SEMANTICKITTI,
) -> ScanSet:
    """Every scan below a folder; `sequences` keeps only those in some of its subfolders."""
    root = Path(root)
    kept = (
        None if sequences is None else {sequences} if isinstance(sequences, str) else {*sequences}
    )
    frames = [_make_frame(root, scan) for scan in find_scans(root)]
    if kept is not None:
        wanted = {str(name) for name in kept}
        frames = [frame for frame in frames if frame.sequence in wanted]
    if not frames:
        raise DataError(f'{root}: no scans in the subfolders {sorted(wanted)}; check the names.')
    return ScanSet(
        kind='folder', root=root, table=table, frames=tuple(frames), read_raw=_refuse_labels
    )


def _make_frame(root: Path, scan: Path) -> Frame:
    place = scan.relative_to(root).parent / strip_suffix(scan)
    return Frame(name=place.as_posix(), scan=scan)


def _refuse_labels(path: Path) -> Raw:
    raise AssertionError(f'a plain folder has no labels, yet {path} was asked for')

# SPDX-License-Identifier: Apache-2.0
"""A folder of scans without labels, of any kind that lidar_kd.scans.read reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
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
    """Every scan below a folder; `sequences` keeps only those in some of its subfolders, or those
    that a pattern fits, as 'street_*': with the folders, without the suffix.
    """
    root = Path(root)
    kept = (
        None if sequences is None else {sequences} if isinstance(sequences, str) else {*sequences}
    )
    frames = [_make_frame(root, scan) for scan in find_scans(root)]
    if kept is not None:
        wanted = {str(name) for name in kept}
        frames = [frame for frame in frames if _is_wanted(frame, wanted)]
    if not frames:
        raise DataError(f'{root}: no scans in {sorted(wanted)}; check the names.')
    return ScanSet(
        kind='folder', root=root, table=table, frames=tuple(frames), read_raw=_refuse_labels
    )


def _is_wanted(frame: Frame, wanted: Collection[str]) -> bool:
    return frame.sequence in wanted or any(fnmatchcase(frame.name, each) for each in wanted)


def _make_frame(root: Path, scan: Path) -> Frame:
    place = scan.relative_to(root).parent / strip_suffix(scan)
    return Frame(name=place.as_posix(), scan=scan)


def _refuse_labels(path: Path) -> Raw:
    raise AssertionError(f'a plain folder has no labels, yet {path} was asked for')

# SPDX-License-Identifier: Apache-2.0
"""The objects of the hard classes in every scan of a set: read once, then cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError, write_atomically
from lidar_kd.scans.read import DAMAGED
from training.data.class_counts import CACHE, fingerprint
from training.data.paste import cut_instances, SMALLEST
from training.data.scan import Points, Scan, ScanSet

log = logging.getLogger(__name__)
Advance = Callable[[], None]
Arrays = dict[str, NDArray[Any]]
VERSION = 2  # of the cached files


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """S sightings of an object in a scan, P points in all; by frame, then class, then number.

    points (P, 4) as their scan has them; starts (S + 1,): sighting s has the rows starts[s] to
    starts[s + 1]; frame (S,): which scan of the set; label, number (S,): which object.
    """

    points: Points
    starts: NDArray[np.int64]
    frame: NDArray[np.int32]
    label: NDArray[np.uint8]
    number: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(S,) points of each."""
        return np.diff(self.starts)

    def points_of(self, sighting: int) -> Points:
        return self.points[self.starts[sighting] : self.starts[sighting + 1]]

    def of_frame(self, frame: int) -> range:
        """The sightings in a scan."""
        first, stop = np.searchsorted(self.frame, [frame, frame + 1])
        return range(int(first), int(stop))

    def as_scan(self, sighting: int) -> Scan:
        points = self.points_of(sighting).copy()
        return Scan(
            points=points,
            labels=np.full(len(points), self.label[sighting]),
            instances=np.full(len(points), self.number[sighting]),
        )


def collect_sightings(
    scans: ScanSet, *, cache: Path = CACHE, advance: Advance = lambda: None
) -> Sightings:
    """All objects of the table's hard classes; read from the cache when no file has changed."""
    scans.require_labels()
    path = cache / f'instances_{digest_files(scans)}.npz'
    found = load_arrays(path, Sightings)
    if found is None:
        _require_numbers(scans)
        found = _pack(scans, list(_cut_all(scans, advance)))
        save_arrays(path, found)
    return Sightings(**found)


def build_paste_bank(
    scans: ScanSet,
    *,
    per_class: int = 200,
    smallest: int = SMALLEST,
    seed: int = 0,
    cache: Path = CACHE,
    advance: Advance = lambda: None,
) -> list[Scan]:
    """Objects to paste: at most `per_class` of a class, each object once before one twice."""
    sightings = collect_sightings(scans, cache=cache, advance=advance)
    big = np.flatnonzero(sightings.sizes >= smallest)
    big = np.random.default_rng(seed).permutation(big)
    names = [scans.frames[frame].sequence for frame in sightings.frame[big]]
    objects = list(zip(names, sightings.label[big].tolist(), sightings.number[big].tolist()))
    by_turn = big[np.argsort(count_before(objects), kind='stable')]
    labels = sightings.label[by_turn]
    place = np.array(count_before(labels.tolist()), np.int64)
    return [sightings.as_scan(int(row)) for row in np.sort(by_turn[place < per_class])]


def count_before(items: list[Any]) -> list[int]:
    """For each item how many equal ones come before it."""
    seen: dict[Any, int] = {}
    counts = []
    for item in items:
        counts.append(seen.get(item, 0))
        seen[item] = counts[-1] + 1
    return counts


def _require_numbers(scans: ScanSet) -> None:
    """One scan tells of labels that cannot number objects; only all of them that none does."""
    if len(scans) and scans[0].instances is None:
        raise _say_unnumbered(scans, f'as {scans.frames[0].name} shows')


def _cut_all(scans: ScanSet, advance: Advance) -> Iterator[tuple[int, Scan]]:
    """(frame, object) of all scans; an error if the objects have no numbers."""
    numbered, hard_points = False, 0
    for index in range(len(scans)):
        scan = scans[index]
        # a point that is nowhere would take its whole object along when that is set down
        scan = scan.take(np.flatnonzero(np.isfinite(scan.points).all(axis=1)))
        hard_points += int(np.isin(scan.labels, scans.table.hard_ids).sum())
        for each in cut_instances(scan, scans.table.hard_ids, smallest=1):
            numbered = True
            yield index, each
        advance()
    if hard_points and not numbered:
        raise _say_unnumbered(scans, f'though {hard_points} points are of the hard classes')


def _say_unnumbered(scans: ScanSet, why: str) -> DataError:
    return DataError(
        f'{scans.root}: no instance ids, {why}; unpack the labels that have them '
        '(SemanticKITTI: the upper 16 bits of each label, nuScenes: nuScenes-panoptic).'
    )


def _pack(scans: ScanSet, cut: list[tuple[int, Scan]]) -> Arrays:
    assert all(each.instances is not None for _, each in cut)
    clouds = [each.points for _, each in cut]
    firsts = [(frame, each.labels[0], each.instances[0]) for frame, each in cut]  # type: ignore[index]
    frame, label, number = zip(*firsts) if firsts else ((), (), ())
    return {
        'points': np.concatenate([np.empty((0, 4), np.float32), *clouds]),
        'starts': np.cumsum([0, *map(len, clouds)], dtype=np.int64),
        'frame': np.array(frame, np.int32),
        'label': np.array(label, np.uint8),
        'number': np.array(number, np.uint32),
    }


def digest_files(scans: ScanSet) -> str:
    """Changes with the table, the list of frames, and any scan's or label's size or time."""
    digest = hashlib.sha256(f'{VERSION} {fingerprint(scans)}'.encode())
    for frame in scans.frames:
        stat = frame.scan.stat() if frame.scan.is_file() else None
        digest.update(f'{(stat.st_size, stat.st_mtime_ns) if stat else None}'.encode())
    return digest.hexdigest()[:16]


def load_arrays(path: Path, kind: type[Any]) -> Arrays | None:
    """The arrays of a dataclass, None where the file is not there or not ours."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {field.name: file[field.name] for field in fields(kind)}
    except (OSError, *DAMAGED):
        return None


def save_arrays(path: Path, arrays: Arrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary, temporary.open('wb') as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        log.warning(
            '%s: cannot be written (%s); every run will read the objects again.',
            path,
            error.strerror or error,
        )
